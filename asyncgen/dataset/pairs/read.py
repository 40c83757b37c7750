"""Read a file of any supported format as a table of pairs, chosen by its extension, as the legacy tool did.

CSV and TSV follow the rules of that tool (pandas 1.5.3's `read_csv`, every cell as text): blank lines, short and long
rows, words that mean an empty cell, a first column without a header. Not reproduced: that reader's errors where a lone
carriage return, outside quotes, meets a blank or an empty cell.

JSON and JSONL are told apart by content, whatever the extension says; a JSON file has one of three shapes (a list of
objects, an object of lists, an object of objects). Two habits of the legacy tool are kept, because the bytes of the
result depend on them: a number's fraction is read to 15 digits and scaled by an inexact power of ten (the JSON reader
of pandas 1.5.3), and numbers become text after their column has one type, so that one missing cell turns `1` into "1.0"
and itself into "nan".
"""

from __future__ import annotations

import json
import math
from enum import Flag, auto
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from asyncgen.dataset.files.rows import not_read
from asyncgen.dataset.files.sheets import sheet_count, sheet_rows
from asyncgen.dataset.pairs.table import PairTable
from asyncgen.errors import AsyncgenError
from asyncgen.text_files import DelimitedError, bad_line, delimited_rows, open_input, text_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path


_LARGEST = 2**64


class Kind(Flag):
    """The types of values in a column."""

    NOTHING = 0
    TEXT = auto()
    INTEGER = auto()
    REAL = auto()
    NULL = auto()
    MISSING = auto()
    OTHER = auto()
    NEGATIVE = auto()
    UNSIGNED = auto()
    HUGE = auto()


class Absent:
    """Stands where an object has no such key."""


ABSENT: Final = Absent()
_DIGITS = 15
_INT64_MAX = 2**63 - 1
_UINT64_MAX = 2**64 - 1


def read_jsonl(path: Path) -> PairTable:
    """Read a file whose name says that each line is an object; one line alone is taken for a JSON file.

    Raises:
        AsyncgenError: a line is not a JSON object, or the one line is not a table.
    """
    lines = _scan(path)
    if lines.rows == 1:
        return _whole(path, found=("The file's name says JSONL, but it is one JSON document",), converts="JSON")
    return _line_table(path, lines)


def read_json(path: Path) -> PairTable:
    """Read a file whose name says that it is one document; several lines of objects are taken for JSONL.

    Raises:
        AsyncgenError: the file is neither.
    """
    try:
        lines = _scan(path)
    except NotAnObjectError:
        return _whole(path)
    if lines.rows == 1:
        return _whole(path)
    return _line_table(path, lines, found=("The file's name says JSON, but each line is an object",), converts="JSON")


class NotAnObjectError(AsyncgenError):
    """A line that is not a JSON object."""

    code = "bad_data"


class _Lines:
    """Result of a first pass over JSONL: number of rows, and the types of each column."""

    def __init__(self) -> None:
        self.rows = 0
        self._kinds: dict[str, Kind] = {}
        self._filled: dict[str, int] = {}

    def add(self, row: Mapping[str, Any]) -> None:
        self.rows += 1
        for name, value in row.items():
            self._kinds[name] = self._kinds.get(name, Kind.NOTHING) | kind_of(value)
            self._filled[name] = self._filled.get(name, 0) + 1

    def columns(self) -> dict[str, Kind]:
        """Name to kinds; a column that a row lacks has `Kind.MISSING` among them."""
        return {
            name: kinds if self._filled[name] == self.rows else kinds | Kind.MISSING
            for name, kinds in self._kinds.items()
        }


def _scan(path: Path) -> _Lines:
    lines = _Lines()
    for number, row in _objects(path):
        if isinstance(row, dict):
            lines.add(row)
        elif number == 1:
            lines.rows += 1  # a JSON document on one line
        else:
            raise _not_an_object(path, number, "it is not a JSON object")
    return lines


def _objects(path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in text_lines(path):
        text = line.strip()
        if not text:
            continue
        try:
            value = _decoder.decode(text)
        except (ValueError, RecursionError) as error:
            raise _not_an_object(path, number, f"it is not JSON: {error}") from None
        _refuse_unwritable(path, number, value)
        yield number, value


def _not_an_object(path: Path, number: int, what: str) -> NotAnObjectError:
    return NotAnObjectError(
        f"{path}:{number}: {what}",
        help_text='every line must be an object: {"prompt": "...", "completion": "..."}',
    )


def _refuse_unwritable(path: Path, number: int, value: Any) -> None:
    for cell in value.values() if isinstance(value, dict) else ():
        if isinstance(cell, str) and not cell.isascii() and _has_surrogate(cell):
            raise bad_line(path, number, "half of a surrogate pair (\\ud800 to \\udfff), which UTF-8 cannot encode")
        if type(cell) is int and not -_LARGEST // 2 <= cell < _LARGEST:
            raise bad_line(path, number, f"the number {str(cell)[:30]} needs more than 64 bits")


def _has_surrogate(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _line_table(path: Path, lines: _Lines, *, found: tuple[str, ...] = (), converts: str = "") -> PairTable:
    columns = lines.columns()
    readers = [(name, as_text(kinds)) for name, kinds in columns.items()]

    def cells() -> Iterator[list[str]]:
        for _, row in _objects(path):
            yield [text(row.get(name, ABSENT)) for name, text in readers]

    return PairTable(tuple(columns), cells, (*found, *_about_nothing(columns)), converts)


def _about_nothing(columns: Mapping[str, Kind]) -> tuple[str, ...]:
    """The message that the legacy tool writes words for null and missing values."""
    return tuple(
        f'WARNING: `{name}` is null or missing in some rows, which become the text "{_word(kinds)}", as the '
        "legacy tool does; remove these rows first if you do not want this"
        for name, kinds in columns.items()
        if name.lower() in {"prompt", "completion"} and kinds & (Kind.NULL | Kind.MISSING)
    )


def _word(kinds: Kind) -> str:
    words = {as_text(kinds)(value) for flag, value in ((Kind.NULL, None), (Kind.MISSING, ABSENT)) if kinds & flag}
    return '" or "'.join(sorted(words))


def _whole(path: Path, *, found: tuple[str, ...] = (), converts: str = "") -> PairTable:
    text = "".join(line for _, line in text_lines(path))
    try:
        document = _decoder.decode(text.strip())
    except (ValueError, RecursionError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        raise bad_line(path, line, f"no JSON: {error}") from None
    columns, numbered = _columns(path, document)
    for values in columns.values():
        _refuse_unwritable(path, 1, dict(enumerate(values)))
    kinds = {name: kinds_of(values) for name, values in columns.items()}
    texts: list[Sequence[str]] = [[*map(as_text(kinds[name]), values)] for name, values in columns.items()]
    return PairTable(
        columns=tuple(columns),
        cells=lambda: iter(zip(*texts, strict=True)),
        found=(*found, *_about_nothing(kinds)),
        converts=converts,
        numbered=numbered,
    )


def _columns(path: Path, document: Any) -> tuple[dict[str, list[Any]], bool]:
    """The document's columns, and whether its rows are labelled by their place."""
    if isinstance(document, list) and all(isinstance(row, dict) for row in document):
        names = dict.fromkeys(name for row in document for name in row)
        return {name: [row.get(name, ABSENT) for row in document] for name in names}, True
    if isinstance(document, dict):
        values = document.values()
        if values and all(isinstance(column, dict) for column in values):
            labels = dict.fromkeys(label for column in values for label in column)
            return {name: [column.get(label, ABSENT) for label in labels] for name, column in document.items()}, list(
                labels
            ) == [str(place) for place in range(len(labels))]
        if any(isinstance(column, list) for column in values):
            return _spread(path, document), True
    raise AsyncgenError(
        f"{path} is not a table",
        cause="it must be a list of objects, or an object whose values are lists of one length",
        help_text='such as [{"prompt": "...", "completion": "..."}, ...]',
        code="bad_data",
    )


def _spread(path: Path, document: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Lists of one length as columns; a single value beside them is the same in every row."""
    lengths = {len(column) for column in document.values() if isinstance(column, list)}
    if len(lengths) > 1 or any(isinstance(column, dict) for column in document.values()):
        raise AsyncgenError(
            f"{path} is not a table",
            cause=f"its columns differ in length: {', '.join(map(str, sorted(lengths)))}",
            code="bad_data",
        )
    [length] = lengths
    return {name: column if isinstance(column, list) else [column] * length for name, column in document.items()}


def read_number(text: str) -> float:
    """The legacy reader's value of a JSON number that has a fraction or an exponent."""
    mantissa, _, exponent = text.lower().partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = fraction[:_DIGITS]
    scaled = float(int(fraction or 0)) * float(f"1e-{len(fraction)}")
    value = abs(float(whole)) + scaled
    if exponent:
        value = value * _power(int(exponent))
    return -value if whole.startswith("-") else value


def _power(exponent: int) -> float:
    try:
        return math.pow(10.0, exponent)
    except OverflowError:
        return math.inf


def read_constant(name: str) -> float | None:
    """NaN and the infinities, which are not JSON but which the legacy tool took."""
    return None if name == "NaN" else float(name)


def kind_of(value: Any) -> Kind:
    """Which kind of cell a JSON value is."""
    if isinstance(value, str):
        return Kind.TEXT
    if value is None:
        return Kind.NULL
    if isinstance(value, Absent):
        return Kind.MISSING
    if isinstance(value, bool):
        return Kind.OTHER
    if isinstance(value, int):
        return Kind.INTEGER | _extent_of(value)
    return Kind.REAL if isinstance(value, float) else Kind.OTHER


def _extent_of(value: int) -> Kind:
    """Which machine type an integer fits."""
    if value < 0:
        return Kind.NEGATIVE if value >= -_INT64_MAX - 1 else Kind.HUGE
    if value <= _INT64_MAX:
        return Kind.NOTHING
    return Kind.UNSIGNED if value <= _UINT64_MAX else Kind.HUGE


def kinds_of(values: Iterable[Any]) -> Kind:
    """Every kind that occurs among the values."""
    seen = Kind.NOTHING
    for value in values:
        seen |= kind_of(value)
    return seen


def as_text(kinds: Kind) -> Callable[[Any], str]:
    """How the cells of a column in which `kinds` occur become text."""
    if kinds & (Kind.TEXT | Kind.OTHER | Kind.HUGE):
        return _object_text
    if Kind.UNSIGNED in kinds and Kind.NEGATIVE in kinds:
        return _object_text  # no machine type holds both, so that the cells stayed as they were
    if kinds & (Kind.INTEGER | Kind.REAL):
        return _real_text if kinds & (Kind.REAL | Kind.NULL | Kind.MISSING) else str
    return _object_text if kinds == Kind.NULL else _real_text


def _object_text(value: Any) -> str:
    return "nan" if isinstance(value, Absent) else str(value)


def _real_text(value: Any) -> str:
    return "nan" if value is None or isinstance(value, Absent) else str(float(value))


_decoder = json.JSONDecoder(strict=False, parse_float=read_number, parse_constant=read_constant)


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
        UsageError: the file is missing, or its extension is unknown.
        AsyncgenError: the content does not match the extension; names the line.
    """
    open_input(path).close()
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise not_read(path, tuple(_READERS))
    return reader(path)


def read_delimited(path: Path, delimiter: str) -> PairTable:
    """Read a file whose first line names the columns.

    Raises:
        AsyncgenError: the file is empty, not UTF-8, or has invalid quotes or rows; names the line.
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
        f"line {line} of {path} has {unnamed + len(columns)} cells, and the header names {len(columns)}. Most "
        f"likely, cells that contain a delimiter are not in double quotes; otherwise the first {unnamed} are row "
        f"labels, and `{columns[0]}` is the next one"
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
        AsyncgenError: the file is not a workbook, or its first sheet is empty.
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

    found = ("By its extension, the file is text: each line is a completion without a prompt",)
    return PairTable(("prompt", "completion"), cells, found, "TXT")


_READERS: dict[str, Callable[[Path], PairTable]] = {
    ".csv": partial(read_delimited, delimiter=","),
    ".tsv": partial(read_delimited, delimiter="\t"),
    ".xlsx": read_xlsx,
    ".txt": _read_text,
    ".json": read_json,
    ".jsonl": read_jsonl,
}
