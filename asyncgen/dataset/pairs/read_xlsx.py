"""Excel files as tables.

Owns which cells of the first sheet are rows, and how a cell becomes text. openpyxl (the extra `xlsx`) does
the reading; it is imported here only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asyncgen.dataset.pairs.read_delimited import EMPTY_WORDS
from asyncgen.dataset.pairs.table import Table
from asyncgen.errors import AsyncgenError, UsageError
from asyncgen.text_lines import open_input

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType


def read_xlsx(path: Path) -> Table:
    """Read the first sheet; its first row names the columns.

    Raises:
        AsyncgenError: the file is no workbook, or its first sheet is empty.
        UsageError: openpyxl is not installed.
    """
    openpyxl = _openpyxl()
    open_input(path).close()
    sheets = len(_workbook(openpyxl, path).sheetnames)
    width, header = 0, None
    for row in _rows(openpyxl, path):
        header = row if header is None else header
        width = max(width, len(row))
    if header is None:
        raise AsyncgenError(f"the first sheet of {path} is empty", code="bad_data")
    columns = tuple(name or f"Unnamed: {place}" for place, name in enumerate(_padded(header, width)))

    def cells() -> Iterator[list[str]]:
        rows = _rows(openpyxl, path)
        next(rows)
        for row in rows:
            yield _padded(row, width)

    found = ["By its extension, the file is an Excel workbook"]
    if sheets > 1:
        found.append(f"WARNING: only the first of its {sheets} sheets is read")
    return Table(columns, cells, tuple(found), "XLSX", EMPTY_WORDS)


def _openpyxl() -> ModuleType:
    try:
        import openpyxl  # noqa: PLC0415 - an extra, and slow to import
    except ImportError:
        raise UsageError(
            "reading .xlsx needs openpyxl, which is not installed",
            help_text="pip install 'asyncgen[xlsx]', or save the sheet as .csv",
        ) from None
    module: ModuleType = openpyxl
    return module


def _workbook(openpyxl: ModuleType, path: Path) -> Any:
    try:
        return openpyxl.load_workbook(path, read_only=True, data_only=True, keep_links=False)
    except Exception as error:  # noqa: BLE001 - openpyxl has no error of its own for "no workbook"
        raise AsyncgenError(
            f"{path} is no Excel workbook",
            cause=str(error) or type(error).__name__,
            help_text="save it again as .xlsx, or as .csv (UTF-8)",
            code="bad_data",
        ) from None


def _rows(openpyxl: ModuleType, path: Path) -> Iterator[list[str]]:
    """Every row up to the last that has something in it, without the blank cells at its end."""
    workbook = _workbook(openpyxl, path)
    try:
        sheet = workbook.worksheets[0]
        sheet.reset_dimensions()
        blank = 0
        for row in sheet.iter_rows():
            texts = [_text(cell) for cell in row]
            while texts and not texts[-1]:
                texts.pop()
            if not texts:
                blank += 1
                continue
            yield from ([] for _ in range(blank))
            blank = 0
            yield texts
    finally:
        workbook.close()


def _padded(row: list[str], width: int) -> list[str]:
    return row + [""] * (width - len(row))


def _text(cell: Any) -> str:
    """A cell as the legacy tool read it: whole numbers without a fraction, errors as nothing."""
    value = cell.value
    if value is None or cell.data_type == "e":
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
