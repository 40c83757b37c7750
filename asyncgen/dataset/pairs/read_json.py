"""JSON and JSONL files as tables.

Owns which of the two a file really is, whatever its extension says, and the three shapes of a JSON file: a
list of objects, an object of lists, an object of objects. How values become text is `json_numbers`' business.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from asyncgen.dataset.pairs.json_numbers import (
    ABSENT,
    Kind,
    as_text,
    kind_of,
    kinds_of,
    read_constant,
    read_number,
)
from asyncgen.dataset.pairs.table import Table
from asyncgen.errors import AsyncgenError
from asyncgen.text_lines import bad_line, text_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

_LARGEST = 2**64
_decoder = json.JSONDecoder(strict=False, parse_float=read_number, parse_constant=read_constant)


def read_jsonl(path: Path) -> Table:
    """Read a file whose name says that each line is an object; one line alone is taken for a JSON file.

    Raises:
        AsyncgenError: a line is no JSON object, or the one line is no table.
    """
    lines = _scan(path)
    if lines.rows == 1:
        return _whole(path, found=("The file's name says JSONL, but it is one JSON document",), converts="JSON")
    return _line_table(path, lines)


def read_json(path: Path) -> Table:
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
    """A line that is no JSON object."""

    code = "bad_data"


class _Lines:
    """What a first pass over JSONL finds: how many rows, and which kinds of cell each column has."""

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
            raise _not_an_object(path, number, "it is no JSON object")
    return lines


def _objects(path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in text_lines(path):
        text = line.strip()
        if not text:
            continue
        try:
            value = _decoder.decode(text)
        except (ValueError, RecursionError) as error:
            raise _not_an_object(path, number, f"it is no JSON: {error}") from None
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
            raise bad_line(path, number, "half of a surrogate pair (\\ud800 to \\udfff), which UTF-8 cannot carry")
        if type(cell) is int and not -_LARGEST // 2 <= cell < _LARGEST:
            raise bad_line(path, number, f"the number {str(cell)[:30]} needs more than 64 bits")


def _has_surrogate(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _line_table(path: Path, lines: _Lines, *, found: tuple[str, ...] = (), converts: str = "") -> Table:
    columns = lines.columns()
    readers = [(name, as_text(kinds)) for name, kinds in columns.items()]

    def cells() -> Iterator[list[str]]:
        for _, row in _objects(path):
            yield [text(row.get(name, ABSENT)) for name, text in readers]

    return Table(tuple(columns), cells, (*found, *_about_nothing(columns)), converts)


def _about_nothing(columns: Mapping[str, Kind]) -> tuple[str, ...]:
    """The legacy tool writes words where a value is null or missing; who has such rows should know."""
    return tuple(
        f'WARNING: `{name}` is null or missing in some rows, which become the text "{_word(kinds)}", as the '
        "legacy tool has it; take these rows out first if that is not meant"
        for name, kinds in columns.items()
        if name.lower() in {"prompt", "completion"} and kinds & (Kind.NULL | Kind.MISSING)
    )


def _word(kinds: Kind) -> str:
    words = {as_text(kinds)(value) for flag, value in ((Kind.NULL, None), (Kind.MISSING, ABSENT)) if kinds & flag}
    return '" or "'.join(sorted(words))


def _whole(path: Path, *, found: tuple[str, ...] = (), converts: str = "") -> Table:
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
    return Table(
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
        f"{path} is no table",
        cause="it must be a list of objects, or an object whose values are lists of one length",
        help_text='such as [{"prompt": "...", "completion": "..."}, ...]',
        code="bad_data",
    )


def _spread(path: Path, document: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Lists of one length as columns; a single value beside them is the same in every row."""
    lengths = {len(column) for column in document.values() if isinstance(column, list)}
    if len(lengths) > 1 or any(isinstance(column, dict) for column in document.values()):
        raise AsyncgenError(
            f"{path} is no table",
            cause=f"its columns differ in length: {', '.join(map(str, sorted(lengths)))}",
            code="bad_data",
        )
    [length] = lengths
    return {name: column if isinstance(column, list) else [column] * length for name, column in document.items()}
