"""A table as the checks see it: named columns of text, and which of them are prompt and completion.

Checks column names: missing, wrong case, more than two columns. Every pass reads the rows from the start. File formats
are left to `read`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from asyncgen.errors import AsyncgenError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

PROMPT = "prompt"
COMPLETION = "completion"
NO_WORDS: frozenset[str] = frozenset()


class PairRow(NamedTuple):
    """A prompt and its completion; `label` is the row's place in the file, from 0."""

    label: int
    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class PairTable:
    """The content of a file.

    Attributes:
        columns: names, as in the file.
        cells: starts a pass over the rows, each with as many cells as there are columns.
        found: sentences about what was noticed while reading.
        converts: name of the format that must be converted to JSONL; "" for JSONL.
        empty_words: cells that mean "nothing" in this format, such as "NA" in a CSV file.
        numbered: whether rows are labelled by their place; False if the file has labels.
        shifted: why the columns look shifted; "" if they do not.
    """

    columns: tuple[str, ...]
    cells: Callable[[], Iterator[Sequence[str]]]
    found: tuple[str, ...] = ()
    converts: str = ""
    empty_words: frozenset[str] = NO_WORDS
    numbered: bool = True
    shifted: str = ""


@dataclass(frozen=True, slots=True)
class Pairs:
    """A table seen as prompts and completions; what was necessary for that is in `found` and `remedies`."""

    table: PairTable
    prompt: int
    completion: int
    found: tuple[str, ...]
    remedies: tuple[str, ...]

    def rows(self) -> Iterator[PairRow]:
        """A pass over all rows, those with an empty completion too."""
        prompt, completion, words = self.prompt, self.completion, self.table.empty_words
        for label, cells in enumerate(self.table.cells()):
            left, right = cells[prompt], cells[completion]
            yield PairRow(label, "" if left in words else left, "" if right in words else right)

    def filled_rows(self) -> Iterator[PairRow]:
        """A pass over the rows that have a completion: the others are taken out in any case."""
        return (row for row in self.rows() if row.completion)


def find_pairs(table: PairTable, name: str, given: Mapping[str, str] | None = None) -> Pairs:
    """Find the two columns.

    Args:
        table: what was read.
        name: the file's name, for the error.
        given: the names that the user gave for them.

    Raises:
        AsyncgenError: one of the two is not there.
    """
    names = list(table.columns)
    found, remedies, places = [], [], {}
    for wanted in (PROMPT, COMPLETION):
        place = _place(names, (given or {}).get(wanted, wanted), name)
        if names[place] != wanted:
            found.append(f"The column `{names[place]}` must be named `{wanted}`")
            remedies.append(f"Name the column `{wanted}`")
            names[place] = wanted
        places[wanted] = place
    if extra := _extra(names, places):
        found.append(f"There must be exactly two columns; there are others: {extra}")
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
        help_text="name the columns: --prompt-column NAME --completion-column NAME",
        code="bad_data",
    )


def _extra(names: list[str], places: dict[str, int]) -> str:
    if len(names) <= len(places):
        return ""
    return ", ".join(f"`{name}`" for place, name in enumerate(names) if place not in places.values())
