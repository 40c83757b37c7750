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
from dataclasses import dataclass
from enum import IntEnum
from itertools import combinations as combinations_of
from operator import add
from typing import TYPE_CHECKING, NamedTuple

from asyncgen.dataset.near_duplicates import AnswersByPrompt, AnswersOfRun, similar, words_of
from asyncgen.dataset.report.texts import AnswerTexts
from asyncgen.dataset.split import TRAIN, SampleSides
from asyncgen.job.thoughts import begins_with_thoughts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from asyncgen.dataset.samples import Sample
    from asyncgen.dataset.split import Split
    from asyncgen.job.model import Job


RUN_OF_WORDS = 8
_READ = 3
_MOST_VALUES = 20  # of an axis, whose diversity is told by value
_ANSWERS_A_VALUE = 2  # on average; the diversity of one answer says nothing
_LEAST_MASKED = 2  # characters: shorter values stand in too many words
_MOST_COMPRESSED = 200_000  # bytes of each value's texts, so that ratios can be compared
_UNKNOWN = "?"
_MOST_PAIRS = 20_000  # of values; with more, axes are free text and empty pairs say nothing
_PAIRED_AXES = 5
_Pair = tuple[tuple[str, str], ...]  # names and values of two axes


class SampledText(NamedTuple):
    """A sample that is looked at closely."""

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


_Masks = list[tuple[str, str]]  # a value, and what stands for it


def masks_of(variables: Mapping[str, str]) -> _Masks:
    """The values of a row that are masked in its answers, the longest first, each with its name in braces."""
    long_enough = [(value, f"{{{name}}}") for name, value in variables.items() if len(value) >= _LEAST_MASKED]
    return sorted(long_enough, key=lambda mask: -len(mask[0]))


def masked(text: str, masks: _Masks) -> str:
    """The text with the values of its row replaced by their names; `masks` are from `masks_of`."""
    for value, name in [mask for mask in masks if mask[0] in text]:
        text = text.replace(value, name)
    return text


class QualityScan:
    """Measures samples, which are known by their numbers in the order in which they were added.

    Args:
        job: its prompt and examples are what answers may copy.
        split: decides the side of each combination.

    Attributes:
        texts: measures of the answers.
        simulated: simulated samples.
        thoughts: samples that begin with the model's reasoning.
    """

    def __init__(self, job: Job, split: Split) -> None:
        self.texts = AnswerTexts()
        self.simulated = 0
        self.thoughts = 0
        self._job = job
        self._sides = SampleSides(split)
        self._pairs: Counter[_Pair] = Counter()  # that the job asks for, and the samples of each
        self._too_many = False
        self._answers = AnswersOfRun()
        self._templates = AnswersByPrompt()
        self._rejected: list[tuple[int, str]] = []
        self._dropped = 0

    def ask(self, variables: Mapping[str, str]) -> None:
        """Note a row that the job asks for. Call it for all rows before the first sample."""
        if not self._too_many:
            self._pairs.update(dict.fromkeys(_pairs_of(variables), 0))
            self._too_many = len(self._pairs) > _MOST_PAIRS

    def add_all(
        self,
        keys: Sequence[str],
        samples: Sequence[Sample],
        of: Sequence[bytes],
        combinations: Mapping[bytes, Mapping[str, str]],
    ) -> None:
        """Note samples.

        Args:
            keys: of their records.
            samples: themselves.
            of: key of the combination of each.
            combinations: the variables of each of these.
        """
        first = len(self.texts)
        answers = [sample.answer for sample in samples]
        self.texts.add_all(keys, answers)
        self.thoughts += sum(map(begins_with_thoughts, answers))
        self._sides.add_all(of, combinations)
        self._answers.add_all([sample.prompt for sample in samples], answers)
        masks = {key: masks_of(variables) for key, variables in combinations.items()}
        self._templates.add_all(map(masked, answers, map(masks.__getitem__, of)), first)
        for key, count in Counter(of).items():
            self._count_pairs(combinations[key], count)

    def _count_pairs(self, variables: Mapping[str, str], count: int) -> None:
        if self._pairs and not self._too_many:
            for pair in _pairs_of(variables):
                if pair in self._pairs:
                    self._pairs[pair] += count

    def extend(self, other: QualityScan) -> None:
        """Note the samples of the next part."""
        first = len(self.texts)
        self.texts.extend(other.texts)
        self.simulated += other.simulated
        self.thoughts += other.thoughts
        self._sides.extend(other._sides)
        self._answers.extend(other._answers)
        self._templates.extend(other._templates, first)
        self._pairs.update(other._pairs)
        for item in other._rejected:
            self._keep_rejected(item)

    def end_part(self, answer: Callable[[int], str]) -> None:
        """Look for near-duplicates in this part of the run; `answer` fetches the answer of a sample."""
        self._answers.search(answer)

    def withdraw(self, sample: Sample, variables: Mapping[str, str], *, simulated: bool) -> None:
        """Take back what was counted of a sample that is going to be dropped."""
        self.thoughts -= begins_with_thoughts(sample.answer)
        self.simulated -= simulated
        self._count_pairs(variables, -1)

    def drop(self, dropped: bytearray) -> None:
        """Leave out the samples whose numbers have a 1 in `dropped`; call it once, after the last sample."""
        self.texts.drop(dropped)
        self._answers.leave_out(dropped)
        self._templates = self._templates.without(dropped)
        self._dropped = sum(dropped)

    def reject(self, key: str, text: str) -> None:
        """Note an answer that gives no sample; the ones with the smallest keys are kept."""
        if text.strip():
            self._keep_rejected((-int(key, 16), text))

    def _keep_rejected(self, item: tuple[int, str]) -> None:
        if len(self._rejected) < _READ:
            heapq.heappush(self._rejected, item)
        else:
            heapq.heappushpop(self._rejected, item)

    def quality(self, answer: Callable[[int], str], sample: Sequence[SampledText]) -> Quality:
        """Compute the measures; call it once.

        Args:
            answer: fetches the answer of a sample.
            sample: what is looked at closely, those of `texts.sample()`.
        """
        for numbers in self._answers.prompts.groups():
            self._sides.settle(numbers)
        template_duplicates, largest = self._same_templates()
        texts = {each.number: masked(each.text, masks_of(each.variables)) for each in sample}
        near = list(similar([each.number for each in sample], texts.__getitem__))
        codes = self._sides.codes
        return Quality(
            samples=len(codes) - self._dropped,
            sampled=len(sample),
            near_duplicates=len(self._answers.near_duplicates(answer)),
            template_duplicates=template_duplicates,
            template=next((texts[number] for number in largest if number in texts), ""),
            template_answers=len(largest),
            near_templates=len(near),
            validation_prompts=self._sides.prompts,
            trained_on=self._sides.leaked,
            leaked_answers=sum((codes[found.number] == TRAIN) != (codes[found.earlier] == TRAIN) for found in near),
            copies=_copies(self._job, sample),
            overall=_diversity([each.text for each in sample]),
            by_value={name: dict(values) for name, values in _by_value(sample)},
            to_read=self._to_read(sample, answer),
            empty_pairs=self._empty_pairs(),
            simulated=self.simulated,
            thoughts=self.thoughts,
        )

    def _same_templates(self) -> tuple[int, list[int]]:
        """How many samples have the template of an earlier one; the samples of the commonest such template."""
        duplicates, largest = 0, [0]
        for numbers in self._templates.shared():
            duplicates += len(numbers) - 1
            largest = max(largest, numbers, key=lambda each: (len(each), -each[0]))
        return duplicates, largest if len(largest) > 1 else []

    def _empty_pairs(self) -> list[str]:
        empty = () if self._too_many else (pair for pair, samples in self._pairs.items() if not samples)
        return [", ".join(map("=".join, pair)) for pair in empty]

    def _to_read(self, sample: Sequence[SampledText], answer: Callable[[int], str]) -> list[tuple[str, str]]:
        return [
            *(("random", each.text) for each in sample[:_READ]),
            *(("rejected", text) for _, text in sorted(self._rejected, reverse=True)),
            *(("longest", answer(number)) for number in self.texts.longest(2)),
            *(("shortest", answer(number)) for number in self.texts.shortest(2)),
        ]


def _pairs_of(variables: Mapping[str, str]) -> Iterator[_Pair]:
    return combinations_of(list(variables.items())[:_PAIRED_AXES], 2)


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
        is_of_names = sum(map(len, texts.values())) < _ANSWERS_A_VALUE * len(texts)
        if 1 < len(texts) <= _MOST_VALUES and not is_of_names:
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

    def add(self, variables: Mapping[str, str], fate: RowOutcome, count: int = 1) -> None:
        """Note what became of rows of one combination."""
        self._all[fate] += count
        for name, value in variables.items():
            values = self._fates.get(name)
            if values is None:
                values = self._fates[name] = {}
            counts = values.get(value)
            if counts is None:
                if len(values) > MOST_VALUES:
                    continue
                counts = values[value] = [0] * len(RowOutcome)
            counts[fate] += count

    def extend(self, other: CoverageCounts) -> None:
        """Note the rows of the next part, of which only `add` has told."""
        self._all = list(map(add, self._all, other._all))
        for name, values in other._fates.items():
            mine = self._fates.setdefault(name, {})
            for value, counts in values.items():
                if value in mine:
                    mine[value] = list(map(add, mine[value], counts))
                elif len(mine) <= MOST_VALUES:
                    mine[value] = counts

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
