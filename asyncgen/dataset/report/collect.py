"""Collect the report of a run in one pass over its files.

Measures the answers as texts: length, openings, diversity. Memory is bounded: rare openings are dropped on the way, and
diversity is measured on a sample of fixed size, which also makes runs of different sizes comparable. Read-only: the run
may be written at the same time. Display is left to the callers.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from asyncgen.dataset.report.quality import CoverageCounts, Quality, QualityScan, RowOutcome
from asyncgen.dataset.samples import (
    CHECK,
    DUPLICATE,
    FILTERED,
    REFUSED,
    STALE,
    SampleMaker,
    Selection,
    is_stale,
    may_be_stale,
)
from asyncgen.dataset.split import Split, known_plan, plan_split
from asyncgen.dataset.token_counts import Histogram
from asyncgen.dataset.writer import RowFile, collector_off
from asyncgen.job.thoughts import begins_with_thoughts
from asyncgen.run.jsonl import rows_in
from asyncgen.run.records import decode_failure, decode_record
from asyncgen.run.reviews import read_reviews

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from asyncgen.dataset.report.quality import Axis, Coverage
    from asyncgen.dataset.writer import Fetcher
    from asyncgen.job.model import Job
    from asyncgen.job.requests import RequestGrid
    from asyncgen.run.directory import RunDirectory
    from asyncgen.run.records import Failure, Record, Usage
    from asyncgen.run.reviews import Reviews


OPENING_WORDS = 3
SAMPLED = 5000
_NO_KEY = "g"  # sorts after every key
_MOST_OPENINGS = 50_000


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


class TextStatistics:
    """Text statistics of answers, updated one by one."""

    def __init__(self) -> None:
        self.words = Histogram()
        self.characters = Histogram()
        self._openings: Counter[str] = Counter()
        self._sample: list[tuple[int, str]] = []
        self._largest_key = _NO_KEY  # of the sample, once it is full

    def add(self, key: str, text: str) -> None:
        """Note one answer; `key` is its request's, by which the sample is drawn."""
        words = text.split()
        self.words.counts[len(words)] += 1
        self.characters.counts[len(text)] += 1
        self._openings[" ".join(words[:OPENING_WORDS])] += 1
        if len(self._openings) > _MOST_OPENINGS:
            self._openings = Counter(dict(self._openings.most_common(_MOST_OPENINGS // 2)))
        if key < self._largest_key:  # keys are numbers of one length: they are ordered as their digits are
            self._keep(key, text)

    def _keep(self, key: str, text: str) -> None:
        """Keep the answers with the smallest keys: keys are hashes, so this is a fair sample, and always the same."""
        if len(self._sample) < SAMPLED:
            heapq.heappush(self._sample, (-int(key, 16), text))
        else:
            heapq.heapreplace(self._sample, (-int(key, 16), text))
        if len(self._sample) == SAMPLED:
            self._largest_key = f"{-self._sample[0][0]:0{len(key)}x}"

    def openings(self, most: int) -> list[tuple[str, int]]:
        """The most common first words and how many answers begin so, the commonest first."""
        ranked = sorted(self._openings.items(), key=lambda item: (-item[1], item[0]))
        return ranked[:most]

    def diversity(self) -> Diversity:
        """Diversity of the sampled answers."""
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


MOST_ENUMERATED = 2_000_000  # rows of a job beyond which they are not counted by value
_OPENINGS = 10
_ITEM_BITS = 20  # of a sample's number: which of its record's samples it is
_REFUSALS = frozenset({"refusal", "content_filter"})


@dataclass(frozen=True, slots=True)
class Report:
    """What a run's answers are like.

    Attributes:
        run: the run directory.
        job: name of the job.
        coverage: counts of all rows.
        axes: counts by value, for each axis.
        rejected: reason to number of answers that cannot be samples.
        failures: kind of failure to number of rows given up on.
        finish_reasons: finish reason to number of answers.
        models: model to number of answers.
        checks: name of a check to number of answers that fail it; an answer may fail several.
        duplicates: answers equal to an earlier one to the same prompt.
        near_duplicates: answers nearly the same as an earlier one to the same prompt.
        words: number of words of each usable answer.
        characters: number of characters of each usable answer.
        openings: most common first words, with the number of answers that begin with them.
        diversity: how different the answers are.
        quality: further findings on the answers.
        latency_ms: milliseconds of each answer.
        usage: tokens as in `run.json`, including failures that were paid for.
        cost_usd: USD as in `run.json`, including failures that were paid for.
        unpriced: answers of unknown price, not in `cost_usd`.
    """

    run: Path
    job: str
    coverage: Coverage
    axes: tuple[Axis, ...]
    rejected: Counter[str]
    failures: Counter[str]
    finish_reasons: Counter[str]
    models: Counter[str]
    checks: Counter[str]
    duplicates: int
    near_duplicates: int
    words: Histogram
    characters: Histogram
    openings: tuple[tuple[str, int], ...]
    diversity: Diversity
    quality: Quality
    latency_ms: Histogram
    usage: Usage
    cost_usd: float
    unpriced: int


def make_report(directory: RunDirectory, job: Job, grid: RequestGrid) -> Report:
    """Make the report of a run in one pass over its files.

    Args:
        directory: of the run.
        job: the present job; its checks are applied again.
        grid: its rows.

    Returns:
        Counts and measures, for display.

    Raises:
        BadLineError: a line is not a record or failure.
        DiskError: a file cannot be read.
    """
    state = directory.read_total()
    split = Split(plan_split(grid, job.dataset, known_plan(state)), job.dataset.hold_out)
    look = _ReportScan(job, grid, split, stale=may_be_stale(state.job, grid), reviews=read_reviews(directory.path))
    unsettled = _failed_keys(directory.failure_files())
    with collector_off():
        look.requested()
        rows = RowFile(directory.record_files(), decode_record)
        for records in rows.blocks():
            look.at_records(records)
            if unsettled:
                unsettled.difference_update(_number(record.key) for record in records)
        look.at_failures(directory.failure_files(), unsettled)
        with rows.fetcher() as lines:
            return look.report(directory, lines)


def _number(key: str) -> int:
    return int(key[:16], 16)


def _failed_keys(paths: Sequence[Path]) -> set[int]:
    return {_number(failure.key) for failure in rows_in(paths, decode_failure)}


class _ReportScan:
    """Collects the figures of a report."""

    def __init__(self, job: Job, grid: RequestGrid, split: Split, *, stale: bool, reviews: Reviews) -> None:
        self._quality = QualityScan(job, split)
        self._samples = array("Q")  # number of the record, and which of its samples
        self._seen = 0
        self._maker = SampleMaker(job, grid)
        self._job = job
        self._grid = grid
        self._selection = Selection(job, grid, stale=stale, reviews=reviews)
        self._twins: dict[bytes, list[int]] = {}
        self._coverage = CoverageCounts()
        self._texts = TextStatistics()
        self._rejected: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._finish_reasons: Counter[str] = Counter()
        self._models: Counter[str] = Counter()
        self._violations: Counter[str] = Counter()
        self._latency_ms = Histogram()

    def requested(self) -> None:
        """Count the rows that the job asks for, unless there are too many."""
        self._twins = self._grid.twins()
        if self._grid.count <= MOST_ENUMERATED:
            for variables in self._grid.combinations():
                self._coverage.request(variables, self._grid.repeats)
                self._quality.ask(variables)

    def at_records(self, records: Sequence[Record]) -> None:
        """Add the next records of the file."""
        self._finish_reasons.update([record.finish_reason or "(none)" for record in records])
        self._models.update([record.model for record in records])
        self._latency_ms.add([_rounded_ms(record.latency_s) for record in records])
        for place, record in enumerate(records, self._seen):
            self._at_record(record, place)
        self._seen += len(records)

    def _at_record(self, record: Record, place: int) -> None:
        own = self._selection.own(record)
        samples, reason = self._selection.judge(own) if own is not None else ([], STALE)
        record = own or record
        self._cover(record, _fate(reason))
        for item, sample in enumerate(samples):
            self._texts.add(record.key, sample.answer)
            self._quality.add(record.key, sample.prompt, sample.answer, record.variables)
            self._quality.thoughts += begins_with_thoughts(sample.answer)
            self._quality.simulated += record.simulated
            self._samples.append(place << _ITEM_BITS | item)
        if reason is None:
            return
        self._quality.reject(record.key, record.completion)
        self._rejected[reason] += 1
        if reason.startswith(CHECK):
            self._violations.update(self._selection.checks.failures(record.completion, record.variables))

    def at_failures(self, paths: Sequence[Path], unsettled: set[int]) -> None:
        """Add the failures.

        Args:
            paths: files of failures.
            unsettled: keys that were not answered later; each is removed when it is read.
        """
        for failure in rows_in(paths, decode_failure):
            number = _number(failure.key)
            if number not in unsettled or is_stale(failure, self._grid):
                continue
            unsettled.discard(number)
            self._failures[failure.error.type] += 1
            own = self._grid.match(failure) or failure
            self._cover(own, RowOutcome.REFUSED if failure.error.type in _REFUSALS else RowOutcome.FAILED)

    def _cover(self, row: Record | Failure, fate: RowOutcome) -> None:
        """Count what became of a row, and of those that have the same request."""
        self._coverage.add(row.variables, fate)
        if self._twins and fate is not RowOutcome.STALE:
            for index in self._twins.get(bytes.fromhex(row.key), ()):
                self._coverage.add(self._grid.variables_at(index), fate)

    def report(self, directory: RunDirectory, lines: Fetcher) -> Report:
        """Make the report; call it once. `lines` are those of the records."""
        state = directory.read_total()

        def answer(number: int) -> str:
            place, item = divmod(self._samples[number], 1 << _ITEM_BITS)
            return self._maker.answer_at(lines[place], item)

        quality = self._quality.quality(answer)
        return Report(
            run=directory.path,
            job=self._job.name,
            coverage=self._coverage.total(self._grid.count),
            axes=tuple(self._coverage.axes()),
            rejected=self._rejected,
            failures=self._failures,
            finish_reasons=self._finish_reasons,
            models=self._models,
            checks=self._violations,
            duplicates=self._rejected[DUPLICATE],
            near_duplicates=quality.near_duplicates,
            words=self._texts.words,
            characters=self._texts.characters,
            openings=tuple(self._texts.openings(_OPENINGS)),
            diversity=self._texts.diversity(),
            quality=quality,
            latency_ms=self._latency_ms,
            usage=state.spend.usage,
            cost_usd=state.spend.cost_usd,
            unpriced=state.spend.unpriced,
        )


_FILLED = RowOutcome.FILLED  # nearly always it: an enumeration looks its members up slowly


def _rounded_ms(seconds: float) -> int:
    """Three figures are enough, and keep the different numbers few."""
    if not math.isfinite(seconds):
        return 0
    return round(seconds * 1000) if seconds < 1 else round(seconds * 100) * 10


def _fate(reason: str | None) -> RowOutcome:
    if reason is None:
        return _FILLED
    if reason == STALE:
        return RowOutcome.STALE
    return RowOutcome.REFUSED if reason in {REFUSED, FILTERED} else RowOutcome.REJECTED
