"""Rows that came to nothing, as signs: is it the row, or would every other one come to the same?

Owns the bounds on endings that are alike. Pure. Does not know rows, and stops nothing.

Rows that are given up on: failed at once, or held until it is known whether the service was at fault.

Owns that difference, and when such rows show that it is useless to go on. Does not try anything again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from asyncgen.generate.http.completer import AttemptError, ErrorClass
from asyncgen.generate.pool.admission import Admission
from asyncgen.generate.pool.retry import Row
from asyncgen.generate.pool.settle import Endings

_FIRST_ALIKE = 5  # the first rows of a run, refused in the same way and for nothing: so will be the others
_FIRST_PAID_ALIKE = 20  # charged for, but no answer: it may be chance for longer, and costs
_ALIKE = 100  # in a row, after answers came: a grid may hold a stretch that is refused


class Losses:
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


class GivingUp:
    """Ends rows that came to nothing.

    Args:
        ends: where rows end.
        admission: knows whether anything succeeded.
        has_succeeded: an answer came in an earlier invocation.
        stop: called with the error that every other row would come to.

    Attributes:
        is_clear: nothing was lost since the last answer; what answers have to say here is said.
    """

    def __init__(
        self, ends: Endings, admission: Admission, *, has_succeeded: bool, stop: Callable[[AttemptError], None]
    ) -> None:
        self._ends = ends
        self._admission = admission
        self._losses = Losses(has_succeeded=has_succeeded)
        self._stop = stop
        self._doubtful: list[tuple[Row, AttemptError]] = []  # given up on before anything succeeded
        self.is_clear = False

    def answered(self) -> None:
        """An answer came, after none or after rows that were lost: the service is not at fault."""
        self.is_clear = True
        self._losses.succeeded()
        for row, error in self._doubtful:
            self._fail(row, error)
        self._doubtful.clear()

    def give_up(self, row: Row, error: AttemptError) -> None:
        """The row is not tried again after this error, of an attempt that has left."""
        if self._is_service_in_doubt(row, error):
            self._doubtful.append((row, error))
            return
        self._fail(row, error)
        self.is_clear = False
        if self._losses.note(error) and not self._admission.are_first_in_flight:
            self._stop(error)

    def leave_doubtful(self) -> None:
        """Nothing succeeded to the end: rows that failed on the way are no more at fault than the others."""
        for row, error in self._doubtful:
            self._stop(error)
            self._ends.leave(row)

    def _is_service_in_doubt(self, row: Row, error: AttemptError) -> bool:
        """Is it the service that is at fault rather than the row? Where nothing came of it yet, nobody knows.

        Answers of an earlier invocation speak for it, unless it cannot be reached now.
        """
        if error.kind is not ErrorClass.RETRY or error.type == "empty" or row.maybe_paid:
            return False
        return not (self._admission.ever_succeeded or (self._losses.has_succeeded and error.status is not None))

    def _fail(self, row: Row, error: AttemptError) -> None:
        """Give up on the row; but it may have an answer, which did not pass its checks and was paid for."""
        if not self._ends.keep(row):
            self._ends.fail(row, error)
