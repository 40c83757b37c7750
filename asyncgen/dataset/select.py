"""The first pass over a run's records: each one's verdict, kept in two bytes, and what the second pass has to know.

Owns the verdicts. Writes nothing.

Which records become samples, and why the others do not.

Owns the reasons and their order. Does not know how a sample is written, nor on which side of the split it
comes.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from asyncgen.dataset.near_duplicates import AnswersByPrompt, similar_records
from asyncgen.dataset.samples import COMPLETION, Sample
from asyncgen.dataset.token_counts import TokenRatio
from asyncgen.job.belonging import may_be_foreign
from asyncgen.job.checks import AnswerChecks
from asyncgen.run.jsonl import read_rows
from asyncgen.run.records import decode_record, finish_reason_of

if TYPE_CHECKING:
    from pathlib import Path

    from asyncgen.job.model import DatasetSettings, Job
    from asyncgen.job.requests import RequestGrid
    from asyncgen.run.records import Failure, Record
    from asyncgen.run.state import JobState


TAKEN = 0


@dataclass(slots=True)
class Verdicts:
    """What became of each record.

    Attributes:
        codes: a number a record, in the order of the file; `TAKEN`, or a place in `reasons`.
        reasons: why records were left out; the first is empty.
        near_duplicates: answers that are nearly an earlier one; still taken unless they were to be dropped.
        ratio: counted tokens to estimated ones.
        separators: samples with the separator inside the prompt; of the completion format only.
        endings: samples with the ending inside the answer, likewise.
    """

    codes: array[int] = field(default_factory=lambda: array("H"))
    reasons: list[str] = field(default_factory=lambda: [""])
    near_duplicates: int = 0
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
    selection = Selection(grid, AnswerChecks(job.checks, grid.answers), stale=stale)
    for place, (_, record) in enumerate(read_rows(path, decode_record)):
        sample, reason = selection.judge(record)
        verdicts.codes.append(verdicts.code(reason))
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


STALE = "stale"
EMPTY = "empty"
REFUSED = "refused"
TRUNCATED = "truncated"
FILTERED = "filtered"
DUPLICATE = "duplicate"
NEAR_DUPLICATE = "near_duplicate"
CHECK = "check: "
FINISH_REASON = "finish_reason: "

_FINISHED = frozenset({"", "stop", "tool_calls"})  # "" where the server says nothing
_UNFINISHED = {"length": TRUNCATED, "content_filter": FILTERED, "refusal": REFUSED}

# Models also refuse in plain words. Only the beginnings that leave no doubt are taken for it.
_REFUSAL = re.compile(
    r"(?:i['’]m|i am) (?:very |really |so )?sorry,? (?:but )?(?:i|as an)\b"
    r"|(?:sorry|apologies),? (?:but )?i (?:can['’]?t|cannot|can not|am unable|['’]m unable|won['’]t)\b"
    r"|i (?:can['’]?t|cannot|can not|am unable to|won['’]t) (?:help|assist|comply|provide|create|generate|write)\b"
    r"|i['’]m (?:unable|not able) to (?:help|assist|comply|provide|create|generate|write)\b"
    r"|as an (?:ai|artificial intelligence)\b",
    re.IGNORECASE,
)


def unusable(record: Record) -> str | None:
    """Why the answer, for itself, is no example to learn from; None where it is one."""
    finish = finish_reason_of(record.finish_reason)  # older records hold it as the server gave it
    calls_are_lost = finish == "tool_calls" and not record.tool_calls  # by a release that did not keep them
    if finish not in _FINISHED or calls_are_lost:
        return _UNFINISHED.get(finish, FINISH_REASON + record.finish_reason)
    answer = record.completion.strip()
    if not answer:
        return EMPTY
    return REFUSED if _REFUSAL.match(answer) else None


def may_be_stale(job: JobState, grid: RequestGrid) -> bool:
    """Whether the run may hold rows that the job does not ask for; where not, none needs to be looked up."""
    return may_be_foreign(job, grid)


def is_stale(record: Record | Failure, grid: RequestGrid) -> bool:
    """Whether the job, as it is now, does not ask for this row any more."""
    return grid.own(record) is None


class Selection:
    """Judges records one after the other, in the order of the file.

    Args:
        grid: of the job as it is now: its short prompt is the samples', and its rows are the ones that count.
        checks: the job's, as they are now; the record's own `check_failures` may be of an earlier form.
        stale: some records may be stale; see `may_be_stale`.
    """

    def __init__(self, grid: RequestGrid, checks: AnswerChecks, *, stale: bool) -> None:
        self._grid = grid
        self._checks = checks
        self._may_be_stale = stale
        self._seen: set[int] = set()  # 64-bit hashes of pairs: at 10^6 rows a false duplicate has odds of 1 to 10^7

    def judge(self, record: Record) -> tuple[Sample, str | None]:
        """The sample that the record would be, and the reason why it is not taken; None where it is."""
        if self._may_be_stale:
            own = self._grid.own(record)
            if own is None:
                return Sample(record.prompt, record.completion.strip()), STALE
            record = own
        sample = Sample(self._grid.prompt_of(record.variables, record.completion), record.completion.strip())
        reason = self._reason(record, sample)
        if reason is None:
            self._seen.add(hash((sample.prompt, sample.answer)))
        return sample, reason

    def _reason(self, record: Record, sample: Sample) -> str | None:
        if reason := unusable(record):
            return reason
        if failures := self._checks.failures(record.completion, record.variables):
            return CHECK + failures[0]
        return DUPLICATE if hash((sample.prompt, sample.answer)) in self._seen else None
