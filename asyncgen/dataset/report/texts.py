"""Measure the answers of a run as texts: length, first words, diversity; and choose those that are looked at closely.

Keeps 28 bytes of each answer; the few texts that are needed are fetched again. Diversity is measured on a sample of
fixed size, which makes runs of different sizes comparable. What is found in the chosen texts is left to `quality`.
"""

from __future__ import annotations

import heapq
from array import array
from dataclasses import dataclass
from itertools import compress, islice
from operator import not_
from typing import TYPE_CHECKING

from asyncgen.dataset.near_duplicates import AnswersByPrompt
from asyncgen.dataset.token_counts import Histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

OPENING_WORDS = 3
SAMPLED = 5000


@dataclass(frozen=True, slots=True)
class Diversity:
    """How much the wording of the answers differs.

    Attributes:
        answers: number of answers in the sample.
        distinct: distinct-n, the share of different words, bigrams and trigrams among all; 1 if none occurs twice.
            (Li et al., "A Diversity-Promoting Objective Function", 2016.)
    """

    answers: int
    distinct: tuple[float, float, float]


class AnswerTexts:
    """Measures of answers, which are known by their numbers in the order in which they were added."""

    def __init__(self) -> None:
        self._keys = array("Q")
        self._words = array("I")
        self._characters = array("I")
        self._openings = AnswersByPrompt()
        self._dropped = bytearray()  # empty if none is

    def __len__(self) -> int:
        return len(self._keys)

    def add_all(self, keys: Iterable[str], texts: Sequence[str]) -> None:
        """Note the next answers; `keys` are those of their requests, by which the sample is drawn."""
        first = len(self._keys)
        words = [text.split() for text in texts]
        self._keys.extend([int(key[:16], 16) for key in keys])
        self._words.extend(map(len, words))
        self._characters.extend(map(len, texts))
        self._openings.add_all([" ".join(each[:OPENING_WORDS]) for each in words], first)

    def extend(self, other: AnswerTexts) -> None:
        """Note the answers of the next part."""
        self._openings.extend(other._openings, len(self))
        self._keys += other._keys
        self._words += other._words
        self._characters += other._characters

    def drop(self, dropped: bytearray) -> None:
        """Leave out the answers whose numbers have a 1 in `dropped`; call it once, after the last answer."""
        self._dropped = dropped
        self._openings = self._openings.without(dropped)

    def _kept(self) -> Iterable[int]:
        numbers = range(len(self))
        return compress(numbers, map(not_, self._dropped)) if self._dropped else numbers

    def words(self) -> Histogram:
        """Number of words of each answer."""
        return Histogram(map(self._words.__getitem__, self._kept()))

    def characters(self) -> Histogram:
        """Number of characters of each answer."""
        return Histogram(map(self._characters.__getitem__, self._kept()))

    def openings(self, most: int, text: Callable[[int], str]) -> list[tuple[str, int]]:
        """The most common first words and how many answers begin so, the commonest first, then the earliest."""
        counts = ((len(numbers), -numbers[0]) for numbers in self._openings.groups())
        return [
            (" ".join(text(-first).split(None, OPENING_WORDS)[:OPENING_WORDS]), count)
            for count, first in heapq.nlargest(most, counts)
        ]

    def sample(self) -> list[int]:
        """The answers with the smallest keys: keys are hashes, so this is a fair sample, and always the same."""
        return heapq.nsmallest(SAMPLED, self._kept(), key=self._keys.__getitem__)

    def longest(self, most: int) -> list[int]:
        """The answers with the most characters."""
        return heapq.nlargest(most, self._kept(), key=self._characters.__getitem__)

    def shortest(self, most: int) -> list[int]:
        """The answers with the fewest characters."""
        return heapq.nsmallest(most, self._kept(), key=self._characters.__getitem__)


def diversity(texts: Iterable[str]) -> Diversity:
    """How much the wording of texts differs."""
    words = [text.lower().split() for text in texts]
    one, two, three = (_distinct(words, length) for length in (1, 2, 3))
    return Diversity(len(words), (one, two, three))


def _distinct(texts: Iterable[Sequence[str]], length: int) -> float:
    grams: set[tuple[str, ...]] = set()
    total = 0
    for words in texts:
        runs = zip(*(islice(words, start, None) for start in range(length)), strict=False)
        for gram in runs:
            grams.add(gram)
            total += 1
    return len(grams) / total if total else 0.0
