"""When the whole pool has to wait: a server that asked for it, or one that answers nothing.

Owns the shared pause and the circuit breaker. Pure: times go in and come out. Does not know rows or rates.
"""

from __future__ import annotations

from random import Random

_JITTER = 0.1
_FAILURES_TO_OPEN = 20
_PROBES = 6
_PROBES_BEFORE_ANY_SUCCESS = 2
_MOST_S = 30.0
_LONGEST_S = 900.0  # a limit that takes longer to clear is one of the day or of the account


class Pause:
    """A time before which nobody sends.

    Args:
        rng: for the jitter that keeps clients from coming back in step.
    """

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._until = 0.0
        self._in_a_row = 0
        self._since: float | None = None

    def left_s(self, now: float) -> float:
        """Seconds still to wait."""
        return max(self._until - now, 0.0)

    def ask(self, now: float, retry_after_s: float | None) -> float:
        """Everybody waits as the server asks, and a little longer; where it names no time, longer each time.

        Returns the seconds of this pause.
        """
        if retry_after_s is None:
            retry_after_s = min(0.5 * 2**self._in_a_row, _MOST_S)
            self._in_a_row += 1
        if self._since is None:
            self._since = now
        wait_s = retry_after_s * (1 + self._rng.uniform(0, _JITTER))
        self._until = max(self._until, now + wait_s)
        return wait_s

    def is_hopeless(self, now: float) -> bool:
        """The pauses lead nowhere: one is very long, or they have gone on without an answer for long."""
        return self.left_s(now) > _LONGEST_S or (self._since is not None and now - self._since > _LONGEST_S)

    def succeeded(self) -> None:
        self._in_a_row = 0
        self._since = None


class Breaker:
    """Opens when nothing succeeds any more; then single requests try, ever more rarely, until one succeeds.

    Args:
        rng: for the jitter of the tries.
    """

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._failures = 0
        self._probes = 0
        self._ever_succeeded = False

    @property
    def is_open(self) -> bool:
        return self._failures >= _FAILURES_TO_OPEN

    @property
    def is_hopeless(self) -> bool:
        """Enough was tried: the run had better stop, and go on another time."""
        return self._probes > (_PROBES if self._ever_succeeded else _PROBES_BEFORE_ANY_SUCCESS)

    def succeeded(self) -> None:
        self._failures = self._probes = 0
        self._ever_succeeded = True

    def failed(self) -> float:
        """A request failed as none should; returns the seconds before the next try, 0 while the breaker is closed."""
        self._failures += 1
        if not self.is_open:
            return 0.0
        self._probes += 1
        return min(0.5 * 2.0**self._probes, _MOST_S) * self._rng.uniform(0.5, 1.0)
