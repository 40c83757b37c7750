"""The combinations that a job excludes, and their number, counted without enumerating the axes.

The order of combinations is left to `combinations`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from asyncgen.job.tables import Row


class Exclusions:
    """Combinations that are left out: those that agree with one of the entries in all that it names.

    Args:
        entries: variable to value, each.
        names: of the variables, in the order of a combination.
    """

    def __init__(self, entries: Iterable[Mapping[str, str]], names: Sequence[str]) -> None:
        self._entries = [{names.index(name): value for name, value in entry.items()} for entry in entries]

    def __bool__(self) -> bool:
        return bool(self._entries)

    def __contains__(self, values: Row) -> bool:
        return any(all(values[at] == value for at, value in entry.items()) for entry in self._entries)

    def count(self, rows: Iterable[Row], axes: Sequence[Sequence[str]]) -> int:
        """How many combinations of these rows and axes are left out.

        Args:
            rows: the table's; one empty row where there is none.
            axes: the values of each.
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
        """Combinations of the axes from `at` on that one of the active entries takes, given the earlier values."""
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
