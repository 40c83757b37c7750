"""A batch on disk: its input, the rows beside it, and what was downloaded.

Owns their names, the bounds of an input file, and the order of writing. Does not know the provider's API.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from asyncgen.errors import AsyncgenError
from asyncgen.generate.batch.lines import input_line
from asyncgen.generate.held_keys import BatchRow, rows_path
from asyncgen.generate.key_set import KeySet
from asyncgen.job.requests import Request
from asyncgen.run_directory import RunDirectory
from asyncgen.whole_file import disk_error, replacing

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
