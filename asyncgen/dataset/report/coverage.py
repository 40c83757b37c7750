"""Coverage of a job: rows present and missing for each value of each axis, with reasons.

An axis with very many values, such as free text from a table, is only counted as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MOST_VALUES = 1000


class Fate(IntEnum):
    """What became of a row."""

    FILLED = 0
    REJECTED = 1
    REFUSED = 2
    FAILED = 3
    STALE = 4


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many rows came to what.

    Attributes:
        requested: rows that the job asks for; None where the job has too many to count.
        filled: with an answer that can be a sample.
        rejected: with an answer that cannot.
        refused: that the model or the provider's filter would not answer.
        failed: given up on.
        stale: answered for an earlier form of the job, and not asked for any more.
    """

    requested: int | None
    filled: int = 0
    rejected: int = 0
    refused: int = 0
    failed: int = 0
    stale: int = 0

    @property
    def left(self) -> int | None:
        """Rows not asked for yet; None where that is not known."""
        if self.requested is None:
            return None
        return max(self.requested - self.filled - self.rejected - self.refused - self.failed, 0)

    @property
    def holes(self) -> int:
        """Rows of the job without an answer that can be a sample."""
        return self.rejected + self.refused + self.failed + (self.left or 0)


@dataclass(frozen=True, slots=True)
class Axis:
    """The coverage of each value, in the order of the job; None where the axis has too many values to show."""

    name: str
    values: Mapping[str, Coverage] | None


class CoverageCounts:
    """Counts rows as they come."""

    def __init__(self) -> None:
        self._requested: dict[str, dict[str, int]] = {}
        self._fates: dict[str, dict[str, list[int]]] = {}
        self._all = [0] * len(Fate)
        self._requests: int | None = None

    def request(self, variables: Mapping[str, str], count: int = 1) -> None:
        """Note rows that the job asks for."""
        self._requests = (self._requests or 0) + count
        for name, value in variables.items():
            values = self._requested.setdefault(name, {})
            if value in values or len(values) <= MOST_VALUES:
                values[value] = values.get(value, 0) + count

    def add(self, variables: Mapping[str, str], fate: Fate) -> None:
        """Note what became of one row."""
        self._all[fate] += 1
        for name, value in variables.items():
            values = self._fates.setdefault(name, {})
            counts = values.get(value)
            if counts is None:
                if len(values) > MOST_VALUES:
                    continue
                counts = values[value] = [0] * len(Fate)
            counts[fate] += 1

    def total(self, requests: int) -> Coverage:
        """Coverage of all rows; `requests` is the number of rows in the job."""
        return Coverage(requests, *self._all)

    def axes(self) -> Iterator[Axis]:
        """Coverage of each axis, in the order in which they were first seen."""
        for name in dict.fromkeys([*self._requested, *self._fates]):
            requested, fates = self._requested.get(name, {}), self._fates.get(name, {})
            values = list(dict.fromkeys([*requested, *fates]))
            if len(values) > MOST_VALUES:
                yield Axis(name, None)
                continue
            known = self._requests is not None
            yield Axis(
                name,
                {
                    value: Coverage(requested.get(value, 0) if known else None, *fates.get(value, ()))
                    for value in values
                },
            )
