"""Find near-duplicate answers to the same prompt: answers that differ in a word or two.

Texts are fetched again by number, so that a file of any size can be searched with 50 bytes of memory an answer, and
some 100 MB for the group that is compared. Most texts need not be fetched: a sketch of each tells that it is nearly
none of the others.

Two answers are near-duplicates if the Jaccard similarity of their word bigrams (shared bigrams over all bigrams, letter
case and punctuation ignored) is at least `THRESHOLD`. In a text of thirty words one word may differ, or two neighbours.
Candidates are found by prefix filtering (Bayardo, Ma and Srikant, "Scaling Up All Pairs Similarity Search", 2007): two
sets so similar share one of their first few members in any fixed order. Rare bigrams come first in that order, so that
an opening common to all answers makes no candidates.
"""

from __future__ import annotations

import math
import re
from array import array
from bisect import bisect
from collections import Counter
from dataclasses import dataclass
from functools import reduce
from itertools import combinations, compress, groupby, pairwise, starmap
from operator import or_, xor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

THRESHOLD = 0.75
LARGEST_GROUP = 20_000
_MOST_MEMBERS = 1_000_000  # of all sets that are compared at a time: some 100 MB
_SHARED_FIRST = 3  # number of first members that two sets must share to be compared
_MOST_POSTINGS = 500  # a member that is among the rarest of more answers than this is ignored
_BUCKETS = 64  # sorted one at a time, to bound memory
_SKETCH_BYTES = 32
_MOST_SKETCHED = 160  # words; with more, so few bits distinguish nothing
_MOST_COMPARED = 64  # texts whose sketches are compared, each with each
_MOST_WORDS_KEPT = 100_000

# ASCII text is split by bytes, which is faster: all but letters and digits become blanks.
_LOWERED = bytes(byte if bytes([byte]).isalnum() else ord(" ") for byte in bytes(range(256)).lower())
# A word; a character in scripts without blanks between words.
_WORD = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_]+")


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """An answer that is nearly an earlier one, both by the number they were added with."""

    number: int
    earlier: int
    similarity: float


def shingles(text: str) -> frozenset[int]:
    """Hash the pairs of adjacent words of a text.

    Args:
        text: any text.

    Returns:
        64-bit hashes; of single words if there is no pair.
    """
    words = words_of(text)
    return frozenset(map(hash, pairwise(words))) or frozenset(map(hash, words))


def words_of(text: str) -> list[bytes]:
    """The words of a text in lower case, as UTF-8."""
    if text.isascii():
        return text.encode("ascii").translate(_LOWERED).split()
    return [word.encode() for word in _WORD.findall(text.lower())]


def similarity(left: frozenset[int], right: frozenset[int]) -> float:
    """Jaccard similarity of two sets.

    Args:
        left: from `shingles`.
        right: from `shingles`.

    Returns:
        From 0 to 1.
    """
    shared = len(left & right)
    return shared / (len(left) + len(right) - shared) if shared else 0.0


class AnswersByPrompt:
    """Groups answers by their prompt, or by any other text."""

    def __init__(self) -> None:
        self._prompts = [array("q") for _ in range(_BUCKETS)]
        self._numbers = [array("I") for _ in range(_BUCKETS)]

    def __len__(self) -> int:
        return sum(map(len, self._numbers))

    def add(self, prompt: str, number: int) -> None:
        """Note an answer by a number, such as its place in a list."""
        self.add_all((prompt,), number)

    def add_all(self, prompts: Iterable[Hashable], first: int) -> None:
        """Note the next answers, which are numbered from `first`."""
        all_prompts, all_numbers = self._prompts, self._numbers
        for number, hashed in enumerate(map(hash, prompts), first):
            bucket = hashed % _BUCKETS
            all_prompts[bucket].append(hashed)
            all_numbers[bucket].append(number)

    def extend(self, other: AnswersByPrompt, by: int) -> None:
        """Note the answers of another one; `by` is added to their numbers."""
        for prompts, numbers, more, theirs in zip(
            self._prompts, self._numbers, other._prompts, other._numbers, strict=True
        ):
            prompts.extend(more)
            numbers.extend([number + by for number in theirs])

    def without(self, left_out: Sequence[int]) -> AnswersByPrompt:
        """These answers without those whose numbers have a 1 in `left_out`."""
        kept = AnswersByPrompt()
        for bucket, numbers in enumerate(self._numbers):
            selected = [not left_out[number] for number in numbers]
            kept._prompts[bucket].extend(compress(self._prompts[bucket], selected))
            kept._numbers[bucket].extend(compress(numbers, selected))
        return kept

    def shared(self) -> Iterator[list[int]]:
        """As `groups`, without the prompts of a single answer; quicker where there are few others."""
        for prompts, numbers in zip(self._prompts, self._numbers, strict=True):
            if len(set(prompts)) == len(prompts):
                continue
            counts = Counter(prompts)
            groups: dict[int, list[int]] = {}
            for prompt, number in zip(prompts, numbers, strict=True):
                if counts[prompt] > 1:
                    groups.setdefault(prompt, []).append(number)
            yield from groups.values()

    def groups(self) -> Iterator[list[int]]:
        """The numbers of each prompt, in the order in which they were added; the order of prompts is arbitrary."""
        for prompts, numbers in zip(self._prompts, self._numbers, strict=True):
            order = sorted(range(len(prompts)), key=prompts.__getitem__)
            for _, group in groupby(order, key=prompts.__getitem__):
                yield [numbers[place] for place in group]


class Sketches:
    """The words of texts in 256 bits each, which rule out most pairs without reading the texts.

    A word that only one text of a pair contains begins a word pair that only this text contains, unless it is the last
    word. So if one text has `k` words that the other lacks, at least `k - 2` members of the union are not shared, and
    in similar sets at most a third as many are unshared as the smaller set has members. Each word sets one bit, and
    common words set the same bits: at least as many words differ as bits do.
    """

    def __init__(self) -> None:
        self._bits = bytearray()
        self._most = array("H")  # bits that may differ from those of a similar text; 0 for a text without a sketch
        self._bit_of = _Bits()

    def add_all(self, texts: Iterable[str]) -> None:
        """Note the next texts; the first one of all has the number 0."""
        bit_of = self._bit_of.__getitem__
        for text in texts:
            words = words_of(text)
            if len(words) > _MOST_SKETCHED:
                self._bits += bytes(_SKETCH_BYTES)
                self._most.append(0)
            else:
                self._bits += reduce(or_, map(bit_of, words), 0).to_bytes(_SKETCH_BYTES, "little")
                self._most.append(max(len(words) - 1, 0) // 3 + 2)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_bit_of": _Bits()}  # a cache that another process does not need

    def extend(self, other: Sketches) -> None:
        """Note the texts of another one, made by a process with the same `PYTHONHASHSEED`."""
        self._bits += other._bits
        self._most.extend(other._most)

    def candidates(self, numbers: Sequence[int]) -> Sequence[int]:
        """Those of the texts that may be similar to another one of them, in their order."""
        if not 1 < len(numbers) <= _MOST_COMPARED:
            return numbers
        bits = [self._sketch(number) for number in numbers]
        most = [self._most[number] for number in numbers]
        differing = list(map(int.bit_count, starmap(xor, combinations(bits, 2))))
        if all(most) and min(differing) > max(most):
            return ()  # as nearly always
        found: set[int] = set()
        largest = max(most) if all(most) else _SKETCH_BYTES * 8
        for (one, other), bits_apart in zip(combinations(range(len(numbers)), 2), differing, strict=True):
            if bits_apart <= largest and (
                bits_apart <= min(most[one], most[other]) or not most[one] or not most[other]
            ):
                found.update((one, other))
        return [numbers[place] for place in sorted(found)]

    def _sketch(self, number: int) -> int:
        at = number * _SKETCH_BYTES
        return int.from_bytes(self._bits[at : at + _SKETCH_BYTES], "little")


class AnswersOfRun:
    """The answers of a run, read whole or in parts, by prompt; finds near-duplicates among them.

    Answers are known by their numbers, in the order in which they were added.

    Attributes:
        prompts: groups the answers.
    """

    def __init__(self) -> None:
        self.prompts = AnswersByPrompt()
        self._sketches = Sketches()
        self._count = 0
        self._near = array("I")  # found in the parts
        self._firsts = array("I")  # of each part
        self._searched = 0  # answers in the parts

    def __len__(self) -> int:
        return self._count

    def add_all(self, prompts: Sequence[str], answers: Sequence[str]) -> None:
        """Note the next answers."""
        self.prompts.add_all(prompts, self._count)
        self._sketches.add_all(answers)
        self._count += len(answers)

    def extend(self, other: AnswersOfRun) -> None:
        """Note the answers of the next part, from a process with the same `PYTHONHASHSEED` that called `search`."""
        by = self._count
        self.prompts.extend(other.prompts, by)
        self._sketches.extend(other._sketches)
        self._count += other._count
        self._near.extend([number + by for number in other._near])
        self._firsts.extend([number + by for number in other._firsts])
        self._searched = self._count

    def leave_out(self, left_out: Sequence[int]) -> None:
        """Leave out the answers whose numbers have a 1 in `left_out`: each equals one of an earlier part."""
        self.prompts = self.prompts.without(left_out)
        self._near = array("I", [number for number in self._near if not left_out[number]])

    def search(self, text: Callable[[int], str]) -> None:
        """Look for near-duplicates in this part of the run, after its last answer; `text` fetches an answer."""
        self._near = self.near_duplicates(text)
        self._firsts = array("I", [0])
        self._searched = self._count

    def near_duplicates(self, text: Callable[[int], str]) -> array[int]:
        """Answers nearly the same as an earlier one to the same prompt, in order.

        Args:
            text: fetches an answer by its number.
        """
        near = bytearray(self._count)
        for number in self._near:
            near[number] = True
        for numbers in self.prompts.shared():
            if not self._is_in_one_part(numbers):
                for number in numbers:
                    near[number] = False
                for found in similar(self._sketches.candidates(numbers), text):
                    near[found.number] = True
        return array("I", compress(range(self._count), near))

    def _is_in_one_part(self, numbers: Sequence[int]) -> bool:
        """Whether `search` looked at all answers of one prompt."""
        first, last = numbers[0], numbers[-1]
        return last < self._searched and bisect(self._firsts, first) == bisect(self._firsts, last)


class _Bits(dict[bytes, int]):
    """Maps words to the bit of a sketch that each sets."""

    def __missing__(self, word: bytes) -> int:
        if len(self) == _MOST_WORDS_KEPT:
            self.clear()
        bit = self[word] = 1 << hash(word) % (_SKETCH_BYTES * 8)
        return bit


def similar(numbers: Sequence[int], text: Callable[[int], str]) -> Iterator[NearDuplicate]:
    """Find texts that are nearly the same as an earlier one. A text that is found is not compared with later ones.

    The search is exhaustive among up to `LARGEST_GROUP` texts, or as many as have a million word pairs together, unless
    hundreds of different texts share the pairs that are rarest in them.

    Args:
        numbers: of the texts.
        text: fetches a text by its number.

    Yields:
        Each near duplicate, with the earlier text.
    """
    if len(numbers) > 1:
        for window in _windows(numbers, text):
            yield from _within(window)


_Window = list[tuple[int, frozenset[int]]]


def _windows(numbers: Sequence[int], text: Callable[[int], str]) -> Iterator[_Window]:
    window: _Window = []
    size = 0
    for number in numbers:
        members = shingles(text(number))
        if window and (len(window) == LARGEST_GROUP or size + len(members) > _MOST_MEMBERS):
            yield window
            window, size = [], 0
        window.append((number, members))
        size += len(members)
    yield window


def _within(window: _Window) -> Iterator[NearDuplicate]:
    shared = _shared([members for _, members in window])
    alike = [each for each in window if each[1] and len(each[1] & shared) >= _least_shared(len(each[1]))]
    if not alike:
        return
    counts = Counter(member for _, members in alike for member in members & shared)
    ranks = {member: rank for rank, member in enumerate(sorted(counts, key=lambda each: (counts[each], each)))}
    index = _Index()
    for number, members in alike:
        least = _least_shared(len(members))
        wanted = min(_SHARED_FIRST, least)
        common = sorted(members & shared, key=ranks.__getitem__)
        first = common[: len(common) - least + wanted]
        if found := index.closest(members, first, wanted):
            yield NearDuplicate(number, *found)
        else:
            index.add(number, members, first)


class _Index:
    """Texts that are near-duplicates of no earlier one, by their rarest members."""

    def __init__(self) -> None:
        self._kept: dict[int, frozenset[int]] = {}
        self._numbers: dict[int, list[int]] = {}

    def closest(self, members: frozenset[int], first: Iterable[int], wanted: int) -> tuple[int, float] | None:
        """Find the most similar text, the earliest one if there are several.

        Args:
            members: of the set in question.
            first: its rarest members.
            wanted: how many of them a similar set must contain.

        Returns:
            The text and its similarity; None if none is similar enough.
        """
        hits: Counter[int] = Counter()
        for member in first:
            hits.update(self._numbers.get(member, ()))
        close = ((similarity(members, self._kept[other]), -other) for other, hit in hits.items() if hit >= wanted)
        nearest, other = max(close, default=(0.0, 0))
        return (-other, nearest) if nearest >= THRESHOLD else None

    def add(self, number: int, members: frozenset[int], first: Iterable[int]) -> None:
        self._kept[number] = members
        for member in first:
            numbers = self._numbers.setdefault(member, [])
            if len(numbers) < _MOST_POSTINGS:
                numbers.append(number)


def _shared(sets: Iterable[frozenset[int]]) -> set[int]:
    """Members of more than one set."""
    seen: set[int] = set()
    shared: set[int] = set()
    for members in sets:
        shared |= members & seen
        seen |= members
    return shared


def _least_shared(size: int) -> int:
    """How many members of a set any set that is similar enough must have."""
    return math.ceil(size * THRESHOLD - 1e-9)
