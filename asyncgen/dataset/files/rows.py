"""Read a file of any supported kind as rows of JSON values, each with its place.

Kinds: .csv .tsv .xlsx .json .jsonl .parquet .txt. Handles headers and delimiters, and refuses rows that do not fit
their header. Every pass reads the file from the start, so that a file of any size can be read twice. The meaning of a
row is left to `forms`.
"""

from __future__ import annotations

import math
import shlex
from collections import Counter
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import TYPE_CHECKING, Any

from asyncgen.dataset.files.forms import no_form
from asyncgen.dataset.files.json_rows import FileRow, json_lines, json_row, read_json
from asyncgen.dataset.files.sheets import cell_text, sheet_count, sheet_rows
from asyncgen.errors import AsyncgenError, UsageError
from asyncgen.terminal import first_of
from asyncgen.text_files import (
    DELIMITERS,
    DelimitedError,
    bad_line,
    declared_delimiter,
    delimited_rows,
    delimiter_of,
    is_utf16,
    open_input,
    text_lines,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from asyncgen.dataset.files.forms import WantedColumns

_BATCH_ROWS = 1000
_ADVICE = {
    ".xls": "save it as .xlsx or .csv (UTF-8) in Excel or LibreOffice",
    ".ods": "save it as .xlsx or .csv (UTF-8) in LibreOffice",
    ".gz": "unpack it: gunzip -k {name}",
    ".bz2": "unpack it: bunzip2 -k {name}",
    ".xz": "unpack it: unxz -k {name}",
    ".zst": "unpack it: unzstd {name}",
    ".zip": "unpack it: unzip {name}",
    ".ndjson": "rename a copy: cp {name} copy.jsonl",
}


@dataclass(frozen=True, slots=True)
class SampleRows:
    """An open file.

    Attributes:
        kind: what it is, for the user: "CSV", "JSONL", ...
        place: what a row's number counts: "line", "row" or "item".
        found: sentences about what was noticed when it was opened.
        rows: starts a pass over the rows.
        lines: whether each row is a line of JSON that can be kept unchanged.
    """

    path: Path
    kind: str
    place: str
    found: tuple[str, ...]
    rows: Callable[[], Iterator[FileRow]]
    lines: bool = False

    def at(self, number: int) -> str:
        """The place of a row, in the form of compilers if it is a line."""
        return f"{self.path}:{number}" if self.place == "line" else f"{self.path}, {self.place} {number}"


def open_rows(path: Path, wanted: WantedColumns) -> SampleRows:
    """Open a file by its extension.

    Args:
        path: only read.
        wanted: which names of columns are looked for.

    Raises:
        UsageError: no such file, a kind that is not read, or an extra that is missing.
        AsyncgenError: the file is not what its extension says.
    """
    reader = _READERS.get(path.suffix.lower())
    open_input(path).close()
    if reader is None:
        raise not_read(path, tuple(_READERS))
    return reader(path, wanted)


def not_read(path: Path, kinds: Sequence[str]) -> UsageError:
    """The refusal of a file whose extension is none of those that are read, with what to do about it."""
    advice = _ADVICE.get(path.suffix.lower(), "rename a copy with the right extension, or name a run directory")
    return UsageError(
        f"{path} has {'the extension ' + path.suffix if path.suffix else 'no extension'}",
        cause=f"the extension decides how a file is read: one of {', '.join(kinds)}",
        help_text=advice.format(name=shlex.quote(str(path))),
    )


def _open_delimited(path: Path, wanted: WantedColumns) -> SampleRows:
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    first = next((line for _, line in text_lines(path, byte_order_mark=True) if line.strip()), "")
    delimiter = declared_delimiter(first) or delimiter_of(first, usual, wanted.is_header)
    declared = bool(declared_delimiter(first))
    rows = _delimited(path, delimiter, declared=declared)
    names = [name.strip() for name in next(rows, (0, []))[1]]
    if not names:
        raise AsyncgenError(
            f"{path} is empty", help_text="its first line must name the columns: prompt,completion", code="bad_data"
        )
    if not wanted.is_header(names):
        raise no_form(path, max((_split(first, each) for each in DELIMITERS), key=len), wanted)
    _refuse_twins(path, names, wanted)
    kind = "TSV" if usual == "\t" else "CSV"
    found = [f"By its extension, the file is {kind}"]
    if delimiter != usual:
        found.append(f"Its delimiter is {DELIMITERS.get(delimiter, 'a character')} ({delimiter!r})")

    def body() -> Iterator[FileRow]:
        rows = _delimited(path, delimiter, declared=declared)
        next(rows)
        width = len(names)
        for line, cells in rows:
            if len(cells) != width:
                raise bad_line(path, line, _shifted(len(cells), width), help_text=_shifted_help(delimiter))
            yield FileRow(line, dict(zip(names, cells)))  # noqa: B905 - they are of one length, and it takes time

    return SampleRows(path, kind, "line", tuple(found), body)


def _split(header: str, delimiter: str) -> list[str]:
    """A header that names nothing that is looked for, as it most likely is meant."""
    return [name.strip().strip('"') for name in header.strip().split(delimiter)]


def _shifted(cells: int, names: int) -> str:
    return f"the row has {cells} cell{'s' * (cells != 1)}, but the header has {names}"


def _shifted_help(delimiter: str) -> str:
    return (
        f"put cells that contain a {DELIMITERS.get(delimiter, repr(delimiter))}, a quote or a line break into double "
        'quotes, and double any quotes inside ("")'
    )


def _delimited(path: Path, delimiter: str, *, declared: bool) -> Iterator[tuple[int, list[str]]]:
    """The header and every row that is not blank, with the line on which each begins."""
    lines = text_lines(path, byte_order_mark=True)
    if declared:
        next(line for line in lines if line[1].strip())
    try:
        for row in delimited_rows(lines, delimiter):
            line, _, cells, bare = row
            if len(cells) > 1 or (cells and not (bare and not cells[0].strip())):
                yield line, cells
    except DelimitedError as error:
        raise bad_line(path, error.line, error.what, help_text=_shifted_help(delimiter)) from None


def _refuse_twins(path: Path, names: Sequence[str], wanted: WantedColumns) -> None:
    twins = [name for name, count in Counter(names).items() if count > 1 and name and wanted.is_known(name)]
    if twins:
        raise AsyncgenError(
            f"{path} has the column `{twins[0]}` more than once",
            help_text="give each column its own name",
            code="bad_data",
        )


def _open_xlsx(path: Path, wanted: WantedColumns) -> SampleRows:
    header = next(sheet_rows(path, cell_text), None)
    if header is None:
        raise AsyncgenError(
            f"the first sheet of {path} is empty",
            help_text="its first row must name the columns: prompt, completion",
            code="bad_data",
        )
    names = [name.strip() for name in header]
    _refuse_twins(path, names, wanted)

    def body() -> Iterator[FileRow]:
        rows = sheet_rows(path, cell_text)
        next(rows)
        for number, cells in enumerate(rows, 2):
            if cells:
                yield FileRow(number, dict(zip(names, cells + [""] * (len(names) - len(cells)), strict=False)))

    found = ["By its extension, the file is an Excel workbook"]
    sheets = sheet_count(path)
    if sheets > 1:
        found.append(f"WARNING: only the first of its {sheets} sheets is read")
    return SampleRows(path, "XLSX", "row", tuple(found), body)


def _open_json(path: Path, _wanted: WantedColumns) -> SampleRows:
    document = read_json(path)
    if document.lines:
        named = () if path.suffix.lower() == ".jsonl" else ("Each line is a JSON object",)
        utf16 = is_utf16(path)
        return SampleRows(path, "JSONL", "line", named, lambda: json_lines(path), lines=not utf16)

    def rows() -> Iterator[FileRow]:
        return (json_row(number, raw) for number, raw in enumerate(document.rows, 1))

    return SampleRows(path, "JSON", "item", document.found, rows)


def _open_text(path: Path, _wanted: WantedColumns) -> SampleRows:
    def rows() -> Iterator[FileRow]:
        for number, line in text_lines(path, byte_order_mark=True):
            if line.strip():
                yield FileRow(number, {"completion": line.rstrip("\r\n")})

    found = ("By its extension, the file is text: each line is a completion without a prompt",)
    return SampleRows(path, "TXT", "line", found, rows)


def _open_parquet(path: Path, wanted: WantedColumns) -> SampleRows:
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra, and slow to import
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError:
        raise UsageError(
            "reading .parquet needs pyarrow, which is not installed", help_text="pip install 'asyncgen[parquet]'"
        ) from None
    try:
        with pq.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _bad_parquet(path, error) from None
    _refuse_twins(path, names, wanted)
    columns = [name for name in dict.fromkeys(names) if wanted.is_known(name)]
    kept = columns or names[:1]

    def rows() -> Iterator[FileRow]:
        number = 0
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=kept):
                    for values in batch.to_pylist():
                        yield FileRow(number + 1, {name: _json_value(value) for name, value in values.items()})
                        number += 1
        except (pa.ArrowException, OSError, ValueError, OverflowError, RecursionError) as error:
            raise _bad_parquet(path, error, number + 1) from None

    extra = [name for name in names if name not in kept]
    found = ["By its extension, the file is Parquet"]
    if not columns:  # the error about forms names all of them
        found.append(f"Its columns are: {first_of(names)}")
    elif extra:
        found.append(f"Its other columns are not read: {first_of([f'`{name}`' for name in extra])}")
    return SampleRows(path, "Parquet", "row", tuple(found), rows)


def _bad_parquet(path: Path, error: Exception, row: int | None = None) -> AsyncgenError:
    place = f", near row {row:,}," if row else ""
    if isinstance(error, UnicodeDecodeError):
        cause = "a text is not UTF-8"
    elif isinstance(error, OSError) and error.strerror:
        cause = error.strerror
    else:  # of pyarrow's words, those of the file's format help nobody
        is_of_value = type(error) in {ValueError, OverflowError, RecursionError}
        cause = str(error) if is_of_value else "it is damaged, or not a Parquet file"
    return AsyncgenError(f"{path}{place} cannot be read as Parquet", cause=cause, code="bad_data")


def _json_value(value: Any) -> Any:
    """A cell of Parquet as JSON has it; NaN is how others write that there is nothing.

    Raises:
        ValueError: it is infinite, or bytes that are not text.
    """
    if isinstance(value, dict):  # a struct has every field in every row, most of them empty
        return {str(name): _json_value(item) for name, item in value.items() if item is not None}
    if isinstance(value, list | tuple):  # a tuple is an entry of a map
        return [_json_value(item) for item in value]
    if isinstance(value, float):
        if math.isinf(value):
            raise ValueError("a number is infinite")
        return None if math.isnan(value) else value
    return value if value is None or isinstance(value, str | bool | int) else _scalar_text(value)


def _scalar_text(value: Any) -> str:
    """What JSON has no type for, as text."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    return value.isoformat() if isinstance(value, date | time) else str(value)


_READERS: dict[str, Callable[[Path, WantedColumns], SampleRows]] = {
    ".csv": _open_delimited,
    ".tsv": _open_delimited,
    ".xlsx": _open_xlsx,
    ".json": _open_json,
    ".jsonl": _open_json,
    ".parquet": _open_parquet,
    ".txt": _open_text,
}
