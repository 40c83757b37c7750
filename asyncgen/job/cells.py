"""Read the text files and table cells that a user gives, and convert values to text for prompts.

Opens only regular files (a pipe would block, a device never ends), accepts every kind of line end, and reports text
that is not UTF-8. A value becomes text unchanged, a number with all its digits, anything else JSON; one that cannot be
converted is a `TableError` that names the column, without Python terms.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import re
import stat
from datetime import date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader
    from pathlib import Path


class NoTextError(ValueError):
    """A value that cannot be converted to text. The message says why, without Python terms."""


# A string, or the exponent of a number without a sign.
_UNSIGNED_EXPONENT = re.compile(r'"(?:[^"\\]|\\.)*"|(?<=\de)(?=\d)')


def stable_json(value: Any, *, sort_keys: bool = False) -> str:
    """Encode a value as compact JSON, the same with every release of the library: keys of rows are hashes of it.

    Releases of orjson before 3.12 write 1e22, later ones 1e+22.

    Args:
        value: decoded JSON.
        sort_keys: sort the keys of objects.

    Returns:
        The JSON text.

    Raises:
        TypeError: orjson does not encode the value, such as an integer beyond 64 bits.
    """
    text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS if sort_keys else None).decode()
    return _UNSIGNED_EXPONENT.sub(lambda found: found[0] or "+", text) if "e" in text else text


def json_text(value: Any) -> str:
    """Encode a value as compact JSON, with keys in their order.

    Args:
        value: decoded JSON.

    Returns:
        The JSON text.

    Raises:
        NoTextError: it is nested too deeply, or contains something that JSON cannot represent.
    """
    try:
        return stable_json(value)
    except TypeError:  # includes integers beyond 64 bits
        pass
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except RecursionError:
        raise NoTextError("nested too deeply") from None
    except (TypeError, ValueError):
        raise NoTextError("not a value that JSON has") from None


def value_text(value: Any) -> str:
    """Convert a value to text for a prompt: text unchanged, a number as in JSON, anything else as JSON.

    Args:
        value: a value of a job file, a table or an answer.

    Returns:
        The text.

    Raises:
        NoTextError: a number is not finite or too long, or the value is nested too deeply.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, float) and not math.isfinite(value):
        raise NoTextError(f"{value} is not a valid number")
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return str(value)
        except ValueError:  # Python refuses very long integers, which take quadratic time
            raise NoTextError("a number of more than 4,300 digits") from None
    return json_text(value)


class TableError(ValueError):
    """A file that cannot be read as rows.

    Args:
        message: what is wrong, without the file's name.
        line: line number, from 1; None if unknown.
        row: row number, from 1, in a file without lines; None if unknown.
    """

    def __init__(self, message: str, line: int | None = None, row: int | None = None) -> None:
        super().__init__(message if row is None else f"row {row:,}: {message}")
        self.line = line


def cell_text(value: Any, column: str) -> str | None:
    """Convert a cell to text.

    Text is unchanged, numbers are as in JSON, dates and times in ISO format, lists and tables as JSON.

    Args:
        value: of the cell.
        column: name of its column, for the message.

    Returns:
        The text; None if the cell is empty.

    Raises:
        TableError: it is a number that cannot be written, or binary data.
    """
    if isinstance(value, str) or value is None:
        return value
    try:
        return value_text(plain(value))
    except NoTextError as error:
        raise TableError(f"column {column!r}: {error}") from None


def required_cell(value: Any, *, column: str, blanks: bool) -> str:
    """Convert a required cell to text.

    Args:
        value: of the cell.
        column: name of its column, for the message.
        blanks: accept an empty cell as "".

    Returns:
        The text.

    Raises:
        TableError: the cell is empty, or cannot be converted.
    """
    text = cell_text(value, column)
    if text is None and not blanks:
        raise TableError(f"column {column!r} is empty")
    return text or ""


def optional_cell(value: Any, *, column: str, blanks: bool) -> str:  # noqa: ARG001 - called as `required_cell` is
    """Convert a cell that no template uses to text; "" if that is impossible."""
    try:
        return cell_text(value, column) or ""
    except TableError:
        return ""


def plain(value: Any) -> Any:
    """Convert a value to the types of JSON, as far as they can represent it.

    Args:
        value: of a table.

    Returns:
        The converted value.

    Raises:
        NoTextError: it is binary data.
    """
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() and value.is_finite() else _real(value)
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, bytes):
        raise NoTextError("binary data, expected text or a number")
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)


def _real(value: Decimal) -> str | float:
    return str(value) if value.is_finite() else float(value)


LONGEST_LINE_BYTES = 64 * 1024 * 1024
_BLOCK_BYTES = 256 * 1024
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_UTF_32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)  # the first begins like UTF-16
_ZEROS = 0.8  # of every second byte, in UTF-16 of most alphabets


def open_file(path: Path) -> BufferedReader:
    """Open a regular file, or a link to one.

    Args:
        path: the file.

    Returns:
        The open file.

    Raises:
        TableError: it is a folder, a pipe or a device, or the name is invalid.
        OSError: it is missing or cannot be read.
    """
    try:
        # Without O_NONBLOCK, opening a pipe would wait for its other end forever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError:
        raise TableError("not a valid file name: it contains a NUL character") from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise TableError(f"{'a folder' if stat.S_ISDIR(mode) else 'a pipe or a device'}, expected a file")
    return os.fdopen(descriptor, "rb")


def read_text(path: Path, *, most_bytes: int = LONGEST_LINE_BYTES) -> str:
    """Read a whole file as text, without a byte order mark.

    Args:
        path: the file, in UTF-8.
        most_bytes: maximum size.

    Returns:
        Its content.

    Raises:
        TableError: it is too large, not UTF-8, or not a regular file.
        OSError: as `open_file`.
    """
    with open_file(path) as handle:
        content = handle.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise TableError(f"larger than {most_bytes >> 20} MiB")
    return decoded(content, 1)


def decoded(raw: bytes, number: int) -> str:
    """Decode UTF-8, and remove a byte order mark from line 1.

    Args:
        raw: one line, or several.
        number: line number of the first one.

    Returns:
        The text.

    Raises:
        TableError: the bytes are not UTF-8; names the line.
    """
    if number == 1 and raw.startswith(_UTF_32):
        raise TableError("UTF-32, expected UTF-8: save it as UTF-8", 1)
    if number == 1 and (raw.startswith(_UTF_16) or _has_utf16_zeros(raw)):
        raise TableError("UTF-16, expected UTF-8: save it as UTF-8", 1)
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line = number + len((before + b".").splitlines()) - 1
        column = len(before) - max(before.rfind(b"\n"), before.rfind(b"\r"))
        text = f"not UTF-8 at byte {column} of the line ({raw[error.start]:#04x}): save it as UTF-8"
        raise TableError(text, line) from None


def _has_utf16_zeros(raw: bytes) -> bool:
    """Whether nearly every second byte is zero, as UTF-16 has most letters; such bytes are valid UTF-8, too."""
    halves = raw[:512:2], raw[1:512:2]
    return any(raw[:512]) and any(len(half) > 1 and half.count(0) > _ZEROS * len(half) for half in halves)


def raw_lines(handle: BufferedReader) -> Iterator[tuple[int, bytes]]:
    r"""Split a file into lines that end in "\n", "\r\n" or "\r".

    Args:
        handle: the open file.

    Yields:
        Offset at which a line begins, and the line with its end.

    Raises:
        TableError: a line is longer than `LONGEST_LINE_BYTES`.
    """
    offset, rest = handle.tell(), b""
    while block := handle.read(_BLOCK_BYTES):
        lines = (rest + block).splitlines(keepends=True)
        rest = b"" if lines[-1].endswith(b"\n") else lines.pop()  # a trailing "\r" may be half of "\r\n"
        for line in lines:
            yield offset, line
            offset += len(line)
        if len(rest) > LONGEST_LINE_BYTES:
            raise TableError(f"a line is longer than {LONGEST_LINE_BYTES >> 20} MiB")
    if rest:
        yield offset, rest


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Read a file line by line.

    Args:
        path: the file, in UTF-8.

    Yields:
        Line number, from 1, and the line without its end.

    Raises:
        TableError: as `open_file`, `raw_lines` and `decoded`.
        OSError: as `open_file`.
    """
    with open_file(path) as handle:
        for number, (_, raw) in enumerate(raw_lines(handle), 1):
            yield number, decoded(raw, number).rstrip("\r\n")
