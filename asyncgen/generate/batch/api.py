"""Calls of the Batch API, through the official SDK.

Create, get, list and cancel batches, and find a batch whose id was lost in a crash. Of what a server says of a batch,
only the id and the status must be valid: no other field, in whatever form it comes, keeps paid answers from being
fetched. When to call, and what the files contain, is left to the callers.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx2
import msgspec
from openai import AsyncOpenAI, NotFoundError

from asyncgen.errors import AsyncgenError, command_line
from asyncgen.generate.batch.files import URL
from asyncgen.providers.endpoint import redacted
from asyncgen.providers.openai_client import (
    OnProgress,
    Pacing,
    download,
    retrying,
    secret_of,
    translated_sdk_errors,
    upload,
)
from asyncgen.providers.reply_body import UnreadableBodyError, read_body, read_reported_error
from asyncgen.terminal import one_line

if TYPE_CHECKING:
    from pathlib import Path

_INTENT = "asyncgen"
_PAGE = 100
_CLOCKS_APART_S = 3600  # tolerated difference between the provider's clock and ours
_MESSAGE_WIDTH = 300
_PATIENT_ATTEMPTS = 20  # about ten minutes
_MOST_DIGITS = 18
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
_RUNNING = frozenset({"validating", "in_progress", "finalizing", "cancelling"})
# Names that other providers have for the states of OpenAI's reference (Mistral, Gemini, Together, gateways).
_STATUSES = {
    **dict.fromkeys(("completed", "complete", "succeeded", "success", "successful", "finished", "done"), "completed"),
    **dict.fromkeys(("failed", "failure", "error", "errored"), "failed"),
    **dict.fromkeys(("expired", "timeout", "timed_out", "timeout_exceeded"), "expired"),
    **dict.fromkeys(("cancelled", "canceled", "aborted"), "cancelled"),
    **dict.fromkeys(("cancelling", "canceling", "cancellation_requested"), "cancelling"),
    **dict.fromkeys(("in_progress", "running", "processing", "queued", "pending"), "in_progress"),
    **dict.fromkeys(("validating", "created", "submitted"), "validating"),
}
_STATUS_PREFIX = re.compile("^(job|batch)_?(state|status)_")


class GoneError(AsyncgenError):
    """The provider knows a batch, or its answers, no longer, or never did."""

    code = "gone"


class BatchProblem(msgspec.Struct, frozen=True):
    """Why a batch was refused as a whole."""

    code: str | None = None
    message: str | None = None
    line: int | None = None


class RequestCounts(msgspec.Struct, frozen=True):
    """Requests of a batch, as the provider counts them."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class RemoteBatch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch as the provider describes it.

    Attributes:
        status: by its name in OpenAI's API, if known; an unknown one counts as still running.
        refusals: why it was refused as a whole.
    """

    id: str
    status: str
    input_file_id: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int | None = None
    metadata: dict[str, Any] = {}
    counts: RequestCounts | None = msgspec.field(name="request_counts", default=None)
    refusals: list[BatchProblem] = msgspec.field(name="errors", default=[])

    @property
    def has_ended(self) -> bool:
        """Whether the provider is done with it: by its status, or because every request has an outcome."""
        return self.status in ENDED or (self.status not in _RUNNING and self._is_answered)

    @property
    def _is_answered(self) -> bool:
        """Are there answers to all requests? Then it has ended, by whatever name."""
        counts = self.counts
        has_file = bool(self.output_file_id or self.error_file_id)
        return has_file and counts is not None and 0 < counts.total <= counts.completed + counts.failed


class BatchApi:
    """The provider's files and batches.

    Args:
        client: of the endpoint.
        pacing: how calls are repeated.
    """

    def __init__(self, client: AsyncOpenAI, pacing: Pacing | None = None) -> None:
        self._client = client
        self._pacing = pacing or Pacing()

    async def upload(self, path: Path, on_progress: OnProgress) -> str:
        """Upload an input file as a stream.

        Args:
            path: the file.
            on_progress: called with bytes sent and bytes in total.

        Returns:
            The provider's id of the file.

        Raises:
            AsyncgenError: it could not be uploaded.
        """
        with translated_sdk_errors(f"upload {path.name}"):
            return await upload(self._client, path, "batch", self._pacing, on_progress=on_progress)

    async def create(self, file_id: str, intent: str) -> RemoteBatch:
        """Create a batch of an uploaded file. If this fails, the batch may exist nevertheless: see `find`.

        Args:
            file_id: the provider's id of the input file.
            intent: our own id, sent as metadata.

        Returns:
            The batch.

        Raises:
            AsyncgenError: it could not be created, or no answer arrived.
        """
        body = {
            "input_file_id": file_id,
            "endpoint": URL,
            "completion_window": "24h",
            "metadata": {_INTENT: intent},
        }

        async def once() -> httpx2.Response:
            return await self._client.post("/batches", cast_to=httpx2.Response, body=body)

        with translated_sdk_errors("create a batch"):
            return self._read(await retrying(once, self._pacing, unsafe=True))

    async def find(self, file_id: str | None, intent: str, created: int) -> RemoteBatch | None:
        """Find the batch that was created for an intent or of a file, and has not failed.

        Args:
            file_id: the provider's id of its input; None if unknown.
            intent: our own id, sent as metadata.
            created: Unix seconds of our clock; older batches are not searched.

        Returns:
            The batch; None if there is none.

        Raises:
            AsyncgenError: the provider's batches could not be listed.
        """
        after: str | None = None
        while True:
            page = await self._page(after)
            for batch in page:
                is_ours = batch.metadata.get(_INTENT) == intent or (
                    file_id is not None and batch.input_file_id == file_id
                )
                if is_ours and batch.status != "failed":
                    return batch
            if len(page) < _PAGE or (page[-1].created_at or created) < created - _CLOCKS_APART_S:
                return None
            after = page[-1].id

    async def _page(self, after: str | None) -> list[RemoteBatch]:
        """Batches of the key, the newest first; what is not a batch, among them, is passed over."""
        query: dict[str, object] = {"limit": _PAGE} | ({"after": after} if after else {})

        async def once() -> httpx2.Response:
            return await self._client.get("/batches", cast_to=httpx2.Response, options={"params": query})

        with translated_sdk_errors("list batches"):
            answer = await retrying(once, self._pacing)
        listed = self._value_of(answer)
        found = listed.get("data") if isinstance(listed, dict) else listed
        return [batch for each in found if (batch := read_batch(each))] if isinstance(found, list) else []

    async def retrieve(self, batch_id: str) -> RemoteBatch:
        """Fetch a batch, with more retries than other calls, because it is polled all day.

        Args:
            batch_id: the provider's id.

        Returns:
            The batch as it is now.

        Raises:
            GoneError: the provider does not know it.
            AsyncgenError: it could not be fetched.
        """
        patient = replace(self._pacing, attempts=max(self._pacing.attempts, _PATIENT_ATTEMPTS))
        with translated_sdk_errors(f"read the state of batch {batch_id}"):
            try:
                return self._read(await retrying(lambda: self._get(batch_id), patient))
            except NotFoundError as error:
                raise _gone(f"the provider does not know batch {batch_id}", batch_id) from error

    async def cancel(self, batch_id: str) -> RemoteBatch:
        """Ask the provider to stop a batch. Its answers so far can be collected once it has ended.

        Args:
            batch_id: the provider's id.

        Returns:
            The batch as it is now.

        Raises:
            AsyncgenError: the provider refuses or cannot be reached.
        """
        with translated_sdk_errors(f"cancel batch {batch_id}"):
            return self._read(await retrying(lambda: self._cancel(batch_id), self._pacing))

    async def download(self, batch_id: str, file_id: str, path: Path) -> None:
        """Download an output or error file of a batch as a stream.

        Args:
            batch_id: the provider's id, for messages.
            file_id: the provider's id of the file.
            path: where to save it.

        Raises:
            GoneError: the provider no longer has it.
            AsyncgenError: it could not be downloaded.
            DiskError: `path` cannot be written.
        """
        with translated_sdk_errors(f"download {file_id}, the answers of batch {batch_id}"):
            try:
                await download(self._client, file_id, path, self._pacing)
            except NotFoundError as error:
                raise _gone(f"the provider no longer has the answers of batch {batch_id}", batch_id) from error

    async def _get(self, batch_id: str) -> httpx2.Response:
        return await self._client.get(f"/batches/{quote(batch_id, safe='')}", cast_to=httpx2.Response)

    async def _cancel(self, batch_id: str) -> httpx2.Response:
        return await self._client.post(f"/batches/{quote(batch_id, safe='')}/cancel", cast_to=httpx2.Response)

    def _read(self, answer: httpx2.Response) -> RemoteBatch:
        """Parse the batch in a reply.

        Raises:
            AsyncgenError: there is none.
        """
        if batch := read_batch(self._value_of(answer)):
            return batch
        raise AsyncgenError(
            "the server's answer is not a batch",
            cause=one_line(self._content_of(answer).decode("utf-8", "replace"), _MESSAGE_WIDTH) or "it is empty",
            help_text="check the address (--base-url) and whether this server has the Batch API",
            code="bad_answer",
        )

    def _value_of(self, answer: httpx2.Response) -> Any:
        """The decoded JSON of a reply; None if it is not JSON."""
        try:
            return read_body(self._content_of(answer), answer.headers.get("content-type", ""))
        except UnreadableBodyError:
            return None

    def _content_of(self, answer: httpx2.Response) -> bytes:
        """A reply's body, without the key that it may quote."""
        secret = secret_of(self._client)
        if secret is None or secret.reveal().encode() not in answer.content:
            return answer.content
        return redacted(answer.content.decode("utf-8", "replace"), secret).encode()


def _gone(what: str, batch_id: str) -> GoneError:
    return GoneError(
        what,
        cause="it was deleted, it has expired, or it belongs to another key or project",
        help_text=f"use the key that created it; or, if it is lost, {command_line('batch cancel', batch_id)}   (its "
        "rows are then sent, and paid for, again)",
    )


def read_batch(value: Any) -> RemoteBatch | None:
    """Parse a batch. Only id and status are required, whatever form the other fields have.

    Args:
        value: decoded JSON.

    Returns:
        The batch; None if it is not one.
    """
    if not isinstance(value, dict):
        return None
    identifier, status = _text(value.get("id")), _text(value.get("status"))
    if identifier is None or status is None:
        return None
    metadata = value.get("metadata")
    return RemoteBatch(
        id=identifier,
        status=_status_of(status),
        input_file_id=_text(value.get("input_file_id")),
        output_file_id=_text(value.get("output_file_id")),
        error_file_id=_text(value.get("error_file_id")),
        created_at=_unix_seconds(value.get("created_at")),
        metadata=metadata if isinstance(metadata, dict) else {},
        counts=_counts(value.get("request_counts")),
        refusals=_refusals(value.get("errors") or value.get("error")),
    )


def _text(value: Any) -> str | None:
    """A name as text; None if there is none."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value.strip() or None if isinstance(value, str) else None


def _status_of(given: str) -> str:
    plain = _STATUS_PREFIX.sub("", given.casefold().replace("-", "_").replace(" ", "_"))
    return _STATUSES.get(plain, plain)


def _counts(value: Any) -> RequestCounts | None:
    if not isinstance(value, dict):
        return None
    total, completed, failed = (_count(value.get(name)) for name in ("total", "completed", "failed"))
    return RequestCounts(total, completed, failed)


def _count(value: Any) -> int:
    if isinstance(value, str) and value.isdecimal() and len(value) <= _MOST_DIGITS:
        return int(value)
    is_count = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 10**_MOST_DIGITS
    return int(value) if is_count else 0


def _unix_seconds(value: Any) -> int | None:
    """A time given as Unix seconds or in ISO 8601."""
    if isinstance(value, str):
        with suppress(ValueError, OverflowError):
            return int(datetime.fromisoformat(value).timestamp())
    return _count(value) or None


def _refusals(value: Any) -> list[BatchProblem]:
    """The provider's reasons: OpenAI's list within an object, a plain list, an object, or a text."""
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        value = value["data"]
    return [_problem(each) for each in (value if isinstance(value, list) else [value]) if each]


def _problem(value: Any) -> BatchProblem:
    words = read_reported_error(value)
    line = value.get("line") if isinstance(value, dict) else None
    message = one_line(words.message, _MESSAGE_WIDTH) or (None if words.code else one_line(str(value), _MESSAGE_WIDTH))
    return BatchProblem(words.code, message, _count(line) or None)
