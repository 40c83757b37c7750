"""The lines of a batch's files: requests as they go in, answers and errors as they come out.

Owns the wire form. Judges an answer as the online way does, by `reply`. Pure.

The batches of a run, as `run.json` keeps them.

Owns every change of that list. Each is on the disk before the next call is made, so that a crash anywhere leaves a
state that can be gone on from. Does not know the provider's API.

A batch on disk: its input, the rows beside it, and what was downloaded.

Owns their names, the bounds of an input file, and the order of writing. Does not know the provider's API.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from asyncgen.errors import AsyncgenError
from asyncgen.generate.batch.held_keys import BatchRow, rows_path
from asyncgen.generate.http.completer import Answer, AttemptError, ErrorClass
from asyncgen.generate.http.reply import read_reply
from asyncgen.job.requests import Request
from asyncgen.json_text import NotJsonError, decoder
from asyncgen.providers.endpoint import Endpoint
from asyncgen.providers.profiles import LOCAL
from asyncgen.run.directory import Run, RunDirectory
from asyncgen.run.key_set import KeySet
from asyncgen.run.state import FOUND_AGAIN, UNNOTED, BatchState, RunState
from asyncgen.run.whole_file import disk_error, replacing
from asyncgen.terminal import one_line

URL: Final = "/v1/chat/completions"
_MESSAGE_WIDTH = 500
_NOTHING: dict[str, str] = {}


def input_line(key: bytes, body: bytes) -> bytes:
    """The line that asks for one request; its key comes back with the answer."""
    return b'{"custom_id":"%s","method":"POST","url":"%s","body":%s}\n' % (key.hex().encode(), URL.encode(), body)


class _Response(msgspec.Struct):
    status_code: Any = 0
    body: msgspec.Raw = msgspec.Raw(b"null")
    request_id: Any = None


class _Error(msgspec.Struct):
    code: str | int | None = None
    message: str | None = None


class _OutputLine(msgspec.Struct):
    custom_id: str
    response: _Response | None = None
    error: _Error | None = None


class _Id(msgspec.Struct):
    custom_id: str


_decode = decoder(_OutputLine)
_decode_id = decoder(_Id)


def key_of_line(line: bytes) -> bytes | None:
    """The key of the request that a line of an output or error file answers; None when it is no such line."""
    try:
        return bytes.fromhex(_decode_id(line).custom_id)
    except ValueError:
        return None


def read_output_line(line: bytes) -> Answer | AttemptError:
    """What became of the request; `ErrorClass.RETRY` without `maybe_paid` for one that was never done."""
    try:
        found = _decode(line)
    except NotJsonError as error:
        text = one_line(f"the line is no answer: {error}", _MESSAGE_WIDTH)
        return AttemptError(kind=ErrorClass.RETRY, type="bad_json", message=text, maybe_paid=True)
    response = found.response
    status = _status(response) if response is not None else 0
    if response is None or not status:
        return _not_done(found.error or _Error())
    headers = {"x-request-id": response.request_id} if isinstance(response.request_id, str) else _NOTHING
    return read_reply(status, headers, bytes(response.body))


def _status(response: _Response) -> int:
    """The status of a response, in whatever form; a body without one is an answer."""
    given = str(response.status_code)
    if given.isdecimal() and len(given) <= len("200") and int(given):
        return int(given)
    return 0 if bytes(response.body) == b"null" else 200


def _not_done(error: _Error) -> AttemptError:
    """Expired, cancelled, or lost by the provider."""
    code = str(error.code) if error.code is not None else None
    message = one_line(error.message or "", _MESSAGE_WIDTH)
    return AttemptError(kind=ErrorClass.RETRY, type=code or "not_done", code=code, message=message)


def belongs_to(batch: BatchState, provider: str, base_url: str) -> bool:
    """Was the batch made at this endpoint? This machine's own server has another address each time.

    A batch that only its files tell of (`run.json` was lost, and made anew) may have been made at any.
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

    def __init__(self, run: Run, endpoint: Endpoint) -> None:
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
        """Is one of them at the provider?"""
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


def change_batch(run: Run, intent: str, **fields: Any) -> BatchState:
    """Change the fields of one batch in `run.json`.

    Raises:
        DiskError: it could not be written.
    """

    def change(state: RunState) -> RunState:
        batches = [msgspec.structs.replace(each, **fields) if each.intent == intent else each for each in state.batches]
        return msgspec.structs.replace(state, batches=batches)

    changed = run.update(change)
    return next(each for each in changed.batches if each.intent == intent)


# OpenAI's bounds of an input file, with some room for those who count megabytes otherwise.
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
            raise disk_error(f"{self.directory.batches} could not be made", error) from error

    def remove(self) -> None:
        """The batch is collected, or was never sent: nothing of it is needed any more."""
        for path in (self.input, self.output, self.errors, self.rows):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty: another batch is open
            self.directory.batches.rmdir()


class Upcoming:
    """Requests that can be looked at before they are taken.

    Args:
        requests: a number stands for rows that were passed over.
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

    def take(self) -> None:
        """The request that was looked at is used up."""
        self._next = None


@dataclass(frozen=True, slots=True)
class Written:
    """What an input file holds.

    Attributes:
        held_usd: the most that it may cost, where a budget limits the run.
    """

    requests: int
    bytes: int
    held_usd: float


def write_batch(
    files: BatchFiles,
    upcoming: Upcoming,
    row_of: Callable[[Request], BatchRow],
    keys: KeySet,
    *,
    most_rows: int = MOST_ROWS,
    most_bytes: int = MOST_BYTES,
    afford: Callable[[Request], float | None] = lambda _request: 0.0,
) -> Written:
    """Write requests into the files of a batch until it is full, they end, or the budget does.

    Args:
        files: where.
        upcoming: the requests; those not written stay there.
        row_of: what of a request its answer will need.
        keys: gets the key of each row as it is written.
        most_rows: bound of an input file.
        most_bytes: likewise.
        afford: USD held for a request; None when it is not to be bought.

    Raises:
        DiskError: the files cannot be written; nothing of them stays.
        AsyncgenError: one request alone is larger than an input file may be.
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
            upcoming.take()
            if keys.add(request.key):  # a twin's answer is its first's
                file.write(line)
                rows.write(_encode(row_of(request)) + b"\n")
                requests, size, held_usd = requests + 1, size + len(line), held_usd + usd
    return Written(requests, size, held_usd)


def _refuse_too_large(line: bytes, most_bytes: int) -> None:
    if len(line) > most_bytes:
        raise AsyncgenError(
            f"a request of {len(line):,} bytes is too large for a batch, which takes {most_bytes:,}",
            help_text="send it online: asyncgen generate without --batch",
            code="too_large",
        )
