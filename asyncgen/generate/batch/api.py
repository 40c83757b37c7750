"""Batches at a provider, through the SDK.

Owns the calls, the search for a batch whose id was lost, and the reading of what the SDK passes on unchecked. Does
not know rows, files on this disk but by their names, or when to call.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
from openai import AsyncOpenAI, NotFoundError

from asyncgen.errors import AsyncgenError
from asyncgen.generate.batch.files import URL
from asyncgen.providers.openai_client import OnProgress, Pacing, download, reported, retrying, upload
from asyncgen.terminal import one_line

_INTENT = "asyncgen"
_PAGE = 100
_CLOCKS_APART_S = 3600  # the provider's clock and ours may differ by so much
_MESSAGE_WIDTH = 300
_PATIENT_ATTEMPTS = 20  # some ten minutes without a network
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})


class GoneError(AsyncgenError):
    """The provider knows a batch, or its answers, no longer, or never did."""

    code = "gone"


class BatchProblem(msgspec.Struct, frozen=True):
    """Why a batch was refused as a whole."""

    code: str | None = None
    message: str | None = None
    line: int | None = None


class _Problems(msgspec.Struct, frozen=True):
    data: list[BatchProblem] | None = None


class RequestCounts(msgspec.Struct, frozen=True):
    """Requests of a batch, as the provider counts them."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class RemoteBatch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch as the provider tells it; unknown states count as still running."""

    id: str
    status: str
    input_file_id: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int | None = None
    metadata: dict[str, Any] | None = None
    counts: RequestCounts | None = msgspec.field(name="request_counts", default=None)
    problems: _Problems | None = msgspec.field(name="errors", default=None)

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED

    @property
    def refusals(self) -> list[BatchProblem]:
        return (self.problems and self.problems.data) or []


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
        """Upload an input file; gives its id."""
        with reported(f"upload {path.name}"):
            return await upload(self._client, path, "batch", self._pacing, on_progress=on_progress)

    async def create(self, file_id: str, intent: str) -> RemoteBatch:
        """Create a batch of an uploaded file. Where it fails, the batch may be there all the same: see `find`."""

        async def once() -> object:
            return await self._client.batches.create(
                input_file_id=file_id,
                endpoint=URL,
                completion_window="24h",
                metadata={_INTENT: intent},
            )

        with reported("create a batch"):
            return _read(await retrying(once, self._pacing, unsafe=True))

    async def find(self, file_id: str | None, intent: str, created: int) -> RemoteBatch | None:
        """The batch that was created for `intent` or of this file, and has not failed; None when there is none.

        Args:
            file_id: its input; None where that is not known.
            intent: sent as metadata.
            created: Unix seconds of our clock; older ones are not looked at.
        """
        after: str | None = None
        while True:
            page = await self._page(after)
            for batch in page:
                is_ours = (batch.metadata or {}).get(_INTENT) == intent or (
                    file_id is not None and batch.input_file_id == file_id
                )
                if is_ours and batch.status != "failed":
                    return batch
            if len(page) < _PAGE or (page[-1].created_at or created) < created - _CLOCKS_APART_S:
                return None
            after = page[-1].id

    async def _page(self, after: str | None) -> list[RemoteBatch]:
        async def once() -> object:
            given = {"after": after} if after else {}
            return await self._client.batches.list(limit=_PAGE, **given)  # type: ignore[arg-type]

        with reported("list batches"):
            answer = await retrying(once, self._pacing)
        return [_read(each) for each in getattr(answer, "data", None) or []]

    async def retrieve(self, batch_id: str) -> RemoteBatch:
        """The batch as it is now; patient, since it is asked for all day.

        Raises:
            GoneError: the provider does not know it.
        """
        patient = replace(self._pacing, attempts=max(self._pacing.attempts, _PATIENT_ATTEMPTS))
        with reported(f"look at batch {batch_id}"):
            try:
                return _read(await retrying(lambda: self._client.batches.retrieve(batch_id), patient))
            except NotFoundError as error:
                raise _gone(f"the provider does not know batch {batch_id}", batch_id) from error

    async def cancel(self, batch_id: str) -> RemoteBatch:
        """Ask the provider to stop the batch; what it has answered is kept, and can be collected once it ended."""
        with reported(f"cancel batch {batch_id}"):
            return _read(await retrying(lambda: self._client.batches.cancel(batch_id), self._pacing))

    async def download(self, batch_id: str, file_id: str, path: Path) -> None:
        """Stream an output or error file of a batch to `path`.

        Raises:
            GoneError: the provider keeps it no longer.
        """
        with reported(f"download {file_id}, the answers of batch {batch_id}"):
            try:
                await download(self._client, file_id, path, self._pacing)
            except NotFoundError as error:
                raise _gone(f"the answers of batch {batch_id} are not at the provider any more", batch_id) from error


def _gone(what: str, batch_id: str) -> GoneError:
    return GoneError(
        what,
        cause="it was deleted or has expired there, or it belongs to another key or project",
        help_text=f"use the key it was made with; or, if it is lost, asyncgen batch cancel {batch_id}   "
        "(its rows are then asked for again, and paid for again)",
    )


def _read(answer: object) -> RemoteBatch:
    """A batch from the SDK's object, which was checked by nobody.

    Raises:
        AsyncgenError: it is no batch.
    """
    to_dict = getattr(answer, "to_dict", None)
    try:
        return msgspec.convert(to_dict() if to_dict else answer, RemoteBatch)
    except msgspec.ValidationError as error:
        raise AsyncgenError(
            "the server's answer is not a batch",
            cause=one_line(f"{error}: {answer}", _MESSAGE_WIDTH),
            help_text="check the address (--base-url): does this server have the Batch API?",
            code="bad_answer",
        ) from error
