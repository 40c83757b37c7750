"""Group fsync for the journal's files, in a thread, because an fsync would block the event loop for milliseconds.

Flushes after a number of rows or seconds, whichever comes first, and at the end; a failed flush is never retried. The
order is fixed: first the lines, then the spend in `run.json`, so that `run.json` never counts more than the files
hold. What a line contains is left to the journal.
"""

from __future__ import annotations

import threading
import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

import msgspec

from asyncgen.errors import DiskError, RunInUseError
from asyncgen.run.jsonl import NotSafeError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from asyncgen.generate.journal.settled import SpendCount
    from asyncgen.run.directory import RunWriter
    from asyncgen.run.jsonl import LineFile
    from asyncgen.run.state import RowAttempts, Spend


GROUP_ROWS = 100
GROUP_SECONDS = 1.0


class GroupSync:
    """Calls `flush` in a separate thread, from the first `mark` until `close`.

    Args:
        flush: syncs everything that was written before the call; raises if it cannot.
        check: called at intervals even if nothing was written; raises if nothing may be written any more.
        rows: number of marks after which it flushes.
        seconds: maximum time that a mark waits.
    """

    def __init__(
        self,
        flush: Callable[[], None],
        *,
        check: Callable[[], None] = lambda: None,
        rows: int = GROUP_ROWS,
        seconds: float = GROUP_SECONDS,
    ) -> None:
        self._flush = flush
        self._check_round = check
        self._rows = rows
        self._seconds = seconds
        self._marks = 0
        self._marks_flushed = 0
        self._marks_before_check = rows
        self._failure: Exception | None = None
        # Its `get` waits without the interpreter lock; a condition would compete with the event loop.
        self._wakes: SimpleQueue[bool] = SimpleQueue()  # True: for the last time
        self._thread = threading.Thread(target=self._work, name="asyncgen-sync", daemon=True)
        self._thread.start()

    def mark(self, rows: int) -> None:
        """Count rows that were written; always called from the same thread.

        Raises:
            Exception: what `flush` or `check` raised: the last lines may not survive a power loss.
        """
        self._marks = marks = self._marks + rows
        if marks >= self._marks_before_check:
            self._check_thread()

    def close(self) -> None:
        """Flush for the last time, unless a flush has failed before.

        Raises:
            Exception: what this flush or an earlier one raised.
        """
        self._wakes.put(item=True)
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _check_thread(self) -> None:
        self._marks_before_check = self._marks + self._rows
        self._wakes.put(item=False)
        if self._failure is not None:  # read after the line above: the thread sets both, in the other order
            self._marks_before_check = 0
            raise self._failure

    def _work(self) -> None:
        closing = False
        while not closing:
            try:
                closing = self._wait_for_group()
                self._flush()
            except Exception as error:  # noqa: BLE001 - whatever it is, the thread that writes has to hear of it
                self._failure = error
                self._marks_before_check = 0  # at once
                return

    def _wait_for_group(self) -> bool:
        """Wait until a group is complete; True for the last one."""
        while True:
            try:
                closing = self._wakes.get(timeout=self._seconds)
            except Empty:
                closing = False
                self._check_round()
            if closing or self._marks != self._marks_flushed:
                self._marks_flushed = self._marks
                return closing


class LockLostError(NotSafeError):
    """Another process writes the run too, after somebody removed its lock."""

    exit_code = RunInUseError.exit_code
    code = RunInUseError.code


_NOTE_S = 1.0  # run.json's spend may lag by this; the next start counts what a crash left out


class JournalFiles:
    """The files of a journal.

    Args:
        run: locked by this process.
        records: file of the answers.
        failures: file of the failures.
        spend: cost of the records so far.
        tried: attempts of rows without a line; noted with the spend.
        fsync_each: sync every line at once.

    Attributes:
        wrote: call it with the number of lines that were appended; raises `NotSafeError` if lines could not be synced.
    """

    def __init__(
        self,
        run: RunWriter,
        records: LineFile,
        failures: LineFile,
        spend: SpendCount,
        tried: dict[str, RowAttempts],
        *,
        fsync_each: bool,
    ) -> None:
        self.records = records
        self.failures = failures
        self._run = run
        self._spend = spend
        self._tried = tried
        self._noted_at = 0.0
        self._sync = GroupSync(self._flush_now_and_then, check=self._check_lock)
        self.wrote = self._make_each_safe if fsync_each else self._sync.mark

    @property
    def torn(self) -> dict[Path, int]:
        """Files whose torn last line was put aside when they were opened, with its size in bytes."""
        return {file.path: file.torn_bytes for file in (self.records, self.failures) if file.torn_bytes}

    def flush(self) -> None:
        """Make everything safe that was written so far, and the spend with it; takes the time of an fsync.

        Raises:
            DiskError: it could not be made safe.
        """
        # Copied before the sync: only synced lines may be counted, and a note must stay until its line is synced.
        tried, spend = dict(self._tried), self._spend.total
        self.records.sync()
        self.failures.sync()
        self._note(spend, tried)

    def close(self) -> None:
        """Make everything safe; nothing can be written afterwards.

        Raises:
            DiskError: something could not be made safe.
        """
        self._sync.close()
        self.flush()

    def _make_each_safe(self, lines: int) -> None:
        self._make_safe()
        self._sync.mark(lines)

    def _check_lock(self) -> None:
        """Check that this process still holds the lock.

        Raises:
            NotSafeError: it is not; the error ends a command as `RunInUseError` does.
        """
        try:
            self._run.check_lock()
        except RunInUseError as error:
            raise LockLostError(error.what, cause=error.cause, help_text=error.help_text) from error

    def _flush_now_and_then(self) -> None:
        self._check_lock()
        if time.monotonic() - self._noted_at < _NOTE_S:
            self._make_safe()
            return
        try:
            self.flush()
        except NotSafeError:
            raise
        except DiskError as error:  # `run.json` could not be written; the lines were
            raise NotSafeError(error.what, cause=error.cause, help_text=error.help_text) from error

    def _make_safe(self) -> None:
        self.records.fsync()
        self.failures.fsync()

    def _note(self, spend: Spend, tried: dict[str, RowAttempts]) -> None:
        self._run.update(lambda state: msgspec.structs.replace(state, spend=spend, tried=tried))
        self._noted_at = time.monotonic()
