"""What a run holds of a job already, and what its answers cost and measured.

One pass over the run's files. Read-only and without a lock: the run may be written at the same time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import msgspec

from asyncgen.generate.journal.settled import key_number
from asyncgen.job.belonging import recognise_rows
from asyncgen.job.requests import RequestGrid
from asyncgen.json_text import decoder
from asyncgen.run.directory import RunDirectory
from asyncgen.run.jsonl import rows_in
from asyncgen.run.key_set import KeySet
from asyncgen.run.records import decode_failure, decode_record


@dataclass(slots=True)
class Figures:
    """Running count, mean and variance of a figure (Welford's method)."""

    count: int = 0
    mean: float = 0.0
    _squares: float = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        step = value - self.mean
        self.mean += step / self.count
        self._squares += step * (value - self.mean)

    @property
    def error(self) -> float:
        """How far the mean may be off: two standard errors."""
        return 2 * math.sqrt(self._squares / max(self.count - 1, 1) / max(self.count, 1))


@dataclass(slots=True)
class RowsThere:
    """Counts and measures of a job's rows in a run.

    Attributes:
        settled: rows of the job that have an answer.
        failed: rows of the job with a failure and no record.
        in_batches: rows of the run that wait in open batches.
        stale: records that are no longer in the job.
        twins: duplicates, rows of the job with the same request as an earlier one; they share its answer.
        prompt_tokens: of each settled row, over all its attempts.
        completion_tokens: of each settled row, over all its attempts.
        answer_tokens: of one answer.
        latency_s: of one answer.
    """

    settled: int = 0
    failed: int = 0
    in_batches: int = 0
    stale: int = 0
    twins: int = 0
    prompt_tokens: Figures = field(default_factory=Figures)
    completion_tokens: Figures = field(default_factory=Figures)
    answer_tokens: Figures = field(default_factory=Figures)
    latency_s: Figures = field(default_factory=Figures)


def rows_there(directory: RunDirectory, grid: RequestGrid) -> RowsThere:
    """Count and measure the rows of `grid` in a run; a missing run has none.

    Raises:
        BadLineError: a line is not a record or failure.
        AsyncgenError: `run.json` was written by a newer release.
        DiskError: a file cannot be read.
    """
    recognise_rows(directory, grid)
    twins = grid.twins()
    there = RowsThere(twins=sum(map(len, twins.values())))
    for record in rows_in(directory.record_files(), decode_record):
        if grid.own(record) is None:
            there.stale += 1
            continue
        there.settled += 1
        there.prompt_tokens.add(record.usage.prompt_tokens)
        there.completion_tokens.add(record.usage.completion_tokens)
        there.answer_tokens.add(record.usage.completion_tokens / max(record.asked, 1))
        if record.latency_s > 0:
            there.latency_s.add(record.latency_s)
    there.failed = _failed(directory, grid)
    there.in_batches = _in_batches(directory)
    return there


def _in_batches(directory: RunDirectory) -> int:
    try:
        state = directory.read_state()
    except FileNotFoundError:
        return 0
    return sum(batch.requests for batch in state.batches if not batch.collected)


class _Key(msgspec.Struct, gc=False):
    key: str


_decode_key = decoder(_Key)


def _failed(directory: RunDirectory, grid: RequestGrid) -> int:
    failed = KeySet()
    for failure in rows_in(directory.failure_files(), decode_failure):
        if grid.own(failure) is not None:
            failed.add_number(key_number(failure.key))
    if not failed:
        return 0
    settled_later = (key_number(row.key) for row in rows_in(directory.record_files(), _decode_key))
    return len(failed) - sum(map(failed.has, settled_later))
