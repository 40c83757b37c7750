"""`/v1/files`: upload as a form, list, get, content, delete; and `/v1/batches`: create, list, get, cancel.

Checks the form's fields and the size limits. An upload is streamed to disk, one chunk in memory at a time.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import msgspec
from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from asyncgen.local_http import json_response
from asyncgen.serve.batches import Batch
from asyncgen.serve.wire import ApiError, Clock, Metadata, new_id, no_such, page_of, parsed, read_object

if TYPE_CHECKING:
    from asyncgen.serve.batches import BatchQueue, BatchStore
    from asyncgen.serve.stores.files import FileObject, FileStore, UploadedFile


_MEBIBYTE = 1024 * 1024
_CHUNK = _MEBIBYTE // 4
_CAPS = {"batch": 200 * _MEBIBYTE}
_CAP = 512 * _MEBIBYTE
_PURPOSES = frozenset({"fine-tune", "batch", "assistants", "vision", "user_data", "evals"})
_FIELD_CAP = 1024
_SHORTEST_LIFE_S, _LONGEST_LIFE_S = 3600, 2_592_000
_LIST_LIMIT = 10_000
_DIGITS = 9


@dataclass(slots=True)
class _Form:
    """The form fields of an upload."""

    filename: str | None = None
    purpose: str | None = None
    lifetime_s: int | None = None


class FileRoutes:
    """The routes `/v1/files`."""

    def __init__(self, files: FileStore) -> None:
        self._files = files

    def table(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/files", self._create),
            web.get("/v1/files", self._list),
            web.get("/v1/files/{id}", self._get),
            web.get("/v1/files/{id}/content", self._content),
            web.delete("/v1/files/{id}", self._delete),
        ]

    async def _create(self, request: web.Request) -> web.Response:
        if not request.content_type.startswith("multipart/"):
            raise ApiError(400, "An upload must be multipart/form-data.", code="invalid_content_type")
        with await asyncio.to_thread(self._files.begin) as upload:
            form = await _checked_form(request, upload)
            return json_response(await asyncio.to_thread(_accepted, form, upload))

    async def _list(self, request: web.Request) -> web.Response:
        query = request.query
        items = [item for item in self._files.all() if query.get("purpose") in (None, item.purpose)]
        if query.get("order") == "asc":
            items.reverse()
        page = page_of(items, query, default_limit=_LIST_LIMIT, identify=lambda item: item.id, most=_LIST_LIMIT)
        return json_response(page)

    async def _get(self, request: web.Request) -> web.Response:
        return json_response(self._files.get(request.match_info["id"]))

    async def _content(self, request: web.Request) -> web.StreamResponse:
        identifier = request.match_info["id"]
        path = self._files.content(identifier)
        if not path.exists():
            raise no_such("File object", identifier)
        headers = {"Content-Type": "application/octet-stream", "X-Content-Type-Options": "nosniff"}
        return web.FileResponse(path, headers=headers)

    async def _delete(self, request: web.Request) -> web.Response:
        identifier = request.match_info["id"]
        self._files.delete(identifier)
        return json_response({"id": identifier, "object": "file", "deleted": True})


async def _checked_form(request: web.Request, upload: UploadedFile) -> _Form:
    """Read the form. Raises ApiError, also for a malformed one, which aiohttp reports with many kinds of error."""
    try:
        return await _read_form(request, upload)
    except (ValueError, AssertionError, RuntimeError, LookupError, HttpProcessingError) as error:
        text = f"The form cannot be read: {str(error) or type(error).__name__}"
        raise ApiError(400, text[:_FIELD_CAP], code="invalid_form") from None


async def _read_form(request: web.Request, upload: UploadedFile) -> _Form:
    form = _Form()
    seen: set[str] = set()
    async for part in await request.multipart():
        if not isinstance(part, BodyPartReader):
            raise ApiError(400, "The form must not contain another form.", code="invalid_value")
        name = part.name or ""
        if name in seen:
            raise ApiError(400, f"The form has two fields {name!r}.", param=name, code="invalid_value")
        seen.add(name)
        if _is_encoded(part):
            message = "A field of the form must be sent without an encoding."
            raise ApiError(400, message, param=name, code="invalid_value")
        if name == "file":
            form.filename = part.filename or "file"
            await _save(part, upload)
        elif name == "purpose":
            form.purpose = await _field(part)
        elif name == "expires_after[seconds]":
            form.lifetime_s = _lifetime(await _field(part))
        elif name != "expires_after[anchor]":
            raise ApiError(400, f"Unknown form field {name!r}.", param=name or None, code="unknown_parameter")
    return form


def _is_encoded(part: BodyPartReader) -> bool:
    transfer = part.headers.get("Content-Transfer-Encoding", "binary").lower()
    return transfer not in {"binary", "8bit", "7bit"} or part.headers.get("Content-Encoding", "identity") != "identity"


async def _save(part: BodyPartReader, upload: UploadedFile) -> None:
    while chunk := await part.read_chunk(_CHUNK):
        if upload.size + len(chunk) > _CAP:
            raise _too_large(_CAP)
        await asyncio.to_thread(upload.write, chunk)


async def _field(part: BodyPartReader) -> str:
    value = b""
    while not part.at_eof():  # it may come in pieces
        value += await part.read_chunk(_CHUNK)
        if len(value) > _FIELD_CAP:
            raise ApiError(400, f"The field {part.name!r} is too long.", param=part.name, code="invalid_value")
    return value.decode("utf-8", "replace")


def _lifetime(text: str) -> int:
    if (
        not (text.isascii() and text.isdecimal() and len(text) <= _DIGITS)
        or not _SHORTEST_LIFE_S <= int(text) <= _LONGEST_LIFE_S
    ):
        raise ApiError(
            400,
            f"expires_after[seconds] must be a number from {_SHORTEST_LIFE_S} to {_LONGEST_LIFE_S}.",
            param="expires_after[seconds]",
            code="invalid_value",
        )
    return int(text)


def _accepted(form: _Form, upload: UploadedFile) -> FileObject:
    if form.filename is None:
        raise ApiError(400, "Missing required parameter: 'file'.", param="file", code="missing_required_parameter")
    if form.purpose not in _PURPOSES:
        raise ApiError(
            400,
            f"'purpose' must be one of {', '.join(sorted(_PURPOSES))}, not {form.purpose!r}.",
            param="purpose",
            code="invalid_value",
        )
    if upload.size > _CAPS.get(form.purpose, _CAP):
        raise _too_large(_CAPS[form.purpose])
    if not upload.size:
        raise ApiError(400, "The file is empty.", param="file", code="empty_file")
    return upload.finish(filename=form.filename, purpose=form.purpose, lifetime_s=form.lifetime_s)


def _too_large(cap: int) -> ApiError:
    return ApiError(413, f"The file is larger than {cap // _MEBIBYTE} MB.", param="file", code="file_too_large")


_WINDOW_S = 24 * 3600


class _Create(msgspec.Struct, kw_only=True):
    input_file_id: str
    endpoint: Literal["/v1/chat/completions", "/v1/completions"]
    completion_window: Literal["24h"]
    metadata: Metadata | None = None


class BatchRoutes:
    """The routes `/v1/batches`."""

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
