"""Which variables a job's templates use, and where.

A template that cannot be parsed uses none here; reporting it is left to `rules`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from asyncgen.job.model import Job
from asyncgen.job.template import ANSWER, TemplateError, field_of, parse


@dataclass(frozen=True, slots=True)
class Named:
    """The variables that a job names.

    Attributes:
        asked: in what is sent; of openings, only those that every one names.
        used: anywhere at all: a value that is missing there cannot be left out.
        fields: of the answer, in `sample`, `target` and the dataset's `system`.
    """

    asked: frozenset[str]
    used: frozenset[str]
    fields: tuple[str, ...]


def named_in(job: Job) -> Named:
    """What the job's templates name."""
    prompt = job.prompt
    asked = {*_names(prompt.user), *_names(prompt.system)}
    if prompt.messages:
        asked.add(prompt.messages)
    openings = [set(_names(opening)) for opening in prompt.openings]
    if openings:
        asked |= set.intersection(*openings)
    dataset = job.dataset
    after = [*_names(prompt.sample), *_names(prompt.target), *_names(dataset.system)]
    sides = (dataset.hold_out, dataset.chosen, dataset.rejected)
    used = asked.union(*openings, after, *sides, *map(_names, job.checks.must_contain))
    fields = dict.fromkeys(name for each in after if (name := field_of(each)) is not None)
    return Named(frozenset(asked), frozenset(name for name in used if field_of(name) is None), tuple(fields))


def sample_names(job: Job, table_columns: Iterable[str], axes: Iterable[str], *, all_columns: bool) -> tuple[str, ...]:
    """The variables that stand in the samples' prompt when the job does not write it.

    Args:
        job: says what it asks for.
        table_columns: of [rows].
        axes: of [grid].
        all_columns: take every column that can be named; else those that the job asks for.
    """
    asked = named_in(job).asked
    columns = [name for name in table_columns if name.isidentifier() and (all_columns or name in asked)]
    return (*columns, *axes)


def answer_is_variable(job: Job, columns: Iterable[str]) -> bool:
    """Whether `{answer}` in the sample means a variable, since an axis or a column of a table has that name."""
    from_table = job.rows is not None and job.rows.file is not None and ANSWER in columns
    return from_table or ANSWER in job.grid


def _names(text: str | None) -> tuple[str, ...]:
    try:
        return parse(text or "", answer_fields=True).names
    except TemplateError:
        return ()


def values_named(entries: Iterable[Mapping[str, object]]) -> frozenset[str]:
    """The variables that some tables of values name, such as those of `exclude`."""
    return frozenset(name for entry in entries for name in entry)
