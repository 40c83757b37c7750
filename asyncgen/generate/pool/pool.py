"""The worker pool: rows go in, records and failures come out.

Owns the way of a row through admission, one attempt, and what follows from its outcome. What came within a turn of the
event loop is dealt with together, before any of the workers that brought it gets another row: so there are never more
requests in flight and answers not yet written than there are workers. Knows the server only as a `Completer` and the
files only as a `Journal`; reads no signal and prints nothing. Time is the event loop's, so a test may run it on its own
clock.

The main path: every request of a grid that is not settled goes through the pool into the journal.

Owns the order of the steps, the drain after a stop, and what a run came to. Knows no file, no signal and no command:
it is given a journal, two events and counts to raise.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from random import Random

from asyncgen.errors import AsyncgenError
from asyncgen.generate.http.completer import Answer, AttemptError, Completer, ErrorClass, StopReason
from asyncgen.generate.http.explain import disk_error, provider_error
from asyncgen.generate.pool.admission import Admission, Budget, Ticket
from asyncgen.generate.pool.budget import budget_used_up
from asyncgen.generate.pool.failure_policy import GivingUp
from asyncgen.generate.pool.progress import Progress
from asyncgen.generate.pool.queue import RowQueue
from asyncgen.generate.pool.rate import Rates
from asyncgen.generate.pool.retry import Row, may_retry, note_error, retry_wait_s
from asyncgen.generate.pool.settle import Endings, Journal
from asyncgen.generate.pool.source import ResumableJournal, Source
from asyncgen.job.checks import AnswerChecks
from asyncgen.job.model import Limits
from asyncgen.job.requests import RequestGrid
from asyncgen.providers.endpoint import Endpoint
from asyncgen.run.records import NO_USAGE, Record


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
    """Workers over one lazy source of rows.

    Args:
        rows: pulled when a worker is free; None gives the loop a turn.
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
        dropped: requests that were broken off in flight.
        stop: why it takes no more.
        stopping: set when it takes no more.
    """

    def __init__(
        self,
        rows: Iterator[Row | None],
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
        self._completer = completer
        self._checks = checks
        self._rates = rates
        self._progress = progress
        self._concurrency = concurrency
        self._admission = Admission(rates, concurrency, progress, budget, self._rng)
        self._queue = RowQueue(rows, concurrency, self._deal_with_outcomes, self._admit_at_once)
        self._outcomes: list[tuple[Row, Ticket, Answer | AttemptError]] = []  # not yet dealt with
        self._admitting: set[asyncio.Task[None]] = set()
        self.ends = Endings(grid, journal, checks, progress, wall, lambda: self.take_no_more(StopReason.IO))
        self._giving_up = GivingUp(
            self.ends, self._admission, has_succeeded=progress.already_done > 0, stop=partial(self.take_no_more, None)
        )
        self.dropped = 0
        self.stop = Stop()
        self.stopping = asyncio.Event()

    async def run(self) -> None:
        """Work until every row is finished or the pool was stopped."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._concurrency):
                    group.create_task(self._work())
        finally:
            self._deal_with_outcomes()
            self._leave_waiting()
            self._giving_up.leave_doubtful()

    def take_no_more(self, reason: StopReason | None, error: AttemptError | None = None) -> None:
        """Finish what is in flight and nothing else; the first reason stands, but for a disk that fails."""
        if reason is StopReason.IO:
            self.stop.reason = reason
        if self.stopping.is_set():
            return
        self.stopping.set()
        self.stop.reason, self.stop.error = reason, error
        self._leave_waiting()
        for task in self._admitting:
            if task is not asyncio.current_task():
                task.cancel()

    async def _work(self) -> None:
        get, admission, complete = self._queue.get, self._admission, self._completer.complete
        while True:
            try:
                row = await get()
            except AsyncgenError as error:  # a request that may not be sent; what is in flight still counts
                self.stop.refused = error
                self.take_no_more(None)
                continue
            if row is None:
                return
            body = row.request.body
            try:
                ticket, row.ticket = row.ticket or await self._admitted(body), None
                if ticket is None:
                    self.ends.leave(row)
                    continue
                if row.attempts:
                    self._count_again(row)
                row.attempts += 1
                try:
                    outcome = await complete(body)
                except BaseException:
                    row.maybe_paid += 1  # sent, and broken off
                    self.dropped += 1
                    admission.leave(ticket, None)
                    raise
            except BaseException:  # abandoned, or a bug: what was paid for is kept all the same
                self.ends.leave(row)
                raise
            self._outcomes.append((row, ticket, outcome))

    def _deal_with_outcomes(self) -> None:
        """End the rows of which something came since the last round, or see that they are tried again."""
        outcomes, self._outcomes = self._outcomes, []
        in_flight = self._progress.in_flight
        records: list[Record] = []
        bug: Exception | None = None
        for row, ticket, outcome in outcomes:
            try:
                is_hopeless = self._admission.leave(ticket, outcome, among=in_flight)
                if not isinstance(outcome, Answer):
                    self._erred(row, outcome, is_hopeless=is_hopeless)
                elif (record := self._answered(row, outcome)) is not None:
                    records.append(record)
            except Exception as error:  # noqa: BLE001 - what was paid for is kept all the same, of all of them
                self.ends.leave(row)
                bug = bug or error
        self.ends.settle(records)
        if bug is not None:
            raise bug

    def _admit_at_once(self, row: Row) -> None:
        row.ticket = self._admission.enter_at_once(row.request.body)

    def _leave_waiting(self) -> None:
        for row in self._queue.drop_waiting():
            if row.ticket is not None:  # its worker was cancelled before it could send it
                self._admission.take_back()
            self.ends.leave(row)

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

    def _count_again(self, row: Row) -> None:
        self._progress.retries += 1
        self._progress.maybe_paid_twice += row.may_pay_twice

    def _answered(self, row: Row, answer: Answer) -> Record | None:
        """The record that the row ends with; None when it is tried again."""
        if not self._giving_up.is_clear:
            self._giving_up.answered()
        row.usage = answer.usage if row.usage is NO_USAGE else row.usage + answer.usage
        row.answer = answer
        row.asked += 1
        row.may_pay_twice = False
        record = self.ends.record(row)
        if record.check_failures:
            self._progress.check_failures += 1
            if row.asked < self._checks.attempts and not self.stopping.is_set():
                self._queue.put_back(row, 0.0)
                return None
        return record

    def _erred(self, row: Row, error: AttemptError, *, is_hopeless: bool) -> None:
        note_error(row, error)
        self._progress.rate_limited += error.kind is ErrorClass.WAIT
        if error.kind is ErrorClass.WAIT and (refused := self._rates.refusal(row.request.body)):
            self.stop.refused = self.stop.refused or refused
            self.take_no_more(None)
        if error.kind is ErrorClass.STOP:
            self.take_no_more(error.stop, error)
        elif is_hopeless:
            self.take_no_more(StopReason.QUOTA if error.kind is ErrorClass.WAIT else None, error)
        if error.kind is ErrorClass.STOP or (self.stopping.is_set() and may_retry(row, error)):
            self.ends.leave(row)
        elif may_retry(row, error):
            self._queue.put_back(row, retry_wait_s(row, error, self._rng))
        else:
            self._giving_up.give_up(row, error)


DEFAULT_CONCURRENCY = 64
DRAIN_S = 120.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    Attributes:
        stopped: None when every request was dealt with.
        error: what stopped it, for the person who reads it; None for an interruption or a limit.
        abandoned: requests in flight that were dropped.
    """

    stopped: StopReason | None
    error: AsyncgenError | None
    abandoned: int = 0


async def generate(
    grid: RequestGrid,
    journal: ResumableJournal,
    completer: Completer,
    *,
    limits: Limits,
    checks: AnswerChecks,
    progress: Progress,
    stop: asyncio.Event,
    abandon: asyncio.Event,
    limit: int | None = None,
    budget: Budget | None = None,
    endpoint: Endpoint | None = None,
    rng: Random | None = None,
) -> Outcome:
    """Ask for every request that is not settled.

    Args:
        grid: the job's requests.
        journal: what is there, and where rows end.
        completer: who is asked.
        limits: bounds that the user set.
        checks: what an answer must pass.
        progress: counts, raised as rows go.
        stop: set it to finish what is in flight and end.
        abandon: set it to drop what is in flight.
        limit: send at most so many requests.
        budget: None where money is no matter.
        endpoint: named when its errors are explained.
        rng: for jitter.
    """
    rates = Rates(limits.requests_per_minute, limits.tokens_per_minute, grid.max_output_tokens)
    source = Source(grid, journal, rates, progress, limit)
    pool = Pool(
        iter(source), grid, journal, completer, checks=checks, rates=rates,
        concurrency=limits.concurrency or DEFAULT_CONCURRENCY, progress=progress, budget=budget, rng=rng,
    )  # fmt: skip
    work = asyncio.create_task(pool.run())
    try:
        await _until_done(work, pool, stop, abandon)
    finally:
        await _let_go(work, pool)
    _raise_plainly(work)
    return Outcome(_reason(pool, source, progress), _error(pool, endpoint), pool.dropped)


async def _until_done(work: asyncio.Task[None], pool: Pool, stop: asyncio.Event, abandon: asyncio.Event) -> None:
    """Wait for the pool's end, or for the end of patience with it."""
    waits = [asyncio.create_task(event.wait()) for event in (stop, pool.stopping, abandon)]
    try:
        await asyncio.wait([work, *waits], return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            pool.take_no_more(StopReason.INTERRUPTED)
            await asyncio.wait([work, waits[-1]], return_when=asyncio.FIRST_COMPLETED, timeout=DRAIN_S)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.wait(waits)


async def _let_go(work: asyncio.Task[None], pool: Pool) -> None:
    """End the pool, whatever it is at; rows that have an answer are kept."""
    if not work.done():
        pool.take_no_more(StopReason.INTERRUPTED)
        work.cancel()
        await asyncio.wait([work])


def _raise_plainly(work: asyncio.Task[None]) -> None:
    """Let a bug out of the group that it came in."""
    error = None if work.cancelled() else work.exception()
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if error is not None:
        raise error


def _reason(pool: Pool, source: Source, progress: Progress) -> StopReason | None:
    if pool.stop.reason is StopReason.INTERRUPTED and not progress.left:
        return None  # the drain finished all there was
    if source.is_cut and not pool.stopping.is_set():
        return StopReason.LIMIT
    return pool.stop.reason


def _error(pool: Pool, endpoint: Endpoint | None) -> AsyncgenError | None:
    """What ended the run, in words for the person who reads it."""
    stop = pool.stop
    if pool.ends.disk is not None:
        return disk_error(pool.ends.disk, pool.ends.unsaved)
    if stop.refused is not None:
        return stop.refused
    if stop.reason is StopReason.BUDGET:
        return budget_used_up()
    return None if stop.error is None else provider_error(stop.error, stop.reason, endpoint)
