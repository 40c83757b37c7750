"""Every open row of a job through the Batch API into the journal.

Owns the course: batches noted earlier go on, new ones are sent one after the other as the provider's queue takes
them, ended ones are collected, and what they did not answer goes again. It may be left at any moment and called again
at any other. Does not know the wire, the files' form or who watches.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from asyncgen.backoff import BILLING_CODES
from asyncgen.endpoint import Endpoint
from asyncgen.errors import AsyncgenError, IncompleteError, QuotaError
from asyncgen.generate.batch.api import BatchApi, RemoteBatch
from asyncgen.generate.batch.collect import BatchCollector
from asyncgen.generate.batch.join import Joined
from asyncgen.generate.batch.ledger import BatchLedger
from asyncgen.generate.batch.send import Allowance, BatchSender
from asyncgen.generate.batch.watcher import Watcher
from asyncgen.generate.completer import StopReason
from asyncgen.generate.explain import provider_error
from asyncgen.generate.journal import Journal
from asyncgen.generate.run import Outcome
from asyncgen.generate.spend import budget_used_up
from asyncgen.job.checks import AnswerChecks
from asyncgen.job.requests import RequestGrid
from asyncgen.run_directory import Run
from asyncgen.run_state import BatchState

_MOST_PASSES = 3  # over the grid: rows that never come to an outcome are not sent for ever
_QUEUE_CODES = frozenset({"token_limit_exceeded", "enqueued_token_limit_exceeded"})
_NOT_ACCEPTED_YET = frozenset({"", "validating"})
_SHOWN_PROBLEMS = 3


@dataclass(frozen=True, slots=True)
class Pace:
    """How often the provider is asked: soon after a change, then ever less often.

    Attributes:
        sleep: waits so many seconds.
    """

    first_s: float = 0.5
    most_s: float = 30.0
    growth: float = 1.5
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


@dataclass(slots=True)
class _Course:
    """How far this invocation is.

    Attributes:
        passes: over the grid.
        open_again: rows that collected batches did not answer, since the last pass began.
        queue_is_full: until a batch of ours ends.
        error: what keeps more from being sent.
    """

    passes: int = 1
    open_again: int = 0
    queue_is_full: bool = False
    stopped: StopReason | None = None
    error: AsyncgenError | None = None


class BatchEngine:
    """The second engine; made by `open_engine`.

    Args:
        sender: brings batches to the provider.
        collector: brings answers into the journal.
        ledger: the batches of the run.
        api: of the provider.
        allowance: what may be sent.
        watcher: is told what happens.
        pace: how often to look.
    """

    def __init__(
        self,
        sender: BatchSender,
        collector: BatchCollector,
        ledger: BatchLedger,
        api: BatchApi,
        *,
        allowance: Allowance,
        watcher: Watcher,
        pace: Pace,
    ) -> None:
        self._sender = sender
        self._collector = collector
        self._ledger = ledger
        self._api = api
        self._allowance = allowance
        self._watcher = watcher
        self._pace = pace
        self._course = _Course()

    async def run(self) -> Outcome:
        """Send and collect until every row has come to an outcome, or nothing more can be sent.

        Raises:
            AsyncgenError: the provider cannot be reached or refuses; all that was noted stays, and can be gone on
                from.
            DiskError: the run cannot be written.
        """
        wait_s = self._pace.first_s
        while True:
            has_sent = await self._send()
            has_changed = await self._look()
            if self._under_way:
                slower_s = min(wait_s * self._pace.growth, self._pace.most_s)
                wait_s = self._pace.first_s if has_sent or has_changed else slower_s
                await self._pace.sleep(wait_s)
            elif not self._may_send_again():
                return self._outcome()

    @property
    def _under_way(self) -> bool:
        return any(each.batch_id for each in self._ledger.open)

    async def _send(self) -> bool:
        """Bring one batch to the provider, unless one waits to be accepted or the queue is full."""
        course = self._course
        is_waiting = any(each.batch_id and each.status in _NOT_ACCEPTED_YET for each in self._ledger.open)
        if is_waiting or course.queue_is_full:
            return False
        if course.error is not None:
            return False
        unsent = next((each for each in self._ledger.open if each.batch_id is None), None)
        if unsent is not None:
            return bool(await self._sender.send(unsent))
        if self._allowance.is_spent or not self._sender.has_more:
            return False
        return await self._sender.send_next() is not None

    async def _look(self) -> bool:
        """Ask how every batch is; collect those that ended. Whether anything was new."""
        has_changed = False
        for batch in self._ledger.open:
            if batch.batch_id is None:
                continue
            remote = await self._api.retrieve(batch.batch_id)
            has_changed |= self._note(batch, remote)
            if remote.has_ended:
                await self._end(batch, remote)
        return has_changed

    def _note(self, batch: BatchState, remote: RemoteBatch) -> bool:
        counts = remote.counts
        answered, failed = (counts.completed, counts.failed) if counts else (batch.answered, batch.failed)
        if (remote.status, answered, failed) == (batch.status, batch.answered, batch.failed):
            return False
        self._watcher.changed(self._ledger.change(batch, status=remote.status, answered=answered, failed=failed))
        return True

    async def _end(self, batch: BatchState, remote: RemoteBatch) -> None:
        course = self._course
        course.queue_is_full = self._allowance.is_spent = False
        if remote.status == "failed" and not remote.output_file_id:
            self._refused(batch, remote)
            return
        joined = await self._collector.collect(batch, remote)
        course.open_again += joined.open
        self._watcher.collected(batch, joined)
        self._judge(batch, remote, joined)

    def _judge(self, batch: BatchState, remote: RemoteBatch, joined: Joined) -> None:
        """Is sending more any use after this?"""
        if joined.stop is not None:
            self._stop(joined.stop.stop, provider_error(joined.stop, joined.stop.stop))
        elif remote.status == "cancelled":
            self._stop(
                None,
                IncompleteError(
                    f"batch {batch.batch_id} was cancelled; {joined.open:,} of its rows have no answer",
                    help_text="the same command asks for them again, in batch or online",
                    code="cancelled",
                ),
            )

    def _refused(self, batch: BatchState, remote: RemoteBatch) -> None:
        """The provider took the batch as a whole not: nothing of it was done, or charged."""
        codes = {problem.code for problem in remote.refusals}
        if codes & _QUEUE_CODES and any(each.batch_id for each in self._ledger.open if each.intent != batch.intent):
            # Batches of ours fill the queue: the same file goes again when one of them has ended.
            self._ledger.change(batch, batch_id=None, status="queue full")
            self._course.queue_is_full = True
            return
        self._collector.let_go(batch, remote.status)
        if codes & _QUEUE_CODES and batch.requests > 1:
            self._allowance.rows_a_batch = batch.requests // 2
            self._give_rows_back(batch)
            self._sender.begin_again()
        else:
            self._stop(*_refusal(batch, remote))

    def _give_rows_back(self, batch: BatchState) -> None:
        if self._allowance.rows is not None:
            self._allowance.rows += batch.requests

    def _stop(self, reason: StopReason | None, error: AsyncgenError) -> None:
        """Send nothing more; what is under way is still collected. The first reason stands."""
        if self._course.error is None:
            self._course.stopped, self._course.error = reason, error

    def _may_send_again(self) -> bool:
        """With nothing under way: is there more to send, or what an ended batch did not answer?"""
        course = self._course
        if course.error is not None:
            return False
        if any(each.batch_id is None for each in self._ledger.open):
            return True
        if self._allowance.is_spent:
            return False
        if self._sender.has_more:
            return True
        if not course.open_again or course.passes == _MOST_PASSES:
            return False
        course.passes, course.open_again = course.passes + 1, 0
        self._sender.begin_again()
        return self._sender.has_more

    def _outcome(self) -> Outcome:
        course = self._course
        if course.error is None and self._allowance.is_spent:
            return Outcome(StopReason.BUDGET, budget_used_up())
        if course.error is None and self._sender.is_cut:
            return Outcome(StopReason.LIMIT, None)
        if course.error is None and course.open_again:
            return Outcome(None, _unanswered(course))
        return Outcome(course.stopped, course.error)


def _unanswered(course: _Course) -> IncompleteError:
    return IncompleteError(
        f"{course.open_again:,} rows came to no outcome, though they were sent {course.passes} times",
        help_text="asyncgen generate without --batch   (sends them online, and says what is wrong with each)",
        code="unanswered",
    )


def _refusal(batch: BatchState, remote: RemoteBatch) -> tuple[StopReason | None, AsyncgenError]:
    """Why a batch was refused, in words for the person who reads it."""
    shown = remote.refusals[:_SHOWN_PROBLEMS]
    lines = [f"line {each.line}: {each.message}" if each.line else each.message or each.code or "" for each in shown]
    cause = "\n".join(lines) or "the provider gives no reason"
    what = f"the provider refused batch {batch.batch_id}"
    codes = {each.code for each in remote.refusals}
    if codes & (BILLING_CODES | _QUEUE_CODES | {"billing_hard_limit_reached"}):
        help_text = "raise the limit at the provider or wait until its queue is empty, then give the same command again"
        return StopReason.QUOTA, QuotaError(what, cause=cause, help_text=help_text)
    help_text = "asyncgen generate without --batch   (sends the rows online, and says what is wrong with each)"
    return None, AsyncgenError(what, cause=cause, help_text=help_text, code="batch_refused")


def open_engine(
    run: Run,
    journal: Journal,
    grid: RequestGrid,
    endpoint: Endpoint,
    api: BatchApi,
    *,
    checks: AnswerChecks,
    allowance: Allowance,
    watcher: Watcher,
    pace: Pace | None = None,
    now: Callable[[], float] = time.time,
) -> BatchEngine:
    """The engine for a run at an endpoint.

    Args:
        run: locked by this process.
        journal: of the run.
        grid: the job's requests.
        endpoint: where batches go.
        api: of the endpoint.
        checks: answers are judged by.
        allowance: what may be sent.
        watcher: is told what happens.
        pace: how often to look.
        now: Unix seconds.
    """
    ledger = BatchLedger(run, endpoint)
    sender = BatchSender(
        grid,
        journal,
        run.directory,
        ledger=ledger,
        api=api,
        allowance=allowance,
        watcher=watcher,
        now=now,
        new_intent=lambda: f"{int(now())}-{secrets.token_hex(4)}",
    )
    collector = BatchCollector(run, journal, api, checks=checks, budget=allowance.budget, now=now)
    return BatchEngine(sender, collector, ledger, api, allowance=allowance, watcher=watcher, pace=pace or Pace())
