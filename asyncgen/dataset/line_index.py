"""Lines of a large file, fetched by their place.

Owns the offsets, eight bytes a line. Counts as `jsonl.read_lines` reads: blank lines do not count, nor does a byte
order mark. Does not know what stands in a line.
"""

from __future__ import annotations

import codecs
from array import array
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from asyncgen.whole_file import disk_error

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class LineIndex:
    """The lines of an open file; made by `indexed_lines`."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._begins = array("Q")
        begin = 0
        for line in file:
            if not line.isspace():
                self._begins.append(begin)
            begin += len(line)

    def __getitem__(self, place: int) -> bytes:
        """The line at that place, from 0."""
        self._file.seek(self._begins[place])
        return self._file.readline().removeprefix(codecs.BOM_UTF8)


@contextmanager
def indexed_lines(path: Path) -> Iterator[LineIndex]:
    """Open a file for fetching its lines while the block lasts.

    Raises:
        DiskError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            yield LineIndex(file)
    except OSError as error:
        raise disk_error(f"{path} could not be read", error) from error
