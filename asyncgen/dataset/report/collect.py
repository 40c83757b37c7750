"""Collect the report of a run in one pass over its files.

Counts what became of every row; measures of the answers are left to `texts` and `quality`, display to the callers.
Read-only: the run may be written at the same time.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyncgen.dataset.report.quality import CoverageCounts, Quality, QualityScan, RowOutcome, SampledText
from asyncgen.dataset.report.texts import Diversity, diversity
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
from asyncgen.dataset.split import CombinationBlock, Split, known_plan, plan_split
from asyncgen.dataset.token_counts import Histogram
from asyncgen.dataset.writer import RowFile, collector_off
from asyncgen.run.jsonl import rows_in
from asyncgen.run.records import decode_failure, decode_record
from asyncgen.run.reviews import read_reviews

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from asyncgen.dataset.report.quality import Axis, Coverage
    from asyncgen.dataset.samples import Judged
    from asyncgen.dataset.writer import Fetcher
    from asyncgen.job.model import Job
    from asyncgen.job.requests import RequestGrid
    from asyncgen.run.directory import RunDirectory
    from asyncgen.run.records import Record, Usage
    from asyncgen.run.reviews import Reviews


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

    def __repr__(self) -> str:
        rows = self.coverage
        counts = f"{rows.filled:,} rows filled, {rows.rejected:,} rejected, {rows.failed:,} failed"
        return f"<Report on {self.run}: {counts}; {self.duplicates:,} duplicates>"


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
        judged = self._selection.judge_all(records)
        rows = CombinationBlock([record.variables for record, _, _ in judged])
        outcomes = Counter(zip(rows.keys, [_outcome(reason) for _, _, reason in judged], strict=True))
        for (key, outcome), count in outcomes.items():
            self._coverage.add(rows.variables[key], outcome, count)
        self._at_samples(judged)
        for record, _, reason in judged:
            if reason is not None:
                self._reject(record, reason)
            if self._twins and reason != STALE:
                self._cover_twins(record.key, _outcome(reason))
        self._seen += len(records)

    def _at_samples(self, judged: Sequence[Judged]) -> None:
        kept = [
            (place, record, sample)
            for place, (record, samples, _) in enumerate(judged, self._seen)
            for sample in samples
        ]
        self._samples.extend([place << _ITEM_BITS | sample.item for place, _, sample in kept])
        self._quality.simulated += sum(record.simulated for _, record, _ in kept)
        self._quality.add_all(
            [record.key for _, record, _ in kept],
            CombinationBlock([record.variables for _, record, _ in kept]),
            [sample for _, _, sample in kept],
        )

    def _reject(self, record: Record, reason: str) -> None:
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
            outcome = RowOutcome.REFUSED if failure.error.type in _REFUSALS else RowOutcome.FAILED
            self._coverage.add((self._grid.match(failure) or failure).variables, outcome)
            self._cover_twins(failure.key, outcome)

    def _cover_twins(self, key: str, outcome: RowOutcome) -> None:
        """Count what became of the rows that have the request of another one."""
        for index in self._twins.get(bytes.fromhex(key), ()):
            self._coverage.add(self._grid.variables_at(index), outcome)

    def report(self, directory: RunDirectory, lines: Fetcher) -> Report:
        """Make the report; call it once. `lines` are those of the records."""
        state = directory.read_total()

        def answer(number: int) -> str:
            place, item = divmod(self._samples[number], 1 << _ITEM_BITS)
            return self._maker.answer_at(lines[place], item)

        texts = self._quality.texts
        sample = [self._sampled(number, lines) for number in texts.sample()]
        quality = self._quality.quality(answer, sample)
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
            words=texts.words(),
            characters=texts.characters(),
            openings=tuple(texts.openings(_OPENINGS, answer)),
            diversity=diversity(each.text for each in sample),
            quality=quality,
            latency_ms=self._latency_ms,
            usage=state.spend.usage,
            cost_usd=state.spend.cost_usd,
            unpriced=state.spend.unpriced,
        )

    def _sampled(self, number: int, lines: Fetcher) -> SampledText:
        place, item = divmod(self._samples[number], 1 << _ITEM_BITS)
        record = decode_record(lines[place])
        record = self._selection.own(record) or record
        return SampledText(number, self._maker.of(record)[item].answer, record.variables)


_FILLED = RowOutcome.FILLED  # nearly always it: an enumeration looks its members up slowly


def _rounded_ms(seconds: float) -> int:
    """Three figures are enough, and keep the different numbers few."""
    if not math.isfinite(seconds):
        return 0
    return round(seconds * 1000) if seconds < 1 else round(seconds * 100) * 10


def _outcome(reason: str | None) -> RowOutcome:
    if reason is None:
        return _FILLED
    if reason == STALE:
        return RowOutcome.STALE
    return RowOutcome.REFUSED if reason in {REFUSED, FILTERED} else RowOutcome.REJECTED
