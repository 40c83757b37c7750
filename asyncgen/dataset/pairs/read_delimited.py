"""CSV and TSV files as tables.

Owns the rules by which the legacy tool read them (those of pandas 1.5.3's `read_csv`, every cell as text):
quotes, blank lines, short and long rows, words that mean an empty cell, a first column that the header does
not name. Not repeated: that reader's slips where a carriage return alone, outside quotes, meets a blank
or an empty cell.
"""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from asyncgen.dataset.pairs.table import Table
from asyncgen.errors import AsyncgenError
from asyncgen.text_lines import LONGEST_LINE_BYTES, bad_line, text_lines

if TYPE_CHECKING:
    from collections.abc import Iterator
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


def read_delimited(path: Path, delimiter: str) -> Table:
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

    def cells() -> Iterator[list[str]]:
        return _body(path, delimiter, unnamed, len(columns))

    return Table(
        columns=columns,
        cells=cells,
        found=(f"By its extension, the file is {kind}", *_about_unnamed(unnamed, columns)),
        converts=kind,
        empty_words=EMPTY_WORDS,
        numbered=not unnamed,
    )


def _about_unnamed(unnamed: int, columns: tuple[str, ...]) -> tuple[str, ...]:
    if not unnamed:
        return ()
    named = f"{'is' if unnamed == 1 else 'are'} taken for row labels and left out"
    warning = (
        f"WARNING: rows have {unnamed} more cell{'s' * (unnamed > 1)} than the header has names: the first "
        f"{named}, and `{columns[0]}` is the next one (a delimiter at the end of each row does this too)"
    )
    return (warning,)


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
                help_text="put cells that contain the delimiter, a quote or a line break into double quotes",
            )
        row.extend([""] * missing)
        yield row[unnamed:] if unnamed else row


def _rows(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Every row that is not blank, with the number of the line on which it ends."""
    blanks = " " if delimiter == "\t" else " \t"
    source = _Lines(path)
    csv.field_size_limit(LONGEST_LINE_BYTES)  # the module's bound, which is the process's, is 128 KiB
    for row in _read(csv.reader(source, delimiter=delimiter), source):
        if row and not (len(row) == 1 and not row[0].strip(blanks) and source.bare):
            yield source.number, [cell.split("\0", 1)[0] for cell in row] if source.has_nul else row


def _read(reader: Iterator[list[str]], source: _Lines) -> Iterator[list[str]]:
    while True:
        source.row_began = source.number + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise bad_line(source.path, source.row_began, f"the row cannot be read: {error}") from None
        if not source.ended:
            yield row
            continue
        if source.row_began <= source.number:
            raise bad_line(
                source.path, source.row_began, "a quote opened in this row is not closed before the file ends"
            )
        return


class _Lines:
    """The lines for `csv.reader`, which remembers what that does not tell.

    One line more than the file has is handed out. It becomes a row of its own, begun behind the last line,
    unless a quote is open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = 0
        self.row_began = 1
        self.bare = True
        self.has_nul = False
        self.ended = False
        self._lines = text_lines(path, byte_order_mark=True)

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
        self.has_nul = self.has_nul or "\0" in line
        return line
