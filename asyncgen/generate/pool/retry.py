"""Whether to retry a row, and after how long.

A row has a bounded number of failed attempts, and a lower bound on those that the provider may have charged for. This
is the only place that decides on retries: the HTTP client makes one attempt. Pure.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import msgspec

from asyncgen.backoff import full_jitter_s
from asyncgen.generate.http.completer import Answer, AttemptError, ErrorClass
from asyncgen.job.requests import Request
from asyncgen.run.records import NO_USAGE, Usage
from asyncgen.run.state import UNTRIED, Tried

if TYPE_CHECKING:
    from asyncgen.generate.pool.admission import Ticket


MAX_FAILED = 5
MAX_MAYBE_PAID = 2


class RowInWork(msgspec.Struct, eq=False, gc=False):  # made for every request: a quarter of a dataclass's time
    """A request on its way, and what happened to it so far, in earlier invocations too where they gave up nothing.

    Attributes:
        attempts: HTTP calls.
        failed: attempts that gave no answer; waiting for a rate limit is not counted.
        maybe_paid: failed attempts for which the provider may have charged.
        forgiven: of these, such that no longer count against the bound: the user asked for another try.
        may_pay_twice: an attempt may have been charged, so that the next one may be so a second time.
        usage: of everything that was counted in this invocation.
        answer: the last usable answer, when it did not pass the checks and is asked for again.
        asked: usable answers so far.
        attempts_before: of `attempts`, those of earlier invocations.
        ticket: permission to send it, where it came with the row.
    """

    request: Request
    attempts: int = 0
    failed: int = 0
    maybe_paid: int = 0
    forgiven: int = 0
    may_pay_twice: bool = False
    usage: Usage = NO_USAGE
    answer: Answer | None = None
    asked: int = 0
    attempts_before: int = 0
    ticket: Ticket | None = None

    def answered(self, answer: Answer) -> None:
        """An answer came."""
        self.usage = answer.usage if self.usage is NO_USAGE else self.usage + answer.usage
        self.answer = answer
        self.asked += 1
        self.may_pay_twice = False


def row_again(request: Request, before: Tried) -> RowInWork:
    """A row with what earlier invocations did for it."""
    return RowInWork(
        request,
        attempts=before.attempts,
        failed=before.failed,
        maybe_paid=before.maybe_paid,
        forgiven=before.forgiven,
        may_pay_twice=before.maybe_paid > 0,
        attempts_before=before.attempts,
    )


def tried_of(row: RowInWork) -> Tried | None:
    """What another invocation has to know of a row that it takes up; None where nothing happened in this one."""
    if row.attempts == row.attempts_before or not (row.failed or row.maybe_paid):
        return None
    return Tried(attempts=row.attempts, failed=row.failed, maybe_paid=row.maybe_paid, forgiven=row.forgiven)


def given_up(attempts: int, maybe_paid: int) -> Tried:
    """What counts of a row that was given up on, and is asked for again because the user says so.

    Where the provider may have charged, one more time is the most.
    """
    if not attempts:
        return UNTRIED
    return Tried(attempts=attempts, maybe_paid=maybe_paid, forgiven=max(maybe_paid - MAX_MAYBE_PAID + 1, 0))


def note_error(row: RowInWork, error: AttemptError) -> None:
    """Count a failed attempt."""
    row.usage += error.usage
    row.failed += error.kind is not ErrorClass.WAIT
    row.maybe_paid += error.maybe_paid
    row.may_pay_twice = error.maybe_paid


def may_retry(row: RowInWork, error: AttemptError) -> bool:
    """Is the row to be tried again after this error, which was noted?"""
    if error.kind is ErrorClass.WAIT:
        return not (error.maybe_paid and is_paid_enough(row))
    return error.kind is ErrorClass.RETRY and row.failed < MAX_FAILED and not is_paid_enough(row)


def is_paid_enough(row: RowInWork) -> bool:
    """Has the provider perhaps charged for the row as often as it may without an answer?"""
    return row.maybe_paid - row.forgiven >= MAX_MAYBE_PAID


def is_used_up(tried: Tried) -> bool:
    """Was a row tried as often as it may be without an answer?"""
    return tried.failed >= MAX_FAILED or tried.maybe_paid - tried.forgiven >= MAX_MAYBE_PAID


def retry_wait_s(row: RowInWork, error: AttemptError, rng: Random) -> float:
    """Seconds before the row's next attempt; what a server asks for holds back the whole pool."""
    return 0.0 if error.kind is ErrorClass.WAIT else full_jitter_s(row.failed - 1, rng)
