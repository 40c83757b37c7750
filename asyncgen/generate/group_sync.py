"""Rows made safe in groups, by a thread: an fsync takes milliseconds, and the event loop has none to spare.

Owns when to flush: after so many rows or so many seconds, whichever comes first, and at the end. Does not
know what flushing is. A flush that failed is never tried again.
"""

from __future__ import annotations

import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from asyncgen.errors import DiskError

if TYPE_CHECKING:
    from collections.abc import Callable

GROUP_ROWS = 100
GROUP_SECONDS = 1.0


class GroupSync:
    """Calls `flush` in a thread of its own, from the first `mark` on until `close`.

    Args:
        flush: makes everything safe that was written before it was called; raises `DiskError` when it cannot.
        rows: so many marks are enough for a flush.
        seconds: no mark waits longer.
    """

    def __init__(self, flush: Callable[[], None], *, rows: int = GROUP_ROWS, seconds: float = GROUP_SECONDS) -> None:
        self._flush = flush
        self._rows = rows
        self._seconds = seconds
        self._marks = 0
        self._marks_flushed = 0
        self._marks_to_look_at = rows
        self._failure: DiskError | None = None
        # Its `get` waits outside the interpreter, where a condition would take turns with the event loop.
        self._wakes: SimpleQueue[bool] = SimpleQueue()  # True: for the last time
        self._thread = threading.Thread(target=self._work, name="asyncgen-sync", daemon=True)
        self._thread.start()

    def mark(self, rows: int) -> None:
        """Note that so many rows were written; always from the same thread.

        Raises:
            DiskError: a flush has failed: what was written lately may not survive a power loss.
        """
        self._marks = marks = self._marks + rows
        if marks >= self._marks_to_look_at:
            self._look()

    def close(self) -> None:
        """Flush for the last time, unless a flush has failed before.

        Raises:
            DiskError: this flush or an earlier one failed.
        """
        self._wakes.put(item=True)
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _look(self) -> None:
        self._marks_to_look_at = self._marks + self._rows
        self._wakes.put(item=False)
        if self._failure is not None:  # looked at after the line above: the thread sets both, in the other order
            self._marks_to_look_at = 0
            raise self._failure

    def _work(self) -> None:
        closing = False
        while not closing:
            closing = self._wait_for_group()
            try:
                self._flush()
            except DiskError as error:
                self._failure = error
                self._marks_to_look_at = 0  # at once
                return

    def _wait_for_group(self) -> bool:
        """Wait until there is something to flush; True when it is for the last time."""
        while True:
            try:
                closing = self._wakes.get(timeout=self._seconds)
            except Empty:
                closing = False
            if closing or self._marks != self._marks_flushed:
                self._marks_flushed = self._marks
                return closing
