"""The rows of a job that are still to be sent.

Owns what is left out: what the journal has, twins of requests that are on their way, and what is over a limit. Does
not send.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from asyncgen.generate.endings import Journal
from asyncgen.generate.progress import Progress
from asyncgen.generate.rate import Rates
from asyncgen.generate.retry import Row, row_again
from asyncgen.job.requests import Request, RequestGrid
from asyncgen.run_state import Tried

_GIVEN_AT_MOST = 10_000
_LOOKED_AT_ONCE = 512


class ResumableJournal(Journal, Protocol):
    """A journal that also knows what is there already."""

    def is_settled(self, key: bytes) -> bool: ...

    @property
    def has_record(self) -> Callable[[bytes], bool]: ...

    def is_left(self, key: bytes) -> bool: ...

    @property
    def leaves_any(self) -> bool: ...

    @property
    def tried_any(self) -> bool: ...

    def tried_before(self, key: bytes) -> Tried: ...


class Source:
    """An iterable of rows; None stands for a turn that the loop may take.

    Args:
        grid: the job's requests.
        journal: what is there.
        rates: a request that does not fit into a minute is refused.
        progress: twins are counted there.
        limit: give at most so many; None for all.

    Attributes:
        is_cut: the limit left something out.
    """

    def __init__(
        self, grid: RequestGrid, journal: ResumableJournal, rates: Rates, progress: Progress, limit: int | None
    ) -> None:
        self._grid = grid
        self._journal = journal
        self._has_record = journal.has_record
        self._rates = rates
        self._progress = progress
        self._limit = limit
        self._found = 0
        self._found_before = progress.already_done
        self._twins = 0
        self._given: set[bytes] = set()  # keys on their way; what has ended, the journal knows
        self._given_at_most = _GIVEN_AT_MOST
        self.is_cut = False

    def __iter__(self) -> Iterator[Row | None]:
        """The rows, in order.

        Raises:
            UsageError: a request alone is over the rate of tokens that the user set, before anything is given.
        """
        if self._rates.tokens.exceeds_a_minute(self._grid.longest_body()):
            yield from self._look_through()
        given, tried_any = 0, self._journal.tried_any
        leaves_any = self._journal.leaves_any
        for request in self._grid.walk(self._is_settled if leaves_any else self._journal.has_record):
            if isinstance(request, int):
                self._find(0 if leaves_any else request)
                yield None
            elif request.key in self._given:
                self._twins += 1
                self._count_twins()
            elif given == self._limit:
                self.is_cut = True
                return
            else:
                given += 1
                self._given.add(request.key)
                if len(self._given) > self._given_at_most:
                    self._forget_settled()
                yield row_again(request, self._journal.tried_before(request.key)) if tried_any else Row(request)

    def _look_through(self) -> Iterator[None]:
        """See that no request that will be given is too large."""
        found = 0
        for number, request in enumerate(self._grid.walk(self._journal.is_settled)):
            if found == self._limit:
                return
            if isinstance(request, Request):
                found += 1
                if (refused := self._rates.refusal(request.body)) is not None:
                    raise refused
            if isinstance(request, int) or number % _LOOKED_AT_ONCE == 0:
                yield None

    def _is_settled(self, key: bytes) -> bool:
        is_answered = self._has_record(key)
        self._find(is_answered)
        return is_answered or self._journal.is_left(key)

    def _find(self, answered: int) -> None:
        self._found += answered
        if self._found > self._found_before:
            self._count_twins()

    def _count_twins(self) -> None:
        # More rows with an answer than there were answers before: such that an answer of this invocation is for, too.
        self._progress.twins = self._twins + max(self._found - self._found_before, 0)

    def _forget_settled(self) -> None:
        # A row that is given up on meanwhile stays: its twins are not to be asked for either.
        self._given = {key for key in self._given if not self._has_record(key)}
        self._given_at_most = max(_GIVEN_AT_MOST, 2 * len(self._given))
