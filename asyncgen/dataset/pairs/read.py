"""Any of the six formats as a table, by the file's extension.

Owns the list of formats and the reading of text files, where each line is a completion. The formats that take
more than a line to tell have modules of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncgen.dataset.pairs.read_delimited import read_delimited
from asyncgen.dataset.pairs.read_json import read_json, read_jsonl
from asyncgen.dataset.pairs.read_xlsx import read_xlsx
from asyncgen.dataset.pairs.table import Table
from asyncgen.errors import UsageError
from asyncgen.text_lines import text_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def read_table(path: Path) -> Table:
    """Read a file of prompts and completions.

    Raises:
        UsageError: no such file, or an extension that is none of the six.
        AsyncgenError: the file is not what its extension says; tells the line.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UsageError(
            f"{path} has {'the extension ' + path.suffix if path.suffix else 'no extension'}",
            cause=f"the format is told by it: one of {', '.join(_READERS)}",
            help_text="rename a copy, or name a run directory",
        )
    return reader(path)


def _read_text(path: Path) -> Table:
    def cells() -> Iterator[tuple[str, str]]:
        line = "\n"
        for _, line in text_lines(path):
            yield "", line.rstrip("\r\n")
        if line.endswith(("\n", "\r")):
            yield "", ""  # what follows the last line's end is a row to the legacy tool, and an empty one

    found = ("By its extension, the file is text: each line is taken for a completion without a prompt",)
    return Table(("prompt", "completion"), cells, found, "TXT")


_READERS: dict[str, Callable[[Path], Table]] = {
    ".csv": lambda path: read_delimited(path, ","),
    ".tsv": lambda path: read_delimited(path, "\t"),
    ".xlsx": read_xlsx,
    ".txt": _read_text,
    ".json": read_json,
    ".jsonl": read_jsonl,
}
