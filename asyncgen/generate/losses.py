"""Rows that came to nothing, as signs: is it the row, or would every other one come to the same?

Owns the bounds on endings that are alike. Pure. Does not know rows, and stops nothing.
"""

from __future__ import annotations

from collections import Counter

from asyncgen.generate.completer import AttemptError

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
