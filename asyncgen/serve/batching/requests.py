"""The input and output files of a batch: requests checked before any is answered; answers, errors and their totals.

The fields and rules are those that OpenAI describes. After a restart the output files tell what is done; a torn last
line is cut off, and its request is answered again.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from contextlib import ExitStack, contextmanager
from typing import IO, TYPE_CHECKING, Any, Literal

import msgspec
import orjson

from asyncgen.json_text import NotJsonError, decode_loosely, decoder
from asyncgen.serve.stores.batches import BatchError, ServedCounts
from asyncgen.serve.wire import new_id

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from asyncgen.serve.wire import ApiError


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


OUTPUT, ERRORS = "output.jsonl", "errors.jsonl"
_OK = 200


class BatchResults:
    """The answers of one batch; opened by `opened_results`.

    Args:
        output, errors: unbuffered, open for appending.
        total: requests in the input file.

    Attributes:
        dropped_any: whether some request was never asked.
    """

    def __init__(self, output: IO[bytes], errors: IO[bytes], total: int) -> None:
        self._output = output
        self._errors = errors
        self._total = total
        self._settled: set[str] = set()
        self._completed = 0
        self.dropped_any = False
        self._tokens: Counter[str] = Counter()

    def is_settled(self, custom_id: str) -> bool:
        return custom_id in self._settled

    @property
    def counts(self) -> ServedCounts:
        failed = len(self._settled) - self._completed
        return ServedCounts(total=self._total, completed=self._completed, failed=failed)

    @property
    def usage(self) -> dict[str, Any]:
        """Tokens of all answers, in the API's words."""
        prompt, completion = self._tokens["prompt_tokens"], self._tokens["completion_tokens"]
        return {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": self._tokens["cached_tokens"]},
            "output_tokens": completion,
            "output_tokens_details": {"reasoning_tokens": self._tokens["reasoning_tokens"]},
            "total_tokens": prompt + completion,
        }

    def answered(self, custom_id: str, body: dict[str, Any]) -> None:
        self._add(self._output, _line(custom_id, response=_response(_OK, body)))

    def refused(self, custom_id: str, refusal: ApiError) -> None:
        self._add(self._errors, _line(custom_id, response=_response(refusal.status, refusal.body())))

    def dropped(self, custom_id: str, code: str, message: str) -> None:
        """It was never asked."""
        self._add(self._errors, _line(custom_id, error={"code": code, "message": message}))

    def replay(self, line: dict[str, Any]) -> None:
        """Take a line into the sums. Raises KeyError, TypeError or AttributeError: it is none of these files."""
        custom_id, response = line["custom_id"], line["response"]
        is_answer = response is not None and response["status_code"] == _OK
        usage = response["body"]["usage"] if is_answer else {}
        tokens = {name: int(usage[name]) for name in ("prompt_tokens", "completion_tokens") if is_answer}
        cached = int(usage.get("prompt_tokens_details", {}).get("cached_tokens", 0))
        thought = int(usage.get("completion_tokens_details", {}).get("reasoning_tokens", 0))
        self._settled.add(custom_id)
        self.dropped_any = self.dropped_any or response is None
        self._completed += is_answer
        self._tokens.update(**tokens, cached_tokens=cached, reasoning_tokens=thought)

    def _add(self, file: IO[bytes], line: dict[str, Any]) -> None:
        """Write a line whole or not at all. Raises OSError."""
        data = orjson.dumps(line) + b"\n"
        whole = file.seek(0, os.SEEK_END)
        if file.write(data) != len(data):  # a disk that fills up takes a part, and says no more of it
            file.truncate(whole)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.replay(line)


@contextmanager
def opened_results(folder: Path, total: int) -> Iterator[BatchResults]:
    """The results in a batch's folder, what is there already taken into the sums.

    Args:
        folder: the batch's own.
        total: requests in the input file.
    """
    with ExitStack() as stack:
        files = [stack.enter_context((folder / name).open("a+b", buffering=0)) for name in (OUTPUT, ERRORS)]
        results = BatchResults(files[0], files[1], total)
        for file in files:
            _take_up(file, results)
        yield results


def _take_up(file: IO[bytes], results: BatchResults) -> None:
    """Take what was written before into the sums; what cannot be read is taken out, and its request asked again."""
    file.seek(0)
    good: list[bytes] = []
    lines = file.read().split(b"\n")
    for line in lines[:-1]:
        try:
            results.replay(decode_loosely(line))
        except (NotJsonError, KeyError, TypeError, AttributeError, ValueError):
            continue
        good.append(line + b"\n")
    if len(good) != len(lines) - 1 or lines[-1]:
        file.truncate(0)
        file.write(b"".join(good))


def _line(
    custom_id: str, *, response: dict[str, Any] | None = None, error: dict[str, str] | None = None
) -> dict[str, Any]:
    return {"id": new_id("batch_req_"), "custom_id": custom_id, "response": response, "error": error}


def _response(status: int, body: dict[str, Any]) -> dict[str, Any]:
    return {"status_code": status, "request_id": new_id("req_", 32), "body": body}
