"""Rows on their way to the workers: a short queue that the producer fills, and rows that wait for another attempt.

Owns the order (rows to be tried again go first), the bound on what is read ahead, and the end: when the producer is
done and every row is finished, workers are told. Does not know what happens to a row in between.
"""

from __future__ import annotations

import asyncio
from collections import deque

from asyncgen.generate.retry import Row


class RowQueue:
    """A bounded queue with delays.

    Args:
        ahead: how many rows the producer may be ahead of the workers.
    """

    def __init__(self, ahead: int) -> None:
        self._ahead = ahead
        self._fresh: deque[Row] = deque()
        self._again: deque[Row] = deque()
        self._delayed: dict[Row, asyncio.TimerHandle] = {}
        self._unfinished = 0
        self._is_complete = False
        self._idle: deque[asyncio.Future[None]] = deque()
        self._room = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Rows that wait for their next attempt."""
        return len(self._delayed) + len(self._again)

    @property
    def is_full(self) -> bool:
        """Have the workers enough?"""
        return len(self._fresh) >= self._ahead

    async def room(self) -> None:
        """Wait until they have not."""
        while self.is_full:
            self._room.clear()
            await self._room.wait()

    def put(self, row: Row) -> None:
        """The producer's next row."""
        self._unfinished += 1
        self._fresh.append(row)
        if self._idle:
            self._wake_one()

    def complete(self) -> None:
        """The producer is done."""
        self._is_complete = True
        self._wake_all_at_end()

    def get_at_once(self) -> Row | None:
        """As `get`, without waiting; None where there is no row now."""
        if self._again:
            return self._again.popleft()
        if not self._fresh:
            return None
        row = self._fresh.popleft()
        if len(self._fresh) * 2 <= self._ahead:
            self._room.set()
        return row

    async def get(self) -> Row | None:
        """The next row for a worker; None when there will be no more."""
        while (row := self.get_at_once()) is None:
            if self._is_complete and not self._unfinished:
                return None
            place = asyncio.get_running_loop().create_future()
            self._idle.append(place)
            await place
        return row

    def put_back(self, row: Row, delay_s: float) -> None:
        """A row that a worker took is to be tried again after `delay_s`."""
        if delay_s <= 0:
            self._release(row)
        else:
            timer = asyncio.get_running_loop().call_later(delay_s, self._release, row)
            self._delayed[row] = timer

    def finish(self) -> None:
        """A row that a worker took came to its end."""
        self._unfinished -= 1
        if self._is_complete:
            self._wake_all_at_end()

    def drop_waiting(self) -> list[Row]:
        """Take no more rows: those not in a worker's hands are dropped, and returned where they were tried before."""
        tried = [*self._again, *self._delayed]
        for timer in self._delayed.values():
            timer.cancel()
        self._unfinished -= len(tried) + len(self._fresh)
        self._again.clear()
        self._delayed.clear()
        self._fresh.clear()
        self.complete()
        return tried

    def _release(self, row: Row) -> None:
        self._delayed.pop(row, None)
        self._again.append(row)
        self._wake_one()

    def _wake_one(self) -> None:
        while self._idle:
            place = self._idle.popleft()
            if not place.done():
                place.set_result(None)
                return

    def _wake_all_at_end(self) -> None:
        if self._is_complete and not self._unfinished:
            while self._idle:
                self._wake_one()
