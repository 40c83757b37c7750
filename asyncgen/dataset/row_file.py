"""Random access to the rows of files that were read once in order: eight bytes a row.

The files may grow meanwhile: rows appended after the pass are ignored. The meaning of a row is left to the caller.
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
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

_Row = TypeVar("_Row")
_MARK = b"\xef\xbb\xbf"  # `read_blocks` leaves it out
_FILE_BITS = 48  # of an offset; above them stands the number of the file
_FETCHED_BYTES = 4096  # most rows are shorter


class RowFile(Generic[_Row]):
    """The rows of JSON Lines files, one file after the other.

    Args:
        paths: a missing file has no rows.
        decode: makes a row of a line; raises `NotJsonError` of one that is none.
    """

    def __init__(self, paths: Sequence[Path], decode: Callable[[bytes], _Row]) -> None:
        self._paths = paths
        self._decode = decode
        self._begins = array("Q")

    def __len__(self) -> int:
        return len(self._begins)

    def __iter__(self) -> Iterator[_Row]:
        """Every row in order, once.

        Raises:
            BadLineError: a line is no row.
            DiskError: a file cannot be read.
        """
        for number, path in enumerate(self._paths):
            yield from self._rows_of(path, number << _FILE_BITS)

    def _rows_of(self, path: Path, base: int) -> Iterator[_Row]:
        decode, begins = self._decode, self._begins
        end = base + (len(_MARK) if _begins_with_mark(path) else 0)
        for first, block in read_blocks(path):
            for number, line in enumerate(io.BytesIO(block), first):
                begin, end = end, end + len(line)
                if line.isspace():
                    continue
                try:
                    row = decode(line)
                except NotJsonError as error:
                    raise BadLineError(path, number, str(error)) from error
                begins.append(begin)
                yield row

    def fetcher(self) -> Fetcher:
        """Fetches lines by place while its block lasts."""
        return Fetcher(self._paths, self._begins)


class Fetcher:
    """Fetches lines of the files; a context manager."""

    def __init__(self, paths: Sequence[Path], begins: array[int]) -> None:
        self._paths = paths
        self._begins = begins
        self._descriptors: dict[int, int] = {}

    def __enter__(self) -> Self:
        for number in {begin >> _FILE_BITS for begin in self._begins}:
            self._descriptors[number] = open_regular(self._paths[number], os.O_RDONLY)
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)

    def __getitem__(self, place: int) -> bytes:
        """The line at that place, counted from 0.

        Raises:
            DiskError: the file cannot be read.
        """
        number, begin = divmod(self._begins[place], 1 << _FILE_BITS)
        descriptor = self._descriptors[number]
        with explained(f"{self._paths[number]} could not be read"):
            if place + 1 < len(self._begins):
                next_number, end = divmod(self._begins[place + 1], 1 << _FILE_BITS)
                if next_number == number:
                    return os.pread(descriptor, end - begin, begin)
            return self._last(descriptor, begin)

    def _last(self, descriptor: int, begin: int) -> bytes:
        parts: list[bytes] = []
        while part := os.pread(descriptor, _FETCHED_BYTES, begin):
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
