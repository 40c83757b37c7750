"""Select the records that become samples, with the reason for each that does not.

Reasons are checked in a fixed order. Format and split are left to `samples` and `split`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from asyncgen.dataset.samples import Sample, SampleMaker
from asyncgen.job.belonging import may_be_foreign
from asyncgen.job.checks import AnswerChecks
from asyncgen.run.key_set import KeySet
from asyncgen.run.records import finish_reason_of
from asyncgen.run.reviews import NO_REVIEWS

if TYPE_CHECKING:
    from asyncgen.job.model import Job
    from asyncgen.job.requests import RequestGrid
    from asyncgen.run.records import Failure, Record
    from asyncgen.run.reviews import Reviews
    from asyncgen.run.state import JobState

STALE = "stale"
EMPTY = "empty"
REFUSED = "refused"
TRUNCATED = "truncated"
FILTERED = "filtered"
DUPLICATE = "duplicate"
NEAR_DUPLICATE = "near_duplicate"
SCORE = "score"
BY_HAND = "rejected_by_hand"
CHECK = "check: "
FINISH_REASON = "finish_reason: "

_FINISHED = frozenset({"", "stop", "tool_calls"})  # "" where the server says nothing
_UNFINISHED = {"length": TRUNCATED, "content_filter": FILTERED, "refusal": REFUSED}

# Models also refuse in text. Only unambiguous beginnings count as a refusal.
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
        return None if record.tool_calls else EMPTY
    return REFUSED if _REFUSAL.match(answer) else None


def may_be_stale(job: JobState, grid: RequestGrid) -> bool:
    """Whether the run may hold rows that the job does not ask for; where not, none needs to be looked up."""
    return may_be_foreign(job, grid)


def is_stale(record: Record | Failure, grid: RequestGrid) -> bool:
    """Whether the job, as it is now, does not ask for this row any more."""
    return grid.own(record) is None


class Selection:
    """Judges records one after the other, in the order of the file.

    Memory: 16 bytes a sample.

    Args:
        job: as it is now; its checks count, and the record's own `check_failures` may be of an earlier form.
        grid: its rows are the ones that count, and its short prompt is the samples'.
        stale: some records may be stale; see `may_be_stale`.
        expected: how many samples will come; more may.
        reviews: what a person rejected, whatever the checks say.
    """

    def __init__(
        self, job: Job, grid: RequestGrid, *, stale: bool, expected: int = 0, reviews: Reviews = NO_REVIEWS
    ) -> None:
        self._grid = grid
        self.checks = AnswerChecks(job.checks, grid.answers)
        self._maker = SampleMaker(job, grid)
        self._may_be_stale = stale
        self._reviews = reviews
        self._seen = KeySet(expected)  # 64 bits of a pair: at 10^6 rows a false duplicate has odds of 1 to 10^7

    def own(self, record: Record) -> Record | None:
        """The record as the job has it now; None where the job does not ask for it any more."""
        return self._grid.own(record) if self._may_be_stale else record

    def judge(self, record: Record) -> tuple[list[Sample], str | None]:
        """The samples that a record of the job gives, and the reason why it gives none; None where it gives some."""
        if reason := unusable(record):
            return [], reason
        if self._reviews.is_rejected(record.key, record.completion):
            return [], BY_HAND
        if failures := self.checks.failures(record.completion, record.variables):
            return [], CHECK + failures[0]
        made = self._maker.of(record)
        samples = [sample for sample in made if self._is_new(sample)]
        return samples, None if samples else DUPLICATE if made else EMPTY

    def _is_new(self, sample: Sample) -> bool:
        return self._seen.add_number(hash((sample.prompt, sample.answer)) & _64_BITS)


_64_BITS = 2**64 - 1
