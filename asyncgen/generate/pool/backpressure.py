"""Backpressure for the whole pool: a shared pause, a circuit breaker, and an adaptive timeout.

The pause follows what the server asks for (`Retry-After`) or backs off exponentially. The breaker opens when nothing
succeeds any more. The timeout is long at first, then a multiple of the slowest answers: the latency of a language model
depends on the length of its answer and on the queue before it, so no fixed value fits.

Pure: times and request numbers in, seconds out. Waiting is left to `admission`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

_JITTER = 0.1
_FAILURES_TO_OPEN = 20
_PROBES = 6
_PROBES_BEFORE_ANY_SUCCESS = 2
_FIRST_S = 0.5
_LONGEST_PAUSE_S = 30.0
_LONGEST_S = 900.0  # a longer wait means a daily limit, or one of the account


class Pause:
    """A pause that all requests share.

    Args:
        rng: for jitter, so that clients do not return in step.

    Attributes:
        until: end of the pause in seconds of the loop's clock; 0 before the first one.
        cause: of the last pause, as a text for people.
    """

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self.until = 0.0
        self.cause = ""
        self._rounds = 0
        self._since: float | None = None

    def left_s(self, now: float) -> float:
        """Seconds left to wait; 0 if there is no pause."""
        return max(self.until - now, 0.0)

    def ask(self, now: float, wait_s: float, cause: str = "") -> None:
        """Pause for `wait_s` seconds plus jitter, unless the present pause lasts longer."""
        until = now + wait_s * (1 + self._rng.uniform(0, _JITTER))
        if until > self.until:
            self.until, self.cause = until, cause

    def congested(self, now: float, retry_after_s: float | None, cause: str = "", *, is_new: bool) -> None:
        """The server refused a request for load: pause as it asks, and back off if that does not help.

        Args:
            now: seconds of the loop's clock.
            retry_after_s: seconds that the server asks for; None if it names no time.
            cause: the server's message.
            is_new: the request was sent after the last pause; requests refused together count once.
        """
        if self._since is None:
            self._since = now
        self._rounds += is_new or not self._rounds
        # The server's time is used at first. If it proves too short repeatedly, back off.
        fruitless = self._rounds - (1 if retry_after_s is None else 2)
        least_s = min(_FIRST_S * 2.0 ** min(fruitless, 30), _LONGEST_PAUSE_S) if fruitless >= 0 else 0.0
        is_asked = (retry_after_s or 0.0) >= least_s
        words = cause or "the server wants less"
        self.ask(now, max(retry_after_s or 0.0, least_s), f"as the server asks: {words}" if is_asked else words)

    def is_hopeless(self, now: float) -> bool:
        """True if a pause is very long, or pauses have gone on for long without an answer."""
        is_fruitless = self._since is not None and now - self._since > _LONGEST_S
        return is_fruitless or self.left_s(now) > _LONGEST_S * (1 + _JITTER)

    def succeeded(self) -> None:
        self._rounds = 0
        self._since = None


class Breaker:
    """Circuit breaker: opens when nothing succeeds any more, then lets single probes through, ever more rarely.

    Args:
        rng: for jitter between probes.
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
        """True if enough probes failed to stop the run; it can be resumed later."""
        return self._probes > (_PROBES if self.ever_succeeded else _PROBES_BEFORE_ANY_SUCCESS)

    def succeeded(self) -> None:
        self._failures = self._probes = 0
        self.is_open = False
        self.ever_succeeded = True

    def failed(self, number: int, sent: int) -> float:
        """A request failed in a way that suggests an outage.

        Args:
            number: of the request, in the order of sending.
            sent: number of the last request sent. Failures of requests in flight when the breaker opened are ignored.

        Returns:
            Seconds until the next probe; 0 while the breaker is closed.
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
_SECOND_S = 120.0  # after a first timeout without any answer
_ENOUGH = 20  # answers before the timeout adapts
_TIMES_THE_SLOWEST = 4.0  # doubling the concurrency may double the latency
_FORGET = 0.995


class AdaptiveTimeout:
    """A timeout that follows the slowest answers.

    Args:
        fixed_s: seconds, if the user set them; None to learn them.
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
        """The present timeout in seconds."""
        if self._fixed_s is not None:
            return self._fixed_s
        if not self._answers and self._has_lost:
            return _SECOND_S
        if self._answers < _ENOUGH:
            return _LONGEST_TIMEOUT_S
        return min(max(_TIMES_THE_SLOWEST * self._slowest_s, self._least_s), _LONGEST_TIMEOUT_S)

    def observe(self, answers: int, slowest_s: float) -> None:
        """Learn from `answers` new answers, of which the slowest took `slowest_s` seconds."""
        self._answers += answers
        self._slowest_s = max(self._slowest_s * _FORGET**answers, slowest_s)

    def timed_out(self) -> None:
        """Requests timed out: if others are answered, double the timeout.

        A row whose answer takes far longer than the others' then times out once, and is answered at the second attempt.
        """
        if self._answers >= _ENOUGH:
            self._least_s = min(max(self.limit_s, self._least_s) * 2, _LONGEST_TIMEOUT_S)
        self._has_lost = True
