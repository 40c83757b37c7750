"""After how many calls the tuned model pays off, by the measured cost of this evaluation's answers.

`plan` estimates the same before. Hosting costs of the tuned model are part of its price if that is per token, and a
note if it is not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from asyncgen.evaluate.measures import Standing
from asyncgen.generate.plan.request_tokens import Span, tokens_of_a_request
from asyncgen.generate.plan.rows_there import rows_there
from asyncgen.generate.plan.training import trainings
from asyncgen.job.of_run import OpenedJob
from asyncgen.providers.choose import named_profile
from asyncgen.providers.prices import PriceList
from asyncgen.run.directory import RunDirectory


@dataclass(frozen=True, slots=True)
class PaysFrom:
    """A tuned contestant against another one.

    Attributes:
        tuned, other: their names.
        outlay_usd: for the data, as it was bought, and the training; None where its price is not known.
        calls: from so many on, lowest and highest; `math.inf` for never; None where something is not known.
        note: what serving costs besides, and who may tune; "" where there is nothing to say.
    """

    tuned: str
    other: str
    outlay_usd: Span | None
    calls: Span | None
    note: str


def pays_from(
    opened: OpenedJob, directory: RunDirectory, found: Sequence[Standing], prices: PriceList
) -> Iterator[PaysFrom]:
    """Every tuned contestant against every one that is not.

    Args:
        opened: the run's job.
        directory: of the run: what its data has cost, and the tokens of its rows.
        found: the figures of all contestants.
        prices: for the training.
    """
    tuned = [each for each in found if each.contestant.technique == "tuned" and each.n]
    if not tuned:
        return
    tokens = tokens_of_a_request(opened.job, opened.grid, rows_there(directory, opened.grid))
    profile = named_profile(opened.tuning, opened.file.profiles)
    training = next(
        iter(trainings(lambda _: opened.job, opened.grid.count, tokens, prices, chosen=profile, within_reach=())), None
    )
    spent_usd = directory.read_state().spend.cost_usd
    outlay = None
    if training is not None and training.cost_usd is not None:
        outlay = Span(spent_usd, spent_usd) + training.cost_usd
    for one in tuned:
        for other in found:
            if other.n and other.contestant.technique != "tuned":
                note = training.note if training is not None else ""
                yield PaysFrom(one.contestant.name, other.contestant.name, outlay, _calls(one, other, outlay), note)


def _calls(tuned: Standing, other: Standing, outlay: Span | None) -> Span | None:
    if outlay is None or tuned.cost_usd_per_1000 is None or other.cost_usd_per_1000 is None:
        return None
    saved = (other.cost_usd_per_1000 - tuned.cost_usd_per_1000) / 1000
    if saved <= 0:
        return Span(0, 0) if not outlay.high and not saved else Span(math.inf, math.inf)
    return Span(math.ceil(outlay.low / saved), math.ceil(outlay.high / saved))
