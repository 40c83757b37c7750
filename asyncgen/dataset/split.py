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

Also pairs answers for preference training: by axis values, or accepted against rejected answers of a combination. Keeps
one byte a sample for its side, 25 bytes a record for its pairs. Writing the pairs is left to `samples`.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from dataclasses import dataclass, field, replace
from enum import IntEnum
from hashlib import blake2b
from itertools import count, islice, zip_longest
from typing import TYPE_CHECKING

import orjson

from asyncgen.dataset.near_duplicates import AnswersByPrompt
from asyncgen.dataset.samples import BY_HAND, CHECK, SCORE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from asyncgen.job.model import DatasetSettings
    from asyncgen.job.requests import RequestGrid
    from asyncgen.run.records import Record
    from asyncgen.run.state import RunState


TRAIN, VALIDATION, HELD_OUT, DROPPED = range(4)


class CombinationBlock:
    """Some rows by their combination: what only depends on that is done once for all of them.

    Attributes:
        keys: of each row's combination.
        variables: of each key, in the order in which the combinations come.

    Args:
        rows: the variables of each row.
    """

    def __init__(self, rows: Sequence[Mapping[str, str]]) -> None:
        self.keys = list(map(orjson.dumps, rows))
        self.variables = dict(zip(self.keys, rows, strict=True))


class SampleSides:
    """Collects the samples' sides; a sample is known by its number, in the order in which they were added.

    Attributes:
        codes: a byte a sample.
        prompts: different ones that validate, as far as `settle` was told of them.
        leaked: of these, the ones that are trained on.
    """

    def __init__(self, split: Split) -> None:
        self._split = split
        self.codes = bytearray()
        self.prompts = 0
        self.leaked = 0

    def add(self, variables: Mapping[str, str]) -> None:
        """Add a sample of this combination; its side as far as the combination decides it."""
        self.codes.append(self._split.side_of(variables))

    def add_all(self, keys: Iterable[bytes], combinations: Mapping[bytes, Mapping[str, str]]) -> dict[bytes, int]:
        """Add samples by the keys of their combinations, as `add` does; the side of each combination, by key."""
        sides = {key: self._split.side_of(variables) for key, variables in combinations.items()}
        self.codes.extend(map(sides.__getitem__, keys))
        return sides

    def extend(self, other: SampleSides) -> None:
        """Add the samples of the next part."""
        self.codes += other.codes

    def drop(self, number: int) -> None:
        """Leave a sample out."""
        self.codes[number] = DROPPED

    def settle(self, numbers: Iterable[int]) -> None:
        """Bring all samples of one prompt to one side.

        Args:
            numbers: of all samples that have this prompt.
        """
        codes = self.codes
        kept = [number for number in numbers if codes[number] != DROPPED]
        found = {codes[number] for number in kept}
        if len(found) > 1:
            side = HELD_OUT if HELD_OUT in found else TRAIN
            for number in kept:
                codes[number] = side
            found = {codes[number] for number in kept}
        if found and found != {TRAIN}:
            self.prompts += 1
            self.leaked += TRAIN in found


MOST_RANKED = 256
_MOST_COUNTED = 1000
_SAMPLES_A_VALUE = 2  # on average; with fewer, the values are names, of which one side has none by their nature
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
    """Return how the run's dataset was split last; None if it has no dataset.

    Args:
        state: content of `run.json`.
    """
    made = state.dataset
    return SplitPlan(made.validation, made.seed, made.turn, made.ranks) if made is not None else None


def plan_split(grid: RequestGrid, settings: DatasetSettings, known: SplitPlan | None) -> SplitPlan:
    """Decide how the combinations of a job are split.

    Args:
        grid: the job's requests and its short prompt.
        settings: share, seed, and held-out values.
        known: the run's earlier plan; None if there is none. Its values keep their ranks, and a variable without values
            stays so: with the same share and seed, no combination changes its side.

    Returns:
        The plan, to be noted in the run.
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
        # The way that each value goes round the circle.
        self._axes = [
            (name, {value: rank * step for rank, value in enumerate(plan.ranks[name])})
            for step, name in zip(_steps(len(names)), names, strict=True)
        ]
        self._start = _fraction(f"{plan.seed}\0{plan.turn}" if plan.turn else f"{plan.seed}")
        self._held = {name: frozenset(map(str, values)) for name, values in (hold_out or {}).items()}

    def holds_out(self, variables: Mapping[str, str]) -> bool:
        """Return whether a combination has a held-out value.

        Args:
            variables: name to value.
        """
        return any(variables.get(name) in values for name, values in self._held.items())

    def validates(self, variables: Mapping[str, str]) -> bool:
        """Return whether the samples of a combination are in the validation split.

        Args:
            variables: name to value.
        """
        return self.side_of(variables) != TRAIN

    def side_of(self, variables: Mapping[str, str]) -> int:
        """Return the side of a combination: TRAIN, VALIDATION or HELD_OUT.

        Args:
            variables: name to value.
        """
        if self._held and self.holds_out(variables):
            return HELD_OUT
        if not self._share:
            return TRAIN
        point = self._start
        for name, ways in self._axes:
            value = variables.get(name, "")
            way = ways.get(value)
            point += way if way is not None else _fraction(f"{self._seed}\0{name}\0{value}")
        return VALIDATION if point % 1.0 < self._share else TRAIN


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

    def add(self, variables: Mapping[str, str], count: int = 1, *, validates: bool) -> None:
        """Note samples of one combination."""
        for name, value in variables.items():
            values = self._counts.setdefault(name, {})
            if value in values or len(values) <= _MOST_COUNTED:
                values.setdefault(value, [0, 0])[validates] += count

    def extend(self, other: SideCounts) -> None:
        """Note what was counted in the next part."""
        for name, values in other._counts.items():
            for value, (train, validation) in values.items():
                self.add({name: value}, train, validates=False)
                self.add({name: value}, validation, validates=True)

    def thin(self, share: float) -> Iterable[ThinValue]:
        """Values that one side has no sample of, axis by axis.

        Axes with very many values are left out, and those with hardly more samples than values, such as names.

        Args:
            share: of the samples of a value that make one combination validate; a value that has fewer than that
                many is not expected on the validation side.
        """
        for axis, values in self._counts.items():
            samples = sum(map(sum, values.values()))
            if len(values) > _MOST_COUNTED or samples < _SAMPLES_A_VALUE * len(values):
                continue
            for value, (train, validation) in values.items():
                if train + validation and (not train or (not validation and train * share >= 1)):
                    yield ThinValue(axis, value, train + validation, "validation" if train else "train")


NO_PAIR = "no_pair"


class Role(IntEnum):
    """What an answer is in its pair."""

    CHOSEN = 0
    REJECTED = 1


class Pairing:
    """Collects answers with their roles, and then tells the pairs.

    Args:
        settings: the job's; where it names no values of axes, answers that pass all checks are chosen against such of
            the same combination as do not, or that a person rejected.
    """

    def __init__(self, settings: DatasetSettings) -> None:
        self._chosen = {name: str(value) for name, value in settings.chosen.items()}
        self._rejected = {name: str(value) for name, value in settings.rejected.items()}
        self._entries = AnswersByPrompt()
        self._places = array("Q")
        self._roles = bytearray()

    @property
    def by_values(self) -> bool:
        """Whether values of axes tell the roles."""
        return bool(self._chosen)

    def add(self, record: Record, reason: str | None, place: int) -> bool:
        """Note an answer; False where it can be in no pair.

        Args:
            record: as the job has it.
            reason: why it gives no sample; None where it gives one.
            place: by which it will be told.
        """
        role = self._role(record, reason)
        if role is None:
            return False
        self._entries.add(self._key(record), len(self._places))
        self._places.append(place)
        self._roles.append(role)
        return True

    def extend(self, other: Pairing, by: int) -> None:
        """Note the answers of the next part; `by` is added to their places."""
        self._entries.extend(other._entries, len(self._places))
        self._places.extend([place + by for place in other._places])
        self._roles += other._roles

    def leave_out(self, places: Iterable[int]) -> None:
        """Take the answers of some places out again."""
        left_out = bytearray(len(self._places))
        for place in places:
            entry = bisect_left(self._places, place)
            if entry < len(self._places) and self._places[entry] == place:
                left_out[entry] = True
        self._entries = self._entries.without(left_out)

    def pairs(self) -> Iterator[tuple[int | None, int | None]]:
        """The places of the better and the worse answer of each pair; None where there is no partner."""
        for group in self._entries.groups():
            by_role: tuple[list[int], list[int]] = ([], [])
            for entry in group:
                by_role[self._roles[entry]].append(self._places[entry])
            yield from zip_longest(*by_role)

    def _role(self, record: Record, reason: str | None) -> Role | None:
        if not self.by_values:
            if reason is None:
                return Role.CHOSEN
            return Role.REJECTED if reason.startswith(CHECK) or reason in {SCORE, BY_HAND} else None
        if reason is not None:
            return None
        for role, wanted in ((Role.CHOSEN, self._chosen), (Role.REJECTED, self._rejected)):
            if all(record.variables.get(name) == value for name, value in wanted.items()):
                return role
        return None

    def _key(self, record: Record) -> str:
        if not self.by_values:
            return orjson.dumps(record.variables).decode()
        rest = {name: value for name, value in record.variables.items() if name not in self._chosen}
        return orjson.dumps([rest, record.repeat]).decode()
