"""The queue of rows for the workers: rows to retry first, then fresh ones from a lazy source.

Nothing is read ahead: a fresh row is made when a worker asks for one. Timers are set by the pool.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator

from asyncgen.generate.pool.retry import RowInWork


class RowQueue:
    """A queue with a lazy end.

    Args:
        fresh: rows; None stands for a turn of the event loop in which the source looked and found none.

    Attributes:
        is_looking: the source asked for a turn; there may be rows in the next one.
    """

    def __init__(self, fresh: Iterator[RowInWork | None]) -> None:
        self._fresh = fresh
        self._again: deque[RowInWork] = deque()
        self._delayed: dict[RowInWork, asyncio.TimerHandle] = {}
        self._is_used_up = False
        self.is_looking = False

    @property
    def is_over(self) -> bool:
        """Will there be no row, unless one comes back?"""
        return self._is_used_up and not self._again and not self._delayed

    def next(self) -> RowInWork | None:
        """A row, where there is one now; raises what the source raises, which ends it."""
        if self._again:
            return self._again.popleft()
        if self._is_used_up:
            return None
        try:
            row = next(self._fresh)
        except BaseException as end:
            self._is_used_up, self.is_looking = True, False
            if isinstance(end, StopIteration):
                return None
            raise
        self.is_looking = row is None
        return row

    def put_back(self, row: RowInWork) -> None:
        """The row is to be tried again."""
        self._again.append(row)

    def put_first(self, row: RowInWork) -> None:
        """The row was handed out in vain."""
        self._again.appendleft(row)

    def delay(self, row: RowInWork, timer: asyncio.TimerHandle) -> None:
        """The row is to be tried again when the timer calls `due`."""
        self._delayed[row] = timer

    def due(self, row: RowInWork) -> None:
        """The delay of the row is over."""
        del self._delayed[row]
        self._again.append(row)

    def close(self) -> list[RowInWork]:
        """There are no more rows; returns those that waited to be tried again."""
        rows = [*self._again, *self._delayed]
        for timer in self._delayed.values():
            timer.cancel()
        self._again.clear()
        self._delayed.clear()
        self._is_used_up, self.is_looking = True, False
        return rows
