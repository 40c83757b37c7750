"""Which columns of a table are prompt and completion.

Owns the checks on names: missing, written in the wrong case, more columns than two. Does not read rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyncgen.dataset.pairs.table import Row
from asyncgen.errors import AsyncgenError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncgen.dataset.pairs.table import Table

PROMPT = "prompt"
COMPLETION = "completion"


@dataclass(frozen=True, slots=True)
class Pairs:
    """A table seen as prompts and completions; what was necessary for that is in `found` and `remedies`."""

    table: Table
    prompt: int
    completion: int
    found: tuple[str, ...]
    remedies: tuple[str, ...]

    def rows(self) -> Iterator[Row]:
        """A pass over all rows, those with an empty completion too."""
        prompt, completion, words = self.prompt, self.completion, self.table.empty_words
        for label, cells in enumerate(self.table.cells()):
            left, right = cells[prompt], cells[completion]
            yield Row(label, "" if left in words else left, "" if right in words else right)

    def filled_rows(self) -> Iterator[Row]:
        """A pass over the rows that have a completion: the others are taken out in any case."""
        return (row for row in self.rows() if row.completion)


def find_pairs(table: Table, name: str) -> Pairs:
    """Find the two columns.

    Args:
        table: what was read.
        name: the file's name, for the error.

    Raises:
        AsyncgenError: one of the two is not there.
    """
    names = list(table.columns)
    found, remedies, places = [], [], {}
    for wanted in (PROMPT, COMPLETION):
        place = _place(names, wanted, name)
        if names[place] != wanted:
            found.append(f"The column `{names[place]}` must be named `{wanted}`")
            remedies.append(f"Name the column `{wanted}`")
            names[place] = wanted
        places[wanted] = place
    if extra := _extra(names, places):
        found.append(f"There must be two columns, and there are others too: {extra}")
        remedies.append(f"Leave the other columns out: {extra}")
    return Pairs(table, places[PROMPT], places[COMPLETION], tuple(found), tuple(remedies))


def _place(names: list[str], wanted: str, file: str) -> int:
    if wanted in names:
        return names.index(wanted)
    for place, name in enumerate(names):
        if name.lower() == wanted:
            return place
    raise AsyncgenError(
        f"{file} has no column `{wanted}`",
        cause=f"its columns are: {', '.join(names) or 'none'}",
        help_text="name them in the first line (CSV, TSV, XLSX) or as keys (JSON): prompt, completion",
        code="bad_data",
    )


def _extra(names: list[str], places: dict[str, int]) -> str:
    if len(names) <= len(places):
        return ""
    return ", ".join(f"`{name}`" for place, name in enumerate(names) if place not in places.values())
