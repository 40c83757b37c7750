"""How long an answer may take before it counts as lost.

Owns the rule: long at the start, when nothing is known, then a multiple of what the slowest answers take. Latencies of
language models follow the length of answers and the queue before them, so a fixed limit is either rude or endless.
Pure.
"""

from __future__ import annotations

_LEAST_S = 60.0
_MOST_S = 600.0
_ENOUGH = 20  # answers before the limit follows them
_TIMES_THE_SLOWEST = 4.0  # a server that is asked for twice as much at a time answers half as quickly
_FORGET = 0.995


class Patience:
    """Learns from answers."""

    __slots__ = ("_answers", "_slowest_s")

    def __init__(self) -> None:
        self._answers = 0
        self._slowest_s = 0.0

    @property
    def limit_s(self) -> float:
        """Seconds that an answer may take now."""
        if self._answers < _ENOUGH:
            return _MOST_S
        return min(max(_TIMES_THE_SLOWEST * self._slowest_s, _LEAST_S), _MOST_S)

    def observe(self, latency_s: float) -> None:
        """An answer took so long."""
        self._answers += 1
        remembered_s = self._slowest_s * _FORGET
        self._slowest_s = latency_s if latency_s > remembered_s else remembered_s  # noqa: FURB136 - half the time of max
