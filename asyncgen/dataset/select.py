"""Which records become samples, and why the others do not.

Owns the reasons and their order. Does not know how a sample is written, nor on which side of the split it
comes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from asyncgen.dataset.samples import Sample

if TYPE_CHECKING:
    from asyncgen.job.checks import AnswerChecks
    from asyncgen.job.requests import RequestGrid
    from asyncgen.records import Failure, Record
    from asyncgen.run_state import JobState

STALE = "stale"
EMPTY = "empty"
REFUSED = "refused"
TRUNCATED = "truncated"
FILTERED = "filtered"
DUPLICATE = "duplicate"
NEAR_DUPLICATE = "near_duplicate"
CHECK = "check: "
FINISH_REASON = "finish_reason: "

# What providers of the OpenAI shape call an answer that ended by itself; "" where they say nothing.
_FINISHED = frozenset({"", "stop", "eos", "eos_token", "end_turn", "stop_sequence"})
_UNFINISHED = {
    "length": TRUNCATED,
    "max_tokens": TRUNCATED,
    "content_filter": FILTERED,
    "safety": FILTERED,
    "refusal": REFUSED,
}

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
    if record.finish_reason not in _FINISHED:
        return _UNFINISHED.get(record.finish_reason, FINISH_REASON + record.finish_reason)
    answer = record.completion.strip()
    if not answer:
        return EMPTY
    return REFUSED if _REFUSAL.match(answer) else None


def may_be_stale(job: JobState, grid: RequestGrid) -> bool:
    """Whether the run may hold rows that the job does not ask for; where not, none needs to be looked up."""
    return bool(job.stale) or job.fingerprint != grid.fingerprint


def is_stale(record: Record | Failure, grid: RequestGrid) -> bool:
    """Whether the job, as it is now, does not ask for this row any more."""
    key = grid.key_of(record.variables, record.repeat)
    return key is None or key.hex() != record.key


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
        if self._may_be_stale and is_stale(record, self._grid):
            return Sample(record.prompt, record.completion.strip()), STALE
        sample = Sample(self._grid.sample.render(record.variables), record.completion.strip())
        reason = self._reason(record, sample)
        if reason is None:
            self._seen.add(hash((sample.prompt, sample.answer)))
        return sample, reason

    def _reason(self, record: Record, sample: Sample) -> str | None:
        if reason := unusable(record):
            return reason
        if failures := self._checks.failures(record.completion):
            return CHECK + failures[0]
        return DUPLICATE if hash((sample.prompt, sample.answer)) in self._seen else None
