"""Rows of delimited text (CSV, TSV), each with the lines it stands on: the one reader of such files, with one limit.

Owns quotes, rows over several lines, and the choice of the delimiter. Does not know what a header or a cell means:
`job.tables` and `dataset` ask more of their rows, each in its own way.
"""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, NamedTuple

from asyncgen.text_lines import LONGEST_LINE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

# The likely ones, in the order in which they are tried when the usual one does not fit.
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}


class DelimitedError(ValueError):
    """A row that cannot be read; `line` is where it begins."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line
        self.what = what


class DelimitedRow(NamedTuple):
    """A row.

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
    """The rows of numbered lines; a cell may hold as many bytes as a line may.

    Args:
        lines: with their ends, as `text_lines` has them.
        delimiter: one character.

    Raises:
        DelimitedError: a quote is not closed, or takes in more than a cell may hold.
    """
    source = _Lines(lines)
    csv.field_size_limit(LONGEST_LINE_BYTES)  # the module's own bound is 128 KiB; it is the whole process's
    reader = csv.reader(source, delimiter=delimiter)
    while True:
        begins = source.number + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DelimitedError(begins, _in_our_words(error)) from None
        if source.ended:
            if begins <= source.number:
                raise DelimitedError(begins, "a quote opened in this row is not closed before the file ends")
            return
        yield DelimitedRow(begins, source.number, cells, source.bare)


def _in_our_words(error: csv.Error) -> str:
    if "field limit" in str(error):
        return f"a cell is longer than {LONGEST_LINE_BYTES >> 20} MiB; most likely a quote is not closed"
    return "the row is not delimited text"


class _Lines:
    """The lines for `csv.reader`, which remembers what that does not tell.

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
    """The delimiter that a first line `sep=;` tells, as spreadsheets write and read it; "" where it is another line."""
    word, _, delimiter = line.rstrip("\r\n").strip('"').partition("=")
    return delimiter if word.lower() == "sep" and delimiter in DELIMITERS else ""


def delimiter_of(header: str, usual: str, is_header: Callable[[Sequence[str]], bool]) -> str:
    """The delimiter of a file by its first line.

    Args:
        header: the line.
        usual: the one that the file's name tells; taken where no other one makes a header of the line.
        is_header: whether cells, without blanks around them, are names that are looked for.
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
