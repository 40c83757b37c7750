"""Concurrency: a resizable semaphore, and the AIMD rule for its size.

Slow start: +1 for each answer. After the first congestion +1 a round if all slots were in use (+1 for each answer if a
rate limit is known), and x0.7 on congestion, at most once for the requests that were sent before the cut. If a server
breaks several connections at once, the next requests go one at a time, and the limit stays below the number at which
the connections broke. Rate limits are left to `rate`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class ConcurrencySlots:
    """A resizable semaphore for requests in flight. Waiters are served in order of arrival.

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

    async def acquire(self) -> None:
        """Wait for a free slot and acquire it."""
        while self._in_use >= self._allowed():
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
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
_ANSWERS_TO_PROBE = 100  # answers before the limit at which connections broke is tried again


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

    def succeeded(self, in_flight: int) -> None:
        """An answer arrived; `in_flight` is the number of requests in flight then, its own included."""
        if self._breaks or self._alone or self._breaks_at is not None:
            self._recover()
        if self.limit >= self._ceiling or self._alone:
            return
        is_start = self._grows_quickly and not self._cut_at
        if is_start or in_flight >= self.limit:
            self._set(min(self._exact + (1.0 if self._grows_quickly else 1.0 / self._exact), float(self._most)))

    def open_up(self) -> None:
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
        if self._breaks < min(_BREAKS, max(self.limit / 2, 1.0)):
            return
        if self._cut_at and self.limit > 1:
            self._breaks_at, self._answers_below = self.limit, 0
        self._cut_at, self._breaks, self._alone = sent, 0.0, _ANSWERS_ALONE
        self._grows_quickly = True
        self._set(1.0)

    @property
    def _most(self) -> int:
        return self._ceiling if self._breaks_at is None else min(self._ceiling, self._breaks_at - 1)

    def _recover(self) -> None:
        self._breaks = max(self._breaks - 1.0 / _ANSWERS_FOR_A_BREAK, 0.0)
        self._alone = max(self._alone - 1, 0)
        if self._breaks_at is not None:
            self._answers_below += 1
            if self._answers_below >= _ANSWERS_TO_PROBE:
                self._breaks_at, self._answers_below = self._breaks_at + 1, 0
                if self._breaks_at > self._ceiling:
                    self._breaks_at = None

    def _set(self, exact: float) -> None:
        self._exact = exact
        self.limit = int(exact)
