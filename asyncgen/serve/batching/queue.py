"""The queue of batches, run one at a time: check the file, answer the rows, keep the results.

A batch that a stop or crash of the server interrupted is continued at the next start with its unanswered rows. Answers
come from the engine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from asyncgen.errors import AsyncgenError, DiskError
from asyncgen.serve.batching.requests import (
    ERRORS,
    OUTPUT,
    BatchRequest,
    BatchResults,
    check_requests,
    opened_results,
    read_requests,
)
from asyncgen.serve.stores.batches import BATCH_ENDED, Batch, BatchError, BatchErrors, BatchStatus, BatchStore
from asyncgen.serve.wire import ApiError, Clock

if TYPE_CHECKING:
    from pathlib import Path

    from asyncgen.serve.stores.files import FileStore


AnswerRow = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""From endpoint and body to the answer's JSON; raises ApiError."""

_log = logging.getLogger(__name__)
_EXPIRED = ("batch_expired", "The request was not answered before the batch's window ended.")


class BatchWork:
    """The way of a batch, over the stores.

    Args:
        answer: answers one row.
        batches, files: the stores.
        parallel: rows in work at the same time.
        clock: Unix seconds.
    """

    def __init__(
        self, answer: AnswerRow, batches: BatchStore, files: FileStore, *, parallel: int, clock: Clock
    ) -> None:
        self._answer = answer
        self._batches = batches
        self._files = files
        self._parallel = parallel
        self._clock = clock

    async def do(self, batch: Batch) -> None:
        """Bring a batch from wherever it stands to its end."""
        try:
            path = self._files.content(batch.input_file_id)
        except ApiError as error:
            self.fail(batch, [BatchError(code="file_not_found", message=str(error), param="input_file_id")])
            return
        total, model, errors = await asyncio.to_thread(check_requests, path, batch.endpoint)
        if errors:
            self.fail(batch, errors)
            return
        if self._batches.get(batch.id).status == "validating":
            self._batches.change(batch.id, status="in_progress", in_progress_at=self._now(), model=model)
        with opened_results(self._batches.folder(batch.id), total) as results:
            await self._answer_all(batch, path, results)
        await self._finish(batch, results)

    def fail(self, batch: Batch, errors: list[BatchError]) -> None:
        """End a batch badly; where the disk refuses it, until the server ends."""
        with suppress(DiskError):
            self._batches.change(batch.id, status="failed", failed_at=self._now(), errors=BatchErrors(data=errors))

    async def _answer_all(self, batch: Batch, path: Path, results: BatchResults) -> None:
        rows = (row for row in read_requests(path) if not results.is_settled(row.custom_id))
        async with asyncio.TaskGroup() as group:
            for _ in range(self._parallel):
                group.create_task(self._answer_some(batch, rows, results))

    async def _answer_some(self, batch: Batch, rows: Iterator[BatchRequest], results: BatchResults) -> None:
        """One worker; all of a batch share the rows."""
        for row in rows:
            if self._batches.get(batch.id).status == "cancelling":
                return
            if self._clock() >= batch.expires_at:
                results.dropped(row.custom_id, *_EXPIRED)
                continue
            try:
                results.answered(row.custom_id, await self._answer(batch.endpoint, row.body))
            except ApiError as refusal:
                results.refused(row.custom_id, refusal)
            self._batches.count(batch.id, results.counts)
            await asyncio.sleep(0)  # an engine that answers at once would keep everybody else waiting

    async def _finish(self, batch: Batch, results: BatchResults) -> None:
        cancelled = self._batches.get(batch.id).status == "cancelling"
        if not cancelled:
            self._batches.change(batch.id, status="finalizing", finalizing_at=self._now())
        expired = results.dropped_any
        ended: BatchStatus = "cancelled" if cancelled else "expired" if expired else "completed"
        folder = self._batches.folder(batch.id)
        self._batches.change(
            batch.id,
            status=ended,
            output_file_id=await asyncio.to_thread(self._kept, folder / OUTPUT, f"{batch.id}_output.jsonl"),
            error_file_id=await asyncio.to_thread(self._kept, folder / ERRORS, f"{batch.id}_error.jsonl"),
            request_counts=results.counts,
            usage=results.usage,
            **{f"{ended}_at": self._now()},
        )
        for name in (OUTPUT, ERRORS):
            (folder / name).unlink()

    def _kept(self, path: Path, filename: str) -> str | None:
        """The id of a file with these results; None where there are none."""
        if not path.stat().st_size:
            return None
        return self._files.copy(path, filename=filename, purpose="batch_output").id

    def _now(self) -> int:
        return int(self._clock())


class BatchQueue:
    """The queue of a server.

    Args:
        batches: the store.
        work: what is done with each.
        clock: Unix seconds.
    """

    def __init__(self, batches: BatchStore, work: BatchWork, clock: Clock) -> None:
        self._batches = batches
        self._work = work
        self._clock = clock
        self._waiting: asyncio.Queue[str] = asyncio.Queue()

    @property
    def is_busy(self) -> bool:
        """Whether a batch is waiting or in work."""
        return any(batch.status not in BATCH_ENDED for batch in self._batches.all())

    def submit(self, batch: Batch) -> Batch:
        self._batches.add(batch)
        self._waiting.put_nowait(batch.id)
        return batch

    def cancel(self, identifier: str) -> Batch:
        """Take no more of its rows; what was answered stays.

        Raises:
            ApiError: 404, or 400 where it has already ended.
        """
        batch = self._batches.get(identifier)
        if batch.status in BATCH_ENDED:
            raise ApiError(400, f"The batch {identifier} is already {batch.status}.", code="batch_already_ended")
        return self._batches.change(identifier, status="cancelling", cancelling_at=int(self._clock()))

    async def run(self) -> None:
        """Work on what waits, for ever."""
        for batch in reversed(self._batches.all()):
            if batch.status not in BATCH_ENDED:
                self._waiting.put_nowait(batch.id)
        while True:
            batch = self._batches.get(await self._waiting.get())
            if batch.status not in BATCH_ENDED:  # one that was taken up above may have been handed in just then
                await self._guarded(batch)

    async def _guarded(self, batch: Batch) -> None:
        """Work on one; whatever goes wrong ends this batch and no other one."""
        try:
            await self._work.do(batch)
        except Exception as raised:  # noqa: BLE001 - the edge: a bug is logged whole
            error = _first(raised)
            if isinstance(error, OSError | AsyncgenError):
                reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
                message = f"The batch's files could not be read or written: {reason}."
            else:
                _log.exception("%s", batch.id)
                message = "The server had an error; its log tells more."
            self._work.fail(batch, [BatchError(code="server_error", message=message)])


def _first(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
