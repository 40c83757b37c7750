"""A seeded group split that is stratified over the axes and stable when rows are added.

All samples of a prompt, repeats included, are on one side: a model that was trained on a prompt shows nothing about new
ones. So the side depends only on the values that the short prompt uses (all values of the combination if it uses none).

If the side may not depend on the order of the rows and may not change when rows are added, it can only be computed from
these values. A hash would do, but chance spreads badly: a tenth of 54 combinations is then anything from 1 to 11, and a
city may get none. So the side is computed from the combination's position in the grid. Every value of an axis has a
rank; each rank moves a point around a circle by an irrational step of its axis; the seed sets the start. A combination
validates if its point falls into the first `share` of the circle. Such points are evenly distributed along every axis
and across them (an additive recurrence, as M. Roberts describes in "The Unreasonable Effectiveness of Quasirandom
Sequences", 2018; the steps are square roots, which are badly approximated by fractions). In a small grid even they may
miss the share by one or two; there several starts are tried, and the best one is kept.

Ranks must not change when a value is inserted between others. So they are kept in `run.json`: known values keep their
ranks, new ones are appended. Axes with a great many values, such as free text from a table, have no ranks; their values
move the point by a hash, which is as good for values that occur once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import count, islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from asyncgen.job.model import DatasetSettings
    from asyncgen.job.requests import RequestGrid
    from asyncgen.run.state import RunState

MOST_RANKED = 256
_MOST_COUNTED = 1000
_MOST_TRIED = 1000  # combinations of a grid that is small enough to choose a start for
_TURNS = 64
_HASH_RANGE = 2.0**64
_GOLDEN = 5  # its root gives the golden section


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """What sides are computed from; kept in run.json, so that they stay.

    Attributes:
        share: of the combinations that validate, from 0 to below 1.
        seed: another one gives another choice.
        turn: which of the seed's starts on the circle is taken.
        ranks: the values of each variable that decides, in order; without values where there are too many.
    """

    share: float
    seed: int
    turn: int
    ranks: Mapping[str, Sequence[str]]


def known_plan(state: RunState) -> SplitPlan | None:
    """How the run's dataset was split last; None where none was made."""
    made = state.dataset
    return SplitPlan(made.validation, made.seed, made.turn, made.ranks) if made is not None else None


def plan_split(grid: RequestGrid, settings: DatasetSettings, known: SplitPlan | None) -> SplitPlan:
    """How the combinations of a job are split.

    Args:
        grid: the job's rows and its short prompt.
        settings: the job's; share, seed and what is held out count.
        known: what an earlier call gave for the run. Its values keep their ranks, and a variable without values stays
            so; with share and seed as they were, no combination changes its side.
    """
    named = [name for name in grid.names if name in grid.sample.names] or list(grid.names)
    ranks = known.ranks if known else {}
    now = {name: _ranked(grid.values_of(name, MOST_RANKED + 1), ranks.get(name)) for name in named}
    plan = SplitPlan(settings.validation, settings.seed, 0, now)
    if known and (known.share, known.seed) == (plan.share, plan.seed):
        return replace(plan, turn=known.turn)
    if not plan.share or grid.count > _MOST_TRIED * grid.repeats:
        return plan
    variables = map(grid.variables, grid.sample_evenly(_MOST_TRIED))
    rows = list({tuple(row[name] for name in named): row for row in variables}.values())
    turns = (replace(plan, turn=turn) for turn in range(_TURNS))
    return min(turns, key=lambda each: _distance(Split(each, settings.hold_out), plan.share, rows))


def _ranked(values: Sequence[str], known: Sequence[str] | None) -> list[str]:
    if known is None:
        return list(values) if len(values) <= MOST_RANKED else []
    if not known:
        return []
    there = set(known)
    return [*known, *(value for value in values if value not in there)][: max(MOST_RANKED, len(known))]


def _distance(split: Split, share: float, rows: Sequence[Mapping[str, str]]) -> tuple[float, float]:
    """How far the validating rows are from their share: all together, then by value."""
    counts: dict[tuple[str, str], list[int]] = {}
    validating = of = 0
    for row in rows:
        if split.holds_out(row):
            continue
        validates = split.validates(row)
        validating, of = validating + validates, of + 1
        for item in row.items():
            of_value = counts.setdefault(item, [0, 0])
            of_value[0] += validates
            of_value[1] += 1
    apart = sum((validates - share * number) ** 2 for validates, number in counts.values())
    return abs(validating - int(share * of + 0.5)), apart


class Split:
    """Tells the side of each combination.

    Args:
        plan: as `plan_split` gives it; variables that it does not name do not matter.
        hold_out: variable to values that validate whatever the share.
    """

    def __init__(self, plan: SplitPlan, hold_out: Mapping[str, Iterable[object]] | None = None) -> None:
        self._share = plan.share
        self._seed = plan.seed
        names = sorted(plan.ranks)  # always in one order: not even a rounding error may depend on that of the axes
        self._axes = [
            (name, step, {value: rank for rank, value in enumerate(plan.ranks[name])})
            for step, name in zip(_steps(len(names)), names, strict=True)
        ]
        self._start = _fraction(f"{plan.seed}\0{plan.turn}" if plan.turn else f"{plan.seed}")
        self._held = {name: frozenset(map(str, values)) for name, values in (hold_out or {}).items()}

    def holds_out(self, variables: Mapping[str, str]) -> bool:
        """Whether the combination has a value that is held out whole."""
        return any(variables.get(name) in values for name, values in self._held.items())

    def validates(self, variables: Mapping[str, str]) -> bool:
        """Whether the samples of this combination are for validation."""
        if self._held and self.holds_out(variables):
            return True
        if not self._share:
            return False
        point = self._start
        for name, step, places in self._axes:
            value = variables.get(name, "")
            place = places.get(value)
            point += place * step if place is not None else _fraction(f"{self._seed}\0{name}\0{value}")
        return point % 1.0 < self._share


def _steps(axes: int) -> list[float]:
    """The irrational step of each axis: the golden section, then roots of numbers that no square divides."""
    roots = (number**0.5 % 1.0 for number in count(2) if number != _GOLDEN and _is_squarefree(number))
    return [(_GOLDEN**0.5 - 1) / 2, *islice(roots, max(axes - 1, 0))][:axes]


def _is_squarefree(number: int) -> bool:
    return all(number % (root * root) for root in range(2, int(number**0.5) + 1))


def _fraction(text: str) -> float:
    """A number from 0 to below 1, the same for the same text on every machine."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") / _HASH_RANGE


@dataclass(frozen=True, slots=True)
class ThinValue:
    """A value of an axis that one side has no sample of."""

    axis: str
    value: str
    samples: int
    missing: str  # "validation" or "train"


@dataclass(slots=True)
class SideCounts:
    """Counts the sides by value of each axis, to warn of values that are too rare to be split."""

    _counts: dict[str, dict[str, list[int]]] = field(default_factory=dict)

    def add(self, variables: Mapping[str, str], *, validates: bool) -> None:
        """Note one sample."""
        for name, value in variables.items():
            values = self._counts.setdefault(name, {})
            if value in values:
                values[value][validates] += 1
            elif len(values) <= _MOST_COUNTED:
                values[value] = [not validates, validates]

    def thin(self, share: float) -> Iterable[ThinValue]:
        """Values that one side has no sample of, axis by axis; axes with very many values are left out.

        Args:
            share: of the samples of a value that make one combination validate; a value that has fewer than that
                many is not expected on the validation side.
        """
        for axis, values in self._counts.items():
            if len(values) > _MOST_COUNTED:
                continue
            for value, (train, validation) in values.items():
                if not train or (not validation and train * share >= 1):
                    yield ThinValue(axis, value, train + validation, "validation" if train else "train")
