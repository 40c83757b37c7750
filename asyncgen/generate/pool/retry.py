"""Whether to retry a row, and after how long.

A row has a bounded number of failed attempts, and a lower bound on those that the provider may have charged for. This
is the only place that decides on retries: the HTTP client makes one attempt. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from asyncgen.backoff import full_jitter_s
from asyncgen.generate.http.completer import Answer, AttemptError, ErrorClass
from asyncgen.run.records import NO_USAGE, Usage
from asyncgen.run.state import UNTRIED, RowAttempts

if TYPE_CHECKING:
    from random import Random

    from asyncgen.generate.pool.admission import Ticket
    from asyncgen.job.requests import Request


MAX_FAILED = 5
MAX_MAYBE_PAID = 2


class RowInWork(msgspec.Struct, eq=False, gc=False):  # made for every request: a quarter of a dataclass's time
    """A row being processed: its request, and its attempts so far.

    Attributes:
        request: its body and key.
        attempts: HTTP calls, in all invocations.
        failed: attempts without an answer, except those refused by a rate limit.
        maybe_paid: failed attempts for which the provider may have charged.
        forgiven: of `maybe_paid`, those excused by --retry-failed.
        may_pay_twice: the last attempt may have been charged, so that the next one may be charged again.
        usage: tokens of all attempts of this invocation.
        answer: the last usable answer, if it failed its checks and the row is requested again.
        asked: usable answers so far.
        attempts_before: of `attempts`, those of earlier invocations.
        ticket: permission to send, if it was acquired together with the row.
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
        """Note an answer."""
        self.usage = answer.usage if self.usage is NO_USAGE else self.usage + answer.usage
        self.answer = answer
        self.asked += 1
        self.may_pay_twice = False


def row_again(request: Request, before: RowAttempts) -> RowInWork:
    """A row that earlier invocations attempted already."""
    return RowInWork(
        request,
        attempts=before.attempts,
        failed=before.failed,
        maybe_paid=before.maybe_paid,
        forgiven=before.forgiven,
        may_pay_twice=before.maybe_paid > 0,
        attempts_before=before.attempts,
    )


def tried_of(row: RowInWork) -> RowAttempts | None:
    """The attempts of a row to save for the next invocation; None if this one made none."""
    if row.attempts == row.attempts_before or not (row.failed or row.maybe_paid):
        return None
    return RowAttempts(attempts=row.attempts, failed=row.failed, maybe_paid=row.maybe_paid, forgiven=row.forgiven)


def given_up(attempts: int, maybe_paid: int) -> RowAttempts:
    """The attempts that count for a failed row under --retry-failed.

    Args:
        attempts: HTTP calls of earlier invocations.
        maybe_paid: of these, those that may have been charged. One more such attempt is allowed.
    """
    if not attempts:
        return UNTRIED
    return RowAttempts(attempts=attempts, maybe_paid=maybe_paid, forgiven=max(maybe_paid - MAX_MAYBE_PAID + 1, 0))


def note_error(row: RowInWork, error: AttemptError) -> None:
    """Count a failed attempt."""
    row.usage += error.usage
    row.failed += error.kind is not ErrorClass.WAIT
    row.maybe_paid += error.maybe_paid
    row.may_pay_twice = error.maybe_paid


def may_retry(row: RowInWork, error: AttemptError) -> bool:
    """True if the row may be retried after this error, which `note_error` has counted."""
    if error.kind is ErrorClass.WAIT:
        return not (error.maybe_paid and is_paid_enough(row))
    return error.kind is ErrorClass.RETRY and row.failed < MAX_FAILED and not is_paid_enough(row)


def is_paid_enough(row: RowInWork) -> bool:
    """True if the row used up its attempts that may have been charged."""
    return row.maybe_paid - row.forgiven >= MAX_MAYBE_PAID


def is_used_up(tried: RowAttempts) -> bool:
    """True if earlier invocations used up a row's attempts."""
    return tried.failed >= MAX_FAILED or tried.maybe_paid - tried.forgiven >= MAX_MAYBE_PAID


def retry_wait_s(row: RowInWork, error: AttemptError, rng: Random) -> float:
    """Seconds until the row's next attempt; 0 after a rate limit, for which the whole pool pauses."""
    return 0.0 if error.kind is ErrorClass.WAIT else full_jitter_s(row.failed - 1, rng)
