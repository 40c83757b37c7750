"""`/v1/batches`: create, list, get, cancel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec
from aiohttp import web

from asyncgen.local_http import json_response
from asyncgen.serve.stores.batches import Batch
from asyncgen.serve.wire import Clock, Metadata, new_id, page_of, parsed, read_object

if TYPE_CHECKING:
    from asyncgen.serve.batching.queue import BatchQueue
    from asyncgen.serve.stores.batches import BatchStore
    from asyncgen.serve.stores.files import FileStore

_WINDOW_S = 24 * 3600


class _Create(msgspec.Struct, kw_only=True):
    input_file_id: str
    endpoint: Literal["/v1/chat/completions", "/v1/completions"]
    completion_window: Literal["24h"]
    metadata: Metadata | None = None


class BatchRoutes:
    """The routes over the queue and its store."""

    def __init__(self, queue: BatchQueue, batches: BatchStore, files: FileStore, clock: Clock) -> None:
        self._queue = queue
        self._batches = batches
        self._files = files
        self._clock = clock

    def table(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/batches", self._create),
            web.get("/v1/batches", self._list),
            web.get("/v1/batches/{id}", self._get),
            web.post("/v1/batches/{id}/cancel", self._cancel),
        ]

    async def _create(self, request: web.Request) -> web.Response:
        wanted = parsed(await read_object(request), _Create)
        self._files.require(wanted.input_file_id, "batch", param="input_file_id")
        now = int(self._clock())
        batch = Batch(
            id=new_id("batch_"),
            endpoint=wanted.endpoint,
            input_file_id=wanted.input_file_id,
            completion_window=wanted.completion_window,
            created_at=now,
            expires_at=now + _WINDOW_S,
            metadata=wanted.metadata,
        )
        return json_response(self._queue.submit(batch))

    async def _list(self, request: web.Request) -> web.Response:
        page = page_of(self._batches.all(), request.query, default_limit=20, identify=lambda batch: batch.id)
        return json_response(page)

    async def _get(self, request: web.Request) -> web.Response:
        return json_response(self._batches.get(request.match_info["id"]))

    async def _cancel(self, request: web.Request) -> web.Response:
        return json_response(self._queue.cancel(request.match_info["id"]))
