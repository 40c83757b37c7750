"""Quality measures of a set of samples, and the coverage of the job by them.

Coverage: rows present and missing for each value of each axis, with reasons; an axis with very many values, such as
free text from a table, is only counted as a whole. Quality: templates, leakage, copies, diversity, language, and
answers to read. Templates are searched in the whole set (16 bytes a sample). Measures that compare texts use a sample
of fixed size: the samples with the smallest keys, which is fair because keys are hashes, and the same every time.
Figures only: what is good depends on the data. In questions and answers about a text, copies are wanted.
"""

from __future__ import annotations

import heapq
import zlib
from collections import Counter
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

from asyncgen.dataset.near_duplicates import AnswersByPrompt, Sketches, similar, words_of
from asyncgen.dataset.split import TRAIN, SampleSides

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from asyncgen.dataset.split import Split
    from asyncgen.job.model import Job


SAMPLED = 5000
RUN_OF_WORDS = 8
_READ = 3
_MOST_VALUES = 20  # of an axis, whose diversity is told by value
_LEAST_MASKED = 2  # characters: shorter values stand in too many words
_MOST_COMPRESSED = 200_000  # bytes of each value's texts, so that ratios can be compared
_UNKNOWN = "?"
_MOST_PAIRS = 20_000  # of values; with more, axes are free text and empty pairs say nothing
_PAIRED_AXES = 5
_NO_KEY = "g"  # sorts after every key
_Pair = tuple[tuple[str, str], ...]  # names and values of two axes


class SampledText(NamedTuple):
    """A sample that is looked at closely; the first fields order the heap, and no two are alike in them."""

    negated_key: int
    number: int
    text: str
    variables: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ValueDiversity:
    """How different the answers of one value are.

    Attributes:
        answers: number of answers that were read.
        distinct: share of distinct words among all, and of distinct word pairs.
        compressed: bytes after compression per byte before; small if much is repeated.
        languages: language to number of answers; empty without py3langid.
    """

    answers: int
    distinct: tuple[float, float]
    compressed: float
    languages: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Quality:
    """The measures.

    Attributes:
        samples: number of samples.
        sampled: samples that were read closely.
        near_duplicates: answers nearly the same as an earlier one to the same prompt, among all samples.
        template_duplicates: answers equal to an earlier one except for the values of the axes, among all samples.
        template: the most common such answer, with masked values; "" if there is none.
        template_answers: number of answers with that template.
        near_templates: sampled answers nearly the same as an earlier one, with masked values.
        validation_prompts: distinct prompts of the validation split.
        trained_on: of these, prompts that are in the training split too.
        leaked_answers: sampled answers nearly the same as one of the other split, with masked values.
        copies: origin ("prompt", "examples", "source") to the share of sampled answers with eight consecutive words
            from it.
        overall: diversity of all sampled answers.
        by_value: axis to value to diversity.
        to_read: why a text is shown ("random", "rejected", "longest", "shortest"), and the text.
        empty_pairs: pairs of values of two axes that the job asks for and no sample has.
        simulated: simulated samples.
        thoughts: samples that begin with the model's reasoning.
    """

    samples: int
    sampled: int
    near_duplicates: int
    template_duplicates: int
    template: str
    template_answers: int
    near_templates: int
    validation_prompts: int
    trained_on: int
    leaked_answers: int
    copies: Mapping[str, float]
    overall: ValueDiversity
    by_value: Mapping[str, Mapping[str, ValueDiversity]]
    to_read: Sequence[tuple[str, str]]
    empty_pairs: Sequence[str]
    simulated: int
    thoughts: int


def masked(text: str, variables: Mapping[str, str]) -> str:
    """The text with the values of its row replaced by their names in braces, the longest first."""
    found = [item for item in variables.items() if len(item[1]) >= _LEAST_MASKED and item[1] in text]
    for name, value in sorted(found, key=lambda item: -len(item[1])) if len(found) > 1 else found:
        text = text.replace(value, f"{{{name}}}")
    return text


@dataclass(slots=True)
class QualityScan:
    """Measures samples one by one.

    Args:
        job: its prompt and examples are what answers may copy.
        split: decides the side of each combination.
    """

    job: Job
    split: Split
    simulated: int = 0
    thoughts: int = 0
    _sides: SampleSides = field(init=False)
    _empty: dict[_Pair, None] = field(default_factory=dict)
    _too_many: bool = False
    _prompts: AnswersByPrompt = field(default_factory=AnswersByPrompt)
    _sketches: Sketches = field(default_factory=Sketches)
    _templates: AnswersByPrompt = field(default_factory=AnswersByPrompt)
    _sample: list[SampledText] = field(default_factory=list)
    _largest_key: str = _NO_KEY  # of the sample, once it is full
    _rejected: list[tuple[int, str]] = field(default_factory=list)
    _longest: list[tuple[int, int, str]] = field(default_factory=list)
    _shortest: list[tuple[int, int, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._sides = SampleSides(self.split)

    def ask(self, variables: Mapping[str, str]) -> None:
        """Note a row that the job asks for. Call it for all rows before the first sample."""
        if not self._too_many:
            self._empty.update(dict.fromkeys(_pairs(variables)))
            self._too_many = len(self._empty) > _MOST_PAIRS

    def add(self, key: str, prompt: str, text: str, variables: Mapping[str, str]) -> None:
        """Note one sample; `key` is its record's."""
        number, length = len(self._sides.codes), len(text)
        self._sides.add(variables)
        self._prompts.add(prompt, number)
        self._sketches.add(text)
        if self._empty and not self._too_many:
            for pair in _pairs(variables):
                self._empty.pop(pair, None)
        self._templates.add(masked(text, variables), number)
        if key <= self._largest_key:  # keys are numbers of one length: they are ordered as their digits are
            _keep(self._sample, SampledText(-int(key, 16), number, text, variables), SAMPLED)
            if len(self._sample) == SAMPLED:
                self._largest_key = f"{-self._sample[0].negated_key:0{len(key)}x}"
        if len(self._longest) < _READ or length >= self._longest[0][0]:
            _keep(self._longest, (length, number, text), _READ)
        if len(self._shortest) < _READ or -length >= self._shortest[0][0]:
            _keep(self._shortest, (-length, number, text), _READ)

    def reject(self, key: str, text: str) -> None:
        """Note an answer that gives no sample."""
        if text.strip():
            _keep(self._rejected, (-int(key, 16), text), _READ)

    def quality(self, text: Callable[[int], str]) -> Quality:
        """Compute the measures; call it once.

        Args:
            text: fetches the answer of a sample by its number, in the order in which they were added.
        """
        sample = sorted(self._sample, key=lambda each: -each.negated_key)
        near_duplicates = 0
        for numbers in self._prompts.groups():
            self._sides.settle(numbers)
            near_duplicates += sum(1 for _ in similar(self._sketches.candidates(numbers), text))
        groups = [numbers for numbers in self._templates.groups() if len(numbers) > 1]
        largest = max(groups, key=len, default=[])
        texts = {each.number: masked(each.text, each.variables) for each in sample}
        near = list(similar([each.number for each in sample], texts.__getitem__))
        codes = self._sides.codes
        return Quality(
            samples=len(codes),
            sampled=len(sample),
            near_duplicates=near_duplicates,
            template_duplicates=sum(len(numbers) - 1 for numbers in groups),
            template=next((texts[number] for number in largest if number in texts), ""),
            template_answers=len(largest),
            near_templates=len(near),
            validation_prompts=self._sides.prompts,
            trained_on=self._sides.leaked,
            leaked_answers=sum((codes[found.number] == TRAIN) != (codes[found.earlier] == TRAIN) for found in near),
            copies=_copies(self.job, sample),
            overall=_diversity([each.text for each in sample]),
            by_value={name: dict(values) for name, values in _by_value(sample)},
            to_read=self._to_read(sample),
            empty_pairs=[] if self._too_many else [", ".join(map("=".join, pair)) for pair in self._empty],
            simulated=self.simulated,
            thoughts=self.thoughts,
        )

    def _to_read(self, sample: Sequence[SampledText]) -> list[tuple[str, str]]:
        return [
            *(("random", each.text) for each in sample[:_READ]),
            *(("rejected", text) for _, text in sorted(self._rejected, reverse=True)),
            *(("longest", text) for _, _, text in sorted(self._longest, reverse=True)[:2]),
            *(("shortest", text) for _, _, text in sorted(self._shortest, reverse=True)[:2]),
        ]


def _pairs(variables: Mapping[str, str]) -> Iterator[_Pair]:
    return combinations(list(variables.items())[:_PAIRED_AXES], 2)


def _keep(heap: list[Any], item: tuple[Any, ...], most: int) -> None:
    """Keep the largest items."""
    if len(heap) < most:
        heapq.heappush(heap, item)
    else:
        heapq.heappushpop(heap, item)


def _copies(job: Job, sample: Sequence[SampledText]) -> dict[str, float]:
    prompt = job.prompt
    fixed = {
        "prompt": _runs([prompt.user, prompt.system or ""]),
        "examples": _runs(example.completion for example in prompt.examples),
    }
    counts = dict.fromkeys((*fixed, "source"), 0)
    for each in sample:
        own = _runs([each.text])
        for name, runs in fixed.items():
            counts[name] += not own.isdisjoint(runs)
        counts["source"] += not own.isdisjoint(_runs(each.variables.values()))
    return {name: count / len(sample) for name, count in counts.items()} if sample else {}


def _runs(texts: Iterable[str]) -> set[tuple[bytes, ...]]:
    """All sequences of eight consecutive words."""
    found: set[tuple[bytes, ...]] = set()
    for text in texts:
        words = words_of(text)
        found.update(zip(*(words[start:] for start in range(RUN_OF_WORDS)), strict=False))
    return found


def _by_value(sample: Sequence[SampledText]) -> Iterator[tuple[str, Iterator[tuple[str, ValueDiversity]]]]:
    names = dict.fromkeys(name for each in sample for name in each.variables)
    for name in names:
        texts: dict[str, list[str]] = {}
        for each in sample:
            if name in each.variables:
                texts.setdefault(each.variables[name], []).append(each.text)
        if 1 < len(texts) <= _MOST_VALUES:
            yield name, ((value, _diversity(found)) for value, found in texts.items())


def _diversity(texts: Sequence[str]) -> ValueDiversity:
    words = [words_of(text) for text in texts]
    data = "\n".join(texts).encode("utf-8", "replace")[:_MOST_COMPRESSED]
    compressed = len(zlib.compress(data)) / len(data) if data else 1.0
    return ValueDiversity(len(texts), (_distinct(words, 1), _distinct(words, 2)), compressed, _languages(texts))


def _distinct(texts: Iterable[Sequence[bytes]], length: int) -> float:
    grams: Counter[tuple[bytes, ...]] = Counter()
    for words in texts:
        grams.update(zip(*(words[start:] for start in range(length)), strict=False))
    return len(grams) / grams.total() if grams else 0.0


def _languages(texts: Sequence[str]) -> dict[str, int]:
    try:
        from py3langid import classify  # noqa: PLC0415 - an extra, and slow to import
    except ImportError:
        return {}
    return dict(Counter(str(classify(text)[0]) if text.strip() else _UNKNOWN for text in texts).most_common())


MOST_VALUES = 1000


class RowOutcome(IntEnum):
    """The outcome of a row."""

    FILLED = 0
    REJECTED = 1
    REFUSED = 2
    FAILED = 3
    STALE = 4


@dataclass(frozen=True, slots=True)
class Coverage:
    """Number of rows by outcome.

    Attributes:
        requested: rows that the job asks for; None if there are too many to count.
        filled: rows whose answer can be a sample.
        rejected: rows whose answer cannot.
        refused: rows that the model or the provider's filter refused to answer.
        failed: rows given up on.
        stale: rows of an earlier form of the job, no longer asked for.
    """

    requested: int | None
    filled: int = 0
    rejected: int = 0
    refused: int = 0
    failed: int = 0
    stale: int = 0

    @property
    def left(self) -> int | None:
        """Rows not asked for yet; None if unknown."""
        if self.requested is None:
            return None
        return max(self.requested - self.filled - self.rejected - self.refused - self.failed, 0)

    @property
    def holes(self) -> int:
        """Rows of the job without an answer that can be a sample."""
        return self.rejected + self.refused + self.failed + (self.left or 0)


@dataclass(frozen=True, slots=True)
class Axis:
    """The coverage of each value, in the order of the job; None if the axis has too many values to show."""

    name: str
    values: Mapping[str, Coverage] | None


class CoverageCounts:
    """Counts rows one by one."""

    def __init__(self) -> None:
        self._requested: dict[str, dict[str, int]] = {}
        self._fates: dict[str, dict[str, list[int]]] = {}
        self._all = [0] * len(RowOutcome)
        self._requests: int | None = None

    def request(self, variables: Mapping[str, str], count: int = 1) -> None:
        """Note rows that the job asks for."""
        self._requests = (self._requests or 0) + count
        for name, value in variables.items():
            values = self._requested.setdefault(name, {})
            if value in values or len(values) <= MOST_VALUES:
                values[value] = values.get(value, 0) + count

    def add(self, variables: Mapping[str, str], fate: RowOutcome) -> None:
        """Note what became of one row."""
        self._all[fate] += 1
        for name, value in variables.items():
            values = self._fates.get(name)
            if values is None:
                values = self._fates[name] = {}
            counts = values.get(value)
            if counts is None:
                if len(values) > MOST_VALUES:
                    continue
                counts = values[value] = [0] * len(RowOutcome)
            counts[fate] += 1

    def total(self, requests: int) -> Coverage:
        """Coverage of all rows; `requests` is the number of rows in the job."""
        return Coverage(requests, *self._all)

    def axes(self) -> Iterator[Axis]:
        """Coverage of each axis, in the order in which they were first seen."""
        for name in dict.fromkeys([*self._requested, *self._fates]):
            requested, fates = self._requested.get(name, {}), self._fates.get(name, {})
            values = list(dict.fromkeys([*requested, *fates]))
            if len(values) > MOST_VALUES:
                yield Axis(name, None)
                continue
            known = self._requests is not None
            yield Axis(
                name,
                {
                    value: Coverage(requested.get(value, 0) if known else None, *fates.get(value, ()))
                    for value in values
                },
            )
