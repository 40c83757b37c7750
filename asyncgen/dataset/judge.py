"""The first pass over a run's records: each one's verdict, kept in two bytes, and what the second pass has to know.

Owns the verdicts. Writes nothing.
"""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from asyncgen.dataset.near_duplicates import AnswersByPrompt
from asyncgen.dataset.samples import COMPLETION, Sample
from asyncgen.dataset.select import NEAR_DUPLICATE, Selection
from asyncgen.dataset.similar_records import similar_records
from asyncgen.dataset.split import AxisValues
from asyncgen.dataset.token_counts import TokenRatio
from asyncgen.job.checks import AnswerChecks
from asyncgen.jsonl import read_rows
from asyncgen.records import decode_record

if TYPE_CHECKING:
    from pathlib import Path

    from asyncgen.job.model import DatasetSettings, Job
    from asyncgen.job.requests import RequestGrid

TAKEN = 0


@dataclass(slots=True)
class Verdicts:
    """What became of each record.

    Attributes:
        codes: a number a record, in the order of the file; `TAKEN`, or a place in `reasons`.
        reasons: why records were left out; the first is empty.
        near_duplicates: answers that are nearly an earlier one; still taken unless they were to be dropped.
        values: of every axis, with their places in the grid.
        ratio: counted tokens to estimated ones.
        separators: samples with the separator inside the prompt; of the completion format only.
        endings: samples with the ending inside the answer, likewise.
    """

    codes: array[int] = field(default_factory=lambda: array("H"))
    reasons: list[str] = field(default_factory=lambda: [""])
    near_duplicates: int = 0
    values: AxisValues = field(default_factory=AxisValues)
    ratio: TokenRatio = field(default_factory=TokenRatio)
    separators: int = 0
    endings: int = 0

    def code(self, reason: str | None) -> int:
        if reason is None:
            return TAKEN
        if reason not in self.reasons:
            self.reasons.append(reason)
        return self.reasons.index(reason)

    def reason(self, place: int) -> str:
        """Why the record at this place of the file was left out; "" where it was taken."""
        return self.reasons[self.codes[place]]

    def rejected(self) -> Counter[str]:
        """Reason to how many records were left out for it."""
        counts = Counter(self.codes)
        return Counter({reason: counts[code] for code, reason in enumerate(self.reasons) if code and counts[code]})


def judge_records(path: Path, job: Job, grid: RequestGrid, *, stale: bool, drop_near_duplicates: bool) -> Verdicts:
    """Judge every record of a file.

    Args:
        path: `records.jsonl`.
        job: its checks and dataset settings count.
        grid: the job's rows; records of other rows are stale.
        stale: some records may be of other rows; see `select.may_be_stale`.
        drop_near_duplicates: leave near-duplicates out; they are counted in any case.

    Raises:
        BadLineError: a line is no record.
        DiskError: the file cannot be read.
    """
    verdicts = Verdicts()
    answers = AnswersByPrompt()
    selection = Selection(grid, AnswerChecks(job.checks), stale=stale)
    for place, (_, record) in enumerate(read_rows(path, decode_record)):
        sample, reason = selection.judge(record)
        verdicts.codes.append(verdicts.code(reason))
        if job.dataset.validation:
            verdicts.values.add(record.variables, record.index)
        if reason is None:
            answers.add(sample.prompt, place)
            if record.attempts == 1 and not grid.has_openings:  # else the usage is not that of this text alone
                verdicts.ratio.add(record.completion, record.usage.completion_tokens - record.usage.reasoning_tokens)
            _look_closer(verdicts, job.dataset, sample)
    del selection  # it remembers every pair, and the search needs the memory
    for found in similar_records(path, answers):
        verdicts.near_duplicates += 1
        if drop_near_duplicates:
            verdicts.codes[found.number] = verdicts.code(NEAR_DUPLICATE)
    return verdicts


def _look_closer(verdicts: Verdicts, settings: DatasetSettings, sample: Sample) -> None:
    if settings.format == COMPLETION:
        verdicts.separators += bool(settings.separator) and settings.separator in sample.prompt
        verdicts.endings += bool(settings.ending) and settings.ending in sample.answer
