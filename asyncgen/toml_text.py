"""Parse TOML that a person wrote, with errors in our own words that show the line, and find the line of a key.

The TOML parser keeps no positions, so a search for table headers and `key =` at the beginning of lines finds them; it
only helps the reader of an error, and never decides anything. What the tables mean is left to the callers.
"""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any

from asyncgen.errors import Problem, UsageError
from asyncgen.text_files import read_input

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MOST_BYTES = 1024 * 1024

_HEADER = re.compile(r"\s*\[\[?\s*([^\[\]]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")
_FENCE = re.compile(r'"""|\'\'\'')
_ITEM = re.compile(r"(.*)\[(\d+)\](.*)")
_POSITION = re.compile(r"\(at (?:line (\d+), column (\d+)|end of document)\)")
_SHOWN_WIDTH = 100

# Beginning of the parser's message to ours, and the remedy.
_WORDS = (
    ("Unclosed array", "a list that begins above is not closed: ] is missing"),
    ("Unclosed inline table", "a table that begins above is not closed: } is missing"),
    (
        "Illegal character",
        "a string has no closing quote on its line; use three quotes for several lines",
    ),
    ("Unterminated string", "a string has no closing quotes"),
    ('Expected "', "a string of several lines has no closing quotes"),
    ("Expected '=' after a key", "a key needs = and a value"),
    ("Expected newline or end", "unexpected text at the end of the line; is a quote or a comma missing?"),
    ("Expected ']'", "the name of a table needs a closing ]"),
    ("Invalid value", "not a value; a string needs quotes, and true and false are lower case"),
    ("Invalid statement", "neither a table in [brackets] nor `key = value`"),
    ("Invalid initial character for a key", "a key has letters, digits, - and _, or it is in quotes"),
    (
        "Unescaped '\\'",
        "a \\ between double quotes must be doubled; between single quotes it is literal",
    ),
    ("Invalid hex", "\\x, \\u and \\U in a string need the digits of a character"),
    ("Escaped character is not", "\\u or \\U in a string is not a character"),
    ("Found invalid character", "a control character that TOML does not allow"),
    ("Invalid date or datetime", "not a valid date"),
)
_TWICE = ("Cannot overwrite", "Duplicate inline table key", "Cannot declare", "Cannot mutate", "Cannot redefine")


def read_toml(path: Path) -> tuple[str, dict[str, Any]]:
    """Read a small TOML file that a person wrote.

    Args:
        path: the file, in UTF-8, with or without a byte order mark.

    Returns:
        Its text, for `line_of`, and its tables.

    Raises:
        UsageError: it cannot be read, or is not TOML; the cause names the line and shows it.
    """
    text = read_input(path, most_bytes=_MOST_BYTES)
    tables = parse_toml(text)
    if isinstance(tables, Problem):
        cause = str(Problem("", tables.message, line=tables.line, file=str(path)))
        raise UsageError(f"{path} is not TOML", cause=cause, help_text="correct the file", code="bad_toml")
    return text, tables


def parse_toml(text: str) -> dict[str, Any] | Problem:
    """Parse a TOML text.

    Args:
        text: without a byte order mark.

    Returns:
        The tables; or the problem, with its line and a caret below the column.
    """
    text = text.replace("\r\n", "\n")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return _syntax_problem(text, str(error))
    except RecursionError:
        return Problem("", "nested too deeply")
    except ValueError:
        return Problem("", "a number of more than 4,300 digits")


def _syntax_problem(text: str, message: str) -> Problem:
    position = _POSITION.search(message)
    lines = text.split("\n")
    line, column = (int(position[1]), int(position[2])) if position and position[1] else (len(lines), 1)
    if message.startswith(_TWICE) and (twice := _defined_twice(text, line)):
        key, places = twice
        return Problem("", f"`{key}` is set twice (lines {places[0]} and {places[1]})", line=places[1])
    if (
        message.startswith("Invalid value")
        and (_KEY.match(lines[line - 1]) or _HEADER.match(lines[line - 1]))
        and not lines[line - 1][: column - 1].strip(" \t[")
    ):
        message = "Unclosed array"  # a list was not closed before the next key or table
    words = next((ours for theirs, ours in _WORDS if message.startswith(theirs)), "this is not TOML")
    if message.startswith(_TWICE):
        words = "a key or a table is set twice"
    if message.startswith("Unclosed"):
        line, column = _last_opened(lines, line, "[" if "array" in message else "{")
        words = words.replace("begins above", "begins here")
    return Problem("", f"{words}\n{_marked_line(lines, line, column)}", line=line)


def _marked_line(lines: list[str], line: int, column: int) -> str:
    """The line with a caret below the column."""
    shown = lines[line - 1].replace("\t", " ")
    begin = max(column - _SHOWN_WIDTH, 0)
    number = f"  {line} | "
    return f"{number}{shown[begin : begin + _SHOWN_WIDTH + 20]}\n{' ' * (len(number) + column - 1 - begin)}^"


def _last_opened(lines: list[str], line: int, bracket: str) -> tuple[int, int]:
    """The last line up to `line` that opens a bracket after a key."""
    for number in range(min(line, len(lines)), 0, -1):
        if (key := _KEY.match(lines[number - 1])) and (at := lines[number - 1].find(bracket, key.end())) >= 0:
            return number, at + 1
    return min(line, len(lines)), 1


def _defined_twice(text: str, line: int) -> tuple[str, tuple[int, int]] | None:
    """The key or table that is defined for the second time on this line or above it."""
    seen: dict[str, int] = {}
    for number, key in _keys(text):
        if key in seen and number <= line + 1:
            return key, (seen[key], number)
        seen.setdefault(key, number)
    return None


def line_of(text: str, key: str) -> int | None:
    """Find the line of a dotted key.

    Args:
        text: the TOML document.
        key: such as `grid.city`, or `prompt.examples[2].size` for the second table of an array.

    Returns:
        The line number, from 1, of the key or of the nearest table around it; a table without a header has the line
        of its first dotted key. None if neither is found.
    """
    places: dict[str, int] = {}
    implied: dict[str, int] = {}
    for number, found in _keys(text):
        places.setdefault(found, number)
        around = found.rpartition(".")[0]
        while around:
            implied.setdefault(around, number)
            around = around.rpartition(".")[0]
    while key:
        if key in places or key in implied:
            return places.get(key) or implied[key]
        item = _ITEM.fullmatch(key)
        key = item[1] if item and not item[3] else key.rpartition(".")[0]
    return None


def _keys(text: str) -> Iterator[tuple[int, str]]:
    """The lines of tables and keys, with their dotted names; arrays of tables are numbered."""
    counts: dict[str, int] = {}
    table, fence = "", ""
    for number, line in enumerate(text.split("\n"), 1):
        if fence:
            fence = "" if fence in line else fence
            continue
        if header := _HEADER.match(line):
            table = _bare(header[1])
            if line.lstrip().startswith("[["):
                counts[table] = counts.get(table, 0) + 1
                if counts[table] == 1:
                    yield number, table
                table = f"{table}[{counts[table]}]"
            yield number, table
        elif key := _KEY.match(line):
            yield number, f"{table}.{_bare(key[1])}".lstrip(".")
            fences = _FENCE.findall(line)
            fence = fences[0] if len(fences) == 1 else ""


def _bare(key: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in key.split("."))
