"""What the answers are like as texts: how long, how they begin, how much they differ.

Owns the measures. Keeps a bounded amount of memory: openings that stay rare are forgotten in between, and diversity
is measured on a sample of fixed size, which also makes runs of different sizes comparable.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from asyncgen.dataset.histogram import Histogram

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

OPENING_WORDS = 3
SAMPLED = 5000
_MOST_OPENINGS = 50_000


@dataclass(frozen=True, slots=True)
class Diversity:
    """How much the answers differ in their words.

    Attributes:
        answers: how many were looked at.
        distinct: share of different ones among all single words, pairs and triples; 1 means that none comes twice.
            (Li et al., "A Diversity-Promoting Objective Function", 2016: distinct-n.)
    """

    answers: int
    distinct: tuple[float, float, float]


class TextStatistics:
    """Looks at answers as they come."""

    def __init__(self) -> None:
        self.words = Histogram()
        self.characters = Histogram()
        self._openings: Counter[str] = Counter()
        self._sample: list[tuple[int, str]] = []

    def add(self, key: str, text: str) -> None:
        """Note one answer; `key` is its request's, by which the sample is drawn."""
        words = text.split()
        self.words.counts[len(words)] += 1
        self.characters.counts[len(text)] += 1
        self._openings[" ".join(words[:OPENING_WORDS])] += 1
        if len(self._openings) > _MOST_OPENINGS:
            self._openings = Counter(dict(self._openings.most_common(_MOST_OPENINGS // 2)))
        self._keep(int(key, 16), text)

    def _keep(self, number: int, text: str) -> None:
        """Keep the answers with the smallest keys: keys are hashes, so this is a fair sample, and always the same."""
        if len(self._sample) < SAMPLED:
            heapq.heappush(self._sample, (-number, text))
        elif -number > self._sample[0][0]:
            heapq.heapreplace(self._sample, (-number, text))

    def openings(self, most: int) -> list[tuple[str, int]]:
        """The most common first words and how many answers begin so, the commonest first."""
        ranked = sorted(self._openings.items(), key=lambda item: (-item[1], item[0]))
        return ranked[:most]

    def diversity(self) -> Diversity:
        """Of the sample."""
        texts = [text.lower().split() for _, text in self._sample]
        one, two, three = (_distinct(texts, length) for length in (1, 2, 3))
        return Diversity(len(texts), (one, two, three))


def _distinct(texts: Iterable[Sequence[str]], length: int) -> float:
    grams: set[tuple[str, ...]] = set()
    total = 0
    for words in texts:
        runs = zip(*(islice(words, start, None) for start in range(length)), strict=False)
        for gram in runs:
            grams.add(gram)
            total += 1
    return len(grams) / total if total else 0.0
