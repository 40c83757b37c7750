"""Send rows as batches: write, note, upload, create.

Each of these steps is on disk before the next begins. Decides what may go into a batch (limit on rows, budget, size of
the provider's queue), what an ended batch means for the rest (continue, send unanswered rows again, send nothing more),
and which events the user is told. Collecting is left to `engine`, showing to the caller.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from asyncgen.backoff import is_billing_code
from asyncgen.errors import AsyncgenError, IncompleteError, QuotaError, UsageError, command_line
from asyncgen.generate.batch.batched_keys import BatchRow
from asyncgen.generate.batch.files import (
    MOST_BYTES,
    MOST_ROWS,
    BatchFiles,
    BatchInput,
    BatchLedger,
    RequestLookahead,
    write_batch,
)
from asyncgen.generate.http.completer import StopReason, provider_error
from asyncgen.generate.pool.settle import MAX_FAILED
from asyncgen.providers.tokens import estimate_body
from asyncgen.run.key_set import KeySet
from asyncgen.run.state import FOUND_AGAIN, UNNOTED, BatchState
from asyncgen.terminal import counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncgen.generate.batch.api import BatchApi, RemoteBatch
    from asyncgen.generate.batch.join import JoinResult
    from asyncgen.generate.journal.journal import Journal
    from asyncgen.generate.pool.budget import Budget
    from asyncgen.job.requests import Request, RequestGrid
    from asyncgen.run.directory import RunDirectory


class Watcher(Protocol):
    """Is notified of events of batches; must not raise."""

    def uploading(self, batch: BatchState, sent: int, size: int) -> None:
        """The input file of a batch is being uploaded.

        Args:
            batch: as noted in the run.
            sent: bytes sent.
            size: bytes in total.
        """
        ...

    def changed(self, batch: BatchState) -> None:
        """The status or the counts of a batch changed.

        Args:
            batch: as noted in the run.
        """
        ...

    def collected(self, batch: BatchState, joined: JoinResult) -> None:
        """The answers of a batch are in the journal.

        Args:
            batch: as noted in the run.
            joined: counts of answers and failures.
        """
        ...


_MOST_PASSES = MAX_FAILED  # passes over the grid, so that rows that are always refused are not sent forever
_QUEUE_CODES = frozenset({"token_limit_exceeded"})  # OpenAI's code for too many enqueued tokens
_SHOWN_PROBLEMS = 3


@dataclass(slots=True)
class BatchProgress:
    """The state of one invocation.

    Attributes:
        passes: over the grid.
        open_again: rows that collected batches did not answer, since the last pass began.
        queue_is_full: until a batch of ours ends.
        stopped: why nothing more is sent; None for a reason without a name.
        error: why nothing more is sent; None while sending goes on.
    """

    passes: int = 1
    open_again: int = 0
    queue_is_full: bool = False
    stopped: StopReason | None = None
    error: AsyncgenError | None = None

    def stop(self, reason: StopReason | None, error: AsyncgenError) -> None:
        """Send nothing more; open batches are still collected. The first reason is kept."""
        if self.error is None:
            self.stopped, self.error = reason, error

    def begin_pass(self) -> bool:
        """Begin another pass over the grid for unanswered rows; False if that is useless."""
        if not self.open_again or self.passes == _MOST_PASSES:
            return False
        self.passes, self.open_again = self.passes + 1, 0
        return True

    def note_collected(self, batch: BatchState, remote: RemoteBatch, joined: JoinResult) -> None:
        """Update the state by a collected batch."""
        self.open_again += joined.open
        if joined.stop is not None:
            self.stop(joined.stop.stop, provider_error(joined.stop, joined.stop.stop))
        elif remote.status == "cancelled":
            what = f"batch {batch.batch_id} was cancelled; {joined.open:,} of its rows have no answer"
            help_text = "run the same command to send them again, with or without --batch"
            self.stop(None, IncompleteError(what, help_text=help_text, code="cancelled"))

    def note_refused(self, batch: BatchState, remote: RemoteBatch) -> None:
        """Update the state by a rejected batch."""
        self.stop(*_refusal(batch, remote))

    def unanswered(self) -> IncompleteError | None:
        """The error for rows without an outcome after all passes."""
        if not self.open_again:
            return None
        return IncompleteError(
            f"{counted(self.open_again, 'row')} have no result after being sent {self.passes} times",
            help_text="run the same command without --batch: it sends them online and reports the errors",
            code="unanswered",
        )


def is_for_a_full_queue(remote: RemoteBatch) -> bool:
    """True if the batch was rejected because the provider's queue is full."""
    return any(problem.code in _QUEUE_CODES for problem in remote.refusals)


def _refusal(batch: BatchState, remote: RemoteBatch) -> tuple[StopReason | None, AsyncgenError]:
    """The reason of a rejected batch, and its error for the user."""
    shown = remote.refusals[:_SHOWN_PROBLEMS]
    lines = [f"line {each.line}: {each.message}" if each.line else each.message or each.code or "" for each in shown]
    cause = "\n".join(lines) or "the provider gave no reason"
    what = f"the provider refused batch {batch.batch_id}"
    if any(is_billing_code(each.code) or each.code in _QUEUE_CODES for each in remote.refusals):
        help_text = "raise the limit at the provider or wait until its queue is empty, then run the same command again"
        return StopReason.QUOTA, QuotaError(what, cause=cause, help_text=help_text)
    help_text = "run the same command without --batch: it sends the rows online and reports the errors"
    return None, AsyncgenError(what, cause=cause, help_text=help_text, code="batch_refused")


@dataclass(slots=True)
class Allowance:
    """Limits on what may be sent in this invocation.

    Attributes:
        rows: maximum number; None for no limit.
        budget: limit in USD; None for none.
        rows_a_batch: maximum rows of a batch; lowered if the provider's queue is full.
        bytes_a_batch: maximum size of an input file.
        is_spent: the budget did not cover the next row.
    """

    rows: int | None = None
    budget: Budget | None = None
    rows_a_batch: int = MOST_ROWS
    bytes_a_batch: int = MOST_BYTES
    is_spent: bool = False

    @property
    def most_rows(self) -> int:
        """Maximum number of rows in the next batch."""
        return self.rows_a_batch if self.rows is None else min(self.rows_a_batch, self.rows)

    def acquire(self, rows: int) -> None:
        """Count `rows` rows that were written into a batch."""
        if self.rows is not None:
            self.rows -= rows

    def release(self, rows: int) -> None:
        """Return `rows` rows of a batch that was rejected."""
        if self.rows is not None:
            self.rows += rows


class BatchSender:
    """Sends batches, one at a time.

    Args:
        grid: the job's requests.
        journal: knows which of them are settled or in a batch, and claims those that are written.
        directory: of the run.
        ledger: notes every step.
        api: of the provider.
        allowance: limits on what may be sent.
        watcher: gets reports of the upload.
        now: Unix seconds.
        new_intent: makes a unique id for a new batch.
    """

    def __init__(
        self,
        grid: RequestGrid,
        journal: Journal,
        directory: RunDirectory,
        *,
        ledger: BatchLedger,
        api: BatchApi,
        allowance: Allowance,
        watcher: Watcher,
        now: Callable[[], float],
        new_intent: Callable[[], str],
    ) -> None:
        self._grid = grid
        self._journal = journal
        self._directory = directory
        self._ledger = ledger
        self._api = api
        self._allowance = allowance
        self._watcher = watcher
        self._now = now
        self._new_intent = new_intent
        self.begin_again()

    def begin_again(self) -> None:
        """Start over at the beginning of the grid: unanswered rows are open again."""
        self._upcoming = RequestLookahead(self._grid.walk(lambda key: not self._journal.is_settled(key)))

    @property
    def has_more(self) -> bool:
        """True if there is a row that may be sent."""
        return self._allowance.most_rows > 0 and self._upcoming.peek() is not None

    @property
    def is_cut(self) -> bool:
        """True if there are rows beyond the limit."""
        return self._allowance.most_rows == 0 and self._upcoming.peek() is not None

    async def send_next(self) -> BatchState | None:
        """Write the next batch and send it; None when there was nothing that may be sent.

        Raises:
            DiskError: it could not be written or noted.
            AsyncgenError: it could not be sent; it is noted, and `send` goes on with it.
        """
        batch = self._write()
        return await self.send(batch, is_new=True) if batch else None

    async def send(self, batch: BatchState, *, is_new: bool = False) -> BatchState:
        """Send a noted batch, continuing at the first step that was not done. Idempotent.

        Args:
            batch: without an id at the provider.
            is_new: it was noted by this process, and nothing was asked for it yet.

        Raises:
            AsyncgenError: it could not be sent.
        """
        remote = None if is_new else await self._found(batch)
        remote = remote or await self._create(await self._uploaded(batch), batch)
        batch = self._ledger.sent(batch, remote.id, remote.status)
        self._watcher.changed(batch)
        return batch

    async def _found(self, batch: BatchState) -> RemoteBatch | None:
        """The batch at the provider, if it was created but its id was never noted."""
        is_only_found = batch.status == FOUND_AGAIN
        if batch.file_id is None and batch.status not in {FOUND_AGAIN, UNNOTED}:
            return None  # without a file there can be no batch
        found = await self._api.find(batch.file_id, batch.intent, batch.created)
        if found is None and is_only_found:
            raise UsageError(
                f"this provider has no batch {batch.intent}, which the run's files mention",
                cause="run.json was rebuilt, so the provider of the batch is not known",
                help_text="name its provider with --provider; or, if it was never sent: "
                + command_line("batch cancel", batch.intent),
                code="batch_elsewhere",
            )
        return found

    async def _uploaded(self, batch: BatchState) -> str:
        if batch.file_id is not None:
            return batch.file_id
        path = BatchFiles(self._directory, batch.intent).input
        file_id = await self._api.upload(path, lambda sent, size: self._watcher.uploading(batch, sent, size))
        self._ledger.change(batch, file_id=file_id)
        return file_id

    async def _create(self, file_id: str, batch: BatchState) -> RemoteBatch:
        try:
            return await self._api.create(file_id, batch.intent)
        except AsyncgenError:
            # The reply may be lost although the request was processed. Where batches cannot be listed either, the
            # refusal says more than the list's error.
            with suppress(AsyncgenError):
                if found := await self._api.find(file_id, batch.intent, batch.created):
                    return found
            raise

    def _write(self) -> BatchState | None:
        """Write and note the next batch; its rows are claimed from the first one on."""
        files = BatchFiles(self._directory, self._new_intent())
        written = self._write_files(files)
        if not written.requests:
            self._journal.batched.release(files.intent)
            files.remove()
            return None
        # If noting fails, keep the files: the note may be on disk nevertheless.
        batch = self._ledger.add(
            files.intent, requests=written.requests, held_usd=written.held_usd, created=int(self._now())
        )
        self._allowance.acquire(batch.requests)
        return batch

    def _write_files(self, files: BatchFiles) -> BatchInput:
        keys = KeySet()
        self._journal.batched.claim(files.intent, keys)
        return write_batch(
            files,
            self._upcoming,
            self._row_of,
            keys,
            most_rows=self._allowance.most_rows,
            most_bytes=self._allowance.bytes_a_batch,
            afford=self._afford,
        )

    def _row_of(self, request: Request) -> BatchRow:
        tried = self._journal.tried_before(request.key)
        return BatchRow(
            key=request.key.hex(),
            index=request.index,
            repeat=request.repeat,
            variables=self._grid.variables(request),
            prompt=self._grid.prompt(request),
            opening=self._grid.opening(request),
            attempts=tried.attempts,
            maybe_paid=tried.maybe_paid,
            failed=tried.failed,
            forgiven=tried.forgiven,
        )

    def _afford(self, request: Request) -> float | None:
        budget = self._allowance.budget
        if budget is None:
            return 0.0
        held_usd = budget.hold(estimate_body(request.body), self._grid.max_output_tokens)
        self._allowance.is_spent = held_usd is None
        return held_usd
