"""Batches: on disk, their files of requests, and the queue that runs one at a time.

A batch has the API's object and a folder for the answers so far. Its requests are checked before any is answered; the
fields and rules are those that OpenAI describes. A batch that a stop or crash of the server interrupted is continued at
the next start with its unanswered rows: the output files tell what is done, a torn last line is cut off, and its
request is answered again. Answers come from the engine.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, Literal

import msgspec
import orjson

from asyncgen.errors import AsyncgenError, DiskError
from asyncgen.json_text import NotJsonError, decode_loosely, decoder
from asyncgen.run.whole_file import as_disk_error
from asyncgen.serve.stores.files import JsonStore, file_stem
from asyncgen.serve.wire import ApiError, Clock, new_id, no_such
from asyncgen.terminal import counted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from asyncgen.serve.stores.files import FileStore


MOST_REQUESTS = 50_000
_MOST_NAMED = 20


class BatchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a batch's input file."""

    custom_id: str
    method: Literal["POST"]
    url: str
    body: dict[str, Any]


_decode = decoder(BatchRequest)


def read_requests(path: Path) -> Iterator[BatchRequest]:
    """Read the requests of a file that passed `check_requests`."""
    with path.open("rb") as stream:
        for line in stream:
            if line.strip():
                yield _decode(line)


def check_requests(path: Path, endpoint: str) -> tuple[int, str | None, list[BatchError]]:
    """Check every line of an input file.

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
            errors.extend(_request_errors(request, number, endpoint, model, seen))
            seen.add(request.custom_id)
    return count, model, errors + _file_errors(count)


def _request(line: bytes, number: int) -> BatchRequest | BatchError:
    try:
        return _decode(line)
    except NotJsonError as error:
        return BatchError(code="invalid_json_line", message=f"This line is not a request: {error}.", line=number)


def _request_errors(
    request: BatchRequest, number: int, endpoint: str, model: str | None, seen: set[str]
) -> Iterator[BatchError]:
    if request.custom_id in seen:
        message = f"The custom_id {request.custom_id!r} occurs twice in the file."
        yield BatchError(code="duplicate_custom_id", message=message, line=number, param="custom_id")
    if request.url != endpoint:
        message = f"The url is {request.url!r}, but the batch is for {endpoint}."
        yield BatchError(code="mismatched_url", message=message, line=number, param="url")
    named = request.body.get("model")
    if named is not None and not isinstance(named, str):
        message = f"The model is {named!r}; it must be a name."
        yield BatchError(code="invalid_type", message=message, line=number, param="body.model")
    elif named != model:
        message = f"The model is {named!r}, but the lines before have {model!r}."
        yield BatchError(code="mismatched_model", message=message, line=number, param="body.model")


def _file_errors(count: int) -> list[BatchError]:
    if not count:
        return [BatchError(code="empty_file", message="There is no request in the file.")]
    if count > MOST_REQUESTS:
        message = f"There are {counted(count, 'request')} in the file; at most {MOST_REQUESTS} are allowed."
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
        """Tokens of all answers, in the API's form."""
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
        """Record an error for a request that the engine never got."""
        self._add(self._errors, _line(custom_id, error={"code": code, "message": message}))

    def replay(self, line: dict[str, Any]) -> None:
        """Count a line of a results file. Raises KeyError, TypeError or AttributeError if it has another form."""
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
        if file.write(data) != len(data):  # a full disk accepts a part of a write without an error
            file.truncate(whole)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.replay(line)


@contextmanager
def opened_results(folder: Path, total: int) -> Iterator[BatchResults]:
    """Open the results in a batch's folder, and count those that are already there.

    Args:
        folder: the batch's own.
        total: requests in the input file.
    """
    with ExitStack() as stack:
        files = [stack.enter_context((folder / name).open("a+b", buffering=0)) for name in (OUTPUT, ERRORS)]
        results = BatchResults(files[0], files[1], total)
        for file in files:
            _replay(file, results)
        yield results


def _replay(file: IO[bytes], results: BatchResults) -> None:
    """Count the results written before; remove unreadable lines, so that their requests are answered again."""
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


BatchStatus = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
BATCH_ENDED: frozenset[BatchStatus] = frozenset({"failed", "completed", "expired", "cancelled"})


class BatchError(msgspec.Struct, frozen=True, kw_only=True):
    """One problem of an input file."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class BatchErrors(msgspec.Struct, frozen=True, kw_only=True):
    """All problems of an input file."""

    data: list[BatchError]
    object: str = "list"


class ServedCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Progress of a batch: requests in total, completed and failed."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch as the API shows it."""

    id: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int
    object: str = "batch"
    status: BatchStatus = "validating"
    model: str | None = None
    errors: BatchErrors | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: ServedCounts = ServedCounts()
    usage: dict[str, Any] | None = None
    metadata: dict[str, str] | None = None


class BatchStore:
    """The batches of a data folder.

    Args:
        folder: contains a folder per batch.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._batches = JsonStore(
            folder,
            "*/batch.json",
            Batch,
            identify=lambda batch: batch.id,
            made_at=lambda batch: batch.created_at,
        )

    def folder(self, identifier: str) -> Path:
        return self._folder / file_stem(identifier)

    def all(self) -> list[Batch]:
        """Newest first."""
        return self._batches.newest_first()

    def get(self, identifier: str) -> Batch:
        """Raises ApiError: 404."""
        batch = self._batches.get(identifier)
        if batch is None:
            raise no_such("batch", identifier, param="batch_id")
        return batch

    def add(self, batch: Batch) -> None:
        folder = self.folder(batch.id)
        with as_disk_error(f"{folder} could not be created"):
            folder.mkdir()
        self._batches.put(batch)

    def change(self, identifier: str, **changes: Any) -> Batch:
        """Replace fields, on disk too."""
        batch = msgspec.structs.replace(self.get(identifier), **changes)
        self._batches.put(batch)
        return batch

    def count(self, identifier: str, counts: ServedCounts) -> None:
        """Note the progress of a batch in memory; on disk its results show it."""
        self._batches.replace_in_memory(msgspec.structs.replace(self.get(identifier), request_counts=counts))


AnswerRow = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""From endpoint and body to the answer's JSON; raises ApiError."""

_log = logging.getLogger(__name__)
_EXPIRED = ("batch_expired", "The request was not answered before the batch's window ended.")


class BatchWork:
    """Executes a batch: checks its file, answers its requests, and stores the results.

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
        """Continue a batch from its present state to its end."""
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
        """Mark a batch as failed; if that cannot be written, in memory only."""
        with suppress(DiskError):
            self._batches.change(batch.id, status="failed", failed_at=self._now(), errors=BatchErrors(data=errors))

    async def _answer_all(self, batch: Batch, path: Path, results: BatchResults) -> None:
        rows = (row for row in read_requests(path) if not results.is_settled(row.custom_id))
        async with asyncio.TaskGroup() as group:
            for _ in range(self._parallel):
                group.create_task(self._answer_some(batch, rows, results))

    async def _answer_some(self, batch: Batch, rows: Iterator[BatchRequest], results: BatchResults) -> None:
        """One worker; the workers of a batch share its iterator of requests."""
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
            await asyncio.sleep(0)  # with an engine that answers at once, other tasks would never run

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
        """Store results as a file, and return its id; None if there are none."""
        if not path.stat().st_size:
            return None
        return self._files.copy(path, filename=filename, purpose="batch_output").id

    def _now(self) -> int:
        return int(self._clock())


class BatchQueue:
    """The queue of a server's batches.

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
        """Whether a batch is waiting or running."""
        return any(batch.status not in BATCH_ENDED for batch in self._batches.all())

    def submit(self, batch: Batch) -> Batch:
        self._batches.add(batch)
        self._waiting.put_nowait(batch.id)
        return batch

    def cancel(self, identifier: str) -> Batch:
        """Start no more of its rows; answers so far are kept.

        Raises:
            ApiError: 404, or 400 if it has already ended.
        """
        batch = self._batches.get(identifier)
        if batch.status in BATCH_ENDED:
            raise ApiError(400, f"The batch {identifier} is already {batch.status}.", code="batch_already_ended")
        return self._batches.change(identifier, status="cancelling", cancelling_at=int(self._clock()))

    async def run(self) -> None:
        """Process waiting batches, forever."""
        for batch in reversed(self._batches.all()):
            if batch.status not in BATCH_ENDED:
                self._waiting.put_nowait(batch.id)
        while True:
            batch = self._batches.get(await self._waiting.get())
            if (
                batch.status not in BATCH_ENDED
            ):  # a batch that was resumed above may have been submitted at the same time
                await self._guarded(batch)

    async def _guarded(self, batch: Batch) -> None:
        """Execute one batch. An error ends this batch only."""
        try:
            await self._work.do(batch)
        except Exception as raised:  # noqa: BLE001 - the edge: a bug is logged whole
            error = _first(raised)
            if isinstance(error, OSError | AsyncgenError):
                reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
                message = f"The batch's files could not be read or written: {reason}."
            else:
                _log.exception("%s", batch.id)
                message = "The server had an internal error; see its log."
            self._work.fail(batch, [BatchError(code="server_error", message=message)])


def _first(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
