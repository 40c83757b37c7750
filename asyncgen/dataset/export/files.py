"""Export records as CSV, JSONL or Parquet, in the order of the grid.

Selection and sorting take sixteen bytes a record. CSV has the two columns of the tutorial's
`out_openai_completion.csv`. Spreadsheets run a cell that begins with certain characters as a formula (OWASP ASVS 5.0,
1.2.10), and a model may write such a cell: it gets a leading apostrophe, unless plain text is requested.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec
import orjson

from asyncgen.dataset.writer import RowFile
from asyncgen.errors import UsageError
from asyncgen.job.answers import AnswerReader
from asyncgen.job.model import AnswerSettings
from asyncgen.json_text import decoder
from asyncgen.run.directory import output_file
from asyncgen.run.records import Record, decode_record

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from asyncgen.job.requests import RequestGrid


class _Place(msgspec.Struct, gc=False):
    index: int


_decode_place = decoder(_Place)


def ordered_records(paths: Sequence[Path], grid: RequestGrid | None) -> Iterator[Record]:
    """Read records sorted by their place in the grid; of the same place, the earlier one first.

    Args:
        paths: files of records; lines that are appended meanwhile are left out.
        grid: records that are not in it are left out; None to keep all.

    Yields:
        Each record, with the job's present variables.

    Raises:
        BadLineError: a line is not a record.
        DiskError: a file cannot be read.
    """
    rows = RowFile(paths, _decode_place)
    places = array("q", (row.index for row in rows))
    with rows.fetcher() as lines:
        for line in sorted(range(len(places)), key=places.__getitem__):
            record = decode_record(lines[line])
            own = record if grid is None else grid.match(record)
            if own is not None:
                yield own


FORMULA_BEGINNINGS = ("=", "+", "-", "@", "\t", "\r", "\0")
_NEEDS_QUOTES = frozenset(',"\r\n')
_BATCH = 10_000
_AS_JSON = AnswerReader(AnswerSettings(format="json"))
_COLUMNS = ("index", "repeat", "prompt", "completion", "model", "finish_reason", "attempts", "latency_s", "created")
_TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")


@dataclass(slots=True)
class Exported:
    """What was written.

    Attributes:
        defused: CSV cells that got an apostrophe in front.
    """

    rows: int = 0
    defused: int = 0


@dataclass(frozen=True, slots=True)
class CsvStyle:
    """How a CSV file is written.

    Attributes:
        raw: formulas are not defused.
        variables: each variable is a column, before the others.
        fields: each field of JSON answers is a column, after the others; only those of the first 10,000 answers.
    """

    raw: bool = False
    variables: bool = False
    fields: bool = False


def export_file(path: Path, records: Iterable[Record], csv: CsvStyle) -> Exported:
    """Write records in the format of the file's extension.

    Args:
        path: a .csv, .jsonl or .parquet file.
        records: in the order to write.
        csv: style of that format alone.

    Returns:
        Counts of what was written.

    Raises:
        UsageError: another extension, or Parquet without pyarrow.
        DiskError: the file could not be written; its content is unchanged.
    """
    write = _WRITERS.get(path.suffix.lower())
    if write is None:
        raise UsageError(
            f"{path} has {'the extension ' + path.suffix if path.suffix else 'no extension'}",
            cause=f"the name of an export must end in {', '.join(_WRITERS)}, or in / for a folder",
            help_text="asyncgen export -o answers.csv",
        )
    exported = Exported()
    with output_file(path) as file:
        write(file, records, exported, csv)
    return exported


def _write_csv(file: BinaryIO, records: Iterable[Record], exported: Exported, style: CsvStyle) -> None:
    rows = iter(records)
    first = list(islice(rows, _BATCH))
    names = list(first[0].variables) if style.variables and first else []
    fields = list(dict.fromkeys(name for record in first for name in _fields(record))) if style.fields else []
    file.write(_csv_line([*map(_column, names), "prompt", "completion", *(f"answer.{name}" for name in fields)]))
    for record in chain(first, rows):
        given = _fields(record) if fields else {}
        plain = [
            *(record.variables.get(name, "") for name in names),
            record.prompt,
            record.completion,
            *(given.get(name, "") for name in fields),
        ]
        cells = plain if style.raw else [defused(cell) for cell in plain]
        exported.defused += sum(cell != before for cell, before in zip(cells, plain, strict=True))
        file.write(_csv_line(cells))
        exported.rows += 1


def _fields(record: Record) -> Mapping[str, str]:
    """The fields of an answer that is a JSON object; nested values are JSON text."""
    items = _AS_JSON.read(record.completion).items
    return items[0].fields if items else {}


def _column(name: str) -> str:
    return f"variable_{name}" if name in {"prompt", "completion"} else name


def _csv_line(cells: Iterable[str]) -> bytes:
    return f"{','.join(map(_quoted, cells))}\n".encode()


def defused(cell: str) -> str:
    """The cell, with an apostrophe in front where a spreadsheet would run it as a formula."""
    return f"'{cell}" if cell.startswith(FORMULA_BEGINNINGS) else cell


def _quoted(cell: str) -> str:
    """A cell by RFC 4180, quoted only if necessary."""
    if _NEEDS_QUOTES.isdisjoint(cell):
        return cell
    return '"' + cell.replace('"', '""') + '"'


def _write_jsonl(file: BinaryIO, records: Iterable[Record], exported: Exported, _csv: CsvStyle) -> None:
    for record in records:
        file.write(orjson.dumps(_typed(record), option=orjson.OPT_APPEND_NEWLINE))
        exported.rows += 1


def _typed(record: Record) -> dict[str, Any]:
    """Every field on every line, of one type: readers that take the types from the first lines fail at the next ones.

    An empty list has no type for them, so lists are texts.
    """
    row = msgspec.structs.asdict(record)
    return row | {
        "usage": msgspec.to_builtins(record.usage),  # only if the provider reports a cost
        "check_failures": ", ".join(record.check_failures),
        "request_id": record.request_id or "",
        "reasoning": record.reasoning or "",
        "tool_calls": orjson.dumps(record.tool_calls).decode() if record.tool_calls else "",
    }


def _write_parquet(file: BinaryIO, records: Iterable[Record], exported: Exported, _csv: CsvStyle) -> None:
    arrow, parquet = _pyarrow()
    rows = map(_flat, records)
    first = list(islice(rows, _BATCH))
    if not first:
        raise UsageError("there is no answer to export yet", help_text="asyncgen status   (shows what is left)")
    schema = _schema(arrow, list(first[0]))
    with parquet.ParquetWriter(file, schema) as writer:
        for batch in _batches(first, rows):
            writer.write_table(arrow.Table.from_pylist(batch, schema=schema))
            exported.rows += len(batch)


def _batches(first: list[dict[str, Any]], rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    yield first
    while batch := list(islice(rows, _BATCH)):
        yield batch


def _flat(record: Record) -> dict[str, Any]:
    """A record as one row. Variables are columns, renamed if they clash with a field of the record."""
    row: dict[str, Any] = {name: getattr(record, name) for name in _COLUMNS}
    row |= {name: getattr(record.usage, name) for name in _TOKENS}
    row["check_failures"] = record.check_failures
    row["key"] = record.key
    for name, value in record.variables.items():
        row[f"variable_{name}" if name in row else name] = value
    return row


def _schema(arrow: ModuleType, names: list[str]) -> Any:
    whole, real = arrow.int64(), arrow.float64()
    kinds = dict.fromkeys(("index", "repeat", "attempts", "created", *_TOKENS), whole) | {"latency_s": real}
    kinds["check_failures"] = arrow.list_(arrow.string())
    return arrow.schema([(name, kinds.get(name, arrow.string())) for name in names])


def _pyarrow() -> tuple[ModuleType, ModuleType]:
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra, and slow to import
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError:
        raise UsageError(
            "writing .parquet needs pyarrow, which is not installed",
            help_text="pip install 'asyncgen[parquet]', or export .jsonl",
        ) from None
    return pa, parquet


_Write = Callable[[BinaryIO, Iterable[Record], Exported, CsvStyle], None]
_WRITERS: dict[str, _Write] = {".csv": _write_csv, ".jsonl": _write_jsonl, ".parquet": _write_parquet}
