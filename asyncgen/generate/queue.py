"""Rows on their way to the workers: those to be tried again, and fresh ones from a lazy source.

Owns the order (rows to be tried again go first), and the end: when the source is used up, no row waits for another try
and every worker asks for one, they are told. Nothing is read ahead: a fresh row is made when a worker takes it. Does
not know what happens to a row in between.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator

from asyncgen.generate.retry import Row


class RowQueue:
    """A queue with delays.

    Args:
        fresh: rows, pulled when a worker has nothing else to do; None gives the loop a turn.
        workers: how many ask for rows. One that asks has done with the row it had.
    """

    def __init__(self, fresh: Iterator[Row | None], workers: int) -> None:
        self._fresh = fresh
        self._workers = workers
        self._again: deque[Row] = deque()
        self._delayed: dict[Row, asyncio.TimerHandle] = {}
        self._is_complete = False
        self._is_looking = False  # a worker gives the loop a turn, and then looks on for all of them
        self._idle: deque[asyncio.Future[None]] = deque()
        self._is_over = False

    def get_at_once(self) -> Row | None:
        """As `get`, without waiting; None where there is no row now."""
        if self._again:
            return self._again.popleft()
        if self._is_looking:
            return None
        try:
            return next(self._fresh)
        except StopIteration:
            if not self._is_complete:
                self._complete()
            return None

    async def get(self) -> Row | None:
        """The next row for a worker; None when there will be no more. Raises what the source raises."""
        while (row := self.get_at_once()) is None:
            if self._has_ended():
                return None
            if self._is_complete or self._is_looking:
                place = asyncio.get_running_loop().create_future()
                self._idle.append(place)
                await place
            else:
                await self._give_a_turn()
        self._wake_one()  # there may be more where this one came from
        return row

    async def _give_a_turn(self) -> None:
        self._is_looking = True
        try:
            await asyncio.sleep(0)
        finally:
            self._is_looking = False

    def put_back(self, row: Row, delay_s: float) -> None:
        """A row that a worker took is to be tried again after `delay_s`."""
        if delay_s <= 0:
            self._release(row)
        else:
            timer = asyncio.get_running_loop().call_later(delay_s, self._release, row)
            self._delayed[row] = timer

    def drop_waiting(self) -> list[Row]:
        """Take no more rows: none is made any more, and those that wait for another try are dropped and returned."""
        tried = [*self._again, *self._delayed]
        for timer in self._delayed.values():
            timer.cancel()
        self._again.clear()
        self._delayed.clear()
        self._fresh = iter(())
        self._complete()
        return tried

    def _complete(self) -> None:
        """There will be no fresh row any more."""
        self._is_complete = True
        self._wake_all()

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

    def _wake_all(self) -> None:
        while self._idle:
            self._wake_one()

    def _has_ended(self) -> bool:
        """Asked by a worker without a row: have none of the others one, and will there be none?"""
        if self._is_complete and not self._delayed and len(self._idle) == self._workers - 1:
            self._is_over = True
            self._wake_all()
        return self._is_over
