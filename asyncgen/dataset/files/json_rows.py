"""JSON and JSONL files as rows, and JSON values as text.

Detects which of the two a file is, whatever its name says, and the shape of a document (an array of objects, one
wrapped in an object, columns, one object); explains what is wrong with text that is almost JSON. A row keeps its
original JSON text, so that number literals are not changed.
"""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import orjson

from asyncgen.errors import AsyncgenError
from asyncgen.json_text import NotJsonError, decode_loosely, decoder
from asyncgen.text_files import BYTE_ORDER_MARK, decode, is_utf16, open_input, raw_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

# A document and its values are in memory as a whole; files of lines need no such limit.
LARGEST_DOCUMENT_BYTES = 256 * 1024 * 1024
_BLANKS = b" \t\r\n"
_OBJECT = "{"
_ARRAY = "["
_raw_values = decoder(dict[str, msgspec.Raw])
_raw_items = decoder(list[msgspec.Raw])
_STRING_OR_BLANKS = re.compile(r'"(?:[^"\\]|\\.)*"|[ \t\r\n]+', re.DOTALL)
_CONSTANTS = re.compile(r"-?(NaN|Infinity)")
_SAID = {
    "Invalid control character": "a string contains a control character; write it as an escape such as \\n or \\t",
    "Invalid \\": "a backslash does not begin an escape; write two",
    "Illegal trailing comma": "there is a comma before a closing brace",
    "Expecting property name": "a name in double quotes is missing; perhaps there is a comma before a closing brace",
}
_WRITES_LINES = "write each object on its own line"


class FileRow(NamedTuple):
    """A row of a file.

    Attributes:
        number: number of the line, row or item, from 1.
        values: by name; None for an empty value.
        raw: the JSON text of the object, if the file has it in this form.
        fault: what is wrong with a row that cannot be read, which then has no values.
    """

    number: int
    values: Mapping[str, Any]
    raw: bytes = b""
    fault: str = ""


class JsonRows(NamedTuple):
    """The rows of a JSON file: the number of a row is that of its line (`lines`), or its place in the document."""

    lines: bool
    found: tuple[str, ...]
    rows: Sequence[bytes]


def read_json(path: Path) -> JsonRows:
    """Find out whether a JSON file is one document or a file of lines.

    Returns:
        The rows of a document; only `lines` for a file of lines (see `json_lines`).

    Raises:
        AsyncgenError: a document that is broken, too large, or not a table; names the line.
    """
    first = _first_character(path)
    if not first:
        raise AsyncgenError(f"{path} is empty", help_text=_expected(), code="bad_data")
    if first != _OBJECT:
        return _read_array(path) if first == _ARRAY else JsonRows(lines=True, found=(), rows=())
    if not _first_line_is_whole(path):
        try:
            return _read_object(path, _document(path))
        except AsyncgenError:
            return JsonRows(lines=True, found=(), rows=())  # reported line by line, as most such files are JSON Lines
    if _holds_one_line(path):
        return _read_object(path, _document(path))
    return JsonRows(lines=True, found=(), rows=())


def json_lines(path: Path) -> Iterator[FileRow]:
    """Every line that is not blank as a row; a line that is not a JSON object has a fault.

    Raises:
        AsyncgenError: a line is too long, or the file is in another encoding.
    """
    for number, line in raw_lines(path):
        text = line.removeprefix(BYTE_ORDER_MARK).strip() if number == 1 else line.strip()
        if text:
            row = json_row(number, text)
            if row.fault:
                decode(path, number, line)  # bytes that are not UTF-8 are the better reason
            yield row


def json_row(number: int, raw: bytes) -> FileRow:
    """The row of a JSON text."""
    try:
        values = decode_loosely(raw)
    except NotJsonError:
        return FileRow(number, {}, raw, json_fault(raw))
    if not isinstance(values, dict):
        return FileRow(number, {}, raw, f"expected an object, found {_kind_of(values)}")
    return FileRow(number, values, raw)


def _kind_of(value: Any) -> str:
    names: dict[type, str] = {list: "an array", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def text_of(row: FileRow, name: str) -> str:
    """A cell as text: strings as they are, nothing for null, anything else as compact JSON, numbers as written."""
    value = row.values.get(name)
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if row.raw:
        return compact_json(bytes(_raw_values(row.raw)[name]).decode())
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def compact_json(text: str) -> str:
    """JSON without blanks and needless escapes; numbers keep the form in which they are written."""

    def shorter(match: re.Match[str]) -> str:
        piece = match[0]
        if piece[0] != '"':
            return ""
        return json.dumps(json.loads(piece), ensure_ascii=False) if "\\" in piece else piece

    return _STRING_OR_BLANKS.sub(shorter, text)


def json_fault(raw: bytes) -> str:
    """What is wrong with a text that is not JSON, and the remedy; columns are characters, from 1."""
    text = raw.decode("utf-8", "replace")
    try:
        json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        return "it is nested too deeply"
    except json.JSONDecodeError as error:
        return _in_our_words(text, error)
    except ValueError as error:  # a refused constant, or a number with thousands of digits
        constant = _CONSTANTS.fullmatch(str(error))
        return f"{error} is not JSON; write null" if constant else "a number has too many digits"
    if re.search(r"\\u[dD][89a-fA-F]", text):
        return "half of a surrogate pair (\\ud800 to \\udfff), which UTF-8 cannot encode"
    return "it is nested too deeply, or contains a number that is too large"


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _in_our_words(text: str, error: json.JSONDecodeError) -> str:
    place = f"column {error.colno}" if "\n" not in text else f"line {error.lineno}, column {error.colno}"
    rest = text[error.pos :].lstrip()
    if error.msg == "Extra data":
        return _about_rest(rest, place)
    if rest.startswith(("'", "None", "True", "False")):
        return f"this is Python syntax, not JSON ({place}); write it with json.dumps"
    if not rest or error.msg.startswith("Unterminated string"):
        return f"the object is cut off, or spans several lines; {_WRITES_LINES}"
    said = next((words for said, words in _SAID.items() if error.msg.startswith(said)), None)
    return f"{said or f'it is not JSON: unexpected {rest[:1]!r}'} ({place})"


def _about_rest(rest: str, place: str) -> str:
    if rest.startswith(","):
        return f"there is a comma after the object ({place}); {_WRITES_LINES}, without commas between objects"
    what = "another object" if rest.startswith((_OBJECT, _ARRAY)) else "something"
    return f"{what} follows after the object ({place}); {_WRITES_LINES}"


def _expected() -> str:
    return 'such as {"prompt": "...", "completion": "..."} or {"messages": [...]}, one object per line'


def _first_character(path: Path) -> str:
    """The first one that is not a blank."""
    for _, line in raw_lines(path):
        text = line.removeprefix(BYTE_ORDER_MARK).lstrip()
        if text:
            return chr(text[0])
    return ""


def _first_line_is_whole(path: Path) -> bool:
    return not next(json_lines(path)).fault


def _holds_one_line(path: Path) -> bool:
    lines = (line for _, line in raw_lines(path) if line.strip())
    next(lines)
    return next(lines, None) is None


def _document(path: Path) -> bytes:
    with open_input(path) as file:
        content = file.read(LARGEST_DOCUMENT_BYTES + 1)
    if len(content) > LARGEST_DOCUMENT_BYTES:
        raise AsyncgenError(
            f"{path} is one JSON document of more than {LARGEST_DOCUMENT_BYTES >> 20} MiB, which is too large to "
            "read at once",
            help_text=f"write its rows as lines: jq -c '.[]' {shlex.quote(str(path))} > copy.jsonl",
            code="bad_data",
        )
    if is_utf16(path):
        try:
            return content.decode("utf-16").encode()
        except UnicodeError:
            raise AsyncgenError(f"{path} begins like UTF-16, but is not valid UTF-16", code="bad_data") from None
    content = content.removeprefix(BYTE_ORDER_MARK)
    try:
        content.decode()
    except UnicodeDecodeError as error:
        begins = content.rfind(b"\n", 0, error.start) + 1
        decode(path, content.count(b"\n", 0, begins) + 1, content[begins : error.end])
    return content


def _read_array(path: Path) -> JsonRows:
    content = _document(path)
    try:
        rows = _raw_items(content)
    except NotJsonError:
        raise _broken(path, content) from None
    return JsonRows(
        lines=False, found=("The file is one JSON array, not one object per line",), rows=list(map(bytes, rows))
    )


def _broken(path: Path, content: bytes) -> AsyncgenError:
    return AsyncgenError(f"{path}: {json_fault(content)}", help_text=_expected(), code="bad_data")


def _read_object(path: Path, content: bytes) -> JsonRows:
    try:
        values = _raw_values(content)
        starts = {name: bytes(value[:1]).decode() for name, value in _texts(values).items()}
        lists = {name: _items(value) for name, value in _texts(values).items() if starts[name] == _ARRAY}
        rows, found = _rows_of_object(path, content, _texts(values), lists)
    except NotJsonError:
        raise _broken(path, content) from None
    return JsonRows(lines=False, found=found, rows=rows)


def _texts(values: Mapping[str, msgspec.Raw]) -> dict[str, bytes]:
    return {name: bytes(value).strip(_BLANKS) for name, value in values.items()}


def _items(value: bytes) -> list[bytes]:
    return [bytes(item).strip(_BLANKS) for item in _raw_items(value)]


def _rows_of_object(
    path: Path, content: bytes, values: dict[str, bytes], lists: dict[str, list[bytes]]
) -> tuple[list[bytes], tuple[str, ...]]:
    """The rows of an object: in one of its lists, in its lists as columns, or the object itself."""
    of_objects = [name for name, items in lists.items() if items and all(item[:1] == b"{" for item in items)]
    names = {name.strip().lower() for name in values}
    is_row = (
        names & {"messages", "conversations", "chosen", "prompt", "completion"} or {"instruction", "output"} <= names
    )
    if of_objects and not is_row:
        if len(of_objects) > 1:
            raise AsyncgenError(
                f"{path} contains several lists of rows: {', '.join(of_objects)}",
                help_text=f"choose one: jq -c '.{of_objects[0]}[]' {shlex.quote(str(path))} > {of_objects[0]}.jsonl",
                code="bad_data",
            )
        return lists[of_objects[0]], (f"The rows are the items of the list `{of_objects[0]}`",)
    if values and all(value[:1] == b"{" for value in values.values()):
        return _frame(values), ("The file is one JSON object of columns",)
    columns = [name for name in lists if name not in of_objects]
    if columns and not of_objects:
        return _spread(path, values, {name: lists[name] for name in columns}), (
            "The file is one JSON object of columns",
        )
    return [content.strip(_BLANKS)], ("The file is one JSON object",)


def _spread(path: Path, values: Mapping[str, bytes], columns: Mapping[str, list[bytes]]) -> list[bytes]:
    """Lists of the same length as columns; a single value next to them is repeated in every row."""
    lengths = {len(column) for column in columns.values()}
    if len(lengths) > 1:
        raise AsyncgenError(
            f"{path} is not a table",
            cause=f"its columns differ in length: {', '.join(map(str, sorted(lengths)))}",
            code="bad_data",
        )
    [length] = lengths
    return [
        _object({name: columns[name][place] if name in columns else value for name, value in values.items()})
        for place in range(length)
    ]


def _frame(values: Mapping[str, bytes]) -> list[bytes]:
    """An object of objects: columns, whose cells have the row's label."""
    columns = {name: _raw_values(value) for name, value in values.items()}
    labels = dict.fromkeys(label for column in columns.values() for label in column)
    return [
        _object({name: bytes(column[label]) for name, column in columns.items() if label in column}) for label in labels
    ]


def _object(cells: Mapping[str, bytes]) -> bytes:
    return b"{" + b",".join(orjson.dumps(name) + b":" + value for name, value in cells.items()) + b"}"
