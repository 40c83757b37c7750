"""Convert table cells to text for prompts.

A value that cannot be converted is a `TableError` that names the column, without Python terms.
"""

from __future__ import annotations

from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

from asyncgen.job.json_values import NoTextError, value_text


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
