"""Batches from creation to their end, one at a time.

Owns what waits. A batch that a stop or a crash of the server interrupted goes on, with what is not yet answered, when
the server is next started. Does not know what is done with a batch.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from asyncgen.serve.stores.batches import BATCH_ENDED, Batch, BatchStore
from asyncgen.serve.wire import ApiError, Clock

if TYPE_CHECKING:
    from asyncgen.serve.batching.work import BatchWork


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
                await self._work.do(batch)
