"""Decide on retries; settle rows: make the record or failure of a row, write it to the journal, count it.

A row has a bounded number of failed attempts, and a lower bound on those that the provider may have charged for. This
is the only place that decides on retries: the HTTP client makes one attempt. A row fails at once, or is held until it
is known whether the service was at fault. Repeated failures of the same kind end the run: the error is returned,
stopping is left to the pool. Keeps the first disk error for the pool to look at.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Protocol

import msgspec

from asyncgen.backoff import full_jitter_s
from asyncgen.errors import DiskError
from asyncgen.generate.http.completer import Answer, AttemptError, ErrorClass
from asyncgen.run.jsonl import NotSafeError
from asyncgen.run.records import NO_USAGE, Failure, FailureError, Record, Usage
from asyncgen.run.state import UNTRIED, RowAttempts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from asyncgen.generate.pool.admission import Admission, Ticket
    from asyncgen.generate.pool.progress import Progress
    from asyncgen.job.answers import AnswerChecks
    from asyncgen.job.requests import Request, RequestGrid


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


def retried_row(request: Request, before: RowAttempts) -> RowInWork:
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


class RecordMaker:
    """Makes records from answers.

    Args:
        grid: the job's requests.
        checks: judge the answers.
        wall: current time in Unix seconds.
    """

    def __init__(self, grid: RequestGrid, checks: AnswerChecks, wall: Callable[[], float]) -> None:
        # Looked up once: `record` runs for every answer.
        self._names = grid.names
        self._model = grid.model
        self._prompt_of = grid.prompt_of
        self._opening = grid.opening if grid.has_openings else None
        self._failures = checks.failures
        self._wall = wall

    def record(self, row: RowInWork) -> Record:
        """The record of a row, which must have an answer."""
        answer, request = row.answer, row.request
        assert answer is not None
        completion = answer.text
        if self._opening is not None and completion:
            completion = with_opening(self._opening(request), completion)
        variables = dict(zip(self._names, request.values, strict=True))
        return Record(
            key=request.key.hex(),
            index=request.index,
            repeat=request.repeat,
            variables=variables,
            prompt=self._prompt_of(variables, completion),
            completion=completion,
            model=answer.model or self._model,
            finish_reason=answer.finish_reason,
            usage=row.usage,
            attempts=row.attempts,
            check_failures=self._failures(completion, variables),
            latency_s=int(answer.latency_s * 10_000) / 10_000,
            created=int(self._wall()),
            request_id=answer.request_id,
            reasoning=answer.reasoning,
            tool_calls=answer.tool_calls,
            asked=row.asked,
            simulated=answer.simulated,
        )


def failure_of(row: RowInWork, grid: RequestGrid, error: AttemptError, now: float) -> Failure:
    """The failure of a row.

    Args:
        row: given up on.
        grid: the job's requests.
        error: of the last attempt.
        now: Unix seconds.
    """
    request = row.request
    return Failure(
        key=request.key.hex(),
        index=request.index,
        repeat=request.repeat,
        variables=grid.variables(request),
        error=FailureError(type=error.type, code=error.code, status=error.status, message=error.message),
        attempts=row.attempts,
        maybe_paid=row.maybe_paid,
        created=int(now),
        request_id=error.request_id,
    )


def with_opening(opening: str, text: str) -> str:
    """The answer including the opening that was requested: some servers repeat it, others only continue it."""
    if not opening:
        return text
    text = text.rstrip()
    if text.lstrip().startswith(opening):
        return text.lstrip()
    joint = "" if text[:1].isspace() or not text[:1].isalnum() or opening[-1:].isspace() else " "
    return f"{opening}{joint}{text}"


_BROKEN_OFF = AttemptError(
    kind=ErrorClass.RETRY,
    type="broken_off",
    message="its last attempt was interrupted when the run stopped",
    maybe_paid=True,
)


class SettlingJournal(Protocol):
    """What the pool writes to."""

    def settle(self, records: Sequence[Record]) -> None: ...

    def fail(self, failure: Failure, usage: Usage) -> None: ...

    def note_attempts(self, key: bytes, tried: RowAttempts, usage: Usage) -> None: ...


class RowSettler:
    """Settles rows in the journal, and counts them.

    Args:
        grid: the job's requests.
        journal: written to.
        checks: judge the answers.
        progress: its counts are raised.
        wall: current time in Unix seconds.

    Attributes:
        record: makes the record of a row's answer.
        disk: the journal's first error; None if there was none.
        unsaved: paid answers that could not be written.
    """

    def __init__(
        self,
        grid: RequestGrid,
        journal: SettlingJournal,
        checks: AnswerChecks,
        progress: Progress,
        wall: Callable[[], float],
    ) -> None:
        self._grid = grid
        self._journal = journal
        self._progress = progress
        self._wall = wall
        self.record: Callable[[RowInWork], Record] = RecordMaker(grid, checks, wall).record
        self.disk: DiskError | None = None
        self.unsaved = 0

    def settle(self, records: Sequence[Record]) -> None:
        """Write records. A disk error is kept in `disk` and not raised."""
        if not records:
            return
        try:
            self._journal.settle(records)
        except NotSafeError as error:
            self.disk = self.disk or error
        except DiskError as error:
            if len(records) > 1:  # none was written: try them one by one
                for record in records:
                    self.settle([record])
                return
            self.unsaved += 1
            self.disk = self.disk or error
            return
        self._progress.settled += len(records)

    def keep(self, row: RowInWork) -> bool:
        """Settle a row with the answer it has, although that failed a check; returns False if it has none."""
        if row.answer is None:
            return False
        self.settle([self.record(row)])
        return True

    def postpone(self, row: RowInWork) -> None:
        """Leave a row to the next invocation, unless it has an answer or may not be charged for again."""
        if self.keep(row) or (tried := tried_of(row)) is None:
            return
        if is_paid_enough(row):
            self.fail(row, _BROKEN_OFF)
        else:
            self._journal.note_attempts(row.request.key, tried, row.usage)

    def note_lost(self, row: RowInWork) -> None:
        """The row's answer was paid for, but no record can be made of it: count the attempt and postpone the row."""
        row.answer = None
        row.maybe_paid += 1
        self.postpone(row)

    def fail(self, row: RowInWork, error: AttemptError) -> None:
        """Write a failure. A disk error is kept in `disk` and not raised."""
        try:
            self._journal.fail(failure_of(row, self._grid, error, self._wall()), row.usage)
        except NotSafeError as disk:
            self.disk = self.disk or disk
        except DiskError as disk:
            self.disk = self.disk or disk
            return
        self._progress.count_failure(error)


_FIRST_ALIKE = 5  # equal failures at the start of a run, not charged
_FIRST_PAID_ALIKE = 20  # equal failures at the start that may have been charged: rows may differ
_ALIKE = 100  # equal failures in sequence after answers: part of a grid may be refused


class ConsecutiveFailures:
    """Failed rows since the last answer, by kind of error.

    Args:
        has_succeeded: an answer arrived in an earlier invocation.
    """

    def __init__(self, *, has_succeeded: bool) -> None:
        self.has_succeeded = has_succeeded
        self._alike: Counter[tuple[str, int | None, str | None]] = Counter()

    def succeeded(self) -> None:
        """An answer arrived: start counting again."""
        self.has_succeeded = True
        self._alike.clear()

    def note(self, error: AttemptError) -> bool:
        """Count a failed row; returns True if there were enough of its kind to stop the run."""
        kind = (error.type, error.status, error.code)
        self._alike[kind] += 1
        if self.has_succeeded:
            return self._alike[kind] >= _ALIKE
        return self._alike[kind] >= (_FIRST_PAID_ALIKE if error.maybe_paid else _FIRST_ALIKE)


class FailurePolicy:
    """Gives up on rows, and tells when to stop the run.

    Args:
        settler: writes the failures.
        admission: knows whether anything succeeded.
        progress: knows whether an answer arrived in an earlier invocation.
    """

    def __init__(self, settler: RowSettler, admission: Admission, progress: Progress) -> None:
        self._settler = settler
        self._admission = admission
        self._failures = ConsecutiveFailures(has_succeeded=progress.already_done > 0)
        self._doubtful: list[tuple[RowInWork, AttemptError]] = []  # failed before anything succeeded: perhaps an outage
        self._is_clear = False  # no failure since the last answer

    def answered(self) -> None:
        """An answer arrived, so the service works: doubtful rows fail.

        A no-op if no row failed since the last answer.
        """
        if self._is_clear:
            return
        self._is_clear = True
        self._failures.succeeded()
        for row, error in self._doubtful:
            self._fail(row, error)
        self._doubtful.clear()

    def give_up(self, row: RowInWork, error: AttemptError) -> AttemptError | None:
        """Give up on a row after its last attempt, which was released.

        Args:
            row: not to be retried.
            error: of its last attempt.

        Returns:
            The error if the run should stop for it, else None.
        """
        if self._is_service_in_doubt(row, error):
            self._doubtful.append((row, error))
            return None
        self._fail(row, error)
        self._is_clear = False
        is_useless = self._failures.note(error) and not self._admission.are_first_in_flight
        return error if is_useless else None

    def postpone_doubtful(self) -> AttemptError | None:
        """At the end of a run in which nothing succeeded, postpone the doubtful rows.

        Returns:
            The error of the first one; None if there was none.
        """
        fatal = self._doubtful[0][1] if self._doubtful else None
        for row, _ in self._doubtful:
            self._settler.postpone(row)
        self._doubtful.clear()
        return fatal

    def _is_service_in_doubt(self, row: RowInWork, error: AttemptError) -> bool:
        """True if the error may be an outage and not the row's fault, because nothing has succeeded yet.

        Answers of an earlier invocation count as success, unless the service cannot be reached now.
        """
        if error.kind is not ErrorClass.RETRY or error.type == "empty" or row.maybe_paid:
            return False
        return not (self._admission.ever_succeeded or (self._failures.has_succeeded and error.status is not None))

    def _fail(self, row: RowInWork, error: AttemptError) -> None:
        """Fail the row, or keep its answer if it has one, which was paid for but failed its checks."""
        if not self._settler.keep(row):
            self._settler.fail(row, error)
