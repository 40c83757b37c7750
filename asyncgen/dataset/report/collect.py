"""Collect the report of a run in one pass over its files.

Counts what became of every row; measures of the answers are left to `texts` and `quality`, display to the callers.
Read-only: the run may be written at the same time.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyncgen.dataset.parts import divide, read_parts
from asyncgen.dataset.report.quality import CoverageCounts, Quality, QualityScan, RowOutcome, SampledText
from asyncgen.dataset.report.report_pass import ReportTask, key_number
from asyncgen.dataset.report.texts import Diversity, diversity
from asyncgen.dataset.samples import (
    DUPLICATE,
    SampleMaker,
    is_stale,
    may_be_stale,
    place_and_item,
    sample_number,
)
from asyncgen.dataset.split import Split, known_plan, plan_split
from asyncgen.dataset.token_counts import Histogram
from asyncgen.dataset.writer import RowFile, collector_off
from asyncgen.run.jsonl import rows_in
from asyncgen.run.records import decode_failure, decode_record
from asyncgen.run.reviews import read_reviews
from asyncgen.terminal import counted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from asyncgen.dataset.report.quality import Axis, Coverage
    from asyncgen.dataset.report.report_pass import ReportFound
    from asyncgen.dataset.writer import Fetcher
    from asyncgen.job.model import Job
    from asyncgen.job.requests import RequestGrid
    from asyncgen.run.directory import RunDirectory
    from asyncgen.run.records import Usage


MOST_ENUMERATED = 2_000_000  # rows of a job beyond which they are not counted by value
_OPENINGS = 10
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
        counts = f"{counted(rows.filled, 'row')} filled, {rows.rejected:,} rejected, {rows.failed:,} failed"
        return f"<Report on {self.run}: {counts}; {counted(self.duplicates, 'duplicate')}>"


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
        AsyncgenError: a process that reads a part ended unexpectedly.
    """
    state = directory.read_total()
    stale, twins = may_be_stale(state.job, grid), grid.twins()
    paths = directory.record_files()
    parts = () if stale or twins else divide(paths)
    quality = QualityScan(job, Split(plan_split(grid, job.dataset, known_plan(state)), job.dataset.hold_out))
    unsettled = {key_number(failure.key) for failure in rows_in(directory.failure_files(), decode_failure)}
    rows = RowFile(paths, decode_record)
    with collector_off():
        coverage = _asked_for(grid, quality)
        task = ReportTask(
            job=job,
            form=grid.form,
            stale=stale,
            reviews=read_reviews(directory.path),
            quality=quality,
            unsettled=unsettled,
            twins=twins,
            in_parts=bool(parts),
        )
        scan = task.scan(grid=grid)
        if parts:
            read_parts(task, rows, parts, [()] * len(parts), scan.found)
        else:
            for records in rows.blocks():
                scan.at_records(records)
        with rows.fetcher() as lines:
            made = _ReportMaker(task, grid, scan.found, coverage, lines)
            made.leave_out_repeats()
            made.at_failures(directory.failure_files())
            return made.report(directory)


def _asked_for(grid: RequestGrid, quality: QualityScan) -> CoverageCounts:
    """Count the rows that the job asks for, unless there are too many."""
    coverage = CoverageCounts()
    if grid.count <= MOST_ENUMERATED:
        for variables in grid.combinations():
            coverage.request(variables, grid.repeats)
            quality.ask(variables)
    return coverage


class _ReportMaker:
    """Makes the report of what was found in the whole run."""

    def __init__(
        self, task: ReportTask, grid: RequestGrid, found: ReportFound, coverage: CoverageCounts, lines: Fetcher
    ) -> None:
        self._task = task
        self._grid = grid
        self._found = found
        self._lines = lines
        self._coverage = coverage
        self._coverage.extend(found.coverage)
        self._maker = SampleMaker(task.job, grid)
        self._failures: Counter[str] = Counter()

    def leave_out_repeats(self) -> None:
        """Leave out the samples that an earlier part of the run has already."""
        found = self._found
        dropped = bytearray(len(found.numbers))
        for place, items, is_left in found.identities.repeated() if found.identities else ():
            record = decode_record(self._lines[place])
            for sample in self._maker.of(record):
                if sample.item in items:
                    dropped[bisect_left(found.numbers, sample_number(place, sample.item))] = True
                    found.quality.withdraw(sample, record.variables, simulated=record.simulated)
            if not is_left:
                self._coverage.add(record.variables, RowOutcome.FILLED, -1)
                self._coverage.add(record.variables, RowOutcome.REJECTED)
                found.rejected[DUPLICATE] += 1
                found.quality.reject(record.key, record.completion)
        found.identities = None  # its memory is needed for what follows
        if any(dropped):
            found.quality.drop(dropped)

    def at_failures(self, paths: Sequence[Path]) -> None:
        """Add the failures whose rows were not answered later."""
        left = {*self._task.unsettled} - self._found.answered
        for failure in rows_in(paths, decode_failure):
            number = key_number(failure.key)
            if number not in left or is_stale(failure, self._grid):
                continue
            left.discard(number)
            self._failures[failure.error.type] += 1
            outcome = RowOutcome.REFUSED if failure.error.type in _REFUSALS else RowOutcome.FAILED
            self._coverage.add((self._grid.match(failure) or failure).variables, outcome)
            for index in self._task.twins.get(bytes.fromhex(failure.key), ()):
                self._coverage.add(self._grid.variables_at(index), outcome)

    def report(self, directory: RunDirectory) -> Report:
        """Make the report; call it once."""
        state, found = directory.read_total(), self._found
        texts = found.quality.texts
        sample = [self._sampled(number) for number in texts.sample()]
        quality = found.quality.quality(self._answer, sample)
        return Report(
            run=directory.path,
            job=self._task.job.name,
            coverage=self._coverage.total(self._grid.count),
            axes=tuple(self._coverage.axes()),
            rejected=Counter(dict(sorted(found.rejected.items()))),
            failures=self._failures,
            finish_reasons=found.finish_reasons,
            models=found.models,
            checks=found.violations,
            duplicates=found.rejected[DUPLICATE],
            near_duplicates=quality.near_duplicates,
            words=texts.words(),
            characters=texts.characters(),
            openings=tuple(texts.openings(_OPENINGS, self._answer)),
            diversity=diversity(each.text for each in sample),
            quality=quality,
            latency_ms=found.latency_ms,
            usage=state.spend.usage,
            cost_usd=state.spend.cost_usd,
            unpriced=state.spend.unpriced,
        )

    def _answer(self, index: int) -> str:
        place, item = place_and_item(self._found.numbers[index])
        return self._maker.answer_at(self._lines[place], item)

    def _sampled(self, index: int) -> SampledText:
        place, item = place_and_item(self._found.numbers[index])
        record = decode_record(self._lines[place])
        record = (self._grid.match(record) or record) if self._task.stale else record
        return SampledText(index, self._maker.of(record)[item].answer, record.variables)
