"""The pass of `report` over the records of a run, or of a part of it: counts and measures.

Selection is left to `samples`, measures of the answers to `quality`, what is found in the whole run to `collect`.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from asyncgen.dataset.report.quality import CoverageCounts, QualityScan, RowOutcome
from asyncgen.dataset.samples import (
    CHECK,
    FILTERED,
    REFUSED,
    STALE,
    Identities,
    SampleMaker,
    Selection,
    place_and_item,
    sample_number,
)
from asyncgen.dataset.split import CombinationBlock
from asyncgen.dataset.token_counts import Histogram

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from asyncgen.dataset.samples import Judged
    from asyncgen.dataset.writer import Fetcher
    from asyncgen.job.model import Job
    from asyncgen.job.requests import GridForm, RequestGrid
    from asyncgen.run.records import Record
    from asyncgen.run.reviews import Reviews


@dataclass(frozen=True, slots=True)
class ReportTask:
    """The inputs of a pass. Can be pickled.

    Attributes:
        job: its checks are applied again.
        form: of the job's requests.
        stale: some records may be of other rows; see `samples.may_be_stale`.
        reviews: answers that a person rejected.
        quality: takes the samples; knows the rows that the job asks for.
        unsettled: numbers of the keys that were given up on.
        twins: key of a request to the places of the other rows that have it.
        in_parts: several passes read a part of the run each.
    """

    job: Job
    form: GridForm
    stale: bool
    reviews: Reviews
    quality: QualityScan
    unsettled: AbstractSet[int]
    twins: Mapping[bytes, Sequence[int]]
    in_parts: bool

    def scan(self, outputs: Sequence[BinaryIO] = (), /, grid: RequestGrid | None = None) -> ReportScan:
        """Begin a pass.

        Args:
            outputs: none.
            grid: the job's requests; None to make them of `form`, which does if no record may be stale.
        """
        assert not outputs, "a report writes no files"
        return ReportScan(self, grid or self.form.grid())


class ReportFound:
    """What a pass knows. Can be pickled.

    Attributes:
        records: number of records.
        numbers: of the samples; see `samples.sample_number`.
        quality: measures of the samples.
        coverage: counts of all rows.
        rejected: reason to number of answers that cannot be samples.
        finish_reasons: finish reason to number of answers.
        models: model to number of answers.
        violations: name of a check to number of answers that fail it.
        latency_ms: milliseconds of each answer.
        answered: keys that were given up on once, and have an answer.
        identities: of all samples, if the run is read in parts.
    """

    def __init__(self, quality: QualityScan, *, in_parts: bool) -> None:
        self.records = 0
        self.numbers = array("Q")
        self.quality = quality
        self.coverage = CoverageCounts()
        self.rejected: Counter[str] = Counter()
        self.finish_reasons: Counter[str] = Counter()
        self.models: Counter[str] = Counter()
        self.violations: Counter[str] = Counter()
        self.latency_ms = Histogram()
        self.answered: set[int] = set()
        self.identities = Identities() if in_parts else None

    def extend(self, other: ReportFound, /) -> None:
        """Add what was found in the next part."""
        by = sample_number(self.records)
        self.records += other.records
        self.numbers.extend([number + by for number in other.numbers])
        self.quality.extend(other.quality)
        self.coverage.extend(other.coverage)
        self.rejected.update(other.rejected)
        self.finish_reasons.update(other.finish_reasons)
        self.models.update(other.models)
        self.violations.update(other.violations)
        self.latency_ms.counts.update(other.latency_ms.counts)
        self.answered |= other.answered
        if self.identities is not None and other.identities is not None:
            self.identities.extend(other.identities)


class ReportScan:
    """A pass; made by `ReportTask.scan`.

    Attributes:
        found: what is known so far.
    """

    def __init__(self, task: ReportTask, grid: RequestGrid) -> None:
        self.found = ReportFound(task.quality, in_parts=task.in_parts)
        self._task = task
        self._grid = grid
        self._selection = Selection(
            task.job, grid, stale=task.stale, reviews=task.reviews, identities=self.found.identities
        )

    def at_records(self, records: Sequence[Record], /) -> None:
        """Take the next records."""
        found = self.found
        found.finish_reasons.update([record.finish_reason or "(none)" for record in records])
        found.models.update([record.model for record in records])
        found.latency_ms.add([_rounded_ms(record.latency_s) for record in records])
        if self._task.unsettled:
            found.answered |= self._task.unsettled & {key_number(record.key) for record in records}
        judged = self._selection.judge_all(records)
        combinations = CombinationBlock([record.variables for record, _, _ in judged])
        self._cover(judged, combinations)
        self._add_samples(judged, combinations)
        found.records += len(records)

    def end_part(self, lines: Fetcher, /) -> None:
        """Look for near-duplicates in this part of the run; `lines` are those of its records."""

        def answer(index: int) -> str:
            place, item = place_and_item(self.found.numbers[index])
            return maker.answer_at(lines[place], item)

        maker = SampleMaker(self._task.job, self._grid)
        self.found.quality.end_part(answer)

    def _cover(self, judged: Sequence[Judged], combinations: CombinationBlock) -> None:
        """Count what became of each row, and of those that have the request of another one."""
        outcomes = [outcome_of(reason) for _, _, reason in judged]
        for (key, outcome), count in Counter(zip(combinations.keys, outcomes, strict=True)).items():
            self.found.coverage.add(combinations.variables[key], outcome, count)
        for record, _, reason in judged:
            if reason is not None:
                self._reject(record, reason)
            if self._task.twins and reason != STALE:
                for index in self._task.twins.get(bytes.fromhex(record.key), ()):
                    self.found.coverage.add(self._grid.variables_at(index), outcome_of(reason))

    def _reject(self, record: Record, reason: str) -> None:
        self.found.quality.reject(record.key, record.completion)
        self.found.rejected[reason] += 1
        if reason.startswith(CHECK):
            self.found.violations.update(self._selection.checks.failures(record.completion, record.variables))

    def _add_samples(self, judged: Sequence[Judged], combinations: CombinationBlock) -> None:
        kept = [
            (place, key, record, sample)
            for place, (key, (record, samples, _)) in enumerate(
                zip(combinations.keys, judged, strict=True), self.found.records
            )
            for sample in samples
        ]
        self.found.numbers.extend([sample_number(place, sample.item) for place, _, _, sample in kept])
        self.found.quality.simulated += sum(record.simulated for _, _, record, _ in kept)
        self.found.quality.add_all(
            [record.key for _, _, record, _ in kept],
            [sample for _, _, _, sample in kept],
            [key for _, key, _, _ in kept],
            combinations.variables,
        )


def key_number(key: str) -> int:
    """The first 64 bits of a key."""
    return int(key[:16], 16)


_FILLED = RowOutcome.FILLED  # nearly always it: an enumeration looks its members up slowly


def outcome_of(reason: str | None) -> RowOutcome:
    """What became of a row, by the reason why its answer gives no sample."""
    if reason is None:
        return _FILLED
    if reason == STALE:
        return RowOutcome.STALE
    return RowOutcome.REFUSED if reason in {REFUSED, FILTERED} else RowOutcome.REJECTED


def _rounded_ms(seconds: float) -> int:
    """Three figures are enough, and keep the different numbers few."""
    if not math.isfinite(seconds):
        return 0
    return round(seconds * 1000) if seconds < 1 else round(seconds * 100) * 10
