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
    """A value that has no form as text; says why in our words."""


# A string, or the exponent of a number that has no sign.
_UNSIGNED_EXPONENT = re.compile(r'"(?:[^"\\]|\\.)*"|(?<=\de)(?=\d)')


def stable_json(value: Any, *, sort_keys: bool = False) -> str:
    """A value as compact JSON text, the same with every release of the library: keys of rows are made of it.

    Releases of orjson before 3.12 write 1e22, later ones 1e+22.

    Raises:
        TypeError: the value holds what orjson does not encode, such as whole numbers beyond 64 bits.
    """
    text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS if sort_keys else None).decode()
    return _UNSIGNED_EXPONENT.sub(lambda found: found[0] or "+", text) if "e" in text else text


def json_text(value: Any) -> str:
    """A value as compact JSON text, in the order of its keys.

    Raises:
        NoTextError: it is nested too deeply, or holds what JSON has no word for.
    """
    try:
        return stable_json(value)
    except TypeError:  # whole numbers beyond 64 bits, too
        pass
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except RecursionError:
        raise NoTextError("nested too deeply") from None
    except (TypeError, ValueError):
        raise NoTextError("not a value that JSON has") from None


def value_text(value: Any) -> str:
    """A value as a prompt shows it: text as it is, a number as JSON writes it, anything else as JSON text.

    Raises:
        NoTextError: a number is not finite or too long, or the value is nested too deeply.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, float) and not math.isfinite(value):
        raise NoTextError(f"{value} is not a number that can be written")
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return str(value)
        except ValueError:  # Python does not convert them, since it takes quadratic time
            raise NoTextError("a number of more than 4,300 digits") from None
    return json_text(value)


class TableError(ValueError):
    """A file that cannot be read as rows.

    Args:
        message: what is wrong, without the file's name.
        line: 1-based, of the file's lines; None where it is not known.
        row: 1-based, of the rows of a file without lines.
    """

    def __init__(self, message: str, line: int | None = None, row: int | None = None) -> None:
        super().__init__(message if row is None else f"row {row:,}: {message}")
        self.line = line


def cell_text(value: Any, column: str) -> str | None:
    """A cell as text; None where it is empty.

    Text is taken as it is, numbers as JSON writes them, dates and times in ISO's form, lists and tables as JSON text.

    Raises:
        TableError: it is a number that cannot be written, or binary data.
    """
    if isinstance(value, str) or value is None:
        return value
    try:
        return value_text(plain(value))
    except NoTextError as error:
        raise TableError(f"column {column!r}: {error}") from None


def needed_cell(value: Any, *, column: str, blanks: bool) -> str:
    """The text of a cell that has to be there, unless `blanks` may be; raises as `cell_text` does."""
    text = cell_text(value, column)
    if text is None and not blanks:
        raise TableError(f"column {column!r} is empty")
    return text or ""


def spare_cell(value: Any, *, column: str, blanks: bool) -> str:  # noqa: ARG001 - called as `needed_cell` is
    """The text of a cell that nothing depends on: "" where it has none."""
    try:
        return cell_text(value, column) or ""
    except TableError:
        return ""


def plain(value: Any) -> Any:
    """A value in the types that JSON has, as far as it has a form in them.

    Raises:
        NoTextError: binary data.
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
