"""Places for requests in flight, and those who wait for one.

Owns who has a place and who comes next. Does not know what a request is; how many places there are is found out
elsewhere.

How many requests may be in flight: found out, within a ceiling.

Owns the rule: quick growth at the start, unless a known rate makes it needless; then one more after a round of
successes in which the limit was used up (where a rate is known, one for each), and a cut when the server wants less, at
most once for the requests that were sent before it. Pure: it is told of starts and ends, and waits for nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Places:
    """Places that are taken and given back; who took one may still have to wait for the rate.

    Args:
        allowed: how many there may be taken now.
    """

    def __init__(self, allowed: Callable[[], int]) -> None:
        self._allowed = allowed
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def are_too_many(self) -> bool:
        """Are more places taken than may be now?"""
        return self._taken > self._allowed()

    def take_at_once(self) -> bool:
        """Take a place where one is free and nobody waits for it."""
        if self._waiting or self._taken >= self._allowed():
            return False
        self._taken += 1
        return True

    async def take(self) -> None:
        """Take a place, once one is free."""
        while self._taken >= self._allowed():
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn
        self._taken += 1

    def give_back(self) -> None:
        """Give a place back; as many who wait come in as there are free places now."""
        self._taken -= 1
        if self._waiting:
            for _ in range(min(len(self._waiting), max(self._allowed() - self._taken, 0))):
                turn = self._waiting.popleft()
                if not turn.done():
                    turn.set_result(None)


_FIRST = 10
_CUT = 0.7


class ConcurrencyLimit:
    """The number of places.

    Args:
        ceiling: never more than this.

    Attributes:
        limit: places that there are.
    """

    def __init__(self, ceiling: int) -> None:
        self._ceiling = ceiling
        self.limit = min(ceiling, _FIRST)
        self._exact = float(self.limit)
        self._grows_quickly = True
        self._is_paced = False
        self._cut_at = 0

    def succeeded(self, in_flight: int) -> None:
        """An answer came, while so many requests were in flight, its own included."""
        if self.limit >= self._ceiling:
            return
        is_start = self._grows_quickly and not self._cut_at
        if is_start or in_flight >= self.limit:
            self._set(min(self._exact + (1.0 if self._grows_quickly else 1.0 / self._exact), float(self._ceiling)))

    def open_up(self) -> None:
        """A rate is known, which holds requests back better than places do: no need to feel the way."""
        if not self._is_paced and self._grows_quickly:
            self._set(float(self._ceiling))
        self._is_paced = True

    def congested(self, number: int, sent: int) -> bool:
        """The server wants less, or took too long, for the request of this number, when `sent` were sent in all.

        Returns whether the limit was cut; a request sent before the last cut is answered for by that one.
        """
        self._grows_quickly = self._is_paced  # the rate holds requests back by itself
        if number <= self._cut_at:
            return False
        self._cut_at = sent
        self._set(max(self._exact * _CUT, 1.0))
        return True

    def _set(self, exact: float) -> None:
        self._exact = exact
        self.limit = int(exact)
