"""Tables that a job names: .csv, .jsonl and .parquet, read lazily.

Finds rows and columns, handles missing cells, and keeps eight bytes a row, never the rows. Parquet is read through
pyarrow (the extra `parquet`), a few thousand rows at a time. An error in a file is a `TableError` with its line. What
the values are used for is left to `sources`.
"""

from __future__ import annotations

import csv
from array import array
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from hashlib import file_digest
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Protocol

from asyncgen.errors import UsageError
from asyncgen.job.cells import (
    LONGEST_LINE_BYTES,
    TableError,
    decoded,
    open_file,
    optional_cell,
    raw_lines,
    required_cell,
)
from asyncgen.json_text import NotJsonError, decode_json
from asyncgen.terminal import counted

if TYPE_CHECKING:
    from io import BufferedReader
    from pathlib import Path

Row = tuple[str, ...]
TABLE_ENDINGS = (".csv", ".jsonl", ".parquet")
_OTHER_DELIMITERS = (";", "\t", "|")  # as spreadsheets use them where the comma is the decimal sign


class Table(Protocol):
    """Rows of text under named columns."""

    columns: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, place: int) -> Row: ...

    def __iter__(self) -> Iterator[Row]: ...

    def digest(self) -> str:
        """A hash that changes when the content of the rows changes."""
        ...


class TableFile(Protocol):
    """A source of rows whose columns are known, and whose rows are not read yet.

    Attributes:
        columns: as the file names them; some may be empty or occur twice.
        nested: columns that contain lists or tables in the first row.
    """

    path: Path
    columns: tuple[str, ...]
    nested: frozenset[str]

    def table(self, columns: Sequence[str], needed: Collection[str], *, blanks: bool = False) -> Table:
        """Read and check all rows.

        Args:
            columns: the columns to read.
            needed: columns whose cells must be present and convertible to text; elsewhere such a cell is "".
            blanks: allow missing cells in these, too.

        Returns:
            The rows.

        Raises:
            TableError: a row cannot be read.
        """
        ...


def open_table(path: Path) -> TableFile:
    """Open a table by its suffix: .csv, .jsonl or .parquet.

    Args:
        path: the file.

    Returns:
        The file, whose rows are not read yet.

    Raises:
        TableError: the suffix is another one, or the content does not match it.
        OSError: the file cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return _CsvFile(path)
    if suffix == ".jsonl":
        return _JsonlFile(path)
    if suffix == ".parquet":
        return ParquetFile(path)
    raise TableError(f"a table must end in {', '.join(TABLE_ENDINGS)}")


_Rows = Callable[[Iterator[tuple[int, str]]], Iterator[Row]]


class _LineTable:
    """Rows of a text file, found by the offset of their first line.

    Args:
        path: the file.
        columns: of the rows that `rows` yields.
        start: offset and line number of the first row.
        rows: makes rows of numbered lines.
    """

    def __init__(self, path: Path, columns: Sequence[str], start: tuple[int, int], rows: _Rows) -> None:
        self.path = path
        self.columns = tuple(columns)
        self._start = start
        self._rows = rows
        self._offsets = array("Q", self._index())
        if not self._offsets:
            raise TableError("it has no rows")

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, place: int) -> Row:
        with open_file(self.path) as handle:
            handle.seek(self._offsets[place])
            return next(self._rows(_numbered(handle, 2)))

    def __iter__(self) -> Iterator[Row]:
        with self._at_start() as handle:
            yield from self._rows(_numbered(handle, self._start[1]))

    def digest(self) -> str:
        with open_file(self.path) as handle:
            return file_digest(handle, "blake2b").hexdigest()

    def _at_start(self) -> BufferedReader:
        handle = open_file(self.path)
        handle.seek(self._start[0])
        return handle

    def _index(self) -> Iterator[int]:
        """Read the file once: note where each row begins, and check that all are complete."""
        begins: list[int] = []
        with self._at_start() as handle:
            for _ in self._rows(_numbered(handle, self._start[1], begins)):
                yield begins[0]
                begins.clear()


def _numbered(handle: BufferedReader, first: int, begins: list[int] | None = None) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, without blank ones between rows; the offset of each is added to `begins`."""
    for number, (offset, raw) in enumerate(raw_lines(handle), first):
        if begins is not None:
            if not begins and raw.isspace():
                continue
            begins.append(offset)
        yield number, decoded(raw, number)


class _CsvFile:
    """A CSV file. Its first row that is not blank names the columns."""

    nested: frozenset[str] = frozenset()

    def __init__(self, path: Path) -> None:
        self.path = path
        csv.field_size_limit(LONGEST_LINE_BYTES)  # the default, shared by the whole process, is 128 KiB
        begins: list[int] = []
        with open_file(path) as handle:
            lines = _CsvLines(_numbered(handle, 1, begins))
            self._delimiter = lines.delimiter()
            self.columns = next(_csv_cells(lines, self._delimiter), ())
            begins.clear()
            following = next(lines.source, None)
            self._start = (begins[0] if following else _size(handle), following[0] if following else 2)
        if not self.columns:
            raise TableError("empty, expected a line with the column names", 1)

    def table(self, columns: Sequence[str], needed: Collection[str], *, blanks: bool = False) -> Table:  # noqa: ARG002 - no cell of a CSV row is missing
        places = [self.columns.index(name) for name in columns]
        return _LineTable(self.path, columns, self._start, partial(self._rows, places))

    def _rows(self, places: list[int], lines: Iterator[tuple[int, str]]) -> Iterator[Row]:
        source = _CsvLines(lines)
        width = len(self.columns)
        for row in _csv_cells(source, self._delimiter):
            if len(row) != width:
                help_text = "; a cell with the delimiter needs double quotes"
                raise TableError(
                    f"{counted(len(row), 'cell')}, expected {width}{help_text * (len(row) > width)}", source.number
                )
            yield tuple([row[place] for place in places])


class _CsvLines:
    """Lines for `csv.reader` that remembers the number of the last one."""

    def __init__(self, source: Iterator[tuple[int, str]]) -> None:
        self.source = source
        self.number = 1
        self._ahead: list[tuple[int, str]] = []

    def delimiter(self) -> str:
        """The comma, unless the first line has none but another usual one; `sep=;` sets it, too."""
        first = next(self.source, None)
        if first is None:
            return ","
        if first[1].lower().startswith("sep=") and len(first[1].strip()) == len("sep=;"):
            return first[1][len("sep=")]
        self._ahead.append(first)
        found = [mark for mark in _OTHER_DELIMITERS if mark in first[1]]
        return found[0] if found and "," not in first[1] else ","

    def __iter__(self) -> _CsvLines:
        return self

    def __next__(self) -> str:
        self.number, text = self._ahead.pop() if self._ahead else next(self.source)
        return text


def _csv_cells(lines: _CsvLines, delimiter: str) -> Iterator[Row]:
    """The cells of rows that are not blank."""
    try:
        for row in csv.reader(lines, delimiter=delimiter, strict=True):
            if any(cell.strip() for cell in row):
                yield tuple(row)
    except csv.Error as error:
        quotes = "a quote is not closed, or text follows a closing quote"
        raise TableError(
            f"not CSV: {quotes if 'limit' not in str(error) else 'a cell is too long'}", lines.number
        ) from None


def _size(handle: BufferedReader) -> int:
    return handle.seek(0, 2)


class _JsonlFile:
    """A file with a JSON object per line. The first one names the columns.

    The variables of a run's record are columns, too.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_file(path) as handle:
            first = next(_objects(_numbered(handle, 1)), None)
        if first is None:
            raise TableError("it has no rows")
        self.columns = tuple(_flat(first[1]))
        self.nested = frozenset(name for name, value in _flat(first[1]).items() if isinstance(value, dict | list))

    def table(self, columns: Sequence[str], needed: Collection[str], *, blanks: bool = False) -> Table:
        cells = [
            partial(required_cell if name in needed else optional_cell, column=name, blanks=blanks) for name in columns
        ]
        return _LineTable(self.path, columns, (0, 1), partial(_jsonl_rows, tuple(zip(columns, cells, strict=True))))


def _objects(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, text in lines:
        if not text.strip():
            continue
        try:
            row = decode_json(text)
        except NotJsonError as error:
            raise TableError(str(error), number) from None
        if not isinstance(row, dict):
            raise TableError("expected a JSON object on each line", number)
        yield number, row


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """The row, with the variables of a record next to its own columns."""
    variables = row.get("variables")
    return {**variables, **row} if isinstance(variables, dict) else row


def _jsonl_rows(
    columns: tuple[tuple[str, Callable[[Any], str]], ...], lines: Iterator[tuple[int, str]]
) -> Iterator[Row]:
    for number, row in _objects(lines):
        flat = _flat(row)
        try:
            yield tuple([text(flat.get(column)) for column, text in columns])
        except TableError as error:
            raise TableError(str(error), number) from None


_BATCH_ROWS = 4096


class ParquetFile:
    """A Parquet file.

    Raises:
        UsageError: pyarrow is not installed.
        TableError: the file is not Parquet.
    """

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow as pa  # noqa: PLC0415 - an optional extra
            import pyarrow.parquet as pq  # noqa: PLC0415
        except ImportError as error:
            raise UsageError(f"{path.name} needs pyarrow", help_text="pip install 'asyncgen[parquet]'") from error
        open_file(path).close()  # reports a pipe or device before pyarrow blocks on it
        try:
            self._file = pq.ParquetFile(path)
            schema = self._file.schema_arrow
        except (pa.ArrowException, ValueError, TypeError, NotImplementedError) as error:
            raise TableError("not a Parquet file, or it is damaged") from error
        self.path = path
        self.columns: tuple[str, ...] = tuple(schema.names)
        self.nested = frozenset(field.name for field in schema if pa.types.is_nested(field.type))

    def table(self, columns: Sequence[str], needed: Collection[str], *, blanks: bool = False) -> ParquetTable:
        return ParquetTable(self.path, self._file, columns, needed, blanks=blanks)


class ParquetTable:
    """Rows of a Parquet file. The columns of the row group that is being read stay in memory in Arrow's form."""

    def __init__(
        self, path: Path, file: Any, columns: Sequence[str], needed: Collection[str], *, blanks: bool = False
    ) -> None:
        self.path = path
        self.columns = tuple(columns)
        self._file = file
        self._cells = {
            name: partial(required_cell if name in needed else optional_cell, column=name, blanks=blanks)
            for name in columns
        }
        metadata = file.metadata
        self._ends = list(accumulate(metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)))
        self._group: tuple[int, Any] = (-1, None)
        if not len(self):
            raise TableError("it has no rows")
        for _ in self:  # checks that every required cell is present
            pass

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, place: int) -> tuple[str, ...]:
        number = bisect_right(self._ends, place)
        within = place - (self._ends[number - 1] if number else 0)
        if self._group[0] != number:
            self._group = (number, self._arrow(number))
        return next(self._rows(self._group[1].slice(within, 1), place))

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        first = 0
        for number in range(len(self._ends)):
            for batch in self._batches(number):
                yield from self._rows(batch, first)
                first += batch.num_rows

    def digest(self) -> str:
        with open_file(self.path) as handle:
            return file_digest(handle, "blake2b").hexdigest()

    def _arrow(self, number: int) -> Any:
        with _reading_parquet():
            return self._file.read_row_group(number, columns=list(self.columns))

    def _batches(self, number: int) -> Iterator[Any]:
        with _reading_parquet():
            yield from self._file.iter_batches(_BATCH_ROWS, row_groups=[number], columns=list(self.columns))

    def _rows(self, batch: Any, first: int) -> Iterator[tuple[str, ...]]:
        columns = [_texts(batch.column(name), name, first, text) for name, text in self._cells.items()]
        return iter(list(zip(*columns, strict=True)) if columns else [()] * batch.num_rows)


class _reading_parquet:  # noqa: N801 - reads as a phrase
    """Within this block, what pyarrow cannot read is a `TableError`."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        import pyarrow as pa  # noqa: PLC0415 - an optional extra

        if isinstance(error, pa.ArrowException | OSError | NotImplementedError):
            raise TableError("its rows cannot be read: the file is damaged, or pyarrow does not support its format")


def _texts(column: Any, name: str, first: int, text: partial[str]) -> list[str]:
    try:
        values = _values(column, name)
    except TableError:
        if text.func is required_cell:
            raise
        return [""] * len(column)
    if not column.null_count and (to_text := _plain_text(column.type)):
        return list(map(to_text, values))
    texts = []
    for number, value in enumerate(values, first + 1):
        try:
            texts.append(text(value))
        except TableError as error:
            raise TableError(str(error), row=number) from None
    return texts


def _plain_text(kind: Any) -> type[str] | None:
    """What makes the text of a present value of an Arrow type whose every value has one; None for other types.

    A table of ten million rows is read in a third of the time by it.
    """
    import pyarrow as pa  # noqa: PLC0415 - an optional extra

    types = pa.types
    return str if types.is_string(kind) or types.is_large_string(kind) or types.is_integer(kind) else None


def _values(column: Any, name: str) -> list[Any]:
    import pyarrow as pa  # noqa: PLC0415 - an optional extra

    kind = column.type
    try:
        if pa.types.is_timestamp(kind) and kind.unit == "ns":
            column = column.cast(pa.timestamp("us", kind.tz), safe=False)
        elif pa.types.is_time64(kind) and kind.unit == "ns":
            column = column.cast(pa.time64("us"), safe=False)
        elif pa.types.is_duration(kind):
            column = column.cast(pa.int64())
        return list(column.to_pylist())
    except UnicodeDecodeError as error:
        raise TableError(f"column {name!r}: a text that is not UTF-8") from error
    except (pa.ArrowException, ValueError, TypeError, OverflowError, NotImplementedError, ImportError) as error:
        raise TableError(f"column {name!r}: values of the type {kind} are not supported") from error
