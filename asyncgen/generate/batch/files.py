"""The files of a batch, and its entry in `run.json`.

The JSON Lines format of input, output and error files; their names on disk; the limits on an input file; the list of
batches in `run.json`. Every change of that list is on disk before the next call to the provider, so that a crash
leaves a state to continue from. Answers are judged by `http/reply.py`, as those of online requests are. Calls to the
provider are left to `api`.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
import orjson

from asyncgen.errors import AsyncgenError
from asyncgen.generate.batch.batched_keys import BatchRow, rows_path
from asyncgen.generate.http.completer import Answer, AttemptError, ErrorClass
from asyncgen.generate.http.reply import read_reply
from asyncgen.job.requests import Request
from asyncgen.json_text import NotJsonError, decoder
from asyncgen.providers.endpoint import Endpoint, Secret, redacted
from asyncgen.providers.profiles import LOCAL
from asyncgen.providers.reply_body import UnreadableBodyError, is_error, read_body, read_reported_error
from asyncgen.run.state import FOUND_AGAIN, UNNOTED, BatchState, RunState
from asyncgen.run.whole_file import disk_error, replacing
from asyncgen.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from asyncgen.run.directory import RunDirectory, RunWriter
    from asyncgen.run.key_set import KeySet

URL: Final = "/v1/chat/completions"
_MESSAGE_WIDTH = 500
_NOTHING: dict[str, str] = {}
_OK = 200
_DEEPEST_ANSWER = 3  # gateways wrap it in `result` and `message`


def input_line(key: bytes, body: bytes) -> bytes:
    """Encode the line of an input file that asks for one request.

    Args:
        key: identifies the request; the provider returns it with the answer.
        body: the request body, as JSON.

    Returns:
        The line, newline included.
    """
    return b'{"custom_id":"%s","method":"POST","url":"%s","body":%s}\n' % (key.hex().encode(), URL.encode(), body)


class _Response(msgspec.Struct):
    status_code: Literal[200]
    body: msgspec.Raw
    request_id: str | None = None


class _OutputLine(msgspec.Struct):
    """An answer in the form of the API's reference, as nearly all are: decoded in one step."""

    response: _Response
    error: None = None


class _Id(msgspec.Struct):
    custom_id: str


_decode = decoder(_OutputLine)
_decode_id = decoder(_Id)
# For lines that are not JSON; inside a JSON string the quotes would be escaped.
_ID_WITHIN = re.compile(rb'"custom_id"\s*:\s*"([0-9A-Fa-f]{32})"')
_STATUS = re.compile(r"([1-5]\d\d)(\.0*)?\b.*")


def key_of_line(line: bytes) -> bytes | None:
    """Find the key of the request that a line of an output or error file answers.

    Args:
        line: the line, in any form.

    Returns:
        The key of 16 bytes; None if it contains none.
    """
    try:
        return bytes.fromhex(_decode_id(line).custom_id)
    except ValueError:
        found = _ID_WITHIN.search(line)
        return bytes.fromhex(found[1].decode()) if found else None


def read_output_line(line: bytes, *, secret: Secret | None = None, sends_tools: bool = True) -> Answer | AttemptError:
    """Read the outcome of a request.

    Args:
        line: of an output or error file, in any form that servers use.
        secret: removed from everything that is kept except the model's own text; None for no secret.
        sends_tools: the requests offer tools, so that a tool call is an answer.

    Returns:
        The answer or error; `ErrorClass.RETRY` without `maybe_paid` if the request was never processed.
    """
    try:
        plain = _decode(line).response
    except NotJsonError:
        plain = None
    if plain is not None and (body := bytes(plain.body)).startswith(b"{"):
        status, request_id = _OK, plain.request_id
    else:
        status, request_id, body = _read_closely(line)
    if not status:
        return _not_done(body, secret)
    headers = {"x-request-id": request_id} if request_id else _NOTHING
    outcome = read_reply(status, headers, body, secret=secret, sends_tools=sends_tools)
    if isinstance(outcome, AttemptError) and outcome.type == "not_an_api":  # an HTML page at a valid address
        return msgspec.structs.replace(outcome, kind=ErrorClass.RETRY, type="bad_json", maybe_paid=True, remedy=None)
    return outcome


_Told = tuple[int, str | None, bytes]  # status (0: no reply), the server's request id, body


def _read_closely(line: bytes) -> _Told:
    """The reply in a line that is in some way unusual."""
    try:
        whole = read_body(line)
    except UnreadableBodyError:
        return _OK, None, line  # unreadable, but perhaps paid for
    whole = whole if isinstance(whole, dict) else {}
    response, error = _unwrapped(whole.get("response")), whole.get("error")
    if isinstance(error, list) and all(isinstance(each, str) for each in error):
        error = "; ".join(error)
    response = response if isinstance(response, dict) else {}
    if not _has_answer(response.get("body")) and (found := _answer_within(whole)):
        response = {"body": found}
    status = _status(response.get("status_code") or response.get("status"))
    given = response.get("request_id")
    request_id = str(given) if isinstance(given, str | int) and given else None
    body = _unwrapped(response.get("body"))
    if body:
        return _OK if _has_answer(body) else status or _OK, request_id, _as_json(body)
    if is_error(error):
        told = 0 if status == _OK else status
        return told or _status(read_reported_error(error).status), request_id, _as_json({"error": error})
    if not status and any(_is_unknown_outcome(name, value) for name, value in whole.items()):
        return _OK, request_id, line  # perhaps paid for
    return status, request_id, _as_json({"error": error} if not status else None)


def _has_answer(value: Any) -> bool:
    choices = value.get("choices") if isinstance(value, dict) else None
    return isinstance(choices, list) and any(isinstance(each, dict) for each in choices)


def _is_unknown_outcome(name: str, value: Any) -> bool:
    """Something came of the request, in a form that is not known."""
    if name == "response" and not isinstance(value, dict):
        return bool(value)
    return name not in {"response", "error"} and isinstance(value, dict | list) and bool(value)


def _answer_within(value: Any, depth: int = 0) -> Any:
    """A chat completion, wherever in a line it stands; None if there is none."""
    if _has_answer(value):
        return value
    if depth == _DEEPEST_ANSWER or not isinstance(value, dict | list):
        return None
    inner = value.values() if isinstance(value, dict) else value
    return next((found for each in inner if (found := _answer_within(_unwrapped(each), depth + 1))), None)


def _unwrapped(value: Any) -> Any:
    """A value that may be encoded as JSON text."""
    if isinstance(value, str):
        with suppress(UnreadableBodyError):
            return read_body(value.encode())
    return value


def _as_json(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "replace")  # an HTML page, or an error message
    try:
        return orjson.dumps(value)
    except TypeError:  # numbers beyond 64 bits, deep nesting
        with suppress(RecursionError):
            return json.dumps(value).encode()
        return b"null"


def _status(given: Any) -> int:
    """A status in any form; 0 if there is none."""
    found = _STATUS.fullmatch(str(given))
    return int(found[1]) if found else 0


def _not_done(body: bytes, secret: Secret | None) -> AttemptError:
    """The error of a request that expired, was cancelled, or was lost by the provider."""
    told = read_body(body)
    words = read_reported_error(told)
    error = told.get("error") if isinstance(told, dict) else told
    text = words.message or (_as_json(error).decode() if error else "the provider names no outcome")
    message = one_line(redacted(text, secret), _MESSAGE_WIDTH)
    return AttemptError(kind=ErrorClass.RETRY, type=words.code or "not_done", code=words.code, message=message)


def belongs_to(batch: BatchState, provider: str, base_url: str) -> bool:
    """Check whether a batch was created at an endpoint. The local server has another address each time.

    A batch that is known by its files only (`run.json` was lost) may belong to any endpoint.

    Args:
        batch: as noted in the run.
        provider: name of the endpoint's profile.
        base_url: the endpoint's address.

    Returns:
        Whether it does.
    """
    if batch.status in {FOUND_AGAIN, UNNOTED}:
        return True
    return batch.provider == provider and (batch.base_url == base_url or provider == LOCAL)


class BatchLedger:
    """The batches of a run that one endpoint knows.

    Args:
        run: locked by this process.
        endpoint: of the provider.
    """

    def __init__(self, run: RunWriter, endpoint: Endpoint) -> None:
        self._run = run
        self._provider = endpoint.profile.name
        self._base_url = endpoint.base_url
        self._model = endpoint.model

    @property
    def open(self) -> list[BatchState]:
        """Batches at this endpoint that are not collected, the oldest first."""
        return [batch for batch in self._all_open() if belongs_to(batch, self._provider, self._base_url)]

    @property
    def elsewhere(self) -> list[BatchState]:
        """Batches that are not collected and wait at another endpoint."""
        return [batch for batch in self._all_open() if not belongs_to(batch, self._provider, self._base_url)]

    @property
    def is_under_way(self) -> bool:
        """True if one of them is at the provider."""
        return any(batch.batch_id for batch in self.open)

    def _all_open(self) -> Iterator[BatchState]:
        return (batch for batch in self._run.state.batches if not batch.collected)

    def add(self, intent: str, *, requests: int, held_usd: float, created: int) -> BatchState:
        """Note a batch whose files are written; nothing of it was sent yet.

        Raises:
            DiskError: it could not be noted.
        """
        batch = BatchState(
            intent=intent,
            provider=self._provider,
            base_url=self._base_url,
            model=self._model,
            requests=requests,
            created=created,
            held_usd=held_usd,
        )
        self._run.update(lambda state: msgspec.structs.replace(state, batches=[*state.batches, batch]))
        return batch

    def sent(self, batch: BatchState, batch_id: str, status: str) -> BatchState:
        """Note that a batch is at this endpoint, under this id; raises as `add`."""
        place = {"provider": self._provider, "base_url": self._base_url, "model": batch.model or self._model}
        return self.change(batch, batch_id=batch_id, status=status, **place)

    def change(self, batch: BatchState, **fields: Any) -> BatchState:
        """Note what became of a batch; raises as `add`."""
        return change_batch(self._run, batch.intent, **fields)


def change_batch(run: RunWriter, intent: str, **fields: Any) -> BatchState:
    """Change the fields of one batch in `run.json`.

    Raises:
        DiskError: it could not be written.
    """

    def change(state: RunState) -> RunState:
        batches = [msgspec.structs.replace(each, **fields) if each.intent == intent else each for each in state.batches]
        return msgspec.structs.replace(state, batches=batches)

    changed = run.update(change)
    return next(each for each in changed.batches if each.intent == intent)


# OpenAI's limits on an input file, with a margin for other definitions of a megabyte.
MOST_ROWS = 50_000
MOST_BYTES = 190_000_000

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class BatchFiles:
    """The names of a batch's files."""

    directory: RunDirectory
    intent: str

    @property
    def input(self) -> Path:
        return self.directory.batches / f"{self.intent}.input.jsonl"

    @property
    def rows(self) -> Path:
        return rows_path(self.directory, self.intent)

    @property
    def output(self) -> Path:
        return self.directory.batches / f"{self.intent}.output.jsonl"

    @property
    def errors(self) -> Path:
        return self.directory.batches / f"{self.intent}.errors.jsonl"

    def make_folder(self) -> None:
        """Raises `DiskError` when it cannot be made."""
        try:
            self.directory.batches.mkdir(exist_ok=True)
        except OSError as error:
            raise disk_error(f"{self.directory.batches} could not be created", error) from error

    def remove(self) -> None:
        """The batch is collected, or was never sent: nothing of it is needed any more."""
        for path in (self.input, self.output, self.errors, self.rows):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty: another batch is open
            self.directory.batches.rmdir()


class RequestLookahead:
    """An iterator of requests with a look-ahead of one.

    Args:
        requests: requests, and numbers of skipped rows.
    """

    def __init__(self, requests: Iterator[Request | int]) -> None:
        self._requests = requests
        self._next: Request | None = None

    def peek(self) -> Request | None:
        """The next request; None when there is none left."""
        while self._next is None:
            try:
                upcoming = next(self._requests)
            except StopIteration:
                return None
            self._next = upcoming if isinstance(upcoming, Request) else None
        return self._next

    def advance(self) -> None:
        """Consume the request that `peek` returned."""
        self._next = None


@dataclass(frozen=True, slots=True)
class BatchInput:
    """The content of an input file.

    Attributes:
        requests: number of requests.
        bytes: size.
        held_usd: maximum cost, if the run has a budget; else 0.
    """

    requests: int
    bytes: int
    held_usd: float


def write_batch(
    files: BatchFiles,
    upcoming: RequestLookahead,
    row_of: Callable[[Request], BatchRow],
    keys: KeySet,
    *,
    most_rows: int = MOST_ROWS,
    most_bytes: int = MOST_BYTES,
    afford: Callable[[Request], float | None] = lambda _request: 0.0,
) -> BatchInput:
    """Write requests into the files of a batch until it is full, they end, or the budget does.

    Args:
        files: of the batch.
        upcoming: the requests; those not written stay there.
        row_of: makes the row that the answer will need.
        keys: gets the key of each row as it is written.
        most_rows: maximum lines of an input file.
        most_bytes: maximum size of an input file.
        afford: reserves USD for a request; returns None if the budget does not cover it.

    Returns:
        What was written.

    Raises:
        DiskError: the files cannot be written; none of them stays.
        AsyncgenError: a single request is larger than an input file may be.
    """
    files.make_folder()
    requests, size, held_usd = 0, 0, 0.0
    with replacing(files.rows) as rows, replacing(files.input) as file:
        while requests < most_rows and (request := upcoming.peek()) is not None:
            line = input_line(request.key, request.body)
            if size + len(line) > most_bytes:
                _refuse_too_large(line, most_bytes)
                break
            if (usd := afford(request)) is None:
                break
            upcoming.advance()
            if keys.add(request.key):  # a duplicate shares the answer of the first
                file.write(line)
                rows.write(_encode(row_of(request)) + b"\n")
                requests, size, held_usd = requests + 1, size + len(line), held_usd + usd
    return BatchInput(requests, size, held_usd)


def _refuse_too_large(line: bytes, most_bytes: int) -> None:
    if len(line) > most_bytes:
        raise AsyncgenError(
            f"a request of {len(line):,} bytes is too large for a batch (limit: {most_bytes:,} bytes)",
            help_text="send it online: run the same command without --batch",
            code="too_large",
        )
