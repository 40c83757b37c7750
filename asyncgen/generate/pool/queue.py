"""The queue of rows for the workers: rows to retry first, then fresh ones from a lazy source.

Nothing is read ahead: a fresh row is made when a worker asks for one. Timers are set by the pool.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator

from asyncgen.generate.pool.retry import RowInWork


class RowQueue:
    """A queue of rows to retry, over a lazy source of fresh rows.

    Args:
        fresh: rows; None means that the source has none in this turn of the event loop, but may have one in the next.

    Attributes:
        is_looking: the source returned None last.
    """

    def __init__(self, fresh: Iterator[RowInWork | None]) -> None:
        self._fresh = fresh
        self._again: deque[RowInWork] = deque()
        self._delayed: dict[RowInWork, asyncio.TimerHandle] = {}
        self._is_used_up = False
        self.is_looking = False

    @property
    def is_over(self) -> bool:
        """True if the source is exhausted and no row waits for a retry."""
        return self._is_used_up and not self._again and not self._delayed

    def next(self) -> RowInWork | None:
        """The next row, or None if there is none now. An exception of the source is raised, and ends the source."""
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
        """Queue a row for a retry, behind the others."""
        self._again.append(row)

    def put_first(self, row: RowInWork) -> None:
        """Return a row that was handed out but not sent, ahead of the others."""
        self._again.appendleft(row)

    def delay(self, row: RowInWork, timer: asyncio.TimerHandle) -> None:
        """Queue a row for a retry when `timer` calls `due`."""
        self._delayed[row] = timer

    def due(self, row: RowInWork) -> None:
        """The delay of a row is over: it can be handed out."""
        del self._delayed[row]
        self._again.append(row)

    def close(self) -> list[RowInWork]:
        """End the queue; returns the rows that waited for a retry."""
        rows = [*self._again, *self._delayed]
        for timer in self._delayed.values():
            timer.cancel()
        self._again.clear()
        self._delayed.clear()
        self._is_used_up, self.is_looking = True, False
        return rows
