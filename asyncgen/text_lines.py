"""The lines of a text file that somebody else wrote, numbered, with clear errors for what is no such file.

Owns opening (regular files only), decoding (UTF-8, and UTF-16 where a byte order mark says so), line ends and the
bound on a line's length. Does not know what stands in a line, and only reads.
"""

from __future__ import annotations

import codecs
import io
import os
import re
import shlex
import stat
from functools import partial
from typing import IO, TYPE_CHECKING

from asyncgen.errors import AsyncgenError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONGEST_LINE_BYTES = 64 * 1024 * 1024
BYTE_ORDER_MARK = codecs.BOM_UTF8

_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_UTF32_MARKS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_LOOKED_AT = 512  # bytes at the beginning that tell an encoding
_ZEROS = 0.8  # of every second byte, in UTF-16 of most alphabets

# A carriage return that is not half of "\r\n" ends a line too, as old Macintosh files have it.
_LONE_RETURN = re.compile(r"(?<=\r)(?!\n)(?!\Z)")


def bad_line(path: Path, line: int, what: str, *, help_text: str | None = None) -> AsyncgenError:
    """The error for line number `line` of `path`."""
    return AsyncgenError(f"{path}:{line}: {what}", help_text=help_text, code="bad_data")


def open_input(path: Path) -> IO[bytes]:
    """Open a file that the user named; links are followed, pipes and devices refused.

    Raises:
        UsageError: there is no such file, it is a directory, a pipe or a device, or it may not be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would wait for its other end
    except FileNotFoundError:
        raise UsageError(f"there is no file {path}", help_text="check the name; `ls` shows what is there") from None
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else "no file has such a name"
        raise UsageError(f"{path} cannot be read", cause=cause) from None
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise UsageError(f"{path} is a directory, not a file", help_text=f"name a file in {path}")
    raise UsageError(
        f"{path} is a pipe or a device, and a file is read more than once",
        help_text="write what comes out of it to a file, and name that",
    )


def is_utf16(path: Path) -> bool:
    """Whether a file begins with a byte order mark of UTF-16.

    Raises:
        UsageError: as `open_input` does.
        AsyncgenError: it is UTF-16 or UTF-32 in a form that has to be converted; tells the command.
    """
    with open_input(path) as file:
        beginning = file.read(_LOOKED_AT)
    if beginning.startswith(_UTF32_MARKS):
        raise _other_encoding(path, "UTF-32", "utf-32")
    if beginning.startswith(_UTF16_MARKS):
        return True
    for byte, encoding in ((1, "utf-16le"), (0, "utf-16be")):
        every_second = beginning[byte::2]
        if len(every_second) > 1 and every_second.count(0) > _ZEROS * len(every_second):
            raise _other_encoding(path, "UTF-16 without a byte order mark", encoding)
    return False


def _other_encoding(path: Path, found: str, encoding: str) -> AsyncgenError:
    return AsyncgenError(
        f"{path} is {found}, not UTF-8", help_text=f"convert a copy: {_conversion(path, encoding)}", code="bad_data"
    )


def _conversion(path: Path, encoding: str) -> str:
    return f"iconv -f {encoding} -t utf-8 {shlex.quote(str(path))} > copy{path.suffix}"


def raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Every line as UTF-8 bytes with its number from 1, its ending included.

    Raises:
        AsyncgenError: a line is longer than `LONGEST_LINE_BYTES`, or as `is_utf16` does.
        UsageError: as `open_input` does.
    """
    utf16 = is_utf16(path)
    with open_input(path) as file:
        lines = _utf16_lines(path, file) if utf16 else iter(partial(file.readline, LONGEST_LINE_BYTES + 1), b"")
        for number, line in enumerate(lines, 1):
            if len(line) > LONGEST_LINE_BYTES:
                raise bad_line(
                    path,
                    number,
                    f"the line is longer than {LONGEST_LINE_BYTES >> 20} MiB",
                    help_text="a line holds one row; check that the file has line breaks where they belong",
                )
            yield number, line


def _utf16_lines(path: Path, file: IO[bytes]) -> Iterator[bytes]:
    with io.TextIOWrapper(file, encoding="utf-16", newline="\n") as text:
        try:
            while line := text.readline(LONGEST_LINE_BYTES + 1):
                yield line.encode("utf-8")
        except UnicodeError:  # found a block ahead, so that the line is not known
            raise AsyncgenError(
                f"{path} is not UTF-16, though it begins as such a file does",
                help_text="save it again as UTF-8",
                code="bad_data",
            ) from None


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
            help_text=f"convert a copy: {_conversion(path, 'windows-1252')}",
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
        if "\r" not in text or (text.endswith("\r\n") and "\r" not in text[:-2]):
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
        help_text=f"save it as UTF-8 without one: tail -c +4 {shlex.quote(str(path))} > copy{path.suffix}",
    )
