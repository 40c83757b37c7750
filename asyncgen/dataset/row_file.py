"""Random access to the rows of a file that was read once in order: eight bytes a row.

The file may grow meanwhile: rows appended after the pass are ignored. The meaning of a row is left to the caller.
"""

from __future__ import annotations

import io
import os
from array import array
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from asyncgen.json_text import NotJsonError
from asyncgen.run.jsonl import BadLineError, read_blocks
from asyncgen.run.whole_file import explained, open_regular

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_Row = TypeVar("_Row")
_MARK = b"\xef\xbb\xbf"  # `read_blocks` leaves it out
_FETCHED_BYTES = 4096  # most rows are shorter


class RowFile(Generic[_Row]):
    """The rows of a JSON Lines file.

    Args:
        path: a missing file has no rows.
        decode: makes a row of a line; raises `NotJsonError` of one that is none.
    """

    def __init__(self, path: Path, decode: Callable[[bytes], _Row]) -> None:
        self._path = path
        self._decode = decode
        self._begins = array("Q")

    def __len__(self) -> int:
        return len(self._begins)

    def __iter__(self) -> Iterator[_Row]:
        """Every row in order, once.

        Raises:
            BadLineError: a line is no row.
            DiskError: the file cannot be read.
        """
        decode, begins = self._decode, self._begins
        end = len(_MARK) if _begins_with_mark(self._path) else 0
        for first, block in read_blocks(self._path):
            for number, line in enumerate(io.BytesIO(block), first):
                begin, end = end, end + len(line)
                if line.isspace():
                    continue
                try:
                    row = decode(line)
                except NotJsonError as error:
                    raise BadLineError(self._path, number, str(error)) from error
                begins.append(begin)
                yield row

    def fetcher(self) -> Fetcher:
        """Fetches lines by place while its block lasts."""
        return Fetcher(self._path, self._begins)


class Fetcher:
    """Fetches lines of a file; a context manager."""

    def __init__(self, path: Path, begins: array[int]) -> None:
        self._path = path
        self._begins = begins
        self._descriptor = -1

    def __enter__(self) -> Self:
        if self._begins:
            self._descriptor = open_regular(self._path, os.O_RDONLY)
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def __getitem__(self, place: int) -> bytes:
        """The line at that place, counted from 0.

        Raises:
            DiskError: the file cannot be read.
        """
        begin = self._begins[place]
        if place + 1 < len(self._begins):
            with explained(f"{self._path} could not be read"):
                return os.pread(self._descriptor, self._begins[place + 1] - begin, begin)
        return self._last(begin)

    def _last(self, begin: int) -> bytes:
        parts: list[bytes] = []
        with explained(f"{self._path} could not be read"):
            while part := os.pread(self._descriptor, _FETCHED_BYTES, begin):
                line, newline, _ = part.partition(b"\n")
                parts.append(line)
                begin += len(part)
                if newline:
                    break
        return b"".join(parts)


def _begins_with_mark(path: Path) -> bool:
    try:
        descriptor = open_regular(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return os.pread(descriptor, len(_MARK), 0) == _MARK
    finally:
        os.close(descriptor)
