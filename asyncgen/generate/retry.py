"""May a row be tried again, and after how long.

Owns the bounds: so many failed attempts a row, fewer of them such that the provider may have charged for. Nobody else
retries, neither the HTTP client nor a caller. Pure.
"""

from __future__ import annotations

from random import Random

import msgspec

from asyncgen.backoff import full_jitter_s
from asyncgen.generate.completer import Answer, AttemptError, ErrorClass
from asyncgen.job.requests import Request
from asyncgen.records import NO_USAGE, Usage

MAX_FAILED = 5
MAX_MAYBE_PAID = 2


class Row(msgspec.Struct, eq=False):  # made for every request: a quarter of a dataclass's time
    """A request on its way, and what happened to it so far.

    Attributes:
        attempts: HTTP calls, those of earlier invocations included.
        failed: attempts that gave no answer; waiting for a rate limit is not counted.
        maybe_paid: failed attempts for which the provider may have charged, those of earlier invocations included.
        forgiven: of these, such that no longer count against the bound: the user asked for another try.
        may_pay_twice: the last attempt may have been charged, so that the next one may be so a second time.
        usage: of everything that was counted.
        answer: the last usable answer, when it did not pass the checks and is asked for again.
        asked: usable answers so far.
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


def row_again(request: Request, attempts: int, maybe_paid: int) -> Row:
    """A row with what earlier invocations did for it; where they may have paid, one more time is the most."""
    if not attempts:
        return Row(request)
    return Row(request, attempts=attempts, maybe_paid=maybe_paid, forgiven=max(maybe_paid - MAX_MAYBE_PAID + 1, 0))


def note_error(row: Row, error: AttemptError) -> None:
    """Count a failed attempt."""
    row.usage += error.usage
    row.failed += error.kind is not ErrorClass.WAIT
    row.maybe_paid += error.maybe_paid
    row.may_pay_twice = error.maybe_paid


def may_retry(row: Row, error: AttemptError) -> bool:
    """Is the row to be tried again after this error, which was noted?"""
    if error.kind is ErrorClass.WAIT:
        return True
    in_bounds = row.failed < MAX_FAILED and row.maybe_paid - row.forgiven < MAX_MAYBE_PAID
    return error.kind is ErrorClass.RETRY and in_bounds


def retry_wait_s(row: Row, error: AttemptError, rng: Random) -> float:
    """Seconds before the row's next attempt; what a server asks for holds back the whole pool."""
    return 0.0 if error.kind is ErrorClass.WAIT else full_jitter_s(row.failed - 1, rng)
