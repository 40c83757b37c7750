"""A file of rows as the checks see it: named columns of text, read again from the start at every pass.

Owns the types only. Does not know formats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

NO_WORDS: frozenset[str] = frozenset()


class Row(NamedTuple):
    """A prompt and its completion; `label` is the row's place in the file, from 0."""

    label: int
    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Table:
    """What stands in a file.

    Attributes:
        columns: their names as the file has them.
        cells: starts a pass over the rows; each has as many cells as there are columns.
        found: what was noticed while reading, a sentence each.
        converts: the format that has to become JSONL; "" where it is JSONL already.
        empty_words: cells that mean "nothing" in this format, such as "NA" in a CSV file.
        numbered: rows are labelled by their place; False where the file brings labels of its own.
    """

    columns: tuple[str, ...]
    cells: Callable[[], Iterator[Sequence[str]]]
    found: tuple[str, ...] = ()
    converts: str = ""
    empty_words: frozenset[str] = NO_WORDS
    numbered: bool = True
