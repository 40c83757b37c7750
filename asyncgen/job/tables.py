"""Files of values that a job names: .txt, .csv, .jsonl and .parquet, read lazily.

Owns where a row stands in a file and how a cell becomes text. Keeps eight bytes a row, never the rows. Does not know
what the values are for. What is wrong in a file is a `TableError` with its line.

Parquet tables, through pyarrow (the extra `parquet`).

Owns the reading of columns as text, a row group at a time. Does not know what the values are for.
"""

from __future__ import annotations

import csv
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO, Protocol

import orjson

from asyncgen.errors import UsageError
from asyncgen.json_text import NotJsonError, decode_loosely


class TableError(ValueError):
    """A file that cannot be read as a table; `line` is 1-based where it is known."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


class Table(Protocol):
    """Rows of text under named columns, from the file at `path`."""

    path: Path
    columns: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, place: int) -> tuple[str, ...]: ...

    def __iter__(self) -> Iterator[tuple[str, ...]]: ...


def open_table(path: Path) -> Table:
    """Open a table by its ending: .csv, .jsonl or .parquet.

    Raises:
        TableError: the ending is another one, or the content is not what the ending says.
        OSError: the file cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return _LineTable(path, _csv_columns, _csv_rows)
    if suffix == ".jsonl":
        return _LineTable(path, _jsonl_columns, _jsonl_rows)
    if suffix == ".parquet":
        return ParquetTable(path)
    raise TableError(f"{path.name} must end in .csv, .jsonl or .parquet")


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank, without white space at their ends.

    Raises:
        TableError: it is not UTF-8.
        OSError: it cannot be read.
    """
    with path.open("rb") as handle:
        lines = (_decode(raw, number) for number, raw in enumerate(handle, 1))
        return [line.strip() for line in lines if line.strip()]


def cell_text(value: object, column: str, line: int | None) -> str:
    """A cell as text: strings as they are, numbers as JSON writes them.

    Raises:
        TableError: it is empty, a list, a table or a truth value.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return orjson.dumps(value).decode()
    raise TableError(f"column {column!r} holds {type(value).__name__}, expected text or a number", line)


_Rows = Callable[[Iterator[tuple[int, str]], tuple[str, ...]], Iterator[tuple[str, ...]]]


class _LineTable:
    """A text file whose rows are found again by where their first line begins."""

    def __init__(self, path: Path, read_columns: Callable[[BinaryIO], tuple[str, ...]], rows: _Rows) -> None:
        self.path = path
        self._rows = rows
        with path.open("rb") as handle:
            self.columns = read_columns(handle)
            self._start = handle.tell()
        if len(set(self.columns)) != len(self.columns) or "" in self.columns:
            raise TableError(f"the columns of {path.name} must have names, each its own", 1)
        self._offsets = self._index()

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, place: int) -> tuple[str, ...]:
        with self.path.open("rb") as handle:
            handle.seek(self._offsets[place])
            return next(self._rows(_numbered(handle, None), self.columns))

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        with self.path.open("rb") as handle:
            handle.seek(self._start)
            yield from self._rows(_numbered(handle, None), self.columns)

    def _index(self) -> array[int]:
        """Read the file once: where each row begins, and that all of them are whole."""
        offsets = array("Q")
        with self.path.open("rb") as handle:
            handle.seek(self._start)
            begins: list[int] = []
            lines = _numbered(handle, begins)
            for _ in self._rows(lines, self.columns):
                offsets.append(begins[0])
                begins.clear()
        return offsets


def _numbered(handle: BinaryIO, begins: list[int] | None) -> Iterator[tuple[int, str]]:
    """Lines with their numbers; notes in `begins` where each one begins."""
    offset = handle.tell()
    number = 1 if offset == 0 else 2
    for number, raw in enumerate(handle, number):  # noqa: B020 - the first number is the start
        if begins is not None:
            begins.append(offset)
        yield number, _decode(raw, number)
        offset += len(raw)


def _decode(raw: bytes, number: int) -> str:
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise TableError(f"not UTF-8 at byte {error.start} of the line", number) from error


def _csv_columns(handle: BinaryIO) -> tuple[str, ...]:
    header = handle.readline()
    return tuple(next(csv.reader([_decode(header, 1)]), []))


def _csv_rows(lines: Iterator[tuple[int, str]], columns: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    last = 1

    def texts() -> Iterator[str]:
        nonlocal last
        for number, text in lines:
            last = number
            yield text

    try:
        for row in csv.reader(texts(), strict=True):
            if not row:
                continue
            if len(row) != len(columns):
                raise TableError(f"{len(row)} cells, expected {len(columns)}", last)
            yield tuple(row)
    except csv.Error as error:
        raise TableError(f"not CSV: {error}", last) from error


def _jsonl_columns(handle: BinaryIO) -> tuple[str, ...]:
    row = _jsonl_row(_decode(handle.readline(), 1), 1)
    handle.seek(0)
    return tuple(row)


def _jsonl_rows(lines: Iterator[tuple[int, str]], columns: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for number, text in lines:
        if not text.strip():
            continue
        row = _jsonl_row(text, number)
        missing = [column for column in columns if column not in row]
        if missing:
            raise TableError(f"no {missing[0]!r}, which the first row has", number)
        yield tuple(cell_text(row[column], column, number) for column in columns)


def _jsonl_row(text: str, number: int) -> dict[str, object]:
    try:
        row = decode_loosely(text)
    except NotJsonError as error:
        raise TableError(f"not JSON: {error}", number) from error
    if not isinstance(row, dict):
        raise TableError("expected an object", number)
    return row


class ParquetTable:
    """Rows of a Parquet file; the row group read last stays in memory.

    Raises:
        UsageError: pyarrow is not installed.
        TableError: the file is not Parquet.
    """

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow as pa  # noqa: PLC0415 - an optional extra
            import pyarrow.parquet  # noqa: PLC0415
        except ImportError as error:
            raise UsageError(f"{path.name} needs pyarrow", help_text="pip install 'asyncgen[parquet]'") from error
        try:
            self._file = pyarrow.parquet.ParquetFile(path)
        except pa.ArrowInvalid as error:
            raise TableError(f"not a Parquet file: {error}") from error
        self.path = path
        self.columns: tuple[str, ...] = tuple(self._file.schema_arrow.names)
        metadata = self._file.metadata
        sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        self._ends = list(accumulate(sizes))
        self._group: tuple[int, list[tuple[str, ...]]] = (-1, [])

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, place: int) -> tuple[str, ...]:
        number = bisect_right(self._ends, place)
        return self._rows(number)[place - (self._ends[number - 1] if number else 0)]

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        for number in range(len(self._ends)):
            yield from self._rows(number)

    def _rows(self, number: int) -> list[tuple[str, ...]]:
        if self._group[0] != number:
            columns = [
                [cell_text(value, name, None) for value in column.to_pylist()]
                for name, column in zip(self.columns, self._file.read_row_group(number).columns, strict=True)
            ]
            self._group = (number, list(zip(*columns, strict=True)))
        return self._group[1]
