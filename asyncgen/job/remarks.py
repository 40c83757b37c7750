"""Remarks on a valid job that may not do what its author means.

Stops nothing: `plan` and `generate` print them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from asyncgen.job.model import Job
from asyncgen.job.named import named_in
from asyncgen.job.parameters import provider_remarks
from asyncgen.job.requests import RequestGrid
from asyncgen.job.template import ANSWER
from asyncgen.providers.profiles import Profile


def remarks_on(job: Job, grid: RequestGrid, profile: Profile, model: str) -> Iterator[str]:
    """The remarks, a sentence each.

    Args:
        job: with the overlays of the chosen providers.
        grid: its requests.
        profile: who answers.
        model: that is asked.
    """
    yield from _unnamed(job, grid)
    if grid.answer_is_variable:
        yield "{answer} in prompt.sample is the variable of that name; rename the variable to mean the model's answer"
    elif ANSWER in grid.sample.names and grid.target.names == (ANSWER,) and not job.answer.each:
        yield (
            "prompt.sample shows the answer, and prompt.target is the answer, too: nothing is learnt; set another "
            "target, or name a variable instead"
        )
    if job.subset and job.subset.exclude and not grid.excluded:
        yield "subset.exclude leaves nothing out: no combination has all of the values of one of its entries"
    yield from provider_remarks(job, profile, model)


def _unnamed(job: Job, grid: RequestGrid) -> Iterator[str]:
    """Axes, and rows, that no prompt tells apart."""
    asked = named_in(job).asked
    templates = [job.prompt.user, job.prompt.system or "", *job.prompt.openings]
    for name in job.grid:
        if name in asked:
            continue
        values = len(grid.values_of(name, _COUNTED))
        if values < 2:  # noqa: PLR2004 - a single value has nothing to be told apart from
            continue
        count = f"{values:,}" if values < _COUNTED else "many"
        doubled = re.compile(r"\{\{\s*" + re.escape(name) + r"\s*\}\}")
        some = any(f"{{{name}}}" in opening for opening in job.prompt.openings)
        where = "only in some of prompt.openings" if some else "in no prompt"
        hint = ""
        if any(doubled.search(template) for template in templates):
            hint = f"; write {{{name}}}, with one pair of braces: two are literal ones"
        yield f"grid.{name} is used {where}: its {count} values ask the same{hint}"
    columns = set(grid.names) - set(job.grid)
    if job.rows is not None and not asked & columns:
        yield "rows: no prompt names one of their columns, so that all rows ask the same"


_COUNTED = 1_000_000
