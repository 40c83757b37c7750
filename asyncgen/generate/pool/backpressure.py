"""Backpressure: how many requests are in flight, a shared pause, a circuit breaker, and an adaptive timeout.

Concurrency is a resizable semaphore with an AIMD rule for its size. Slow start: +1 for each answer. After the first
congestion +1 a round if all slots were in use (+1 for each answer if a rate limit is known), and x0.7 on congestion, at
most once for the requests that were sent before the cut. If a server breaks several connections at once, the next
requests go one at a time, and the limit stays below the number at which the connections broke.

The pause follows what the server asks for (`Retry-After`) or backs off exponentially. The breaker opens when nothing
succeeds any more. The timeout is long at first, then a multiple of the slowest answers: the latency of a language model
depends on the length of its answer and on the queue before it, so no fixed value fits.

Rate limits are left to `rate`, waiting to `admission`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random


class ConcurrencySlots:
    """A resizable semaphore for requests in flight. Waiters are served in order of arrival, urgent ones before others.

    Args:
        allowed: returns the present number of slots.
    """

    def __init__(self, allowed: Callable[[], int]) -> None:
        self._allowed = allowed
        self._in_use = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def are_too_many(self) -> bool:
        """True if more slots are in use than are allowed now."""
        return self._in_use > self._allowed()

    def acquire_at_once(self) -> bool:
        """Acquire a slot without waiting; False if none is free or others wait."""
        if self._waiting or self._in_use >= self._allowed():
            return False
        self._in_use += 1
        return True

    async def acquire(self, *, is_urgent: bool = False) -> None:
        """Wait for a free slot and acquire it; an urgent one goes before all that wait."""
        while self._in_use >= self._allowed():
            turn = asyncio.get_running_loop().create_future()
            (self._waiting.appendleft if is_urgent else self._waiting.append)(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._wake()  # pass the slot on to another waiter
                raise
        self._in_use += 1

    def release(self) -> None:
        """Release a slot, and wake as many waiters as there are free slots."""
        self._in_use -= 1
        if self._waiting:
            self._wake()

    def _wake(self) -> None:
        free = self._allowed() - self._in_use
        while free > 0 and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # not cancelled
                turn.set_result(None)
                free -= 1


_FIRST = 10
_CUT = 0.7
_BREAKS = 3.0  # broken connections before the limit falls to 1; half the limit if that is less
_ANSWERS_FOR_A_BREAK = 10.0  # answers that offset one broken connection
_ANSWERS_ALONE = 10  # answers at limit 1 after connections broke
_MORE_ANSWERS_ALONE = 20  # should a row whose connection broke not come back, as it was given up on
_ANSWERS_TO_PROBE = 100  # answers before the limit at which connections broke is tried again
_ANSWERS_TO_TRUST = 300  # answers in a row after which a broken connection is an accident again


class ConcurrencyLimit:
    """The number of slots, by the AIMD rule of this module.

    Args:
        ceiling: maximum number of slots.

    Attributes:
        limit: the present number of slots.
    """

    def __init__(self, ceiling: int) -> None:
        self._ceiling = ceiling
        self.limit = min(ceiling, _FIRST)
        self._exact = float(self.limit)
        self._grows_quickly = True
        self._is_paced = False
        self._cut_at = 0
        self._breaks = 0.0
        self._alone = 0  # answers left at limit 1
        self._breaks_at: int | None = None  # the limit at which connections broke repeatedly
        self._answers_below = 0
        self._held = self._may_hold = 0
        self._wary = 0  # answers left in which one broken connection is enough: its row has one more attempt

    def succeeded(self, in_flight: int) -> None:
        """An answer arrived; `in_flight` is the number of requests in flight then, its own included."""
        if self._breaks or self._wary:
            self._recover()
        if self.limit >= self._ceiling or self._alone:
            return
        is_start = self._grows_quickly and not self._cut_at
        if is_start or in_flight >= self.limit:
            self._set(min(self._exact + (1.0 if self._grows_quickly else 1.0 / self._exact), float(self._most)))

    def skip_slow_start(self) -> None:
        """A rate limit is known and paces the requests: skip slow start."""
        if not self._is_paced and self._grows_quickly:
            self._set(float(self._most))
        self._is_paced = True

    def congested(self, number: int, sent: int) -> bool:
        """The server refused a request for load, or timed out.

        Args:
            number: of the request, in the order of sending.
            sent: number of requests sent so far.

        Returns:
            True if the limit was cut; False if the request was sent before the last cut.
        """
        self._grows_quickly = self._is_paced  # a known rate limit paces the requests
        if number <= self._cut_at:
            return False
        self._cut_at = sent
        self._set(max(self._exact * _CUT, 1.0))
        return True

    def broke(self, number: int, sent: int) -> None:
        """The server broke or refused a connection.

        Args:
            number: of the request, in the order of sending.
            sent: number of requests sent so far.
        """
        if number <= self._cut_at:
            return
        self._breaks += 1.0
        if not self._wary and self._breaks < min(_BREAKS, max(self.limit / 2, 1.0)):
            return
        if self._cut_at and self.limit > 1:
            self._breaks_at, self._answers_below = self.limit, 0
        self._cut_at, self._breaks, self._alone, self._wary = sent, 0.0, _ANSWERS_ALONE, _ANSWERS_TO_TRUST
        self._grows_quickly = True
        self._set(1.0)

    def hold(self, rows: int) -> None:
        """So many rows whose connection broke are to be sent again: stay at limit 1 until they are."""
        if rows > self._held:
            self._may_hold = rows + _MORE_ANSWERS_ALONE
        self._held = rows

    @property
    def _most(self) -> int:
        return self._ceiling if self._breaks_at is None else min(self._ceiling, self._breaks_at - 1)

    def _recover(self) -> None:
        self._breaks = max(self._breaks - 1.0 / _ANSWERS_FOR_A_BREAK, 0.0)
        self._alone = max(self._alone - 1, int(self._held > 0 and self._may_hold > 0))
        self._may_hold = max(self._may_hold - 1, 0)
        self._wary = max(self._wary - (self._breaks_at is None), 0)
        if self._breaks_at is not None:
            self._answers_below += 1
            if self._answers_below >= _ANSWERS_TO_PROBE:
                self._breaks_at, self._answers_below = self._breaks_at + 1, 0
                if self._breaks_at > self._ceiling:
                    self._breaks_at = None

    def _set(self, exact: float) -> None:
        self._exact = exact
        self.limit = int(exact)


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
        words = cause or "the server asks for fewer requests"
        self.ask(now, max(retry_after_s or 0.0, least_s), f"at the server's request: {words}" if is_asked else words)

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
