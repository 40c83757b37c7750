"""Enumerate the combinations of a job's rows and axes, lazily and in a fixed order; exclude some; sample by a seed.

Order: table rows vary slowest, then the axes in the job's order, the last one fastest. A place is a combination's
number in this order; excluded combinations are counted too, so that other places do not move; their number is counted
without enumerating the axes. Sampling without replacement uses a Feistel permutation over the smallest even number of
bits that holds the range (cycle walking): no memory, invertible, and a larger sample contains every smaller one of the
same seed. Prompts and repeats are left to `requests`.
"""

from __future__ import annotations

import math
from hashlib import blake2b
from itertools import count, islice, product
from random import Random
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from asyncgen.job.tables import Row, Table


class Exclusions:
    """Combinations that are left out: those that match one of the entries in every variable that it names.

    Args:
        entries: each maps variables to values.
        names: the variables, in the order of a combination.
    """

    def __init__(self, entries: Iterable[Mapping[str, str]], names: Sequence[str]) -> None:
        self._entries = [{names.index(name): value for name, value in entry.items()} for entry in entries]

    def __bool__(self) -> bool:
        return bool(self._entries)

    def __contains__(self, values: Row) -> bool:
        return any(all(values[at] == value for at, value in entry.items()) for entry in self._entries)

    def count(self, rows: Iterable[Row], axes: Sequence[Sequence[str]]) -> int:
        """Count the excluded combinations without enumerating the axes.

        Args:
            rows: of the table; one empty row if there is no table.
            axes: the values of each axis.

        Returns:
            How many of their combinations are left out.
        """
        found: dict[frozenset[int], int] = {}
        total = 0
        for row in rows:
            width = len(row)
            matching = frozenset(
                number
                for number, entry in enumerate(self._entries)
                if all(row[at] == value for at, value in entry.items() if at < width)
            )
            if matching not in found:
                found[matching] = self._count(axes, width, matching, 0)
            total += found[matching]
        return total

    def _count(self, axes: Sequence[Sequence[str]], width: int, active: frozenset[int], at: int) -> int:
        """Combinations of the axes from `at` on that match one of the active entries, given the earlier values."""
        if not active:
            return 0
        if any(all(place < width + at for place in self._entries[number]) for number in active):
            return math.prod(len(axis) for axis in axes[at:])
        place = width + at
        free = frozenset(number for number in active if place not in self._entries[number])
        named = {self._entries[number][place] for number in active - free} & set(axes[at])
        total = (len(axes[at]) - len(named)) * self._count(axes, width, free, at + 1)
        for value in named:
            agreeing = frozenset(number for number in active - free if self._entries[number][place] == value)
            total += self._count(axes, width, free | agreeing, at + 1)
        return total


_ROUNDS = 4
_WORD_BITS = 64
_MASK_64 = (1 << _WORD_BITS) - 1


def _mix(value: int) -> int:
    """Spread every bit of a 64-bit number over all others (the finaliser of SplitMix64, Steele et al. 2014)."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK_64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK_64
    return value ^ (value >> 31)


class SubsetChoice:
    """A seeded choice of places from `range(count)`.

    Args:
        count: number of places.
        size: how many are chosen, at most `count`.
        seed: another seed gives another choice.
    """

    def __init__(self, count: int, size: int, seed: int) -> None:
        self.count = count
        self.size = size
        self._half = max(((count - 1).bit_length() + 1) // 2, 1)
        self._low = (1 << self._half) - 1
        self._keys = [_mix((seed * 0x9E3779B97F4A7C15 + turn) & _MASK_64) for turn in range(_ROUNDS)]
        # Halves of up to 64 bits use `_mix`. Never change this: the choice decides which rows were paid for.
        self._round = self._narrow if self._half <= _WORD_BITS else self._wide

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

    def _narrow(self, half: int, key: int) -> int:
        return _mix(half ^ key) & self._low

    def _wide(self, half: int, key: int) -> int:
        """The round function of the Feistel network: as many bits as `half`, each depending on all of its bits."""
        seed = half.to_bytes((self._half + 7) // 8, "little") + key.to_bytes(8, "little")
        blocks = range((self._half + 511) // 512)
        mixed = b"".join(blake2b(seed + block.to_bytes(8, "little")).digest() for block in blocks)
        return int.from_bytes(mixed, "little") & self._low

    def _forward(self, value: int) -> int:
        left, right = value >> self._half, value & self._low
        for key in self._keys:
            left, right = right, left ^ self._round(right, key)
        return left << self._half | right

    def _backward(self, value: int) -> int:
        left, right = value >> self._half, value & self._low
        for key in reversed(self._keys):
            left, right = right ^ self._round(left, key), left
        return left << self._half | right


Form = TypeVar("Form")
_DRAWS = 20  # draws for each sampled combination, if most are excluded


class Combinations:
    """The Cartesian product of a table's rows and of axes, without what is excluded, or a seeded subset of it.

    Args:
        axes: axis name to its values, without duplicates.
        table: rows multiplied with the axes; None for the axes alone.
        subset: (size, seed) of the choice; None for all. A size above the number of combinations takes all.
        exclude: each maps variables to values; combinations that match all of one entry are left out.
        identifying: columns of the table that identify a row; None for all.

    Attributes:
        names: the variables: the table's columns, then the axes.
        count: number of combinations.
        excluded: how many are left out by `exclude`.
    """

    def __init__(
        self,
        axes: Mapping[str, Sequence[str]],
        table: Table | None = None,
        subset: tuple[int, int] | None = None,
        exclude: Sequence[Mapping[str, str]] = (),
        identifying: Collection[str] | None = None,
    ) -> None:
        columns = table.columns if table is not None else ()
        self.names: tuple[str, ...] = (*columns, *axes)
        self._axes = [tuple(values) for values in axes.values()]
        self._positions = [{value: place for place, value in enumerate(values)} for values in self._axes]
        self._table = table
        self._identifying = [at for at, name in enumerate(columns) if identifying is None or name in identifying]
        self._row_places: dict[int, int] | None = None
        self._per_row = math.prod(map(len, self._axes))
        self._exclusions = Exclusions(exclude, self.names)
        whole = self._per_row * (len(table) if table is not None else 1)
        self.excluded = self._exclusions.count(table if table is not None else [()], self._axes) if exclude else 0
        left = whole - self.excluded
        self._subset = self._chosen(whole, min(subset[0], left), subset[1]) if subset and left else None
        self.count = min(subset[0], left) if subset else left

    @property
    def has_table(self) -> bool:
        """Whether there is a table, which may contain a row twice."""
        return self._table is not None

    def contents(self) -> dict[str, object]:
        """What the combinations are made of, by the job's names: the values of each axis, a digest of the rows.

        Raises:
            TableError: a row cannot be read.
            OSError: the table cannot be read.
        """
        axes = self.names[len(self.names) - len(self._axes) :]
        contents: dict[str, object] = {f"grid.{name}": values for name, values in zip(axes, self._axes, strict=True)}
        if self._table is not None:
            contents["rows"] = self._table.digest()
        return contents

    def values_of(self, name: str, most: int) -> list[str]:
        """Return different values of a variable, in the order of the table or of the axis.

        Args:
            name: of the variable.
            most: maximum number of values.
        """
        place = self.names.index(name) - (len(self.names) - len(self._axes))
        column = self.names.index(name)
        values = self._axes[place] if place >= 0 else (row[column] for row in self._table or ())
        found: dict[str, None] = {}
        for value in values:
            found[value] = None
            if len(found) == most:
                break
        return list(found)

    def __iter__(self) -> Iterator[tuple[int, Row]]:
        """Places and combinations, in order; those of a subset in the order of its choice."""
        every = self._every()
        return filter(self._is_kept, every) if self._exclusions else every

    def encoded(self, form: Callable[[str], Form]) -> Iterator[tuple[int, Row, tuple[Form, ...]]]:
        """Iterate with a converted form of each value, which is made once per value of an axis.

        Args:
            form: converts a value.

        Yields:
            Place, combination, and its converted values.
        """
        if self._subset or self._table is not None:
            return ((place, values, tuple(map(form, values))) for place, values in self)
        forms = (map(form, axis) for axis in self._axes)
        every = zip(count(), product(*self._axes), product(*forms), strict=False)  # `count` has no end
        return (each for each in every if each[1] not in self._exclusions) if self._exclusions else every

    def __getitem__(self, place: int) -> Row:
        """The combination at a place of the whole product."""
        row, rest = divmod(place, self._per_row)
        values: list[str] = []
        for axis in reversed(self._axes):
            rest, position = divmod(rest, len(axis))
            values.append(axis[position])
        return (*(self._table[row] if self._table is not None else ()), *reversed(values))

    def sample(self, most: int) -> Iterator[tuple[int, Row]]:
        """Yield places and combinations, evenly spaced over all of them, including the first.

        Args:
            most: maximum number of combinations.
        """
        if self.count <= most:
            return iter(self)
        if self._subset:  # its order is shuffled already
            return islice(iter(self), most)
        # Constant steps may have the period of an axis, and would then see only one of its values.
        chosen = Random(0)  # noqa: S311 - an estimate, which is to be the same each time
        whole = self.count + self.excluded
        places = {next(iter(self))[0]}
        for _ in range(most * _DRAWS):
            if len(places) == most:
                break
            place = chosen.randrange(whole)
            if not self._exclusions or self[place] not in self._exclusions:
                places.add(place)
        return ((place, self[place]) for place in sorted(places))

    def max_weight(self, weight: Callable[[int, str], int]) -> int:
        """Upper bound on the sum of weights over a combination's values; exact without a subset.

        Args:
            weight: weight of a value at a position of `names`.

        Returns:
            The bound.
        """
        first = len(self.names) - len(self._axes)
        axes = sum(max((weight(first + n, value) for value in axis), default=0) for n, axis in enumerate(self._axes))
        rows = (sum(weight(n, value) for n, value in enumerate(row)) for row in self._table or ())
        return axes + max(rows, default=0)

    def __contains__(self, values: Row) -> bool:
        place = self._place(values)
        if place is None or (self._exclusions and values in self._exclusions):
            return False
        return self._subset is None or place in self._subset

    def _every(self) -> Iterator[tuple[int, Row]]:
        if self._subset:
            return ((place, self[place]) for place in self._subset)
        if self._table is None:
            return enumerate(product(*self._axes))
        return enumerate(row + values for row in self._table for values in product(*self._axes))

    def _is_kept(self, combination: tuple[int, Row]) -> bool:
        return combination[1] not in self._exclusions

    def _chosen(self, whole: int, size: int, seed: int) -> SubsetChoice:
        """The subset that leaves `size` combinations after the excluded ones are removed."""
        if not self._exclusions:
            return SubsetChoice(whole, size, seed)
        every = SubsetChoice(whole, whole, seed)
        kept = (turn for turn, place in enumerate(every, 1) if self[place] not in self._exclusions)
        return SubsetChoice(whole, next(islice(kept, size - 1, None), whole), seed)

    def _place(self, values: Row) -> int | None:
        if len(values) != len(self.names):
            return None
        width = len(self.names) - len(self._axes)
        row = self._row_place(values[:width]) if self._table is not None else 0
        if row is None:
            return None
        place = row
        for positions, value in zip(self._positions, values[width:], strict=True):
            if value not in positions:
                return None
            place = place * len(positions) + positions[value]
        return place

    def _row_place(self, row: Row) -> int | None:
        """The place of a row in the table. The index is built on first use, which only a changed job needs."""
        assert self._table is not None
        if self._row_places is None:
            self._row_places = {}
            for place, values in enumerate(self._table):
                self._row_places.setdefault(hash(self._identity(values)), place)
        found = self._row_places.get(hash(self._identity(row)))
        return found if found is not None and self._identity(self._table[found]) == self._identity(row) else None

    def _identity(self, row: Row) -> Row:
        return tuple([row[at] for at in self._identifying])
