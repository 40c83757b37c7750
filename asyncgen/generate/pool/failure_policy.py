"""When to give up on a row, and when failures show that the whole run should stop.

A row fails at once, or is held until it is known whether the service was at fault. Repeated failures of the same kind
end the run: the error is returned, stopping is left to the pool. Retries are left to `retry`.
"""

from __future__ import annotations

from collections import Counter

from asyncgen.generate.http.completer import AttemptError, ErrorClass
from asyncgen.generate.pool.admission import Admission
from asyncgen.generate.pool.progress import Progress
from asyncgen.generate.pool.retry import RowInWork
from asyncgen.generate.pool.settle import RowSettler

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
