"""Which samples validate: a seeded choice, spread evenly over the axes, that never changes a sample's side.

Owns the choice. Does not know records, files or formats.

If the side of a sample may neither depend on the order of the rows nor change when rows are added, it can
depend on nothing but the sample itself. A hash of its key would do; but chance spreads badly: of 162 rows a
tenth is then anything from 9 to 23, and a city may well have none. So the side is computed from where the
sample stands in the grid. Every value of an axis has a rank; each rank moves a point around a circle by its
axis's own irrational step, each repeat by the share itself, the seed by a start; a sample validates when its
point falls into the first `share` of the circle. Such points lie evenly, along every axis and across them (an
additive recurrence in several dimensions: M. Roberts, "The Unreasonable Effectiveness of Quasirandom
Sequences", 2018), so that each value of an axis gets its share to within about one sample.

Ranks must not move when a value is put between others. They are therefore kept (`ranks` in run.json): known
values keep theirs, new ones are added behind. Axes with a great many values, such as free text from a table,
have no ranks; their values move the point by a hash, which is as good for values that occur once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MOST_RANKED = 256
_MOST_COUNTED = 1000
_HASH_RANGE = 2.0**64
_NO_RANKS: tuple[float, dict[str, int]] = (0.0, {})

Ranks = dict[str, list[str]]


@dataclass(slots=True)
class AxisValues:
    """Collects the values of each axis with the first place in the grid at which each was seen."""

    _first: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, variables: Mapping[str, str], index: int) -> None:
        """Note the values of one row."""
        for name, value in variables.items():
            places = self._first.setdefault(name, {})
            if value in places:
                places[value] = min(places[value], index)
            elif len(places) <= MOST_RANKED:
                places[value] = index

    def ranks(self, known: Mapping[str, Sequence[str]]) -> Ranks:
        """Each axis's values in order: the known ones as they were, then the others by place in the grid.

        Args:
            known: what an earlier call gave; an axis without values had too many of them, and stays so.
        """
        return {name: self._ranked(name, known.get(name)) for name in self._first}

    def _ranked(self, name: str, known: Sequence[str] | None) -> list[str]:
        places = self._first[name]
        if known is not None and not known:
            return []
        if known is None and len(places) > MOST_RANKED:
            return []
        before = list(known or ())
        new = sorted((value for value in places if value not in before), key=lambda value: (places[value], value))
        return (before + new)[: max(MOST_RANKED, len(before))]


class Split:
    """Tells the side of each sample.

    Args:
        share: of the samples that validate, from 0 to below 1.
        seed: another one gives another choice.
        ranks: as `AxisValues.ranks` gives them.
    """

    def __init__(self, share: float, seed: int, ranks: Mapping[str, Sequence[str]]) -> None:
        self._share = share
        self._seed = seed
        steps = _steps(len(ranks))
        self._axes = {
            name: (step, {value: rank for rank, value in enumerate(values)})
            for step, (name, values) in zip(steps, sorted(ranks.items()), strict=True)
        }
        self._names = sorted(ranks)
        self._start = _fraction(f"{seed}")

    def validates(self, variables: Mapping[str, str], repeat: int) -> bool:
        """Whether the sample of this row is one for validation."""
        if not self._share:
            return False
        point = self._start + repeat * self._share
        # Always in one order, so that not even a rounding error depends on that of the axes.
        for name in self._names if len(self._names) == len(variables) else sorted(variables):
            step, places = self._axes.get(name, _NO_RANKS)
            value = variables[name]
            place = places.get(value)
            point += place * step if place is not None else _fraction(f"{self._seed}\0{name}\0{value}")
        return point % 1.0 < self._share


def _steps(axes: int) -> list[float]:
    """The irrational step of each axis: powers of 1/x, where x to the power (axes + 1) is x + 1."""
    x = 2.0
    for _ in range(64):
        x = (1 + x) ** (1 / (axes + 1))
    return [x ** -(axis + 1) for axis in range(axes)]


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

    def thin(self) -> Iterable[ThinValue]:
        """Values with samples on one side only, axis by axis; axes with very many values are left out."""
        for axis, values in self._counts.items():
            if len(values) > _MOST_COUNTED:
                continue
            for value, (train, validation) in values.items():
                if not train or not validation:
                    yield ThinValue(axis, value, train + validation, "validation" if train else "train")
