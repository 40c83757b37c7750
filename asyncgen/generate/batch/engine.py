"""The batch engine: every open row of a job goes through the Batch API into the journal.

Sends, waits and collects, or leaves the batches to be collected later; an interruption ends the waiting only, and the
provider goes on with the batches. Batches from earlier invocations are continued, new ones are sent as the provider's
queue admits them, ended ones are collected, and rows without an answer are sent again. A batch is collected in a fixed
order: download whole, join, make safe on disk, then note it as collected and delete its files. It is idempotent: after
a crash at any point it starts over, and nothing is duplicated.

HTTP calls are left to `api`, the format of the files to `files`, the display to the caller. Importing this module
imports the SDK, which takes a second.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asyncgen.errors import AsyncgenError, AuthError, DiskError, QuotaError
from asyncgen.generate.batch.api import BatchApi, RemoteBatch
from asyncgen.generate.batch.files import BatchFiles, BatchLedger, change_batch
from asyncgen.generate.batch.join import BatchJoiner, JoinResult
from asyncgen.generate.batch.send import Allowance, BatchProgress, BatchSender, Watcher, is_for_a_full_queue
from asyncgen.generate.engine import EngineResult
from asyncgen.generate.http.completer import StopReason
from asyncgen.generate.pool.budget import Budget, budget_used_up
from asyncgen.generate.pool.pool import Outcome
from asyncgen.providers.openai_client import open_client
from asyncgen.terminal import counted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from asyncgen.generate.engine import Session
    from asyncgen.generate.journal.journal import Journal
    from asyncgen.job.answers import AnswerChecks
    from asyncgen.job.requests import RequestGrid
    from asyncgen.providers.endpoint import Endpoint
    from asyncgen.run.directory import RunWriter
    from asyncgen.run.state import BatchState


class BatchCollector:
    """Collects ended batches into the journal.

    Args:
        run: locked by this process.
        journal: takes records and failures.
        api: of the provider.
        joiner: joins answers and rows.
        budget: gets unused reservations back; None for no budget.
        now: Unix seconds.
    """

    def __init__(
        self,
        run: RunWriter,
        journal: Journal,
        api: BatchApi,
        *,
        joiner: BatchJoiner,
        budget: Budget | None,
        now: Callable[[], float],
    ) -> None:
        self._run = run
        self._journal = journal
        self._api = api
        self._joiner = joiner
        self._budget = budget
        self._now = now

    async def collect(self, batch: BatchState, remote: RemoteBatch) -> JoinResult:
        """Download and keep what the batch answered; rows without an outcome are open again.

        Args:
            batch: as noted in the run.
            remote: as the provider describes it.

        Returns:
            Counts of answers and failures.

        Raises:
            GoneError: the provider no longer has the answers.
            AsyncgenError: they could not be downloaded.
            DiskError: they could not be saved.
        """
        files = BatchFiles(self._run.directory, batch.intent)
        for file_id, path in ((remote.output_file_id, files.output), (remote.error_file_id, files.errors)):
            if file_id and not path.exists():
                await self._api.download(remote.id, file_id, path)
        joined = await self._joiner.join(
            files, batch.model, now=int(self._now()), is_cancelled=remote.status == "cancelled"
        )
        # An answer of unknown cost counts with its whole reservation, so that the budget is never exceeded.
        self._journal.spend.add_unanswered(batch.held_usd * joined.lost / max(batch.requests, 1))
        await asyncio.to_thread(self._journal.files.flush)
        self.release(batch, remote.status)
        return joined

    def release(self, batch: BatchState, status: str) -> None:
        """Release the batch: its rows are no longer claimed."""
        if self._budget is not None:
            spend = self._journal.spend.total
            self._budget.release(batch.held_usd)
            self._budget.spent_usd = spend.cost_usd + spend.unanswered_usd
        release_batch(self._run, batch, status)
        self._journal.batched.release(batch.intent)


def release_batch(run: RunWriter, batch: BatchState, status: str) -> None:
    """Note that a batch is collected, and remove its files.

    Args:
        run: open for writing.
        batch: as noted in the run.
        status: its final status.

    Raises:
        DiskError: it could not be noted.
    """
    change_batch(run, batch.intent, status=status, collected=True, held_usd=0.0)
    BatchFiles(run.directory, batch.intent).remove()


_NOT_ACCEPTED_YET = frozenset({"", "validating"})


@dataclass(frozen=True, slots=True)
class BatchPace:
    """The polling interval: short after a change, then growing.

    Attributes:
        sleep: waits for a number of seconds.
    """

    first_s: float = 0.5
    most_s: float = 30.0
    growth: float = 1.5
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class BatchLoop:
    """Sends and collects batches until every row is settled. Made by `open_batch_loop`.

    Args:
        sender: sends batches to the provider.
        collector: writes answers to the journal.
        ledger: the batches of the run.
        api: of the provider.
        allowance: limits on what may be sent.
        watcher: gets reports.
        pace: the polling interval.
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
        pace: BatchPace,
    ) -> None:
        self._sender = sender
        self._collector = collector
        self._ledger = ledger
        self._api = api
        self._allowance = allowance
        self._watcher = watcher
        self._pace = pace
        self._course = BatchProgress()

    async def run(self) -> Outcome:
        """Send and collect until every row is settled, or nothing more can be sent.

        Returns:
            The outcome.

        Raises:
            AsyncgenError: the provider cannot be reached or refuses; the run can be resumed.
            DiskError: the run cannot be written.
        """
        wait_s = self._pace.first_s
        while True:
            has_sent = await self._send()
            has_changed = await self._poll()
            if self._ledger.is_under_way:
                slower_s = min(wait_s * self._pace.growth, self._pace.most_s)
                wait_s = self._pace.first_s if has_sent or has_changed else slower_s
                await self._pace.sleep(wait_s)
            elif not self._may_send_again():
                return self._outcome()

    async def _send(self) -> bool:
        """Send one batch, unless one waits to be accepted or the provider's queue is full."""
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

    async def _poll(self) -> bool:
        """Poll every batch, and collect those that ended; returns True if anything changed."""
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
        self._course.queue_is_full = self._allowance.is_spent = False
        if remote.status == "failed" and not (remote.output_file_id or remote.error_file_id):
            self._refused(batch, remote)
            return
        joined = await self._collector.collect(batch, remote)
        self._watcher.collected(batch, joined)
        self._course.note_collected(batch, remote, joined)

    def _refused(self, batch: BatchState, remote: RemoteBatch) -> None:
        """The provider rejected the whole batch: nothing was processed or charged."""
        queue_is_full = is_for_a_full_queue(remote)
        if queue_is_full and any(each.batch_id for each in self._ledger.open if each.intent != batch.intent):
            # Our own batches fill the queue: the same file is sent again when one of them has ended.
            self._ledger.change(batch, batch_id=None, status="queue full")
            self._course.queue_is_full = True
            return
        self._collector.release(batch, remote.status)
        if queue_is_full and batch.requests > 1:
            self._allowance.release(batch.requests)
            self._allowance.rows_a_batch = batch.requests // 2
            self._sender.begin_again()
        else:
            self._course.note_refused(batch, remote)

    def _may_send_again(self) -> bool:
        """With no batch open: True if there are unsent rows, or rows that an ended batch did not answer."""
        if self._course.error is not None:
            return False
        if any(each.batch_id is None for each in self._ledger.open):
            return True
        if self._allowance.is_spent:
            return False
        if self._sender.has_more:
            return True
        if not self._course.begin_pass():
            return False
        self._sender.begin_again()
        return self._sender.has_more

    def _outcome(self) -> Outcome:
        course = self._course
        if course.error is not None:
            return Outcome(course.stopped, course.error)
        if self._allowance.is_spent:
            return Outcome(StopReason.BUDGET, budget_used_up())
        if self._sender.is_cut:
            return Outcome(StopReason.LIMIT, None)
        return Outcome(None, course.unanswered())


def open_batch_loop(
    run: RunWriter,
    journal: Journal,
    grid: RequestGrid,
    endpoint: Endpoint,
    api: BatchApi,
    *,
    checks: AnswerChecks,
    allowance: Allowance,
    watcher: Watcher,
    pace: BatchPace | None = None,
    now: Callable[[], float] = time.time,
) -> BatchLoop:
    """Make the loop for a run at an endpoint.

    Args:
        run: locked by this process.
        journal: of the run.
        grid: the job's requests.
        endpoint: where batches go.
        api: of the endpoint.
        checks: applied to the answers.
        allowance: limits on what may be sent.
        watcher: gets reports.
        pace: polling interval; None for the default.
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
    joiner = BatchJoiner(journal=journal, grid=grid, checks=checks, secret=endpoint.key)
    collector = BatchCollector(run, journal, api, joiner=joiner, budget=allowance.budget, now=now)
    return BatchLoop(sender, collector, ledger, api, allowance=allowance, watcher=watcher, pace=pace or BatchPace())


_REASONS = ((AuthError, StopReason.AUTH), (QuotaError, StopReason.QUOTA), (DiskError, StopReason.IO))


class BatchEngine:
    """Gets all answers through batches, at half the price and within a day. Implements `Engine`."""

    async def run(self, session: Session) -> EngineResult:
        """Send and collect batches until there are none."""
        observer, endpoint, journal, progress = session.observer, session.endpoint, session.journal, session.progress
        checks = session.checks
        if checks.attempts > 1:
            again = "after `prepare`, --retry-rejected retries rows whose answers failed"
            observer.say(f"in a batch every row is sent once; {again}")
        for batch in BatchLedger(session.run, endpoint).elsewhere:
            at = f"{batch.provider or 'another provider'} ({batch.base_url})"
            observer.say(f"{counted(batch.requests, 'row waits', 'rows wait')} in a batch at {at}")
        with observer.watching_batches(progress) as watcher:
            async with observer.interruptible(lambda: None) as interrupt, open_client(endpoint) as client:
                loop = open_batch_loop(
                    session.run,
                    journal,
                    session.opened.grid,
                    endpoint,
                    BatchApi(client),
                    checks=checks,
                    allowance=Allowance(rows=session.options.limit, budget=session.budget),
                    watcher=watcher,
                )
                outcome = await _until_done_or_left(loop.run(), interrupt.stop)
        if outcome.stopped is StopReason.INTERRUPTED:
            back = f" To collect the answers later: {observer.resume_command}" if observer.resume_command else ""
            observer.say(f"stopped waiting; the batches go on at {endpoint.place}.{back}")
            return EngineResult(outcome, interrupt.exit_code or 0)
        if outcome == Outcome(None, None):
            # Every row is settled: those not counted are duplicates of others.
            progress.twins += max(progress.left - len(journal.batched), 0)
        return EngineResult(outcome)


async def _until_done_or_left(work: Coroutine[Any, Any, Outcome], stop: asyncio.Event) -> Outcome:
    task = asyncio.create_task(work)
    left = asyncio.create_task(stop.wait())
    await asyncio.wait([task, left], return_when=asyncio.FIRST_COMPLETED)
    left.cancel()
    if not task.done():
        task.cancel()
        await asyncio.wait([task])
    try:
        return task.result()
    except asyncio.CancelledError:
        return Outcome(StopReason.INTERRUPTED, None)
    except AsyncgenError as error:
        return Outcome(next((reason for kind, reason in _REASONS if isinstance(error, kind)), None), error)
