"""Users' text files as lines and cells: encodings, byte order marks, line ends, delimiters.

One line reader and one reader of delimited cells, each with a size limit. The meaning of cells is left to the callers.
"""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
import shlex
import stat
from functools import partial
from typing import IO, TYPE_CHECKING, NamedTuple

from asyncgen.errors import AsyncgenError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
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
    """Return the error for a line of a file, to be raised.

    Args:
        path: the file.
        line: line number, from 1.
        what: what is wrong with it.
        help_text: the next step; None if there is none.
    """
    return AsyncgenError(f"{path}:{line}: {what}", help_text=help_text, code="bad_data")


def open_input(path: Path) -> IO[bytes]:
    """Open a file that the user named. Links are followed; pipes and devices are refused.

    Args:
        path: the file.

    Returns:
        The open file.

    Raises:
        UsageError: it is missing, is not a regular file, or cannot be read.
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


def read_input(path: Path, *, most_bytes: int) -> str:
    """Read a whole file that the user named as text, without a byte order mark.

    Args:
        path: the file, in UTF-8.
        most_bytes: maximum size.

    Returns:
        Its content.

    Raises:
        UsageError: as `open_input`; or it is too large, or not UTF-8.
    """
    with open_input(path) as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise UsageError(f"{path} is larger than {most_bytes >> 20} MiB")
    if content.startswith(_UTF16_MARKS):
        raise UsageError(f"{path} is UTF-16, expected UTF-8", help_text="save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}:{line}: not UTF-8", help_text="save it as UTF-8") from None


def is_utf16(path: Path) -> bool:
    """Check whether a file begins with a byte order mark of UTF-16.

    Args:
        path: the file.

    Returns:
        Whether it does.

    Raises:
        UsageError: as `open_input`.
        AsyncgenError: it is UTF-16 or UTF-32 in a form that must be converted; the help is the command.
    """
    with open_input(path) as file:
        beginning = file.read(_LOOKED_AT)
    if beginning.startswith(_UTF32_MARKS):
        raise _other_encoding(path, "UTF-32", "utf-32")
    if beginning.startswith(_UTF16_MARKS):
        return True
    for byte, encoding in ((1, "utf-16le"), (0, "utf-16be")):
        every_second = beginning[byte::2]
        if len(every_second) > 1 and any(beginning) and every_second.count(0) > _ZEROS * len(every_second):
            raise _other_encoding(path, "UTF-16 without a byte order mark", encoding)
    return False


def _other_encoding(path: Path, found: str, encoding: str) -> AsyncgenError:
    return AsyncgenError(
        f"{path} is {found}, not UTF-8", help_text=f"convert a copy: {_conversion(path, encoding)}", code="bad_data"
    )


def _conversion(path: Path, encoding: str) -> str:
    return f"iconv -f {encoding} -t utf-8 {shlex.quote(str(path))} > copy{path.suffix}"


def raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Read a file line by line as UTF-8 bytes. UTF-16 with a byte order mark is converted.

    Args:
        path: the file.

    Yields:
        Line number, from 1, and the line with its ending.

    Raises:
        UsageError: as `open_input`.
        AsyncgenError: a line is longer than `LONGEST_LINE_BYTES`, or as `is_utf16`.
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
        except UnicodeError:  # the decoder reads a block ahead, so the line is unknown
            raise AsyncgenError(
                f"{path} begins like UTF-16, but is not valid UTF-16",
                help_text="save it again as UTF-8",
                code="bad_data",
            ) from None


def decode(path: Path, number: int, line: bytes) -> str:
    """Decode a line.

    Args:
        path: the file, for the message.
        number: line number, for the message.
        line: the bytes.

    Returns:
        The text.

    Raises:
        AsyncgenError: the bytes are not UTF-8; names the column.
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
    """Read a file line by line. Lines end in LF, CR LF or CR.

    Args:
        path: the file.
        byte_order_mark: accept and remove a byte order mark; False to refuse it.

    Yields:
        Line number, from 1, and the line with its ending.

    Raises:
        UsageError: as `open_input`.
        AsyncgenError: not UTF-8, a line that is too long, or an unwanted byte order mark.
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


# Delimiters in the order in which they are tried if the usual one does not fit.
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}


class DelimitedError(ValueError):
    """A row that cannot be read; `line` is where it begins."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line
        self.what = what


class DelimitedRow(NamedTuple):
    """A row of a delimited file.

    Attributes:
        line: on which it begins.
        last_line: on which it ends.
        cells: as they are, without their quotes; none where the line is empty.
        bare: its last line has no quote.
    """

    line: int
    last_line: int
    cells: list[str]
    bare: bool


def delimited_rows(lines: Iterable[tuple[int, str]], delimiter: str) -> Iterator[DelimitedRow]:
    """Parse delimited rows.

    Args:
        lines: line numbers and lines with their endings, as `text_lines` yields them.
        delimiter: one character.

    Yields:
        The rows, with the number of their first line. A cell may be as long as a line.

    Raises:
        DelimitedError: a quote is not closed, or encloses more than a cell may contain.
    """
    source = _Lines(lines)
    csv.field_size_limit(LONGEST_LINE_BYTES)  # the default is 128 KiB, and applies to the whole process
    reader = csv.reader(source, delimiter=delimiter)
    while True:
        begins = source.number + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DelimitedError(begins, _delimited_problem(error)) from None
        if source.ended:
            if begins <= source.number:
                raise DelimitedError(begins, "a quote opened in this row is not closed before the file ends")
            return
        yield DelimitedRow(begins, source.number, cells, source.bare)


def _delimited_problem(error: csv.Error) -> str:
    if "field limit" in str(error):
        return f"a cell is longer than {LONGEST_LINE_BYTES >> 20} MiB; most likely a quote is not closed"
    return "the row is not delimited text"


class _Lines:
    """Lines for `csv.reader`; remembers what the reader does not report.

    One line more than there are is handed out. It becomes a row of its own, begun behind the last line, unless a
    quote is open.
    """

    def __init__(self, lines: Iterable[tuple[int, str]]) -> None:
        self.number = 0
        self.bare = True
        self.ended = False
        self._lines = iter(lines)

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if self.ended:
            raise StopIteration
        numbered = next(self._lines, None)
        if numbered is None:
            self.ended = True
            return "end"
        self.number, line = numbered
        self.bare = '"' not in line
        return line


def declared_delimiter(line: str) -> str:
    """Read the delimiter from a first line `sep=;`, as spreadsheets write it.

    Args:
        line: the first line of a file.

    Returns:
        The delimiter; "" if it is another line.
    """
    word, _, delimiter = line.rstrip("\r\n").strip('"').partition("=")
    return delimiter if word.lower() == "sep" and delimiter in DELIMITERS else ""


def delimiter_of(header: str, usual: str, is_header: Callable[[Sequence[str]], bool]) -> str:
    """Find the delimiter of a file by its first line.

    Args:
        header: the line.
        usual: the delimiter that the file's suffix suggests; used if no other one makes a header of the line.
        is_header: whether cells, stripped of blanks, are known column names.

    Returns:
        The delimiter.
    """
    for delimiter in (usual, *DELIMITERS):
        rows = csv.reader([header], delimiter=delimiter)
        try:
            cells = next(rows, [])
        except csv.Error:
            continue
        if is_header([cell.strip() for cell in cells]):
            return delimiter
    return usual
