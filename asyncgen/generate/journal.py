"""The journal: answers written as they come, so that what was paid for is neither lost nor bought again.

Owns the order of things in a run's directory: a line is whole in `records.jsonl` before its key counts as
settled, lines are made safe in groups, and `run.json` never counts more than the files hold. Requests that an
open batch holds count as settled, so that they are not asked for twice. Does not know how answers are obtained,
or which requests there are.
"""

from __future__ import annotations

import time
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from asyncgen.errors import DiskError
from asyncgen.generate.group_sync import GroupSync
from asyncgen.generate.held_keys import HeldKeys, open_held_keys
from asyncgen.generate.key_set import KeySet
from asyncgen.generate.settled import SettledKeys, key_number, read_settled
from asyncgen.generate.spend_count import CostOf, SpendCount
from asyncgen.jsonl import LineFile, NotSafeError
from asyncgen.records import Usage, encode_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from asyncgen.records import Failure, Record
    from asyncgen.run_directory import Run
    from asyncgen.run_state import Spend

_NOTHING = Usage()
_NOTE_S = 1.0  # the spend in run.json may be behind by this: the next start counts what a crash left out


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows of the run, those of an earlier form of the job included."""

    settled: int
    failed: int


class Journal:
    """The writing side of a run; made by `open_journal`.

    Args:
        run: locked by this process.
        keys: what its files hold.
        records: where answers go.
        failures: where failures go.
        spend: what its records came to so far.
        held: keys in batches that are not collected.
        retry_failed: requests that were given up on count as open again.
        fsync_each: every line is made safe from a power loss before `settle` returns.
    """

    def __init__(
        self,
        run: Run,
        keys: SettledKeys,
        records: LineFile,
        failures: LineFile,
        spend: SpendCount,
        *,
        held: HeldKeys,
        retry_failed: bool,
        fsync_each: bool,
    ) -> None:
        self.spend = spend
        self.held = held
        self._run = run
        self._keys = keys
        self._records = records
        self._failures = failures
        self._given_up = KeySet() if retry_failed else keys.failed
        self._failed_count = len(keys.failed)
        self._fsync_each = fsync_each
        self._noted_at = 0.0
        self._sync = GroupSync(self._flush)

    @property
    def counts(self) -> Counts:
        return Counts(settled=len(self._keys.settled), failed=self._failed_count)

    @property
    def torn(self) -> dict[Path, int]:
        """Files whose torn last line was put aside when they were opened, with its size in bytes."""
        return {file.path: file.torn_bytes for file in (self._records, self._failures) if file.torn_bytes}

    def is_settled(self, key: bytes) -> bool:
        """Is there an answer, or one to come from a batch, or was the request given up on and is so left now?"""
        number = int.from_bytes(key[:8], "big")
        return self._keys.settled.has(number) or self._given_up.has(number) or self.held.has(number)

    def has_record(self, key: bytes) -> bool:
        """Is there an answer?"""
        return key in self._keys.settled

    def attempts_before(self, key: bytes) -> tuple[int, int]:
        """(attempts, of which maybe paid) of a request that was given up on before."""
        return self._keys.attempts_before(int.from_bytes(key[:8], "big"))

    def settle(self, record: Record) -> None:
        """Keep an answer: it survives the death of the process from the return on.

        Raises:
            NotSafeError: it was written, but it or an earlier line could not be made safe: send nothing more.
            DiskError: it could not be written: send nothing more.
            ValueError: its key is settled already: the caller asked twice.
        """
        number = key_number(record.key)
        if self._keys.settled.has(number):
            raise ValueError(f"the request {record.key} is settled already")
        self._records.append(encode_line(record))
        self._keys.settled.add_number(number)
        if self._keys.failed.has(number):
            self._failed_count -= 1
        self.spend.add(record, number)
        self._after_write(self._records)

    def fail(self, failure: Failure, usage: Usage = _NOTHING) -> None:
        """Keep the reason why a request was given up on.

        Args:
            failure: with the attempts of earlier invocations added.
            usage: what its attempts were charged for in this invocation.

        Raises:
            NotSafeError, DiskError: as `settle`.
        """
        number = key_number(failure.key)
        self._failures.append(encode_line(failure))
        if self._keys.failed.add_number(number):
            self._failed_count += 1
        self._given_up.add_number(number)
        if usage != _NOTHING:
            self.spend.add_failure(failure.key, self._run.state.job.model, usage)
        self._after_write(self._failures)

    def flush(self) -> None:
        """Make everything safe that was written so far, and the spend with it; takes the time of an fsync.

        Raises:
            DiskError: it could not be made safe.
        """
        self._note(self._make_safe())

    def close(self) -> None:
        """Make everything safe; nothing can be written afterwards.

        Raises:
            DiskError: something could not be made safe.
        """
        self._sync.close()
        self._note(self.spend.total)

    def _after_write(self, file: LineFile) -> None:
        if self._fsync_each:
            file.sync()
        try:
            self._sync.mark()
        except NotSafeError:
            raise
        except DiskError as error:  # `run.json` could not be written; the line was
            raise NotSafeError(error.what, cause=error.cause, help_text=error.help_text) from error

    def _flush(self) -> None:
        spend = self._make_safe()
        if time.monotonic() - self._noted_at >= _NOTE_S:
            self._note(spend)

    def _make_safe(self) -> Spend:
        spend = self.spend.total  # taken first: what is counted must be safe in the files
        self._records.sync()
        self._failures.sync()
        return spend

    def _note(self, spend: Spend) -> None:
        self._run.update(lambda state: msgspec.structs.replace(state, spend=spend))
        self._noted_at = time.monotonic()


@contextmanager
def open_journal(
    run: Run, *, cost_of: CostOf, retry_failed: bool = False, fsync_each: bool = False
) -> Iterator[Journal]:
    """The journal of `run` until the block ends; torn last lines are put aside first.

    Args:
        run: locked by this process.
        cost_of: USD for a model's tokens, online or in a batch; None for an unknown price.
        retry_failed: requests that were given up on count as open again.
        fsync_each: every line is made safe from a power loss before `settle` returns.

    Raises:
        BadLineError: a line in the run's files cannot be read.
        DiskError: the files cannot be opened or mended; or, at the end, not be made safe.
    """
    held = open_held_keys(run)
    spend = SpendCount(run.state.spend, cost_of, held.has)
    keys = read_settled(run.directory)
    spend.catch_up(run.directory.records, len(keys.settled))
    with (
        closing(LineFile(run.directory.records)) as records,
        closing(LineFile(run.directory.failures)) as failures,
    ):
        journal = Journal(
            run, keys, records, failures, spend, held=held, retry_failed=retry_failed, fsync_each=fsync_each
        )
        try:
            yield journal
        except DiskError:
            with suppress(DiskError):  # the first one tells more
                journal.close()
            raise
        except BaseException:
            journal.close()
            raise
        journal.close()
