"""The worker pool: rows go in, records and failures come out.

Owns the way of a row through admission, one attempt, and what follows from its outcome. Knows the server only as a
`Completer` and the files only as a `Journal`; reads no signal and prints nothing. Time is the event loop's, so a test
may run it on its own clock.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from asyncgen.errors import AsyncgenError
from asyncgen.generate.admission import Admission, Budget, Ticket
from asyncgen.generate.completer import Answer, AttemptError, Completer, ErrorClass, StopReason
from asyncgen.generate.endings import Endings, Journal
from asyncgen.generate.progress import Progress
from asyncgen.generate.queue import RowQueue
from asyncgen.generate.rate import Rates
from asyncgen.generate.retry import Row, may_retry, note_error, retry_wait_s, row_again
from asyncgen.job.checks import AnswerChecks
from asyncgen.job.requests import Request, RequestGrid

_ALIKE = 5  # first rows that are refused in the same way: so will be the others


@dataclass(slots=True)
class Stop:
    """Why the pool takes no more rows; all fields None while it does, or when it came to its end.

    Attributes:
        error: the attempt that no row can survive.
        refused: a request that can never be sent.
    """

    reason: StopReason | None = None
    error: AttemptError | None = None
    refused: AsyncgenError | None = None


class Pool:
    """Workers over one lazy source of requests.

    Args:
        grid: the job's requests.
        journal: where rows end.
        completer: who is asked.
        checks: what an answer must pass, and how often it may be asked for.
        rates: requests and tokens a minute.
        concurrency: the most requests in flight.
        progress: counts, raised as rows go.
        budget: None where money is no matter.
        rng: for jitter.
        wall: Unix seconds, for `created`.

    Attributes:
        ends: how rows ended, and what the disk said.
        stop: why it takes no more.
        stopping: set when it takes no more.
    """

    def __init__(
        self,
        grid: RequestGrid,
        journal: Journal,
        completer: Completer,
        *,
        checks: AnswerChecks,
        rates: Rates,
        concurrency: int,
        progress: Progress,
        budget: Budget | None = None,
        rng: Random | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._rng = rng or Random()  # noqa: S311 - jitter, no secret
        self._journal = journal
        self._completer = completer
        self._checks = checks
        self._progress = progress
        self._concurrency = concurrency
        self._admission = Admission(rates, concurrency, budget, self._rng)
        self._queue = RowQueue(concurrency * 2)
        self._admitting: set[asyncio.Task[None]] = set()
        self._refused_alike: Counter[tuple[int | None, str | None]] = Counter()
        self.ends = Endings(grid, journal, checks, progress, wall, lambda: self.take_no_more(StopReason.IO))
        self.stop = Stop()
        self.stopping = asyncio.Event()

    async def run(self, requests: Iterator[Request | None]) -> None:
        """Work until every request is finished or the pool was stopped.

        Args:
            requests: pulled when there is room; None gives the loop a turn.
        """
        async with asyncio.TaskGroup() as group:
            producer = group.create_task(self._produce(requests))
            workers = [group.create_task(self._work()) for _ in range(self._concurrency)]
            await asyncio.wait(workers)
            producer.cancel()

    def take_no_more(self, reason: StopReason | None, error: AttemptError | None = None) -> None:
        """Finish what is in flight and nothing else; the first reason stands, but for a disk that fails."""
        if reason is StopReason.IO:
            self.stop.reason = reason
        if self.stopping.is_set():
            return
        self.stopping.set()
        self.stop.reason, self.stop.error = reason, error
        for row in self._queue.drop_waiting():
            self.ends.keep(row)
        for task in self._admitting:
            if task is not asyncio.current_task():
                task.cancel()

    async def _produce(self, requests: Iterator[Request | None]) -> None:
        try:
            for request in requests:
                if request is None:
                    await asyncio.sleep(0)
                elif self.stopping.is_set():
                    return
                else:
                    if self._queue.is_full:
                        await self._queue.room()
                    self._queue.put(row_again(request, *self._journal.attempts_before(request.key)))
        except AsyncgenError as error:  # a request that may not be sent; what is in flight still counts
            self.stop.refused = error
            self.take_no_more(None)
        else:
            self._queue.complete()

    async def _work(self) -> None:
        while (row := self._queue.get_at_once() or await self._queue.get()) is not None:
            try:
                ticket = None if self.stopping.is_set() else self._admission.enter_at_once(row.request.body)
                ticket = ticket or await self._admitted(row.request.body)
                if ticket is None:
                    self._end_early(row)
                else:
                    await self._attempt(row, ticket)
            except BaseException:  # abandoned, or a bug: what was paid for is kept all the same
                self.ends.keep(row)
                raise

    async def _admitted(self, body: bytes) -> Ticket | None:
        """Leave to send; None when the pool stops meanwhile."""
        if self.stopping.is_set():
            return None
        task = asyncio.current_task()
        assert task is not None
        self._admitting.add(task)
        try:
            ticket = await self._admission.enter(body)
        except asyncio.CancelledError:
            if not self.stopping.is_set() or task.cancelling() > 1:
                raise
            task.uncancel()
            return None
        finally:
            self._admitting.discard(task)
        if ticket is None:
            self.take_no_more(StopReason.BUDGET)
        return ticket

    async def _attempt(self, row: Row, ticket: Ticket) -> None:
        """One HTTP call, and what follows from it."""
        progress = self._progress
        progress.sent += 1
        progress.in_flight += 1
        if row.attempts:
            progress.retries += 1
            progress.maybe_paid_twice += row.may_pay_twice
        row.attempts += 1
        outcome: Answer | AttemptError | None = None
        try:
            outcome = await self._completer.complete(row.request.body)
            if isinstance(outcome, Answer):
                self._answered(row, outcome, ticket)
            else:
                self._erred(row, outcome, ticket)
        finally:
            self._admission.leave(ticket, outcome)
            progress.in_flight -= 1

    def _answered(self, row: Row, answer: Answer, ticket: Ticket) -> None:
        self._admission.answered(ticket, answer)
        row.usage += answer.usage
        row.answer = answer
        row.asked += 1
        row.may_pay_twice = False
        record = self.ends.record(row)
        if record.check_failures:
            self._progress.check_failures += 1
            if row.asked < self._checks.attempts:
                self._queue.put_back(row, 0.0)  # where the pool stops, the row ends with this answer
                return
        self.ends.settle(row, record)
        self._queue.finish()

    def _erred(self, row: Row, error: AttemptError, ticket: Ticket) -> None:
        note_error(row, error)
        self._progress.rate_limited += error.kind is ErrorClass.WAIT
        is_hopeless = self._admission.erred(ticket, error)
        if error.kind is ErrorClass.STOP:
            self.take_no_more(error.stop, error)
        elif is_hopeless:
            self.take_no_more(StopReason.QUOTA if error.kind is ErrorClass.WAIT else None, error)
        if error.kind is ErrorClass.STOP or (self.stopping.is_set() and may_retry(row, error)):
            self._end_early(row)
        elif may_retry(row, error):
            self._queue.put_back(row, retry_wait_s(row, error, self._rng))
        else:
            self._give_up(row, error)

    def _end_early(self, row: Row) -> None:
        """The row is left for another invocation, unless it has an answer."""
        self.ends.keep(row)
        self._queue.finish()

    def _give_up(self, row: Row, error: AttemptError) -> None:
        is_at_fault = error.kind is ErrorClass.ROW or error.type == "empty"
        if not is_at_fault and not row.maybe_paid and not self._admission.ever_succeeded:
            # The service is at fault, of which nothing came yet, and not the row.
            self.take_no_more(None, error)
            self._end_early(row)
            return
        if not self.ends.keep(row):  # it may have an answer, which did not pass its checks but was paid for
            self.ends.fail(row, error)
        self._queue.finish()
        if error.kind is ErrorClass.ROW and not error.maybe_paid and not self._admission.ever_succeeded:
            alike = (error.status, error.code)
            self._refused_alike[alike] += 1
            if self._refused_alike[alike] >= _ALIKE:
                self.take_no_more(None, error)
