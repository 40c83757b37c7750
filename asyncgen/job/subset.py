"""A seeded choice of places without replacement, from a range too large to shuffle.

Owns the permutation: a Feistel network over the smallest even number of bits that holds the range, walked until it
falls inside. It needs no memory, can be inverted, and a larger subset holds every smaller one of the same seed.
"""

from __future__ import annotations

from collections.abc import Iterator

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
