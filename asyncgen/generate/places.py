"""Places for requests in flight, and those who wait for one.

Owns who has a place and who comes next. Does not know what a request is; how many places there are is found out
elsewhere.
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
