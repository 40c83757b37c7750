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

_FIRST_ALIKE = 5  # the first rows of a run, refused in the same way and for nothing: so will be the others
_FIRST_PAID_ALIKE = 20  # charged for, but no answer: it may be chance for longer, and costs
_ALIKE = 100  # in a row, after answers came: a grid may hold a stretch that is refused


class ConsecutiveFailures:
    """Endings since the last answer.

    Args:
        has_succeeded: did an answer come in an earlier invocation?
    """

    def __init__(self, *, has_succeeded: bool) -> None:
        self.has_succeeded = has_succeeded
        self._alike: Counter[tuple[str, int | None, str | None]] = Counter()

    def succeeded(self) -> None:
        """An answer came."""
        self.has_succeeded = True
        self._alike.clear()

    def note(self, error: AttemptError) -> bool:
        """A row was given up on for `error`; returns whether it is useless to go on."""
        kind = (error.type, error.status, error.code)
        self._alike[kind] += 1
        if self.has_succeeded:
            return self._alike[kind] >= _ALIKE
        return self._alike[kind] >= (_FIRST_PAID_ALIKE if error.maybe_paid else _FIRST_ALIKE)


class FailurePolicy:
    """Ends rows that came to nothing.

    Args:
        settler: where rows end.
        admission: knows whether anything succeeded.
        progress: knows whether an answer came in an earlier invocation.
    """

    def __init__(self, settler: RowSettler, admission: Admission, progress: Progress) -> None:
        self._settler = settler
        self._admission = admission
        self._failures = ConsecutiveFailures(has_succeeded=progress.already_done > 0)
        self._doubtful: list[tuple[RowInWork, AttemptError]] = []  # given up on before anything succeeded
        self._is_clear = False  # no failure since the last answer

    def answered(self) -> None:
        """An answer came: the service is not at fault."""
        if self._is_clear:
            return
        self._is_clear = True
        self._failures.succeeded()
        for row, error in self._doubtful:
            self._fail(row, error)
        self._doubtful.clear()

    def give_up(self, row: RowInWork, error: AttemptError) -> AttemptError | None:
        """The row is not tried again after this error, of an attempt that was released.

        Returns the error where it is useless to go on.
        """
        if self._is_service_in_doubt(row, error):
            self._doubtful.append((row, error))
            return None
        self._fail(row, error)
        self._is_clear = False
        is_useless = self._failures.note(error) and not self._admission.are_first_in_flight
        return error if is_useless else None

    def postpone_doubtful(self) -> AttemptError | None:
        """Nothing succeeded to the end: rows that failed on the way are no more at fault than the others."""
        fatal = self._doubtful[0][1] if self._doubtful else None
        for row, _ in self._doubtful:
            self._settler.postpone(row)
        self._doubtful.clear()
        return fatal

    def _is_service_in_doubt(self, row: RowInWork, error: AttemptError) -> bool:
        """Is it the service that is at fault rather than the row? Where nothing came of it yet, nobody knows.

        Answers of an earlier invocation speak for it, unless it cannot be reached now.
        """
        if error.kind is not ErrorClass.RETRY or error.type == "empty" or row.maybe_paid:
            return False
        return not (self._admission.ever_succeeded or (self._failures.has_succeeded and error.status is not None))

    def _fail(self, row: RowInWork, error: AttemptError) -> None:
        """Give up on the row; but it may have an answer, which did not pass its checks and was paid for."""
        if not self._settler.keep(row):
            self._settler.fail(row, error)
