"""Read a file of any supported format as a table, chosen by its extension; delimited files, workbooks and text.

CSV and TSV follow the rules of the legacy tool (pandas 1.5.3's `read_csv`, every cell as text): blank lines, short and
long rows, words that mean an empty cell, a first column without a header. Not reproduced: that reader's errors where a
lone carriage return, outside quotes, meets a blank or an empty cell. JSON is left to `read_json`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from asyncgen.dataset.files.rows import not_read
from asyncgen.dataset.files.sheets import sheet_count, sheet_rows
from asyncgen.dataset.pairs.read_json import read_json, read_jsonl
from asyncgen.dataset.pairs.table import PairTable
from asyncgen.errors import AsyncgenError
from asyncgen.text_files import DelimitedError, bad_line, delimited_rows, open_input, text_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# https://pandas.pydata.org/pandas-docs/version/1.5/reference/api/pandas.read_csv.html, `na_values`
EMPTY_WORDS = frozenset(
    [
        "#N/A",
        "#N/A N/A",
        "#NA",
        "-1.#IND",
        "-1.#QNAN",
        "-NaN",
        "-nan",
        "1.#IND",
        "1.#QNAN",
        "<NA>",
        "N/A",
        "NA",
        "NULL",
        "NaN",
        "n/a",
        "nan",
        "null",
    ]
)
_QUOTE_HELP = "put cells that contain the delimiter, a quote or a line break into double quotes"


def read_table(path: Path) -> PairTable:
    """Read a file of prompts and completions.

    Raises:
        UsageError: no such file, or an extension that is none of the known ones.
        AsyncgenError: the file is not what its extension says; tells the line.
    """
    open_input(path).close()
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise not_read(path, tuple(_READERS))
    return reader(path)


def read_delimited(path: Path, delimiter: str) -> PairTable:
    """Read a file whose first line names the columns.

    Raises:
        AsyncgenError: the file is empty, not UTF-8, or its quotes or rows do not come out; tells the line.
    """
    kind = "TSV" if delimiter == "\t" else "CSV"
    rows = _rows(path, delimiter)
    header = next(rows, None)
    if header is None:
        raise AsyncgenError(f"{path} is empty", help_text="its first line must name the columns: prompt,completion")
    first = next(rows, None)
    unnamed = max(len(first[1]) - len(header[1]), 0) if first else 0
    columns = tuple(header[1])
    return PairTable(
        columns=columns,
        cells=lambda: _body(path, delimiter, unnamed, len(columns)),
        found=(f"By its extension, the file is {kind}",),
        converts=kind,
        empty_words=EMPTY_WORDS,
        numbered=not unnamed,
        shifted=_about_unnamed(path, unnamed, columns, first[0]) if unnamed and first and columns[0] else "",
    )


def _about_unnamed(path: Path, unnamed: int, columns: tuple[str, ...], line: int) -> str:
    return (
        f"line {line} of {path} has {unnamed + len(columns)} cells, and the header names {len(columns)}. Most likely "
        f"cells that contain a delimiter are not in double quotes; else the first {unnamed} would be row labels, and "
        f"`{columns[0]}` the next one"
    )


def _body(path: Path, delimiter: str, unnamed: int, width: int) -> Iterator[list[str]]:
    rows = _rows(path, delimiter)
    next(rows)
    for number, row in rows:
        missing = unnamed + width - len(row)
        if missing < 0:
            raise bad_line(
                path,
                number,
                f"the row has {len(row)} cells, and the rows before it at most {unnamed + width}",
                help_text=_QUOTE_HELP,
            )
        row.extend([""] * missing)
        yield row[unnamed:] if unnamed else row


def _rows(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Every row that is not blank, with the number of the line on which it ends; a NUL ends a cell."""
    blanks = " " if delimiter == "\t" else " \t"
    try:
        for row in delimited_rows(text_lines(path, byte_order_mark=True), delimiter):
            cells = row.cells
            if cells and not (len(cells) == 1 and not cells[0].strip(blanks) and row.bare):
                has_nul = any("\0" in cell for cell in cells)
                yield row.last_line, [cell.split("\0", 1)[0] for cell in cells] if has_nul else cells
    except DelimitedError as error:
        raise bad_line(path, error.line, error.what, help_text=_QUOTE_HELP) from None


def read_xlsx(path: Path) -> PairTable:
    """Read the first sheet; its first row names the columns.

    Raises:
        AsyncgenError: the file is no workbook, or its first sheet is empty.
        UsageError: openpyxl is not installed.
    """
    sheets = sheet_count(path)
    width, header = 0, None
    for row in sheet_rows(path, _cell_text):
        header = row if header is None else header
        width = max(width, len(row))
    if header is None:
        raise AsyncgenError(f"the first sheet of {path} is empty", code="bad_data")
    columns = tuple(name or f"Unnamed: {place}" for place, name in enumerate(_padded(header, width)))

    def cells() -> Iterator[list[str]]:
        rows = sheet_rows(path, _cell_text)
        next(rows)
        return (_padded(row, width) for row in rows)

    found = ["By its extension, the file is an Excel workbook"]
    if sheets > 1:
        found.append(f"WARNING: only the first of its {sheets} sheets is read")
    return PairTable(columns, cells, tuple(found), "XLSX", EMPTY_WORDS)


def _padded(row: list[str], width: int) -> list[str]:
    return row + [""] * (width - len(row))


def _cell_text(cell: Any) -> str:
    """A cell as the legacy tool read it: whole numbers without a fraction, errors as nothing."""
    value = cell.value
    if value is None or cell.data_type == "e":
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _read_text(path: Path) -> PairTable:
    def cells() -> Iterator[tuple[str, str]]:
        line = "\n"
        for _, line in text_lines(path):
            yield "", line.rstrip("\r\n")
        if line.endswith(("\n", "\r")):
            yield "", ""  # what follows the last line's end is a row to the legacy tool, and an empty one

    found = ("By its extension, the file is text: each line is taken for a completion without a prompt",)
    return PairTable(("prompt", "completion"), cells, found, "TXT")


_READERS: dict[str, Callable[[Path], PairTable]] = {
    ".csv": partial(read_delimited, delimiter=","),
    ".tsv": partial(read_delimited, delimiter="\t"),
    ".xlsx": read_xlsx,
    ".txt": _read_text,
    ".json": read_json,
    ".jsonl": read_jsonl,
}
