"""A seeded choice of places without replacement, from a range too large to shuffle.

Owns the permutation: a Feistel network over the smallest even number of bits that holds the range, walked until it
falls inside. It needs no memory, can be inverted, and a larger subset holds every smaller one of the same seed.

Every combination of a job's rows and axes, lazily and always in the same order.

Owns the order: rows of a table vary slowest, then the axes as the job names them, the last one fastest. A place is a
combination's number in that order. Knows nothing of prompts, and nothing of repeats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import file_digest
from itertools import count, islice, product
from random import Random
from typing import TypeVar

from asyncgen.job.tables import Table

_ROUNDS = 4
_MASK_64 = (1 << 64) - 1


def _mix(value: int) -> int:
    """Spread every bit of a 64-bit number over all others (the finaliser of SplitMix64, Steele et al. 2014)."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK_64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK_64
    return value ^ (value >> 31)


class Subset:
    """`size` places of `range(count)`.

    Args:
        count: how many places there are.
        size: how many are chosen, at most `count`.
        seed: decides which.
    """

    def __init__(self, count: int, size: int, seed: int) -> None:
        self.count = count
        self.size = size
        self._half = max(((count - 1).bit_length() + 1) // 2, 1)
        self._low = (1 << self._half) - 1
        self._keys = [_mix((seed * 0x9E3779B97F4A7C15 + turn) & _MASK_64) for turn in range(_ROUNDS)]

    def __iter__(self) -> Iterator[int]:
        return (self._place(turn) for turn in range(self.size))

    def __contains__(self, place: int) -> bool:
        return self._turn(place) < self.size

    def _place(self, turn: int) -> int:
        place = self._forward(turn)
        while place >= self.count:
            place = self._forward(place)
        return place

    def _turn(self, place: int) -> int:
        turn = self._backward(place)
        while turn >= self.count:
            turn = self._backward(turn)
        return turn

    def _forward(self, value: int) -> int:
        left, right = value >> self._half, value & self._low
        for key in self._keys:
            left, right = right, left ^ (_mix(right ^ key) & self._low)
        return left << self._half | right

    def _backward(self, value: int) -> int:
        left, right = value >> self._half, value & self._low
        for key in reversed(self._keys):
            left, right = right ^ (_mix(left ^ key) & self._low), left
        return left << self._half | right


Values = tuple[str, ...]
Form = TypeVar("Form")


class Combinations:
    """The Cartesian product of a table's rows and of axes, or a seeded subset of it.

    Args:
        axes: axis name to its values, each value once.
        table: rows multiplied with the axes; None for the axes alone.
        subset: (size, seed) of the choice; None for all. A size above the number of combinations takes them all.
    """

    def __init__(
        self, axes: Mapping[str, Sequence[str]], table: Table | None = None, subset: tuple[int, int] | None = None
    ) -> None:
        self.names: tuple[str, ...] = (*(table.columns if table else ()), *axes)
        self._axes = [tuple(values) for values in axes.values()]
        self._positions = [{value: place for place, value in enumerate(values)} for values in self._axes]
        self._table = table
        self._row_places: dict[Values, int] | None = None
        self._per_row = math.prod(map(len, self._axes))
        whole = self._per_row * (len(table) if table is not None else 1)
        self._subset = Subset(whole, min(subset[0], whole), subset[1]) if subset and whole else None
        self.count = self._subset.size if self._subset else whole

    def contents(self) -> dict[str, object]:
        """What the combinations are made of, by the job's names: the values of each axis, a digest of the rows' file.

        Raises:
            OSError: the file cannot be read.
        """
        axes = self.names[len(self.names) - len(self._axes) :]
        contents: dict[str, object] = {f"grid.{name}": values for name, values in zip(axes, self._axes, strict=True)}
        if self._table is not None:
            with self._table.path.open("rb") as handle:
                contents["rows"] = file_digest(handle, "blake2b").hexdigest()
        return contents

    def values_of(self, name: str, most: int) -> list[str]:
        """At most so many different values of a variable, in the order of the table or of the axis."""
        place = self.names.index(name) - (len(self.names) - len(self._axes))
        column = self.names.index(name)
        values = self._axes[place] if place >= 0 else (row[column] for row in self._table or ())
        found: dict[str, None] = {}
        for value in values:
            found[value] = None
            if len(found) == most:
                break
        return list(found)

    def __iter__(self) -> Iterator[tuple[int, Values]]:
        """Places and combinations; a subset's come in the order of its choice."""
        if self._subset:
            return ((place, self[place]) for place in self._subset)
        if self._table is None:
            return enumerate(product(*self._axes))
        return enumerate(row + values for row in self._table for values in product(*self._axes))

    def with_forms(self, form: Callable[[str], Form]) -> Iterator[tuple[int, Values, tuple[Form, ...]]]:
        """As iteration, with a form of each value beside it, which is made once for each value of an axis."""
        if self._subset or self._table is not None:
            return ((place, values, tuple(map(form, values))) for place, values in self)
        forms = (map(form, axis) for axis in self._axes)
        return zip(count(), product(*self._axes), product(*forms), strict=False)  # `count` has no end

    def __getitem__(self, place: int) -> Values:
        """The combination at a place of the whole product."""
        row, rest = divmod(place, self._per_row)
        values: list[str] = []
        for axis in reversed(self._axes):
            rest, position = divmod(rest, len(axis))
            values.append(axis[position])
        return (*(self._table[row] if self._table is not None else ()), *reversed(values))

    def spread(self, most: int) -> Iterator[tuple[int, Values]]:
        """At most so many places and combinations, spread over all of them, the first one included."""
        if self.count <= most:
            return iter(self)
        if self._subset:  # its order is shuffled already
            return islice(iter(self), most)
        # Even steps could keep in step with an axis, and would then see one value of it only.
        chosen = Random(0)  # noqa: S311 - an estimate, which is to be the same each time
        places = {0, *(chosen.randrange(self.count) for _ in range(most - 1))}
        return ((place, self[place]) for place in sorted(places))

    def most(self, weight: Callable[[int, str], int]) -> int:
        """The most that the weights of a combination's values come to; a subset may stay below it.

        Args:
            weight: of a value at a position of `names`.
        """
        first = len(self.names) - len(self._axes)
        axes = sum(max((weight(first + n, value) for value in axis), default=0) for n, axis in enumerate(self._axes))
        rows = (sum(weight(n, value) for n, value in enumerate(row)) for row in self._table or ())
        return axes + max(rows, default=0)

    def __contains__(self, values: Values) -> bool:
        place = self._place(values)
        return place is not None and (self._subset is None or place in self._subset)

    def _place(self, values: Values) -> int | None:
        if len(values) != len(self.names):
            return None
        width = len(self.names) - len(self._axes)
        place = self._row_place(values[:width]) if width else 0
        for positions, value in zip(self._positions, values[width:], strict=True):
            if place is None or value not in positions:
                return None
            place = place * len(positions) + positions[value]
        return place

    def _row_place(self, row: Values) -> int | None:
        """Where a row stands in the table; the look-up is made when it is first asked for, by a changed job only."""
        if self._row_places is None:
            assert self._table is not None
            self._row_places = {values: place for place, values in reversed(list(enumerate(self._table)))}
        return self._row_places.get(row)
