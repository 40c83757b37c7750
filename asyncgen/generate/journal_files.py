"""The files of a journal, made safe from a power loss in the order in which they build on one another.

Owns that order: lines first, then the spend in `run.json`, which never counts more than the files hold; and how often.
Does not know what a line says.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from asyncgen.errors import DiskError
from asyncgen.generate.group_sync import GroupSync
from asyncgen.jsonl import NotSafeError

if TYPE_CHECKING:
    from pathlib import Path

    from asyncgen.generate.spend_count import SpendCount
    from asyncgen.jsonl import LineFile
    from asyncgen.run_directory import Run
    from asyncgen.run_state import Spend, Tried

_NOTE_S = 1.0  # the spend in run.json may be behind by this: the next start counts what a crash left out


class JournalFiles:
    """Where a journal's lines go.

    Args:
        run: locked by this process.
        records: where answers go.
        failures: where failures go.
        spend: what the records came to so far.
        tried: what was done for rows without a line; noted with the spend.
        fsync_each: every line is made safe at once.

    Attributes:
        wrote: to be called with the number of lines that were appended to the two; raises `NotSafeError` when they, or
            lines before them, could not be made safe.
    """

    def __init__(
        self,
        run: Run,
        records: LineFile,
        failures: LineFile,
        spend: SpendCount,
        tried: dict[str, Tried],
        *,
        fsync_each: bool,
    ) -> None:
        self.records = records
        self.failures = failures
        self._run = run
        self._spend = spend
        self._tried = tried
        self._noted_at = 0.0
        self._sync = GroupSync(self._flush_now_and_then)
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
        spend = self._spend.total  # taken first: what is counted must be safe in the files
        self.records.sync()
        self.failures.sync()
        self._note(spend)

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

    def _flush_now_and_then(self) -> None:
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

    def _note(self, spend: Spend) -> None:
        tried = dict(self._tried)
        self._run.update(lambda state: msgspec.structs.replace(state, spend=spend, tried=tried))
        self._noted_at = time.monotonic()
