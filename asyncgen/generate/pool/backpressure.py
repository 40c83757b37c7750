"""Backpressure for the whole pool: a shared pause, a circuit breaker, and an adaptive timeout.

The pause follows what the server asks for (`Retry-After`) or backs off exponentially. The breaker opens when nothing
succeeds any more. The timeout is long at first, then a multiple of the slowest answers: the latency of a language model
depends on the length of its answer and on the queue before it, so no fixed value fits.

Pure: times and request numbers in, seconds out. Waiting is left to `admission`.
"""

from __future__ import annotations

from random import Random

_JITTER = 0.1
_FAILURES_TO_OPEN = 20
_PROBES = 6
_PROBES_BEFORE_ANY_SUCCESS = 2
_FIRST_S = 0.5
_LONGEST_PAUSE_S = 30.0
_LONGEST_S = 900.0  # a limit that takes longer to clear is one of the day or of the account


class Pause:
    """A time before which nobody sends.

    Args:
        rng: for the jitter that keeps clients from coming back in step.

    Attributes:
        until: seconds of the loop's clock; 0 while there was no pause yet.
        cause: of the last pause, for people.
    """

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self.until = 0.0
        self.cause = ""
        self._rounds = 0
        self._since: float | None = None

    def left_s(self, now: float) -> float:
        """Seconds still to wait."""
        return max(self.until - now, 0.0)

    def ask(self, now: float, wait_s: float, cause: str = "") -> None:
        """Everybody waits so long, and a little longer."""
        until = now + wait_s * (1 + self._rng.uniform(0, _JITTER))
        if until > self.until:
            self.until, self.cause = until, cause

    def congested(self, now: float, retry_after_s: float | None, cause: str = "", *, is_new: bool) -> None:
        """The server wants less: everybody waits as it asks, and longer each time that this led to nothing.

        Args:
            now: seconds of the loop's clock.
            retry_after_s: what the server asks for; None where it names no time.
            cause: what the server said.
            is_new: the request was sent after the last pause; those sent together are refused together, and are one
                sign and not many.
        """
        if self._since is None:
            self._since = now
        self._rounds += is_new or not self._rounds
        # A server that names a time is believed at first; one that names too little again and again is not.
        fruitless = self._rounds - (1 if retry_after_s is None else 2)
        least_s = min(_FIRST_S * 2.0 ** min(fruitless, 30), _LONGEST_PAUSE_S) if fruitless >= 0 else 0.0
        is_asked = (retry_after_s or 0.0) >= least_s
        words = cause or "the server wants less"
        self.ask(now, max(retry_after_s or 0.0, least_s), f"as the server asks: {words}" if is_asked else words)

    def is_hopeless(self, now: float) -> bool:
        """The pauses lead nowhere: one is very long, or they have gone on without an answer for long."""
        is_fruitless = self._since is not None and now - self._since > _LONGEST_S
        return is_fruitless or self.left_s(now) > _LONGEST_S * (1 + _JITTER)

    def succeeded(self) -> None:
        self._rounds = 0
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
        self._opened_at = 0
        self.is_open = False
        self.ever_succeeded = False

    @property
    def is_hopeless(self) -> bool:
        """Enough was tried: the run had better stop, and go on another time."""
        return self._probes > (_PROBES if self.ever_succeeded else _PROBES_BEFORE_ANY_SUCCESS)

    def succeeded(self) -> None:
        self._failures = self._probes = 0
        self.is_open = False
        self.ever_succeeded = True

    def failed(self, number: int, sent: int) -> float:
        """A request failed as none should.

        Args:
            number: the request's.
            sent: the last request's. Those that were on their way when the breaker opened say nothing new.

        Returns:
            Seconds before the next try, 0 while the breaker is closed.
        """
        self._failures += 1
        self.is_open = self._failures >= _FAILURES_TO_OPEN
        if not self.is_open or (self._failures > _FAILURES_TO_OPEN and number <= self._opened_at):
            return 0.0
        self._probes += self._failures > _FAILURES_TO_OPEN
        self._opened_at = sent
        return min(_FIRST_S * 2.0 ** (self._probes + 1), _LONGEST_PAUSE_S) * self._rng.uniform(0.5, 1.0)


_LEAST_S = 60.0
_LONGEST_TIMEOUT_S = 600.0
_SECOND_S = 120.0  # nothing ever came, and the longest wait is over: other requests need not prove it at that length
_ENOUGH = 20  # answers before the limit follows them
_TIMES_THE_SLOWEST = 4.0  # a server that is asked for twice as much at a time answers half as quickly
_FORGET = 0.995


class AdaptiveTimeout:
    """Learns from answers.

    Args:
        fixed_s: seconds, where the user set them; None to learn them.
    """

    __slots__ = ("_answers", "_fixed_s", "_has_lost", "_least_s", "_slowest_s")

    def __init__(self, fixed_s: float | None = None) -> None:
        self._fixed_s = fixed_s
        self._answers = 0
        self._slowest_s = 0.0
        self._least_s = _LEAST_S
        self._has_lost = False

    @property
    def limit_s(self) -> float:
        """Seconds that an answer may take now."""
        if self._fixed_s is not None:
            return self._fixed_s
        if not self._answers and self._has_lost:
            return _SECOND_S
        if self._answers < _ENOUGH:
            return _LONGEST_TIMEOUT_S
        return min(max(_TIMES_THE_SLOWEST * self._slowest_s, self._least_s), _LONGEST_TIMEOUT_S)

    def observe(self, answers: int, slowest_s: float) -> None:
        """So many answers came, the slowest of which took so long."""
        self._answers += answers
        self._slowest_s = max(self._slowest_s * _FORGET**answers, slowest_s)

    def lost(self) -> None:
        """Requests were given up on: where answers come otherwise, the next ones get twice the time.

        So a row whose answer takes far longer than the others' is given up on once, and has its answer at the second
        try.
        """
        if self._answers >= _ENOUGH:
            self._least_s = min(max(self.limit_s, self._least_s) * 2, _LONGEST_TIMEOUT_S)
        self._has_lost = True
