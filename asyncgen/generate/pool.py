"""The worker pool: rows go in, records and failures come out.

Owns the way of a row through admission (a place, the pause, the rates), one attempt, and what follows from its
outcome. Knows the server only as a `Completer` and the files only as a `Journal`; reads no signal and prints nothing.
Time is the event loop's, so a test may run it on its own clock.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Protocol

from asyncgen.errors import AsyncgenError, DiskError
from asyncgen.generate.completer import Answer, AttemptError, Completer, ErrorClass, StopReason
from asyncgen.generate.concurrency import ConcurrencyLimit
from asyncgen.generate.gate import Breaker, Pause
from asyncgen.generate.outcome import failure_of, record_of
from asyncgen.generate.progress import Progress
from asyncgen.generate.queue import RowQueue
from asyncgen.generate.rate import Rates
from asyncgen.generate.retry import Row, may_retry, note_error, retry_wait_s
from asyncgen.job.checks import AnswerChecks
from asyncgen.job.requests import Request, RequestGrid
from asyncgen.records import Failure, Record, Usage

_ALIKE = 5  # first rows that are refused in the same way: so will be the others


class Journal(Protocol):
    """Where rows end."""

    def settle(self, record: Record) -> None: ...

    def fail(self, failure: Failure, usage: Usage) -> None: ...

    def attempts_before(self, key: bytes) -> tuple[int, int]: ...


class Budget(Protocol):
    """Money: USD held for an attempt (None when there is not enough), and what it came to."""

    async def take(self, body: bytes) -> float | None: ...

    def settle(self, body: bytes, held_usd: float, outcome: Answer | AttemptError | None) -> None: ...


@dataclass(slots=True)
class Stop:
    """Why the pool takes no more rows; all fields None while it does, or when it came to its end.

    Attributes:
        error: the attempt that no row can survive.
        refused: a request that can never be sent.
        disk: what the journal said.
        unsaved: paid answers that could not be written.
    """

    reason: StopReason | None = None
    error: AttemptError | None = None
    refused: AsyncgenError | None = None
    disk: DiskError | None = None
    unsaved: int = 0


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
        rng = rng or Random()  # noqa: S311 - jitter, no secret
        self._grid = grid
        self._journal = journal
        self._completer = completer
        self._checks = checks
        self._rates = rates
        self._progress = progress
        self._budget = budget
        self._rng = rng
        self._wall = wall
        self._places = ConcurrencyLimit(concurrency)
        self._pause = Pause(rng)
        self._breaker = Breaker(rng)
        self._queue = RowQueue(concurrency * 2)
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._admitting: set[asyncio.Task[None]] = set()
        self._refused_alike: dict[tuple[int | None, str | None], int] = {}
        self._stopping = False
        self.stop = Stop()

    async def run(self, requests: Iterator[Request | None], concurrency: int) -> None:
        """Work until every request is finished or the pool was stopped.

        Args:
            requests: pulled when there is room; None gives the loop a turn.
            concurrency: how many workers.
        """
        async with asyncio.TaskGroup() as group:
            producer = group.create_task(self._produce(requests))
            workers = [group.create_task(self._work()) for _ in range(concurrency)]
            await asyncio.wait(workers)
            producer.cancel()

    def take_no_more(self, reason: StopReason | None, error: AttemptError | None = None) -> None:
        """Finish what is in flight and nothing else; the first reason stands."""
        if self._stopping:
            return
        self._stopping = True
        self.stop.reason, self.stop.error = reason, error
        for row in self._queue.drop_waiting():
            self._keep_answer(row)
        for task in self._admitting:
            if task is not asyncio.current_task():
                task.cancel()

    async def _produce(self, requests: Iterator[Request | None]) -> None:
        try:
            for request in requests:
                if request is None:
                    await asyncio.sleep(0)
                elif self._stopping:
                    return
                else:
                    await self._queue.put(self._row(request))
        except AsyncgenError as error:  # a request that may not be sent; what is in flight still counts
            self.stop.refused = error
            self.take_no_more(None)
        else:
            self._queue.complete()

    def _row(self, request: Request) -> Row:
        attempts, maybe_paid = self._journal.attempts_before(request.key)
        # A row that is asked for again by hand has a fresh allowance, but what may have been paid stays counted.
        return Row(request, attempts=attempts, maybe_paid=min(maybe_paid, 1))

    async def _work(self) -> None:
        while (row := await self._queue.get()) is not None:
            reserved = await self._admitted(row)
            if reserved is None:
                self._keep_answer(row)
                self._queue.finish()
                continue
            await self._attempt(row, reserved)

    async def _admitted(self, row: Row) -> int | None:
        """Take a place and the rates' leave; returns the tokens reserved, None when the pool stops meanwhile."""
        if self._stopping:
            return None
        task = asyncio.current_task()
        assert task is not None
        self._admitting.add(task)
        try:
            return await self._admit(row)
        except asyncio.CancelledError:
            if not self._stopping or task.cancelling() > 1:
                raise
            task.uncancel()
            return None
        finally:
            self._admitting.discard(task)

    async def _admit(self, row: Row) -> int | None:
        body = row.request.body
        if self._budget is not None:
            held_usd = await self._budget.take(body)
            if held_usd is None:
                self.take_no_more(StopReason.BUDGET)
                return None
            row.held_usd = held_usd
        while True:
            await self._place()
            try:
                reserved = await self._leave(body)
            except BaseException:
                self._give_back()
                raise
            if reserved is not None and self._places.taken <= self._allowed:
                return reserved
            self._give_back()

    async def _leave(self, body: bytes) -> int | None:
        """Wait for the pause and the rates; None when a pause began meanwhile."""
        now = asyncio.get_running_loop().time
        while (left_s := self._pause.left_s(now())) > 0:
            await asyncio.sleep(left_s)
        reserved = await self._rates.acquire(body)
        return None if self._pause.left_s(now()) > 0 else reserved

    @property
    def _allowed(self) -> int:
        """Places that may be taken now; a broken service is tried by one request at a time."""
        return 1 if self._breaker.is_open else self._places.limit

    async def _place(self) -> None:
        while self._places.taken >= self._allowed:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn
        self._places.taken += 1

    def _give_back(self) -> None:
        self._places.taken -= 1
        for _ in range(min(len(self._waiting), max(self._allowed - self._places.taken, 0))):
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)

    async def _attempt(self, row: Row, reserved: int) -> None:
        """One HTTP call, and what follows from it."""
        body = row.request.body
        self._progress.sent += 1
        self._progress.retries += row.attempts > 0
        row.attempts += 1
        number = self._places.send()
        self._progress.in_flight = self._places.in_flight
        outcome: Answer | AttemptError | None = None
        try:
            outcome = await self._completer.complete(body)
            if isinstance(outcome, Answer):
                self._answered(row, outcome, body, reserved)
            else:
                self._erred(row, outcome, number)
        finally:
            self._places.in_flight -= 1
            self._progress.in_flight = self._places.in_flight
            self._give_back()
            if self._budget is not None:
                self._budget.settle(body, row.held_usd, outcome)

    def _answered(self, row: Row, answer: Answer, body: bytes, reserved: int) -> None:
        self._places.succeeded()
        self._pause.succeeded()
        self._breaker.succeeded()
        self._rates.tokens.settle(body, reserved, answer.usage)
        self._rates.learn(answer.limits)
        row.usage += answer.usage
        row.answer = answer
        row.asked += 1
        record = record_of(row, self._grid, self._checks, self._wall())
        self._progress.check_failures += bool(record.check_failures)
        if record.check_failures and row.asked < self._checks.attempts and not self._stopping:
            self._queue.put_back(row, 0.0)
        else:
            self._settle(row, record)
            self._queue.finish()

    def _erred(self, row: Row, error: AttemptError, number: int) -> None:
        note_error(row, error)
        self._rates.learn(error.limits)
        if error.kind is ErrorClass.STOP:
            self.take_no_more(error.stop, error)
            self._keep_answer(row)
            self._queue.finish()
            return
        self._slow_down(error, number)
        if not may_retry(row, error):
            self._give_up(row, error)
        elif self._stopping:
            self._keep_answer(row)
            self._queue.finish()
        else:
            self._progress.maybe_paid_twice += error.maybe_paid
            self._queue.put_back(row, retry_wait_s(row, error, self._rng))

    def _slow_down(self, error: AttemptError, number: int) -> None:
        """Everybody waits or goes slower, where the error speaks of the service and not of the row."""
        now = asyncio.get_running_loop().time()
        if error.kind is ErrorClass.WAIT:
            self._progress.rate_limited += 1
            self._pause.ask(now, error.retry_after_s)
            if self._pause.is_hopeless(now):
                self.take_no_more(StopReason.QUOTA, error)
        elif error.kind is ErrorClass.RETRY and error.type != "empty":
            if wait_s := self._breaker.failed():
                self._pause.ask(now, wait_s)
            if self._breaker.is_hopeless:
                self.take_no_more(None, error)
        if error.kind is ErrorClass.WAIT or error.type == "timeout":
            self._places.congested(number)

    def _give_up(self, row: Row, error: AttemptError) -> None:
        if row.answer is not None:
            self._keep_answer(row)  # it did not pass its checks, but it was paid for
        else:
            self._write(lambda: self._journal.fail(failure_of(row, self._grid, error, self._wall()), row.usage), paid=0)
            self._progress.failed += 1
            self._progress.usage += row.usage
        self._queue.finish()
        if error.kind is ErrorClass.ROW and not error.maybe_paid and not self._progress.settled:
            alike = (error.status, error.code)
            self._refused_alike[alike] = self._refused_alike.get(alike, 0) + 1
            if self._refused_alike[alike] >= _ALIKE:
                self.take_no_more(None, error)

    def _keep_answer(self, row: Row) -> None:
        """A row that ends early keeps the answer it has, though it fails a check."""
        if row.answer is not None:
            self._settle(row, record_of(row, self._grid, self._checks, self._wall()))

    def _settle(self, row: Row, record: Record) -> None:
        if self._write(lambda: self._journal.settle(record), paid=1):
            self._progress.settled += 1
        self._progress.usage += row.usage
        row.answer = None

    def _write(self, write: Callable[[], None], *, paid: int) -> bool:
        """Write a line; a disk that fails stops the pool, and what is still in flight is tried to be written."""
        try:
            write()
        except DiskError as error:
            self.stop.disk = self.stop.disk or error
            self.stop.unsaved += paid
            self.take_no_more(StopReason.IO)
            return False
        return True
