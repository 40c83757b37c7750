"""Read the text files that a user names: job file, axes, tables, documents, schemas.

Opens only regular files (a pipe would block, a device never ends), accepts every kind of line end, and reports text
that is not UTF-8. The content is left to the callers.
"""

from __future__ import annotations

import codecs
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from asyncgen.job.cells import TableError

LONGEST_LINE_BYTES = 64 * 1024 * 1024
_BLOCK_BYTES = 256 * 1024
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def open_file(path: Path) -> BufferedReader:
    """Open a regular file, or a link to one.

    Raises:
        TableError: it is a folder, a pipe or a device, or its name cannot be one.
        OSError: it is not there, or may not be read.
    """
    try:
        # Without O_NONBLOCK, opening a pipe would wait for its other end for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError:
        raise TableError("no file can have this name: it holds a NUL character") from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise TableError(f"{'a folder' if stat.S_ISDIR(mode) else 'a pipe or a device'}, expected a file")
    return os.fdopen(descriptor, "rb")


def read_text(path: Path, *, most_bytes: int = LONGEST_LINE_BYTES) -> str:
    """A whole file as text, without a byte order mark.

    Raises:
        TableError: it is too large, no UTF-8, or not a regular file.
        OSError: as `open_file`.
    """
    with open_file(path) as handle:
        content = handle.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise TableError(f"larger than {most_bytes >> 20} MiB")
    return decoded(content, 1)


def decoded(raw: bytes, number: int) -> str:
    """Bytes as text; a byte order mark in line 1 is taken off.

    Args:
        raw: one line, or several.
        number: of its first line.

    Raises:
        TableError: they are not UTF-8; tells the line.
    """
    if number == 1 and raw.startswith(_UTF_16):
        raise TableError("UTF-16, expected UTF-8: save it as UTF-8", 1)
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line = number + len((before + b".").splitlines()) - 1
        column = len(before) - max(before.rfind(b"\n"), before.rfind(b"\r"))
        text = f"not UTF-8 at byte {column} of the line ({raw[error.start]:#04x}): save it as UTF-8"
        raise TableError(text, line) from None


def raw_lines(handle: BufferedReader) -> Iterator[tuple[int, bytes]]:
    r"""Lines with the offset at which each begins, their ends included: "\n", "\r\n" or "\r".

    Raises:
        TableError: a line is longer than `LONGEST_LINE_BYTES`.
    """
    offset, rest = handle.tell(), b""
    while block := handle.read(_BLOCK_BYTES):
        lines = (rest + block).splitlines(keepends=True)
        rest = b"" if lines[-1].endswith(b"\n") else lines.pop()  # a "\r" at its end may be half of "\r\n"
        for line in lines:
            yield offset, line
            offset += len(line)
        if len(rest) > LONGEST_LINE_BYTES:
            raise TableError(f"a line is longer than {LONGEST_LINE_BYTES >> 20} MiB")
    if rest:
        yield offset, rest


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file with their numbers from 1, without their ends.

    Raises:
        TableError: as `open_file`, `raw_lines` and `decoded`.
        OSError: as `open_file`.
    """
    with open_file(path) as handle:
        for number, (_, raw) in enumerate(raw_lines(handle), 1):
            yield number, decoded(raw, number).rstrip("\r\n")
