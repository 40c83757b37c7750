"""A histogram of whole numbers: counts and quantiles.

Memory grows with the number of distinct values, not with the number of observations.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Summary:
    """The usual figures of a distribution; `low` and `high` leave a twentieth out on either side."""

    count: int
    total: int
    smallest: int
    low: int
    median: int
    high: int
    largest: int

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0


class Histogram:
    """Numbers and how often each came."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()

    def add(self, numbers: Iterable[int]) -> None:
        self.counts.update(numbers)

    def above(self, limit: int) -> int:
        """How many numbers are larger than `limit`."""
        return sum(count for number, count in self.counts.items() if number > limit)

    def clipped_total(self, limit: int | None) -> int:
        """The sum of all numbers, each taken for `limit` at most."""
        most = limit if limit is not None else max(self.counts, default=0)
        return sum(min(number, most) * count for number, count in self.counts.items())

    def bins(self, most: int) -> list[tuple[int, int, int]]:
        """At most so many bins of one width: first number, last number, how many came."""
        if not self.counts:
            return []
        first, last = min(self.counts), max(self.counts)
        width = -(-(last - first + 1) // most)
        bins = [0] * (-(-(last - first + 1) // width))
        for number, count in self.counts.items():
            bins[(number - first) // width] += count
        return [(first + place * width, first + (place + 1) * width - 1, count) for place, count in enumerate(bins)]

    def summary(self) -> Summary:
        """The figures; all zero where nothing was counted."""
        count = self.counts.total()
        if not count:
            return Summary(0, 0, 0, 0, 0, 0, 0)
        numbers = sorted(self.counts)
        low, median, high = (self._quantile(numbers, count, part) for part in (0.05, 0.5, 0.95))
        return Summary(count, self.clipped_total(None), numbers[0], low, median, high, numbers[-1])

    def _quantile(self, numbers: list[int], count: int, part: float) -> int:
        """The smallest number that at least this part of all do not exceed."""
        wanted = part * count
        seen = 0
        for number in numbers:
            seen += self.counts[number]
            if seen >= wanted:
                return number
        return numbers[-1]
