"""The worker pool: rows go in, records and failures come out.

Runs each row through admission, one attempt, and what follows from its outcome (retry, settle, give up). States:

    OPEN      rows are handed out to workers that ask for one
    DRAINING  requests in flight are finished and kept; no new ones are sent
    DONE      every worker has ended, and every row is a line in the journal or a noted attempt

`drain` is the only way out of OPEN, whoever calls for it: a signal, the budget, a fatal error, a full disk, a bug. DONE
follows when the last worker ends. A bug also drains first: what was paid for is kept before the bug is raised.

Outcomes that arrive in one iteration of the event loop are processed as a batch, before their workers get new rows.
This bounds requests in flight plus unwritten answers by the number of workers, and takes much less CPU time than
processing them one by one.

The server is a `Completer`, the files are a `SettlingJournal`; signals and output are left to the caller. Time is the
event loop's, so that tests can use their own clock.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import TYPE_CHECKING

from asyncgen.errors import AsyncgenError
from asyncgen.generate.http.completer import (
    Answer,
    AttemptError,
    Completer,
    ErrorClass,
    StopReason,
    disk_error,
    provider_error,
)
from asyncgen.generate.pool.admission import Admission, Ticket
from asyncgen.generate.pool.progress import REMEDY_FOR_SIMULATED
from asyncgen.generate.pool.rate import RequestRates
from asyncgen.generate.pool.settle import (
    FailurePolicy,
    RowInWork,
    RowSettler,
    SettlingJournal,
    may_retry,
    note_error,
    retry_wait_s,
)
from asyncgen.generate.pool.source import Later, ResumableJournal, RowQueue, RowSource
from asyncgen.job.answers import short_reasons
from asyncgen.terminal import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from asyncgen.errors import DiskError
    from asyncgen.generate.pool.budget import Budget, BudgetGate
    from asyncgen.generate.pool.progress import Progress
    from asyncgen.job.answers import AnswerChecks
    from asyncgen.job.model import Limits
    from asyncgen.job.requests import RequestGrid
    from asyncgen.providers.endpoint import Endpoint
    from asyncgen.run.records import Record

USELESS = 20  # answers that all fail their checks, before the run stops
USELESS_CODE = "useless"  # of the error that it stops with


class PoolState(Enum):
    """State of the pool; the transitions are in the module's docstring."""

    OPEN = "open"
    DRAINING = "draining"
    DONE = "done"


@dataclass(slots=True)
class Stop:
    """Why the pool left OPEN; all fields are None while it is open, or if it ended by itself.

    Attributes:
        reason: kind of reason, for the summary.
        error: an error that every other row would get, too.
        refused: a request that can never be sent, or a run whose answers are all useless.
        bug: an unexpected exception.
    """

    reason: StopReason | None = None
    error: AttemptError | None = None
    refused: AsyncgenError | None = None
    bug: Exception | None = None


class Pool:
    """Workers over one lazy source of rows.

    Args:
        rows: pulled when a worker is free; None gives the event loop a turn.
        grid: the job's requests.
        journal: records and failures are written there.
        completer: sends one request.
        checks: what an answer must pass, and how often a row may be requested for that.
        rates: requests and tokens per minute.
        concurrency: maximum number of requests in flight.
        progress: its counts are raised.
        budget: None for no budget.
        stops_when_useless: stop the run if its first answers all fail their checks.
        rng: randomness for jitter.
        wall: current time in Unix seconds, for `created`.

    Attributes:
        state: OPEN, DRAINING or DONE.
        draining: set when the state is no longer OPEN.
        stop: why.
        settler: writes rows, and has the first disk error.
        dropped: number of requests cancelled in flight.
    """

    def __init__(
        self,
        rows: Iterator[RowInWork | Later | None],
        grid: RequestGrid,
        journal: SettlingJournal,
        completer: Completer,
        *,
        checks: AnswerChecks,
        rates: RequestRates,
        concurrency: int,
        progress: Progress,
        budget: BudgetGate | None = None,
        stops_when_useless: bool = False,
        rng: Random | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.state = PoolState.OPEN
        self.draining = asyncio.Event()
        self.stop = Stop()
        self.dropped = 0
        self.settler = RowSettler(grid, journal, checks, progress, wall)
        self._loop = asyncio.get_running_loop()
        self._rng = rng or Random()  # noqa: S311 - jitter, no secret
        self._completer = completer
        self._checks = checks
        self._rates = rates
        self._progress = progress
        self._stops_when_useless = stops_when_useless
        self._queue = RowQueue(rows)
        self._admission = Admission(rates, concurrency, progress, budget, self._rng)
        self._policy = FailurePolicy(self.settler, self._admission, progress)
        self._workers = concurrency  # that have not ended
        self._idle: deque[asyncio.Future[RowInWork | None]] = deque()  # workers that wait for a row
        self._outcomes: list[tuple[RowInWork, Ticket, Answer | AttemptError]] = []  # since the last round
        self._entering: set[asyncio.Task[Ticket | None]] = set()  # waiting for admission
        self._is_round_planned = False

    async def run(self) -> None:
        """Work until every row is settled or the pool has drained. Cancel it to drop requests in flight.

        Raises:
            Exception: a bug, after everything that was paid for is kept.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._workers):
                    group.create_task(self._work())
        finally:
            self._finish()
        if self.stop.bug is not None:
            raise self.stop.bug

    def drain(self, reason: StopReason | None, error: AttemptError | None = None) -> None:
        """Finish requests in flight and send no new ones.

        The first reason is kept, except that a disk error overrides it.

        Args:
            reason: None for a reason without a name of its own.
            error: of an attempt, if that is the reason.
        """
        if reason is StopReason.IO:
            self.stop.reason = reason
        if self.state is not PoolState.OPEN:
            return
        self.state = PoolState.DRAINING
        self.stop.reason, self.stop.error = reason, error
        self.draining.set()
        for task in self._entering:
            task.cancel()
        self._postpone_waiting()
        self._plan_round()

    def look_again(self) -> None:
        """The source that had no row may have one now."""
        self._plan_round()

    def pause(self, seconds: float, cause: str) -> None:
        """Send nothing for so long: the server asked another process of the run to slow down."""
        self._admission.pause(seconds, cause)

    @property
    def slots(self) -> int:
        """How many requests may be in flight now."""
        return self._admission.slots

    def _fail(self, bug: Exception) -> None:
        self.stop.bug = self.stop.bug or bug
        self.drain(None)

    def _finish(self) -> None:
        """After the last worker: process the remaining outcomes and postpone the rows left."""
        self._deal_with_outcomes()
        self._postpone_waiting()
        if (fatal := self._policy.postpone_doubtful()) is not None:
            self.drain(None, fatal)
        self._look_at_disk()
        self.state = PoolState.DONE

    # Workers.

    async def _work(self) -> None:
        """Attempt one row after another; their outcomes wait for the next round."""
        complete = self._completer.complete
        try:
            while True:  # one coroutine for a row and its attempt: each further one costs every request more
                place = self._ask_for_row()
                try:
                    row = await place
                except asyncio.CancelledError:
                    self._withdraw_place(place)
                    raise
                if row is None:
                    return
                body = row.request.body
                ticket = row.ticket or await self._admitted(row, body)
                if ticket is None:
                    continue
                row.ticket = None
                if row.attempts:
                    self._count_retry(row)
                row.attempts += 1
                try:
                    outcome = await complete(body)
                except BaseException as error:
                    self._note_cancelled(row, ticket)
                    if not isinstance(error, Exception):
                        raise
                    self._fail(error)  # a bug: raised at the end, when everything paid for is kept
                else:
                    self._outcomes.append((row, ticket, outcome))
        finally:
            self._workers -= 1
            self._plan_round()

    def _ask_for_row(self) -> asyncio.Future[RowInWork | None]:
        """A worker's place in the queue: its next row, handed out in the next round; None if there will be no more."""
        place: asyncio.Future[RowInWork | None] = self._loop.create_future()
        self._idle.append(place)
        self._plan_round()
        return place

    def _withdraw_place(self, place: asyncio.Future[RowInWork | None]) -> None:
        """The worker at this place was cancelled."""
        if place.cancelled() or not place.done():
            with suppress(ValueError):  # a round may have removed it
                self._idle.remove(place)
        elif (row := place.result()) is not None:
            self._requeue_unsent(row)

    async def _admitted(self, row: RowInWork, body: bytes) -> Ticket | None:
        """A ticket to send the row's request; None if the row is postponed, since the pool drains or has a bug."""
        try:
            ticket = await self._wait_for_ticket(body)
        except BaseException as error:
            self._rescue(row)
            if not isinstance(error, Exception):
                raise
            self._fail(error)
            return None
        if ticket is None:
            self._rescue(row)
        return ticket

    def _count_retry(self, row: RowInWork) -> None:
        self._progress.retries += 1
        self._progress.maybe_paid_twice += row.may_pay_twice

    async def _wait_for_ticket(self, body: bytes) -> Ticket | None:
        """A ticket to send; None if the pool starts to drain while waiting."""
        if self.state is not PoolState.OPEN:
            return None
        worker = asyncio.current_task(self._loop)
        entering = self._loop.create_task(self._admission.acquire(body))  # its own task, so that `drain` can cancel it
        self._entering.add(entering)
        try:
            ticket = await entering
        except asyncio.CancelledError:
            if entering.cancelled() and not (worker and worker.cancelling()):
                return None
            if not entering.cancelled() and entering.exception() is None and (unused := entering.result()) is not None:
                self._admission.withdraw(unused)
            raise
        finally:
            self._entering.discard(entering)
        if ticket is None:
            self.drain(StopReason.BUDGET)
        return ticket

    def _note_cancelled(self, row: RowInWork, ticket: Ticket) -> None:
        """The request was sent, but cancelled in flight: it may have been charged."""
        row.maybe_paid += 1
        self.dropped += 1
        self._admission.release(ticket, None)
        self._rescue(row)

    # Rounds: one for each iteration of the event loop with news.

    def _plan_round(self) -> None:
        if not self._is_round_planned:
            self._is_round_planned = True
            self._loop.call_soon(self._round)

    def _round(self) -> None:
        try:
            self._deal_with_outcomes()
            self._is_round_planned = False
            self._hand_out()
        except AsyncgenError as refused:  # by the source: a request that is too large
            self.stop.refused = refused
            self.drain(None)
        except Exception as bug:  # noqa: BLE001 - the loop would only log it, and all workers hang
            self._fail(bug)
        finally:
            self._is_round_planned = False
        if self._queue.is_looking and self._idle:
            self._plan_round()
        if self.state is not PoolState.OPEN or (self._queue.is_over and len(self._idle) >= self._workers):
            self._end_idle_workers()

    def _hand_out(self) -> None:
        while self._idle and (row := self._queue.next()) is not None:
            place = self._idle.popleft()
            if place.done():  # its worker was cancelled
                self._queue.put_first(row)
            else:
                row.ticket = self._admission.acquire_at_once(row.request.body)
                place.set_result(row)

    def _end_idle_workers(self) -> None:
        while self._idle:
            place = self._idle.popleft()
            if not place.done():
                place.set_result(None)

    def _deal_with_outcomes(self) -> None:
        """Process the outcomes since the last round: settle rows, retry them, or give up on them."""
        outcomes, self._outcomes = self._outcomes, []
        in_flight = self._progress.in_flight
        records: list[Record] = []
        for row, ticket, outcome in outcomes:
            try:
                if not isinstance(outcome, Answer):
                    self._erred(row, outcome, is_hopeless=self._admission.release(ticket, outcome))
                    continue
                row.answered(outcome)
                self._admission.release_answered(ticket, outcome, in_flight)
                if (record := self._judged(row)) is not None:
                    records.append(record)
            except Exception as bug:  # noqa: BLE001 - a bug in one row must not lose the others' answers
                self._rescue(row)
                self._fail(bug)
        self.settler.settle(records)
        self._look_at_disk()

    def _judged(self, row: RowInWork) -> Record | None:
        """The record to settle the row with; None if the answer failed its checks and the row is requested again."""
        self._policy.answered()
        record = self.settler.record(row)
        if record.check_failures:
            self._progress.count_check_failures(record)
            if self._stops_when_useless and self._progress.are_useless(USELESS):
                useless = useless_answers(self._progress, USELESS, simulated=record.simulated)
                self.stop.refused = self.stop.refused or useless
                self.drain(None)
            if row.asked < self._checks.attempts and self.state is PoolState.OPEN:
                self._put_back(row, 0.0)
                return None
        self._progress.count_answer(record)
        return record

    def _erred(self, row: RowInWork, error: AttemptError, *, is_hopeless: bool) -> None:
        note_error(row, error)
        if error.kind is ErrorClass.WAIT and (refused := self._rates.refusal(row.request.body)):
            self.stop.refused = self.stop.refused or refused
            self.drain(None)
        if error.kind is ErrorClass.STOP:
            self.drain(error.stop, error)
        elif is_hopeless:
            self.drain(StopReason.QUOTA if error.kind is ErrorClass.WAIT else None, error)
        if error.kind is ErrorClass.STOP or (self.state is not PoolState.OPEN and may_retry(row, error)):
            self.settler.postpone(row)
        elif may_retry(row, error):
            self._put_back(row, retry_wait_s(row, error, self._rng))
        elif (fatal := self._policy.give_up(row, error)) is not None:
            self.drain(None, fatal)

    # Retries and postponed rows.

    def _put_back(self, row: RowInWork, delay_s: float) -> None:
        """Retry the row after `delay_s` seconds."""
        if delay_s <= 0:
            self._queue.put_back(row)
            self._plan_round()
        else:
            self._queue.delay(row, self._loop.call_later(delay_s, self._due, row))

    def _due(self, row: RowInWork) -> None:
        self._queue.due(row)
        self._plan_round()

    def _requeue_unsent(self, row: RowInWork) -> None:
        """Return a row whose worker was cancelled before it could send."""
        if row.ticket is not None:
            self._admission.withdraw(row.ticket)
            row.ticket = None
        self._queue.put_first(row)
        self._plan_round()

    def _postpone_waiting(self) -> None:
        for row in self._queue.close():
            self._rescue(row)

    def _rescue(self, row: RowInWork) -> None:
        """Postpone the row, and keep its answer even if the bug is in judging it."""
        try:
            self.settler.postpone(row)
        except Exception as bug:  # noqa: BLE001 - as above
            self.settler.note_lost(row)
            self.stop.bug = self.stop.bug or bug

    def _look_at_disk(self) -> None:
        if self.settler.disk is not None:
            self.drain(StopReason.IO)


def useless_answers(progress: Progress, count: int, *, simulated: bool) -> AsyncgenError:
    """The error for a run whose first `count` answers all failed the job's checks."""
    remedy = "change [prompt] or [checks] in the job file (`asyncgen show --rejected` shows the answers)"
    if simulated:
        remedy = REMEDY_FOR_SIMULATED
    [(reason, times)] = short_reasons(progress.failed_checks).most_common(1)
    return AsyncgenError(
        f"none of the first {counted(count, 'answer')} is usable",
        cause=f"{times} fail the check {reason}",
        help_text=remedy,
        code=USELESS_CODE,
    )


DEFAULT_CONCURRENCY = 64


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    Attributes:
        stopped: None if every row was processed.
        error: the reason, for the user; None for an interruption or a limit.
        abandoned: number of requests dropped in flight.
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
    spread: bool = False,
    budget: BudgetGate | None = None,
    stops_when_useless: bool = False,
    endpoint: Endpoint | None = None,
    rng: Random | None = None,
    share: float = 1.0,
) -> Outcome:
    """Run every open request of a grid through the pool into the journal.

    Args:
        grid: the job's requests.
        journal: tells which rows are settled; records and failures are written there.
        completer: sends one request.
        limits: the user's limits: concurrency, requests and tokens per minute.
        checks: what an answer must pass.
        progress: its counts are raised.
        stop: set it to drain.
        abandon: set it to drop requests in flight.
        limit: maximum number of requests to send; None for all.
        spread: sample these evenly from the grid.
        budget: None for no budget.
        stops_when_useless: stop the run if its first answers all fail their checks.
        endpoint: named in error messages.
        rng: randomness for jitter.
        share: this process's part of the limits that the server reports.

    Returns:
        How the run ended. Errors of requests and of the disk are in it, and not raised.

    Raises:
        Exception: a bug, after everything that was paid for is kept.
    """
    rates = RequestRates(limits.requests_per_minute, limits.tokens_per_minute, grid.max_output_tokens, share=share)
    source = RowSource(grid, journal, rates, progress, limit, spread=spread)
    pool = Pool(
        iter(source), grid, journal, completer, checks=checks, rates=rates,
        concurrency=limits.concurrency or DEFAULT_CONCURRENCY, progress=progress, budget=budget,
        stops_when_useless=stops_when_useless, rng=rng,
    )  # fmt: skip
    work = asyncio.create_task(pool.run())
    try:
        await _until_done(work, pool, stop, abandon)
    finally:
        await _cancel_pool(work, pool)
    _raise_bug(work)
    return outcome_of(
        pool.stop,
        left=progress.left,
        is_cut=source.is_cut and not pool.draining.is_set(),
        dropped=pool.dropped,
        disk=pool.settler.disk,
        unsaved=pool.settler.unsaved,
        endpoint=endpoint,
        budget=budget.budget if budget else None,
    )


async def _until_done(work: asyncio.Task[None], pool: Pool, stop: asyncio.Event, abandon: asyncio.Event) -> None:
    """Wait until the pool ends; drain it when `stop` is set.

    A drain takes at most as long as an answer may: the completer's timeout bounds it.
    """
    waits = [asyncio.create_task(event.wait()) for event in (stop, pool.draining, abandon)]
    try:
        await asyncio.wait([work, *waits], return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            pool.drain(StopReason.INTERRUPTED)
            await asyncio.wait([work, waits[-1]], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.wait(waits)


async def _cancel_pool(work: asyncio.Task[None], pool: Pool) -> None:
    """Cancel the pool if it still works; rows that have an answer are kept."""
    if not work.done():
        pool.drain(StopReason.INTERRUPTED)
        work.cancel()
        await asyncio.wait([work])


def _raise_bug(work: asyncio.Task[None]) -> None:
    """Raise a bug without the exception group around it."""
    error = None if work.cancelled() else work.exception()
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if error is not None:
        raise error


def outcome_of(
    stop: Stop,
    *,
    left: int,
    is_cut: bool,
    dropped: int = 0,
    disk: DiskError | None = None,
    unsaved: int = 0,
    endpoint: Endpoint | None = None,
    budget: Budget | None = None,
) -> Outcome:
    """How a run ended, for the user.

    Args:
        stop: why it left the state OPEN.
        left: rows without an answer.
        is_cut: the run ended at the limit of `--limit`.
        dropped: number of requests cancelled in flight.
        disk: the journal's first error.
        unsaved: paid answers that could not be written.
        endpoint: named in error messages.
        budget: None for no budget.
    """
    error: AsyncgenError | None = None
    if disk is not None:
        error = disk_error(disk, unsaved)
    elif stop.refused is not None:
        error = stop.refused
    elif stop.reason is StopReason.BUDGET and budget is not None:
        error = budget.used_up()
    elif stop.error is not None:
        error = provider_error(stop.error, stop.reason, endpoint)
    reason = StopReason.LIMIT if is_cut else stop.reason
    if stop.reason is StopReason.INTERRUPTED and not left:
        reason = None  # the drain finished every row
    return Outcome(reason, error, dropped)
