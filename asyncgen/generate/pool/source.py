"""The rows of a job that are still to be sent, and their queue for the workers: retries first, then fresh rows.

Skips rows that the journal has, duplicate requests that are claimed already, and rows over a limit. Nothing is read
ahead: a fresh row is made when a worker asks for one. Timers and sending are left to the pool.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Protocol

import orjson

from asyncgen.errors import UsageError
from asyncgen.generate.pool.settle import RowInWork, SettlingJournal, retried_row
from asyncgen.job.requests import Request, RequestGrid
from asyncgen.run.jsonl import MAX_LINE_BYTES

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator

    from asyncgen.generate.pool.progress import Progress
    from asyncgen.generate.pool.rate import RequestRates
    from asyncgen.run.state import RowAttempts


class Later(Enum):
    """What a source gives that has no row now, and says itself when to look again (`Pool.look_again`)."""

    LATER = "later"


class RowQueue:
    """A queue of rows to retry, over a lazy source of fresh rows.

    Args:
        fresh: rows; None means that the source has none in this turn of the event loop, but may have one in the next.

    Attributes:
        is_looking: the source returned None last.
    """

    def __init__(self, fresh: Iterator[RowInWork | Later | None]) -> None:
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
        return None if row is Later.LATER else row

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


_LOOKED_AT_ONCE = 512
_SHORT_CHARACTERS = 1024 * 1024  # of a row's values, which are measured only above it


class ResumableJournal(SettlingJournal, Protocol):
    """A journal that also tells which rows are settled."""

    def is_settled(self, key: bytes) -> bool: ...

    @property
    def claim(self) -> Callable[[bytes], bool]: ...

    def is_left(self, key: bytes) -> bool: ...

    @property
    def leaves_any(self) -> bool: ...

    @property
    def tried_any(self) -> bool: ...

    def tried_before(self, key: bytes) -> RowAttempts: ...


class RowSource:
    """The open rows of a job, as an iterable. None gives the event loop a turn.

    Args:
        grid: the job's requests.
        journal: tells which rows are settled.
        rates: a request larger than a minute's tokens is refused.
        progress: duplicate requests (twins) are counted there.
        limit: maximum number of rows; None for all.
        spread: look only at `limit` combinations, evenly sampled from the grid.

    Attributes:
        is_cut: the limit left rows out.
    """

    def __init__(
        self,
        grid: RequestGrid,
        journal: ResumableJournal,
        rates: RequestRates,
        progress: Progress,
        limit: int | None,
        *,
        spread: bool = False,
    ) -> None:
        self._spread = spread
        self._grid = grid
        self._journal = journal
        self._claim = journal.claim
        self._rates = rates
        self._progress = progress
        self._limit = limit
        self._found = 0
        self._found_before = progress.already_done
        self.is_cut = False

    def __iter__(self) -> Iterator[RowInWork | None]:
        """The rows, in grid order.

        Raises:
            UsageError: a single request exceeds the user's token limit per minute; raised before the first row. Or a
                row is too long for a line of the records; raised in its place, so that it is not sent.
        """
        if self._rates.tokens.exceeds_a_minute(self._grid.longest_body):
            yield from self._look_through()
        given, tried_any = 0, self._journal.tried_any
        leaves_any = self._journal.leaves_any
        if self._spread and self._limit is not None:
            yield from self._spread_rows(self._limit)
            return
        for request in self._grid.walk(self._claim_unless_left if leaves_any else self._claim):
            if isinstance(request, int):
                self._find(0 if leaves_any else request)
                yield None
            elif given == self._limit:
                self.is_cut = True
                return
            else:
                given += 1
                self._check_length(request)
                yield retried_row(request, self._journal.tried_before(request.key)) if tried_any else RowInWork(request)

    def _spread_rows(self, count: int) -> Iterator[RowInWork]:
        for request in self._grid.sample_evenly(count):
            if self._claim(request.key) and not self._journal.is_left(request.key):
                self._check_length(request)
                yield retried_row(request, self._journal.tried_before(request.key))
        self.is_cut = True

    def _look_through(self) -> Iterator[None]:
        """Check that no open request is too large."""
        found = 0
        for number, request in enumerate(self._grid.walk(self._is_open)):
            if found == self._limit:
                return
            if isinstance(request, Request):
                found += 1
                if (refused := self._rates.refusal(request.body)) is not None:
                    raise refused
            if isinstance(request, int) or number % _LOOKED_AT_ONCE == 0:
                yield None

    def _is_open(self, key: bytes) -> bool:
        return not self._journal.is_settled(key)

    def _claim_unless_left(self, key: bytes) -> bool:
        if self._journal.is_left(key):
            return False
        is_new = self._claim(key)
        self._find(not is_new)
        return is_new

    def _find(self, taken: int) -> None:
        self._found += taken
        if self._found > self._found_before:  # the surplus are duplicates of other rows
            self._progress.twins = self._found - self._found_before

    def _check_length(self, request: Request) -> None:
        """Refuse a row whose record would be too long to be read again, whatever its answer.

        Raises:
            UsageError: its values and its short prompt take more than a line of the records can have.
        """
        if sum(map(len, request.values)) < _SHORT_CHARACTERS:
            return
        size = len(orjson.dumps(request.values)) + len(orjson.dumps(self._grid.prompt(request)))
        if size >= MAX_LINE_BYTES:
            raise UsageError(
                f"the values and the short prompt of row {request.index + 1:,} take {size:,} bytes",
                cause=f"a line of records.jsonl can have at most {MAX_LINE_BYTES:,} bytes",
                help_text="shorten the longest value in the job's rows; nothing was sent for this row",
            )
