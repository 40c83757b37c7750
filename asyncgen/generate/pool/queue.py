"""Rows on their way to the workers: those to be tried again, and fresh ones from a lazy source.

Owns the rounds in which workers get rows: one for all that ask within a turn of the event loop, since a processor does
the same for forty rows at a stretch in a fraction of the time that it takes for forty among other work. Owns the order
too (rows to be tried again go first), and the end: when the source is used up, no row waits for another try and every
worker asks for one, they are told. Nothing is read ahead: a fresh row is made when a worker takes it. Does not know
what happens to a row in between.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator

from asyncgen.generate.pool.retry import Row


class RowQueue:
    """A queue with delays.

    Args:
        fresh: rows, pulled when a worker has nothing else to do; None gives the loop a turn.
        workers: how many ask for rows. One that asks has done with the row it had.
        before_round: called before rows are handed out, and may put back such as workers brought.
        before_row: called with each row before a worker gets it.
    """

    def __init__(
        self,
        fresh: Iterator[Row | None],
        workers: int,
        before_round: Callable[[], None],
        before_row: Callable[[Row], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._fresh = fresh
        self._workers = workers
        self._before_round = before_round
        self._before_row = before_row
        self._again: deque[Row] = deque()
        self._delayed: dict[Row, asyncio.TimerHandle] = {}
        self._is_complete = False
        self._is_round_planned = False
        self._idle: deque[asyncio.Future[Row | None]] = deque()

    async def get(self) -> Row | None:
        """The next row for a worker, in the next round; None when there will be no more.

        Raises what the source raises, and what is raised before the round; one of the workers gets it.
        """
        place: asyncio.Future[Row | None] = self._loop.create_future()
        self._idle.append(place)
        self._plan_round()
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and (row := place.result()) is not None:
                self._again.appendleft(row)
            raise

    def put_back(self, row: Row, delay_s: float) -> None:
        """A row that a worker took is to be tried again after `delay_s`."""
        if delay_s <= 0:
            self._release(row)
        else:
            self._delayed[row] = self._loop.call_later(delay_s, self._release, row)

    def drop_waiting(self) -> list[Row]:
        """Take no more rows: none is made any more, and those that wait for another try are dropped and returned."""
        tried = [*self._again, *self._delayed]
        for timer in self._delayed.values():
            timer.cancel()
        self._again.clear()
        self._delayed.clear()
        self._is_complete = True
        self._plan_round()
        return tried

    def _release(self, row: Row) -> None:
        self._delayed.pop(row, None)
        self._again.append(row)
        self._plan_round()

    def _plan_round(self) -> None:
        if self._idle and not self._is_round_planned:
            self._is_round_planned = True
            self._loop.call_soon(self._round)

    def _round(self) -> None:
        try:
            self._before_round()
            self._is_round_planned = False
            self._hand_out()
        except Exception as error:  # noqa: BLE001 - the loop would only log it, and every worker wait for ever
            self._is_round_planned = False
            self._raise_in_a_worker(error)

    def _hand_out(self) -> None:
        while self._idle and (row := self._next_row()) is not None:
            place = self._idle.popleft()
            if place.done():  # its worker was cancelled
                self._again.appendleft(row)
            else:
                self._before_row(row)
                place.set_result(row)
        if self._is_complete and not self._again and not self._delayed and len(self._idle) == self._workers:
            for place in self._idle:
                if not place.done():
                    place.set_result(None)

    def _next_row(self) -> Row | None:
        """A row, where there is one now."""
        if self._again:
            return self._again.popleft()
        if self._is_complete:
            return None
        try:
            row = next(self._fresh)
        except StopIteration:
            self._is_complete = True
            return None
        if row is None:
            self._plan_round()
        return row

    def _raise_in_a_worker(self, error: Exception) -> None:
        while self._idle:
            place = self._idle.popleft()
            if not place.done():
                place.set_exception(error)
                return
        raise error
