"""The lines of a text file that somebody else wrote, numbered, with clear errors for what is no such file.

Owns decoding, line ends and the bound on a line's length. Does not know what stands in a line, and only
reads.
"""

from __future__ import annotations

import re
from typing import IO, TYPE_CHECKING

from asyncgen.errors import AsyncgenError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONGEST_LINE_BYTES = 64 * 1024 * 1024
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

# A carriage return that is not half of "\r\n" ends a line too, as old Macintosh files have it.
_LONE_RETURN = re.compile(r"(?<=\r)(?!\n)(?!\Z)")


def bad_line(path: Path, line: int, what: str, *, help_text: str | None = None) -> AsyncgenError:
    """The error for line number `line` of `path`."""
    return AsyncgenError(f"{path}:{line}: {what}", help_text=help_text, code="bad_data")


def open_input(path: Path) -> IO[bytes]:
    """Open a file that the user named.

    Raises:
        UsageError: there is no such file, it is a directory, or it may not be read.
    """
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise UsageError(f"there is no file {path}", help_text="check the name; `ls` shows what is there") from None
    except IsADirectoryError:
        raise UsageError(f"{path} is a directory, not a file", help_text=f"name a file in {path}") from None
    except PermissionError as error:
        raise UsageError(f"{path} may not be read", cause=str(error.strerror)) from None


def raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Every line as bytes with its number from 1, its ending included.

    Raises:
        AsyncgenError: a line is longer than `LONGEST_LINE_BYTES`.
        UsageError: as `open_input` does.
    """
    with open_input(path) as file:
        number = 0
        while line := file.readline(LONGEST_LINE_BYTES + 1):
            number += 1
            if len(line) > LONGEST_LINE_BYTES:
                raise bad_line(
                    path,
                    number,
                    f"the line is longer than {LONGEST_LINE_BYTES >> 20} MiB",
                    help_text="a line holds one row; check that the file has line breaks where they belong",
                )
            yield number, line


def decode(path: Path, number: int, line: bytes) -> str:
    """The text of a line.

    Raises:
        AsyncgenError: the bytes are not UTF-8; tells at which byte.
    """
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise bad_line(
            path,
            number,
            f"not UTF-8: byte {line[error.start]:#04x} at column {error.start + 1}",
            help_text=f"convert a copy: iconv -f windows-1252 -t utf-8 {path} > copy{path.suffix}",
        ) from None


def text_lines(path: Path, *, byte_order_mark: bool = False) -> Iterator[tuple[int, str]]:
    """Every line as text with its number from 1, its ending included: LF, CR LF or CR alone.

    Args:
        path: the file.
        byte_order_mark: take one off the beginning; else it is an error.

    Raises:
        AsyncgenError: not UTF-8, a line that is too long, a byte order mark that is not wanted.
    """
    returns = 0
    for number, line in raw_lines(path):
        text = decode(path, number, line)
        if number == 1 and line.startswith(BYTE_ORDER_MARK):
            text = _without_mark(path, text, allowed=byte_order_mark)
        if "\r" not in text:
            yield number + returns, text
            continue
        for piece in _LONE_RETURN.split(text):
            yield number + returns, piece
            returns += not piece.endswith("\n")
        returns -= not piece.endswith("\n")


def _without_mark(path: Path, text: str, *, allowed: bool) -> str:
    if allowed:
        return text[1:]
    raise bad_line(
        path,
        1,
        "the file begins with a byte order mark (EF BB BF)",
        help_text=f"save it as UTF-8 without one: tail -c +4 {path} > copy{path.suffix}",
    )
