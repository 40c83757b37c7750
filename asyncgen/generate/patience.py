"""How long an answer may take before it counts as lost.

Owns the rule: long at the start, when nothing is known, then a multiple of what the slowest answers take. Latencies of
language models follow the length of answers and the queue before them, so a fixed limit is either rude or endless.
Pure.
"""

from __future__ import annotations

_LEAST_S = 60.0
_MOST_S = 600.0
_SECOND_S = 120.0  # nothing ever came, and the longest wait is over: other requests need not prove it at that length
_ENOUGH = 20  # answers before the limit follows them
_TIMES_THE_SLOWEST = 4.0  # a server that is asked for twice as much at a time answers half as quickly
_FORGET = 0.995


class Patience:
    """Learns from answers."""

    __slots__ = ("_answers", "_has_lost", "_slowest_s")

    def __init__(self) -> None:
        self._answers = 0
        self._slowest_s = 0.0
        self._has_lost = False

    @property
    def limit_s(self) -> float:
        """Seconds that an answer may take now."""
        if not self._answers and self._has_lost:
            return _SECOND_S
        if self._answers < _ENOUGH:
            return _MOST_S
        return min(max(_TIMES_THE_SLOWEST * self._slowest_s, _LEAST_S), _MOST_S)

    def observe(self, answers: int, slowest_s: float) -> None:
        """So many answers came, the slowest of which took so long."""
        self._answers += answers
        self._slowest_s = max(self._slowest_s * _FORGET**answers, slowest_s)

    def lost(self) -> None:
        """Requests were given up on."""
        self._has_lost = True
