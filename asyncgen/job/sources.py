"""Open the sources of a job's values: lists, files of lines, tables, documents and other runs.

Decides which columns of a table become variables, and which values of an axis count. A source that cannot be read is a
`Problem` with the job file's key, the file and its line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asyncgen.errors import Problem, nearest
from asyncgen.job.answers import conversation
from asyncgen.job.cells import TableError, cell_text
from asyncgen.job.documents import Documents
from asyncgen.job.json_values import json_text
from asyncgen.job.model import Job, Rows, ValuesFile
from asyncgen.job.named import Named, named_in, values_named
from asyncgen.job.run_rows import SOURCE, RunRows
from asyncgen.job.tables import TABLE_ENDINGS, Row, Table, TableFile, open_table
from asyncgen.job.text_file import text_lines
from asyncgen.json_text import NotJsonError, decode_json

_NOT_LINES = (".tsv", ".json", ".xlsx", ".xls", ".ods", ".gz", ".zip")
OpenRun = Callable[[str], RunRows]


@dataclass(frozen=True, slots=True)
class RowsFrom:
    """A source of rows: what it is called in the job file, and its columns.

    Attributes:
        key: of the job file.
        name: as the job file writes it.
        file: opened, its rows not read.
    """

    key: str
    name: str
    file: TableFile | Documents | RunRows

    @property
    def columns(self) -> tuple[str, ...]:
        return self.file.columns


class Sources:
    """The files that one job file names; each is opened once.

    Args:
        folder: where relative paths start.
        open_run: opens the rows of another run by its path; raises TableError, OSError or UsageError.

    Attributes:
        remarks: what the user should know of what was read, each once.
    """

    def __init__(self, folder: Path, open_run: OpenRun) -> None:
        self.remarks: dict[str, None] = {}
        self._folder = folder
        self._open_run = open_run
        self._opened: dict[Rows, RowsFrom] = {}
        self._tables: dict[tuple[Rows, Row, frozenset[str], str | None], Table] = {}
        self._axes: dict[ValuesFile, list[str]] = {}

    def rows(self, job: Job, problems: list[Problem]) -> RowsFrom | None:
        """The source that [rows] names, its columns known; None where there is none, or it cannot be opened."""
        rows = job.rows
        if rows is None or (found := _named_source(rows)) is None:
            return None
        if rows not in self._opened:
            key, name = found
            try:
                self._opened[rows] = RowsFrom(key, name, self._open(rows))
            except (OSError, TableError) as error:
                problems.append(file_problem(key, name, error))
                return None
        return self._opened[rows]

    def table(self, job: Job, problems: list[Problem]) -> Table | None:
        """The rows that [rows] names, all looked at; None where there are none, or they cannot be read."""
        source = self.rows(job, problems)
        if source is None or job.rows is None:
            return None
        try:
            columns, needed = _columns(job, source)
            asked = (job.rows, columns, needed, job.prompt.messages)
            if asked not in self._tables:
                table = source.file.table(columns, needed)
                if job.prompt.messages in columns:
                    table = _ChatTable(table, str(job.prompt.messages))
                self._tables[asked] = table
                self._remark(source, columns)
            return self._tables[asked]
        except (OSError, TableError) as error:
            problems.append(file_problem(source.key, source.name, error))
            return None

    def axis(self, name: str, values: list[Any] | ValuesFile, problems: list[Problem]) -> list[str]:
        """An axis' values; a file's are taken once each, in the order in which they come first."""
        key = f"grid.{name}"
        if isinstance(values, list):
            return [cell_text(value, name) or "" for value in values]
        if values not in self._axes:
            try:
                self._axes[values] = self._read_axis(values)
            except (OSError, TableError) as error:
                problems.append(file_problem(key, values.file, error))
                return []
            except _NoColumn as error:
                problems.append(Problem(key, str(error), error.suggestion))
                return []
            if not self._axes[values]:
                problems.append(Problem(key, f"{values.file} has no values"))
        return self._axes[values]

    def _open(self, rows: Rows) -> TableFile | Documents | RunRows:
        if rows.file is not None:
            return open_table(self._folder / rows.file)
        if rows.files is not None:
            return Documents(self._folder, rows.files, rows.split_words, rows.overlap_words)
        return self._open_run(str(rows.run))

    def _read_axis(self, values: ValuesFile) -> list[str]:
        path = self._folder / values.file
        suffix = path.suffix.lower()
        if suffix in TABLE_ENDINGS or values.column is not None:
            found = _column(open_table(path), values)
        elif suffix in _NOT_LINES:
            raise TableError(f"neither lines of text nor a table that ends in {', '.join(TABLE_ENDINGS)}")
        else:
            found = (line for _, line in text_lines(path))
        return list(dict.fromkeys(value.strip() for value in found if value.strip()))

    def _remark(self, source: RowsFrom, columns: Collection[str]) -> None:
        if isinstance(source.file, RunRows):
            for reason, count in source.file.left_out.items():
                self.remarks[f"{source.key}: {count:,} records of {source.name} are no rows: they {reason}"] = None
        elif "" in source.columns:
            self.remarks[f"{source.key}: a column of {source.name} has no name and is left out"] = None
        elif not columns:
            self.remarks[f"{source.key}: no column of {source.name} is used"] = None


class _NoColumn(Exception):  # noqa: N818 - caught where it is raised; no error of the user's sight
    """A file of an axis has not the column that the job names, or it names none."""

    def __init__(self, message: str, suggestion: str | None = None) -> None:
        super().__init__(message)
        self.suggestion = suggestion


def _column(table: TableFile, values: ValuesFile) -> Iterator[str]:
    names = [name for name in table.columns if name]
    if values.column is None:
        raise _NoColumn(f"name a column of {values.file}: {', '.join(names)}")
    if values.column not in names:
        text = f"{values.file} has no column {values.column!r}; it has {', '.join(names)}"
        raise _NoColumn(text, nearest(values.column, names))
    _refuse_twins(table.columns, {values.column})
    return (row[0] for row in table.table([values.column], {values.column}, blanks=True))


def _refuse_twins(columns: Iterable[str], named: Collection[str]) -> None:
    twins = [name for name, count in Counter(columns).items() if count > 1 and name in named]
    if twins:
        raise TableError(f"column {twins[0]!r} stands twice", 1)


def _named_source(rows: Rows) -> tuple[str, str] | None:
    """The key and the name of the one source; the rules tell when there is not exactly one."""
    given = [(f"rows.{key}", name) for key in ("file", "run", "files") if (name := getattr(rows, key)) is not None]
    return given[0] if len(given) == 1 else None


def _columns(job: Job, source: RowsFrom) -> tuple[Row, frozenset[str]]:
    """The columns that become variables, and those of them that must not be empty."""
    named = named_in(job)
    wanted = named.used | values_named(job.subset.exclude if job.subset else ())
    if isinstance(source.file, RunRows):
        kept = {*source.file.variables, SOURCE}
        columns = tuple(name for name in source.columns if name in kept or name in wanted)
        return columns, frozenset(columns) & _needed(job, named, columns, ())
    _refuse_twins(source.columns, wanted)
    twins = {name for name, count in Counter(source.columns).items() if count > 1}
    columns = tuple(
        name
        for name in source.columns
        if name and name not in twins and (name in wanted or name not in source.file.nested)
    )
    return columns, _needed(job, named, columns, [name for name in columns if name.isidentifier()])


def _needed(job: Job, named: Named, columns: Collection[str], in_sample: Iterable[str]) -> frozenset[str]:
    is_written = job.prompt.sample is not None or job.prompt.messages is not None
    return frozenset(columns) & (named.used if is_written else named.used.union(in_sample))


class _ChatTable:
    """A table one column of which holds chat turns: they come as JSON, up to the last one that is to be answered."""

    def __init__(self, table: Table, column: str) -> None:
        self.columns = table.columns
        self._table = table
        self._column = column
        self._at = table.columns.index(column)
        for place, row in enumerate(table, 1):
            if self._turns(row) is None:
                raise TableError(
                    f"column {column!r} holds no chat turns, expected a list of {{role, content}}", row=place
                )

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, place: int) -> Row:
        return self._with_turns(self._table[place])

    def __iter__(self) -> Iterator[Row]:
        return map(self._with_turns, self._table)

    def digest(self) -> str:
        return self._table.digest()

    def _with_turns(self, row: Row) -> Row:
        return (*row[: self._at], self._turns(row) or "[]", *row[self._at + 1 :])

    def _turns(self, row: Row) -> str | None:
        try:
            turns = conversation(decode_json(row[self._at]))
        except NotJsonError:
            return None
        while turns and turns[-1]["role"] == "assistant":
            turns.pop()  # the model answers it anew
        return json_text(turns) if turns else None


def file_problem(key: str, name: str, error: OSError | TableError) -> Problem:
    """What is wrong with a file that the job names at `key`."""
    if isinstance(error, TableError):
        place = f"{name}:{error.line}" if error.line else name
        return Problem(key, f"{place}: {error}")
    return Problem(key, f"{name}: {error.strerror}")
