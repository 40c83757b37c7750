"""A figure that is known only within bounds.

Owns the arithmetic. Does not know what is being estimated.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """From `low` to `high`, both of them possible."""

    low: float
    high: float

    def __add__(self, other: Span) -> Span:
        return Span(self.low + other.low, self.high + other.high)

    def __mul__(self, factor: float) -> Span:
        return Span(self.low * factor, self.high * factor)

    @property
    def middle(self) -> float:
        return (self.low + self.high) / 2

    def rounded(self) -> dict[str, float]:
        """For JSON: whole numbers stay whole, USD keep six decimals."""
        return {"low": round(self.low, 6), "high": round(self.high, 6)}
