"""Answers to the same prompt that are the same but for a word or two.

Owns the measure and the search. Does not know records: texts are fetched again by number, so that a file of
any size can be searched with 16 bytes of memory an answer.

Two answers are near-duplicates when their pairs of neighbouring words, letter case and punctuation left out,
agree to at least `THRESHOLD` (Jaccard similarity: shared pairs over all pairs). In a text of thirty words one
word may differ, or two that are neighbours. Candidates are found by prefix filtering (Bayardo, Ma and
Srikant, "Scaling Up All Pairs Similarity Search", 2007), which misses none: sets so similar share one of
their first few members in any fixed order.

Lines of a large file, fetched by their place.

Owns the offsets, eight bytes a line. Counts as `jsonl.read_lines` reads: blank lines do not count, nor does a byte
order mark. Does not know what stands in a line.

Near-duplicates among the answers of a run, fetched from its file when they are compared.
"""

from __future__ import annotations

import codecs
import math
import re
from array import array
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import IO, TYPE_CHECKING

import msgspec

from asyncgen.json_text import decoder
from asyncgen.run.whole_file import disk_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


THRESHOLD = 0.75
LARGEST_GROUP = 20_000

# ASCII text is cut into words by bytes, which is faster: all but letters and digits become blanks.
_LOWERED = bytes(byte if bytes([byte]).isalnum() else ord(" ") for byte in bytes(range(256)).lower())
# A word; in scripts that put no blanks between words, a character.
_WORD = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_]+")


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """An answer that is nearly an earlier one, both by the number they were added with."""

    number: int
    earlier: int
    similarity: float


def shingles(text: str) -> frozenset[int]:
    """The text's pairs of neighbouring words, as 64-bit hashes."""
    words = words_of(text)
    return frozenset(map(hash, pairwise(words))) or frozenset(map(hash, words))


def words_of(text: str) -> list[bytes]:
    """The text's words in lower case, as UTF-8."""
    if text.isascii():
        return text.encode("ascii").translate(_LOWERED).split()
    return [word.encode() for word in _WORD.findall(text.lower())]


def similarity(left: frozenset[int], right: frozenset[int]) -> float:
    """Shared members over all members, from 0 to 1."""
    shared = len(left & right)
    return shared / (len(left) + len(right) - shared) if shared else 0.0


class AnswersByPrompt:
    """Collects which answers belong to the same prompt, and then finds the near-duplicates among them."""

    def __init__(self) -> None:
        self._prompts = array("q")
        self._numbers = array("q")

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, prompt: str, number: int) -> None:
        """Note an answer; `number` is what `text` will be asked for, such as a place in a file."""
        self._prompts.append(hash(prompt))
        self._numbers.append(number)

    def find(self, text: Callable[[int], str]) -> Iterator[NearDuplicate]:
        """Every answer that is nearly an earlier one to the same prompt; an answer found is no example for others.

        Args:
            text: fetches an answer by its number.
        """
        prompts = self._prompts
        order = sorted(range(len(prompts)), key=prompts.__getitem__)
        for _, group in groupby(order, key=prompts.__getitem__):
            numbers = [self._numbers[place] for place in group]
            for begin in range(0, len(numbers), LARGEST_GROUP):
                if len(numbers) > 1:
                    yield from _within(numbers[begin : begin + LARGEST_GROUP], text)


def _within(numbers: list[int], text: Callable[[int], str]) -> Iterator[NearDuplicate]:
    kept: dict[int, frozenset[int]] = {}
    by_member: dict[int, list[int]] = {}
    for number in numbers:
        members = shingles(text(number))
        first = sorted(members)[: _prefix_length(len(members))]
        candidates = {other for member in first if member in by_member for other in by_member[member]}
        if candidates:
            closest, other = max((similarity(members, kept[other]), -other) for other in candidates)
            if closest >= THRESHOLD:
                yield NearDuplicate(number, -other, closest)
                continue
        kept[number] = members
        for member in first:
            by_member.setdefault(member, []).append(number)


def _prefix_length(size: int) -> int:
    """How many of the first members of a set a set that is similar enough must have one of."""
    return size - math.ceil(size * THRESHOLD - 1e-9) + 1


class LineIndex:
    """The lines of an open file; made by `indexed_lines`."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._begins = array("Q")
        begin = 0
        for line in file:
            if not line.isspace():
                self._begins.append(begin)
            begin += len(line)

    def __getitem__(self, place: int) -> bytes:
        """The line at that place, from 0."""
        self._file.seek(self._begins[place])
        return self._file.readline().removeprefix(codecs.BOM_UTF8)


@contextmanager
def indexed_lines(path: Path) -> Iterator[LineIndex]:
    """Open a file for fetching its lines while the block lasts.

    Raises:
        DiskError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            yield LineIndex(file)
    except OSError as error:
        raise disk_error(f"{path} could not be read", error) from error


class _Answer(msgspec.Struct, gc=False):
    completion: str


_decode_answer = decoder(_Answer)


def similar_records(path: Path, answers: AnswersByPrompt) -> Iterator[NearDuplicate]:
    """The near-duplicates among `answers`, whose numbers are places in the records file `path`.

    Raises:
        DiskError: the file cannot be read.
    """
    if not answers:
        return
    with indexed_lines(path) as lines:
        yield from answers.find(lambda place: _decode_answer(lines[place]).completion)
