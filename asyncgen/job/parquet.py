"""Parquet tables, through pyarrow (the extra `parquet`).

Owns the reading of columns as text, a row group at a time. Does not know what the values are for.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

from asyncgen.errors import UsageError
from asyncgen.job.tables import TableError, cell_text


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
