"""The journal of a run: answers are written as they arrive, so that none is lost and none is bought twice.

A request is settled if its line is complete in `records.jsonl`, if it failed earlier (unless failed rows are retried),
or if it waits in an open batch. Getting answers is left to the engines, fsync to `files`.
"""

from __future__ import annotations

from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyncgen.errors import DiskError
from asyncgen.generate.batch.batched_keys import BatchedKeys, open_batched_keys
from asyncgen.generate.journal.files import JournalFiles
from asyncgen.generate.journal.settled import (
    CostOf,
    OtherShards,
    SettledKeys,
    SpendCount,
    end_move,
    key_number,
    read_settled,
)
from asyncgen.generate.pool.settle import given_up
from asyncgen.run.jsonl import LineFile
from asyncgen.run.key_set import KeySet, number_of
from asyncgen.run.records import SIMULATED_MARK, Usage, encode_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from asyncgen.run.directory import RunWriter
    from asyncgen.run.records import Failure, Record
    from asyncgen.run.state import RowAttempts


_NOTHING = Usage()


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of settled and of failed rows in the run's files, including rows that are no longer in the job."""

    settled: int
    failed: int


class Journal:
    """The writing side of a run; made by `open_journal`.

    Args:
        keys: keys in the run's files.
        files: lines are appended there.
        spend: sum over the records so far.
        batched: keys in batches that are not collected yet.
        tried: attempts of requests without a line, by key; saved in `run.json` by `files`.
        retry_failed: failed requests count as open again.
        elsewhere: what a shard leaves to others; None for a whole run.

    Attributes:
        simulated: a simulation made up some of the answers that this invocation wrote.
        claim: claims a key before its request is sent or its answer settled; False if it is recorded or claimed.
    """

    def __init__(
        self,
        keys: SettledKeys,
        files: JournalFiles,
        spend: SpendCount,
        batched: BatchedKeys,
        tried: dict[str, RowAttempts],
        *,
        retry_failed: bool,
        elsewhere: OtherShards | None = None,
    ) -> None:
        self.files = files
        self.simulated = False
        self._elsewhere = elsewhere
        self._claimed = keys.settled  # recorded or claimed
        self.claim: Callable[[bytes], bool] = keys.settled.add  # bound once: called for every row of a resumed run
        self._settled_count = len(keys.settled)
        self.spend = spend
        self.batched = batched
        self._keys = keys
        self._tried = tried
        self._given_up = KeySet() if retry_failed else keys.failed
        self._failed_count = len(keys.failed)

    @property
    def counts(self) -> Counts:
        return Counts(settled=self._settled_count, failed=self._failed_count)

    def has_record(self, key: bytes) -> bool:
        """True if the key is recorded or claimed."""
        return key in self._claimed

    def is_settled(self, key: bytes) -> bool:
        """True if the key is recorded or claimed, failed earlier, or waits in an open batch."""
        return key in self._claimed or self.is_left(key)

    def is_left(self, key: bytes) -> bool:
        """True if the request failed earlier (and --retry-failed is off), is in an open batch, or another shard's."""
        number = number_of(key)
        is_elsewhere = self._elsewhere is not None and self._elsewhere.has(number)
        return is_elsewhere or self._given_up.has(number) or self.batched.has(number)

    @property
    def leaves_any(self) -> bool:
        """Whether `is_left` is true for any request."""
        return self._elsewhere is not None or bool(self._given_up or self.batched)

    @property
    def tried_any(self) -> bool:
        """True if earlier invocations made attempts for a request that has no record."""
        return bool(self._tried or any(keys.attempts for keys in self._known))

    def tried_before(self, key: bytes) -> RowAttempts:
        """The attempts that earlier invocations made for a request without a record."""
        ended = max(keys.attempts_before(number_of(key)) for keys in self._known)
        return self._tried.get(key.hex()) or given_up(*ended)

    @property
    def _known(self) -> tuple[SettledKeys, ...]:
        return (self._keys,) if self._elsewhere is None else (self._keys, self._elsewhere.keys)

    def settle(self, records: Sequence[Record], *, in_batch: bool = False) -> None:
        """Write the records of claimed requests. When it returns, they survive a crash of the process.

        Send nothing more after an error.

        Args:
            records: one for each request.
            in_batch: the answers were bought through the Batch API.

        Raises:
            NotSafeError: the records were written, but they or earlier lines may not survive a power loss.
            DiskError: none of the records could be written.
        """
        lines = b"".join(map(encode_line, records))
        self.simulated = self.simulated or True in [record.simulated for record in records]
        self._settle(lines, [record.key for record in records], [record.usage for record in records], in_batch)

    def settle_lines(self, lines: bytes, keys: Sequence[str], usages: Sequence[Usage], in_batch: bool = False) -> None:
        """Write records that another process has encoded already, as `settle` does.

        Args:
            lines: of whole records.
            keys: of the records, in their order.
            usages: likewise.
            in_batch: the answers were bought through the Batch API.

        Raises:
            NotSafeError, DiskError: as `settle`.
        """
        self.simulated = self.simulated or SIMULATED_MARK in lines
        self._settle(lines, keys, usages, in_batch)

    def _settle(self, lines: bytes, keys: Sequence[str], usages: Sequence[Usage], in_batch: bool) -> None:
        self.files.records.append(lines)
        self._settled_count += len(keys)
        if self._tried or self._failed_count:
            for key in keys:
                self._tried.pop(key, None)
                self._failed_count -= self._keys.failed.has(key_number(key))
        self.spend.add(usages, in_batch=in_batch, is_record=True)
        self.files.wrote(len(keys))

    def note_usage(self, usage: Usage) -> None:
        """Count what was charged for a row without a line of its own for it: its answer came twice."""
        self.spend.add([usage], in_batch=False, is_record=False)

    def fail(self, failure: Failure, usage: Usage = _NOTHING, *, in_batch: bool = False) -> None:
        """Write the failure of a request.

        Args:
            failure: its counts include the attempts of earlier invocations.
            usage: tokens charged for its attempts in this invocation.
            in_batch: charged at the batch price.

        Raises:
            NotSafeError, DiskError: as `settle`.
        """
        number = key_number(failure.key)
        self.files.failures.append(encode_line(failure))
        if self._keys.failed.add_number(number):
            self._failed_count += 1
        self._given_up.add_number(number)
        self._tried.pop(failure.key, None)
        if usage != _NOTHING:
            self.spend.add([usage], in_batch=in_batch, is_record=False)
        self.files.wrote(1)

    def note_attempts(self, key: bytes, tried: RowAttempts, usage: Usage = _NOTHING, *, in_batch: bool = False) -> None:
        """Save the attempts of a request that has no line yet, for the next invocation.

        Args:
            key: of the request.
            tried: attempts in all invocations.
            usage: tokens charged in this invocation.
            in_batch: charged at the batch price.
        """
        self._tried[key.hex()] = tried
        if usage != _NOTHING:
            self.spend.add([usage], in_batch=in_batch, is_record=False)


@contextmanager
def open_journal(
    run: RunWriter,
    *,
    cost_of: CostOf,
    retry_failed: bool = False,
    fsync_each: bool = False,
    on_lost: Callable[[int], None] = lambda _lost: None,
    elsewhere: OtherShards | None = None,
) -> Iterator[Journal]:
    """Open the journal of `run` until the block ends; torn last lines are set aside first.

    Args:
        run: locked by this process.
        cost_of: USD for token counts, bought online or in a batch; returns None for an unknown price.
        retry_failed: failed requests count as open again.
        fsync_each: fsync every line before `settle` returns.
        on_lost: called with the number of records that `run.json` counts but the files no longer hold, before anything
            is changed; may raise.
        elsewhere: what is left to others, if `run` is a shard.

    Raises:
        BadLineError: a line in the run's files cannot be read.
        DiskError: the files cannot be opened or repaired; at the end: not be made safe.
    """
    batched = open_batched_keys(run)
    keys = read_settled(run.directory, expected=run.state.job.requests)
    end_move(run, len(keys.settled))
    if (lost := run.state.spend.records - len(keys.settled)) > 0:
        on_lost(lost)
    run.rewrite()  # fail before anything is paid for if the disk is not writable
    spend = SpendCount(run.state.spend, cost_of)
    spend.catch_up(run.directory.records, len(keys.settled), batched.has)
    with (
        closing(LineFile(run.directory.records)) as records,
        closing(LineFile(run.directory.failures)) as failures,
    ):
        tried = _still_tried(run.state.tried, keys)
        files = JournalFiles(run, records, failures, spend, tried, fsync_each=fsync_each)
        try:
            yield Journal(keys, files, spend, batched, tried, retry_failed=retry_failed, elsewhere=elsewhere)
        except DiskError:
            with suppress(DiskError):  # report the first error
                files.close()
            raise
        except BaseException:
            files.close()
            raise
        files.close()


def _still_tried(tried: dict[str, RowAttempts], keys: SettledKeys) -> dict[str, RowAttempts]:
    """The saved attempts of rows without a line; a crash may have left attempts of rows that have one."""
    ended = (keys.settled, keys.failed)
    return {key: each for key, each in tried.items() if not any(there.has(key_number(key)) for there in ended)}
