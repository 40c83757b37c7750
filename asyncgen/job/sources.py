"""Open the sources of a job's values: lists, files of lines, tables, documents and other runs.

Decides which columns of a table become variables, and which values of an axis count. A source that cannot be read is a
`Problem` with the job file's key, the file and its line. Documents are text files as rows with `file`, `part` and
`text`, one for each part: split at paragraphs, a heading stays with the text after it. Keeps a few bytes a document,
never its text.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from glob import glob
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncgen.errors import Problem, nearest
from asyncgen.job.answers import conversation
from asyncgen.job.cells import TableError, cell_text, json_text, open_file, read_text, text_lines
from asyncgen.job.run_rows import SOURCE, RunRows
from asyncgen.job.tables import TABLE_ENDINGS, ParquetFile, Row, Table, TableFile, open_table
from asyncgen.job.template import TemplateVariables, template_variables, values_named
from asyncgen.json_text import NotJsonError, decode_json
from asyncgen.terminal import counted, first_of

if TYPE_CHECKING:
    from asyncgen.job.model import Job, Rows, ValuesFile

COLUMNS = ("file", "part", "text")
_BLANK_LINES = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")
_WORD = re.compile(r"\S+")
_NOT_TEXT = frozenset({".pdf", ".docx", ".pptx", ".xlsx", ".odt", ".epub"})


def parts_of(text: str, split_words: int | None, overlap_words: int = 0) -> list[str]:
    """Split a text at paragraphs into parts of about the same number of words.

    Args:
        text: of a file.
        split_words: maximum words of a part, unless a single paragraph has more; None for one part.
        overlap_words: words that each part but the first repeats from the end of the one before.

    Returns:
        The parts.
    """
    paragraphs = [each.strip("\n") for each in _BLANK_LINES.split(text.strip()) if each.strip()]
    if split_words is None or not paragraphs:
        return ["\n\n".join(paragraphs)] if paragraphs else []
    groups: list[list[str]] = [[]]
    words = 0
    for paragraph in paragraphs:
        more = len(paragraph.split())
        if groups[-1] and words + more > split_words:
            moved = _headings_at_end(groups[-1])
            groups.append(moved)
            words = sum(len(each.split()) for each in moved) + overlap_words
        groups[-1].append(paragraph)
        words += more
    texts = ["\n\n".join(group) for group in groups]
    heads = ["", *(_overlap(before, overlap_words) for before in texts)]
    return [f"{head}\n\n{text}" if head else text for head, text in zip(heads, texts, strict=False)]


def _headings_at_end(group: list[str]) -> list[str]:
    """Move headings from the end of a part to the next one, but leave something in it."""
    moved: list[str] = []
    while len(group) > 1 and group[-1].startswith("#") and "\n" not in group[-1]:
        moved.insert(0, group.pop())
    return moved


def _overlap(text: str, count: int) -> str:
    begins = [match.start() for match in _WORD.finditer(text)]
    return text[begins[-count] if count <= len(begins) else 0 :] if count and begins else ""


class Documents:
    """The parts of all files that match a pattern, sorted by file name.

    Args:
        folder: folder that a relative pattern starts from.
        pattern: such as `docs/**/*.md`.
        split_words: as for `parts_of`.
        overlap_words: as for `parts_of`.

    Raises:
        TableError: no file matches, all are empty, or one cannot be read; names the file.
    """

    columns: tuple[str, ...] = COLUMNS
    nested: frozenset[str] = frozenset()

    def __init__(self, folder: Path, pattern: str, split_words: int | None, overlap_words: int) -> None:
        self.path = folder
        self._split = (split_words, overlap_words)
        try:
            found = sorted(glob(pattern, root_dir=folder, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute ones
        except (ValueError, re.error):
            raise TableError("not a file name pattern") from None
        self._files = [name for name in found if (folder / name).is_file()]
        if not self._files:
            raise TableError("no file matches it")
        self._ends = array("Q")
        self._held: tuple[int, list[str]] = (-1, [])
        for number in range(len(self._files)):
            self._ends.append((self._ends[-1] if self._ends else 0) + len(self._parts(number)))
        if not len(self):
            raise TableError("the files that match it have no text")

    def table(self, columns: Sequence[str], needed: Collection[str], *, blanks: bool = False) -> Table:  # noqa: ARG002 - all are there, always
        return self

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, place: int) -> Row:
        number = bisect_right(self._ends, place)
        if self._held[0] != number:
            self._held = (number, self._parts(number))
        part = place - (self._ends[number - 1] if number else 0)
        return self._row(number, part, self._held[1][part])

    def __iter__(self) -> Iterator[Row]:
        for number in range(len(self._files)):
            for part, text in enumerate(self._parts(number)):
                yield self._row(number, part, text)

    def digest(self) -> str:
        digest = blake2b(repr(self._split).encode(), digest_size=16)
        for name in self._files:
            with open_file(self.path / name) as handle:
                digest.update(f"{name}\0".encode(errors="surrogateescape") + handle.read())
        return digest.hexdigest()

    def _row(self, number: int, part: int, text: str) -> Row:
        name = self._files[number].replace("\\", "/")
        return (name.encode(errors="surrogateescape").decode(errors="replace"), str(part + 1), text)

    def _parts(self, number: int) -> list[str]:
        name = self._files[number]
        try:
            text = read_text(self.path / name)
        except OSError as error:
            raise TableError(f"{name}: {error.strerror}") from None
        except TableError as error:
            if Path(name).suffix.lower() in _NOT_TEXT:
                raise TableError(f"{name} is not a text file; convert it to Markdown first") from None
            raise TableError(f"{name}{f', line {error.line}' if error.line else ''}: {error}") from None
        return parts_of(text.replace("\r\n", "\n").replace("\r", "\n"), *self._split)


_NOT_LINES = (".tsv", ".json", ".xlsx", ".xls", ".ods", ".gz", ".zip")
OpenRun = Callable[[str], RunRows]


@dataclass(frozen=True, slots=True)
class JobRowSource:
    """A source of rows.

    Attributes:
        key: its key in the job file.
        name: its value in the job file.
        file: the open source, whose rows are not read yet.
    """

    key: str
    name: str
    file: TableFile | Documents | RunRows

    @property
    def columns(self) -> tuple[str, ...]:
        return self.file.columns


class Sources:
    """The files that a job file names. Each is opened once.

    Args:
        folder: folder that relative paths start from.
        open_run: opens the rows of another run by its path; raises TableError, OSError or UsageError.

    Attributes:
        remarks: sentences for the user about what was read, without duplicates.
    """

    def __init__(self, folder: Path, open_run: OpenRun) -> None:
        self.remarks: dict[str, None] = {}
        self._folder = folder
        self._open_run = open_run
        self._opened: dict[Rows, JobRowSource] = {}
        self._tables: dict[tuple[Rows, Row, frozenset[str], str | None], Table] = {}
        self._axes: dict[ValuesFile, list[str]] = {}

    def rows(self, job: Job, problems: list[Problem]) -> JobRowSource | None:
        """Open the source of [rows], up to its columns.

        Args:
            job: with its overlay applied.
            problems: gets a problem if it cannot be opened.

        Returns:
            The source; None if there is none, or it cannot be opened.
        """
        rows = job.rows
        if rows is None or (found := _named_source(rows)) is None:
            return None
        if rows not in self._opened:
            key, name = found
            try:
                self._opened[rows] = JobRowSource(key, name, self._open(rows))
            except (OSError, TableError) as error:
                problems.append(file_problem(key, name, error))
                return None
        return self._opened[rows]

    def table(self, job: Job, problems: list[Problem]) -> Table | None:
        """Read the rows of [rows].

        Args:
            job: with its overlay applied.
            problems: gets a problem if they cannot be read.

        Returns:
            The table, in which every row has been checked; None if there is none, or it cannot be read.
        """
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
        """Read the values of an axis.

        Args:
            name: of the axis.
            values: the values, or the file that contains them.
            problems: gets a problem if they cannot be read.

        Returns:
            The values; those of a file without duplicates, in their order.
        """
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
            raise TableError(f"neither a text file nor a table ({', '.join(TABLE_ENDINGS)})")
        else:
            found = (line for _, line in text_lines(path))
        return list(dict.fromkeys(value.strip() for value in found if value.strip()))

    def _remark(self, source: JobRowSource, columns: Collection[str]) -> None:
        if isinstance(source.file, RunRows):
            for reason, count in source.file.left_out.items():
                self.remarks[f"{source.key}: {counted(count, 'record')} of {source.name} left out: they {reason}"] = (
                    None
                )
            if made_up := source.file.simulated:
                words = f"{counted(made_up, 'row')} of {source.name} are simulated"
                self.remarks[f"{source.key}: {words}"] = None
        elif "" in source.columns:
            self.remarks[f"{source.key}: a column of {source.name} has no name and is left out"] = None
        elif not columns:
            self.remarks[f"{source.key}: no column of {source.name} is used"] = None


class _NoColumn(Exception):  # noqa: N818 - caught where it is raised; no error of the user's sight
    """The file of an axis lacks the column that the job names, or the job names none."""

    def __init__(self, message: str, suggestion: str | None = None) -> None:
        super().__init__(message)
        self.suggestion = suggestion


def _column(table: TableFile, values: ValuesFile) -> Iterator[str]:
    names = [name for name in table.columns if name]
    if values.column is None:
        raise _NoColumn(f"set a column of {values.file}: {first_of(names)}")
    if values.column not in names:
        text = f"{values.file} has no column {values.column!r}; it has {first_of(names)}"
        raise _NoColumn(text, nearest(values.column, names))
    _refuse_duplicates(table, {values.column})
    return (row[0] for row in table.table([values.column], {values.column}, blanks=True))


def _refuse_duplicates(table: TableFile | Documents | RunRows, named: Collection[str]) -> None:
    duplicates = [name for name, count in Counter(table.columns).items() if count > 1 and name in named]
    if duplicates:
        raise TableError(f"column {duplicates[0]!r} occurs twice", None if isinstance(table, ParquetFile) else 1)


def _named_source(rows: Rows) -> tuple[str, str] | None:
    """The key and the name of the one source; the rules report it if there is not exactly one."""
    given = [(f"rows.{key}", name) for key in ("file", "run", "files") if (name := getattr(rows, key)) is not None]
    return given[0] if len(given) == 1 else None


def _columns(job: Job, source: JobRowSource) -> tuple[Row, frozenset[str]]:
    """The columns that become variables, and those of them that must not be empty."""
    named = template_variables(job)
    wanted = named.used | values_named(job.subset.exclude if job.subset else ())
    if isinstance(source.file, RunRows):
        kept = {*source.file.variables, SOURCE}
        columns = tuple(name for name in source.columns if name in kept or name in wanted)
        return columns, frozenset(columns) & _needed(job, named, columns, ())
    _refuse_duplicates(source.file, wanted)
    duplicates = {name for name, count in Counter(source.columns).items() if count > 1}
    columns = tuple(
        name
        for name in source.columns
        if name and name not in duplicates and (name in wanted or name not in source.file.nested)
    )
    return columns, _needed(job, named, columns, [name for name in columns if name.isidentifier()])


def _needed(job: Job, named: TemplateVariables, columns: Collection[str], in_sample: Iterable[str]) -> frozenset[str]:
    is_written = job.prompt.sample is not None or job.prompt.messages is not None
    return frozenset(columns) & (named.used if is_written else named.used.union(in_sample))


class _ChatTable:
    """A table with a column of chat turns, which are given as JSON up to the last turn that is to be answered."""

    def __init__(self, table: Table, column: str) -> None:
        self.columns = table.columns
        self._table = table
        self._column = column
        self._at = table.columns.index(column)
        for place, row in enumerate(table, 1):
            if self._turns(row) is None:
                raise TableError(
                    f"column {column!r} has no chat messages, expected a list of {{role, content}}", row=place
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
            turns.pop()  # the model answers it again
        return json_text(turns) if turns else None


def file_problem(key: str, name: str, error: OSError | TableError) -> Problem:
    """Describe an error of a file that the job names.

    Args:
        key: key in the job file.
        name: the file, as the job file names it.
        error: the error.

    Returns:
        The problem.
    """
    if isinstance(error, TableError):
        place = f"{name}:{error.line}" if error.line else name
        return Problem(key, f"{place}: {error}")
    return Problem(key, f"{name}: {error.strerror}")
