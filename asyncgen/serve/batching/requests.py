"""What stands in a batch's input file: one request a line, checked before anything is answered.

Owns the line's fields and the file's rules, as OpenAI describes them. Answers nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from asyncgen.json_text import NotJsonError, decoder
from asyncgen.serve.stores.batches import BatchError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MOST_REQUESTS = 50_000
_MOST_NAMED = 20


class BatchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One line."""

    custom_id: str
    method: Literal["POST"]
    url: str
    body: dict[str, Any]


_decode = decoder(BatchRequest)


def read_requests(path: Path) -> Iterator[BatchRequest]:
    """The requests of a file that was found valid."""
    with path.open("rb") as stream:
        for line in stream:
            if line.strip():
                yield _decode(line)


def check_requests(path: Path, endpoint: str) -> tuple[int, str | None, list[BatchError]]:
    """Read a whole file.

    Returns:
        The number of requests, their model, and what is wrong (the first twenty things).
    """
    errors: list[BatchError] = []
    seen: set[str] = set()
    model: str | None = None
    count = 0
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip() or len(errors) >= _MOST_NAMED:
                continue
            count += 1
            request = _request(line, number)
            if isinstance(request, BatchError):
                errors.append(request)
                continue
            if isinstance(named := request.body.get("model"), str):
                model = model or named
            errors.extend(_complaints(request, number, endpoint, model, seen))
            seen.add(request.custom_id)
    return count, model, errors + _file_complaints(count)


def _request(line: bytes, number: int) -> BatchRequest | BatchError:
    try:
        return _decode(line)
    except NotJsonError as error:
        return BatchError(code="invalid_json_line", message=f"This line is no request: {error}.", line=number)


def _complaints(
    request: BatchRequest, number: int, endpoint: str, model: str | None, seen: set[str]
) -> Iterator[BatchError]:
    if request.custom_id in seen:
        message = f"The custom_id {request.custom_id!r} is in the file twice."
        yield BatchError(code="duplicate_custom_id", message=message, line=number, param="custom_id")
    if request.url != endpoint:
        message = f"The url is {request.url!r}, and the batch is for {endpoint}."
        yield BatchError(code="mismatched_url", message=message, line=number, param="url")
    named = request.body.get("model")
    if named is not None and not isinstance(named, str):
        message = f"The model is {named!r}, and must be a name."
        yield BatchError(code="invalid_type", message=message, line=number, param="body.model")
    elif named != model:
        message = f"The model is {named!r}, and in the lines before {model!r}."
        yield BatchError(code="mismatched_model", message=message, line=number, param="body.model")


def _file_complaints(count: int) -> list[BatchError]:
    if not count:
        return [BatchError(code="empty_file", message="There is no request in the file.")]
    if count > MOST_REQUESTS:
        message = f"There are {count} requests in the file; at most {MOST_REQUESTS} are allowed."
        return [BatchError(code="too_many_requests", message=message)]
    return []
