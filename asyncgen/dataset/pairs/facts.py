"""Measure the rows in one pass, for all checks.

Counts, duplicates, letter case, common prefixes and suffixes of prompts and completions, separators. Keeps at most a
few bytes a row, so that a file of any size can be measured. Judging is left to `checks`.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from asyncgen.dataset.pairs.table import PairRow

# Thresholds and candidates as observed of openai 0.27.8.
SEPARATORS = (" ->", "\n\n###\n\n", "\n\n===\n\n", "\n\n---\n\n", "\n\n===>\n\n", "\n\n--->\n\n")
ENDINGS = ("\n", ".", " END", "***", "+++", "&&&", "$$$", "@@@", "%%%")
LONG_CHARACTERS = 10_000
ROWS_PER_CLASS = 3

Task = Literal["open-ended generation", "classification", "conditional generation"]

_CHUNK = 1024
_BETWEEN = "\0"
_UPPER = bytes(range(ord("A"), ord("Z") + 1))
_ASCII = re.compile("[\x00-\x7f]+")
_LOWER = bytes(range(ord("a"), ord("z") + 1))


@dataclass(frozen=True, slots=True)
class OverlongRow:
    """A row that is too long: its label, its place among the rows, and among those that are not duplicates."""

    label: int
    place: int
    place_without_duplicates: int | None


@dataclass(frozen=True, slots=True)
class ColumnFacts:
    """Facts about one column; `prefix` and `suffix` are common to all its cells."""

    prefix: str
    suffix: str
    all_equal: bool
    upper: int
    lower: int
    absent: tuple[str, ...]
    line_breaks: bool
    all_start_with_space: bool

    @property
    def mostly_upper(self) -> bool:
        """More than a third of the letters are upper case."""
        return self.upper * 2 > self.lower


@dataclass(frozen=True, slots=True)
class PairFacts:
    """Facts about the rows that have a completion.

    Attributes:
        rows: number of rows.
        task: what the data looks like.
        classes: number of distinct completions.
        empty: labels of the rows without a completion.
        duplicates: labels of the rows with the prompt and completion of an earlier one.
    """

    rows: int
    task: Task
    classes: int
    empty: Sequence[int]
    duplicates: Sequence[int]
    long: tuple[OverlongRow, ...]
    prompt: ColumnFacts
    completion: ColumnFacts

    @property
    def all_rows(self) -> int:
        return self.rows + len(self.empty)


def gather(rows: Iterable[PairRow]) -> PairFacts:
    """One pass over the rows."""
    scan = _Scan()
    iterator = iter(rows)
    while chunk := list(islice(iterator, _CHUNK)):
        scan.add(chunk)
    return scan.facts()


def contains(labels: Sequence[int], label: int) -> bool:
    """Whether `label` is among `labels`, which are in order."""
    place = bisect_left(labels, label)
    return place < len(labels) and labels[place] == label


class _Scan:
    def __init__(self) -> None:
        self._rows = 0
        self._empty = array("Q")
        self._duplicates = array("Q")
        self._long: list[OverlongRow] = []
        self._pairs: set[int] = set()  # 64-bit hashes: at 10^6 rows a false duplicate has odds of 1 to 10^7
        self._completions: set[int] = set()
        self._prompt = _ColumnScan(SEPARATORS)
        self._completion = _ColumnScan(ENDINGS)

    def add(self, chunk: list[PairRow]) -> None:
        filled = [row for row in chunk if row.completion]
        if len(filled) < len(chunk):
            self._empty.extend(row.label for row in chunk if not row.completion)
        if not filled:
            return
        for row in filled:
            self._add_row(row)
        self._completions.update(hash(row.completion) for row in filled)
        self._prompt.add([row.prompt for row in filled])
        self._completion.add([row.completion for row in filled])

    def _add_row(self, row: PairRow) -> None:
        pair = hash((row.prompt, row.completion))
        duplicate = pair in self._pairs
        if duplicate:
            self._duplicates.append(row.label)
        else:
            self._pairs.add(pair)
        if len(row.prompt) + len(row.completion) > LONG_CHARACTERS:
            before = None if duplicate else self._rows - len(self._duplicates)
            self._long.append(OverlongRow(row.label, self._rows, before))
        self._rows += 1

    def facts(self) -> PairFacts:
        return PairFacts(
            rows=self._rows,
            task=self._task(),
            classes=len(self._completions),
            empty=self._empty,
            duplicates=self._duplicates,
            long=tuple(self._long),
            prompt=self._prompt.column(),
            completion=self._completion.column(),
        )

    def _task(self) -> Task:
        if not self._prompt.characters:
            return "open-ended generation"
        few = len(self._completions) < self._rows / ROWS_PER_CLASS
        return "classification" if few else "conditional generation"


class _ColumnScan:
    """The measures of one column, over chunks of its cells."""

    def __init__(self, candidates: tuple[str, ...]) -> None:
        self.characters = 0
        self._ends: tuple[str, str] | None = None
        self._first: str | None = None
        self._all_equal = True
        self._upper = self._lower = 0
        self._absent = list(candidates)
        self._line_breaks = False
        self._spaced = True

    def add(self, cells: list[str]) -> None:
        if self._first is None or self._ends is None:
            self._first, self._ends = cells[0], (cells[0], cells[0])
        first = self._first
        self._all_equal = self._all_equal and all(cell == first for cell in cells)
        prefix, suffix = self._ends
        self._ends = _common_prefix(prefix, cells), _common_suffix(suffix, cells)
        self._spaced = self._spaced and all(cell.startswith(" ") for cell in cells)
        text = _BETWEEN.join(cells)
        self.characters += len(text) - len(cells) + 1
        self._absent = [candidate for candidate in self._absent if candidate not in text]
        self._line_breaks = self._line_breaks or "\n" in text
        upper, lower = count_cases(text)
        self._upper += upper
        self._lower += lower

    def column(self) -> ColumnFacts:
        prefix, suffix = self._ends or ("", "")
        return ColumnFacts(
            prefix=prefix,
            suffix=suffix,
            all_equal=self._all_equal,
            upper=self._upper,
            lower=self._lower,
            absent=tuple(self._absent),
            line_breaks=self._line_breaks,
            all_start_with_space=self._spaced,
        )


def _common_prefix(prefix: str, cells: Iterable[str]) -> str:
    for cell in cells:
        while not cell.startswith(prefix):
            prefix = _shorter(prefix, cell)
    return prefix


def _common_suffix(suffix: str, cells: Iterable[str]) -> str:
    if not suffix:
        return suffix
    for cell in cells:
        if not cell.endswith(suffix):
            suffix = _common_prefix(suffix[::-1], (cell[::-1],))[::-1]
    return suffix


def _shorter(prefix: str, cell: str) -> str:
    for place, (left, right) in enumerate(zip(prefix, cell, strict=False)):
        if left != right:
            return prefix[:place]
    return prefix[: len(cell)]


def count_cases(text: str) -> tuple[int, int]:
    """How many letters are upper case, how many lower."""
    data = text.encode("ascii", "ignore")
    upper = len(data) - len(data.translate(None, _UPPER))
    lower = len(data) - len(data.translate(None, _LOWER))
    if len(data) < len(text):
        letters = [letter for letter in _ASCII.sub("", text) if letter.isalpha()]
        upper += sum(map(str.isupper, letters))
        lower += sum(map(str.islower, letters))
    return upper, lower


def occurs_earlier(cells: Iterator[str], suffix: str) -> bool:
    """Whether the suffix of all cells occurs in one of them before its end, too."""
    return any(suffix in cell[: -len(suffix)] for cell in cells)
