"""The driver of a run whose requests are sent by workers elsewhere: producer of rows and single writer.

Each worker has at most what is in flight and two blocks of rows, a block being what it answers in a quarter of a
second. The driver writes what comes home, deals the limits of the run by leases (`leases`), and asks again for the rows
of a worker that is gone: not before its last lease has ended, unless it is known to have been started anew. An answer
is accepted once, by its key, whoever sends it.

Where workers run, and what carries the messages, is left to a `WorkerPort`.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import msgspec

from asyncgen.errors import AsyncgenError, DiskError
from asyncgen.generate.distributed.leases import LeaseBook, Need, WorkerLostError, WorkerPort, WorkerState, most_holders
from asyncgen.generate.distributed.messages import (
    SentRow,
    WorkerCounts,
    WorkerEnd,
    WorkerReport,
    WorkOrder,
    WorkSpec,
    decode_report,
    encode,
)
from asyncgen.generate.engine import Session
from asyncgen.generate.http.completer import NO_LIMITS, ErrorClass, StopReason
from asyncgen.generate.pool.pool import USELESS, Outcome, Stop, outcome_of, useless_answers
from asyncgen.generate.pool.rate import RequestRates
from asyncgen.generate.pool.settle import RowInWork, retried_row
from asyncgen.generate.pool.source import RowSource
from asyncgen.run.jsonl import NotSafeError
from asyncgen.run.records import NO_USAGE, Failure, Usage, decode_record
from asyncgen.run.state import RowAttempts
from asyncgen.terminal import counted

LEASE_S = 5.0
_AGAIN_S = 0.3  # between two attempts to reach a worker
_LAST_WORD_S = 5.0  # for the last reports, when every row is settled
_LATEST_S = 0.2
_SECONDS = 60.0
_UNPRICED = 0.02  # of the budget, for a worker's first requests where no price is known


class Dispatcher:
    """Keeps workers at work on the open rows of a session, and writes what they answer.

    Args:
        session: the running generation.
        workers: each with what it is opened with.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        session: Session,
        workers: Sequence[tuple[WorkerPort, WorkSpec]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        grid, limits, budget = session.opened.grid, session.limits, session.budget
        self._session = session
        self._journal = session.journal
        self._progress = session.progress
        self._clock = clock
        self._rates = RequestRates(
            limits.requests_per_minute, limits.tokens_per_minute, grid.max_output_tokens, share=session.share
        )
        self._longest = b" " * grid.longest_body()
        self._source = RowSource(
            grid, session.journal, self._rates, session.progress, session.options.limit, spread=session.options.spread
        )
        self._fresh = iter(self._source)
        self._is_used_up = False
        self._returned: deque[RowInWork] = deque()  # rows of workers that are gone
        self._turn = asyncio.Lock()
        self._workers = [WorkerState(port, spec, number) for number, (port, spec) in enumerate(workers)]
        left_usd = budget.max_cost_usd - budget.spent_usd - budget.in_flight_usd if budget else None
        self._book = LeaseBook(lasts_s=LEASE_S, budget_usd=left_usd)
        self._stop = Stop()
        self._draining = asyncio.Event()
        self._over = asyncio.Event()  # draining, or every row is settled
        self._tellings: list[asyncio.Task[None]] = []
        self._unanswered_usd = 0.0  # what lost workers may have spent without an answer
        self._disk: DiskError | None = None
        self._unsaved = 0
        self._dropped = 0
        self._pause_until, self._pause_cause = 0.0, ""
        self._looked_at = 0.0

    async def run(self, stop: asyncio.Event, abandon: asyncio.Event) -> Outcome:
        """Work until every row is settled, or a drain has ended.

        Args:
            stop: set it to drain.
            abandon: set it to drop requests in flight.

        Raises:
            Exception: a bug, after everything that was paid for is kept.
        """
        serving = [asyncio.create_task(self._serve(worker)) for worker in self._workers]
        watching = asyncio.create_task(self._watch(stop, abandon))
        try:
            await self._until_over(serving)
        finally:
            tasks = [*serving, watching, *self._tellings]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self._close_budget()
        if self._stop.bug is not None:
            raise self._stop.bug
        return outcome_of(
            self._stop,
            left=self._progress.left,
            is_cut=self._source.is_cut and not self._draining.is_set(),
            dropped=self._dropped,
            disk=self._disk,
            unsaved=self._unsaved,
            endpoint=self._session.endpoint,
            budget=self._session.budget,
        )

    async def _until_over(self, serving: Sequence[asyncio.Task[None]]) -> None:
        await self._over.wait()
        # A drain takes as long as answers may; when every row is settled, nobody has to be waited for.
        await asyncio.wait(serving, timeout=None if self._draining.is_set() else _LAST_WORD_S)

    async def _watch(self, stop: asyncio.Event, abandon: asyncio.Event) -> None:
        """Pass a signal on to the workers."""
        await _first(stop.wait(), self._draining.wait())
        self._drain(StopReason.INTERRUPTED)
        self._tell_all(drops=False)
        await abandon.wait()
        self._tell_all(drops=True)

    def _tell_all(self, *, drops: bool) -> None:
        """Without waiting for those that cannot be reached: the next order tells them too."""
        for worker in self._workers:
            if worker.session:
                self._tellings.append(asyncio.create_task(_tell(worker.port, drops=drops)))

    def _drain(self, reason: StopReason | None) -> None:
        if reason is StopReason.IO or not self._draining.is_set():
            self._stop.reason = reason
        self._draining.set()
        self._over.set()

    def _fail(self, bug: Exception) -> None:
        self._stop.bug = self._stop.bug or bug
        self._drain(None)

    # One worker.

    async def _serve(self, worker: WorkerState) -> None:
        """Keep a worker at work; open it again whenever it was started anew."""
        try:
            while (report := await self._opened(worker)) is not None:
                self._enter(worker, report.session)
                while report is not None and self._heard(worker, report):
                    report = await self._exchanged(worker, await self._order(worker))
                if worker.report.end is not None:
                    return
        except AsyncgenError as error:  # the worker cannot be started at all
            self._stop.refused = self._stop.refused or error
            self._drain(None)
        except Exception as bug:  # noqa: BLE001 - the others finish what is in flight first
            self._fail(bug)
            self._lose(worker)

    async def _opened(self, worker: WorkerState) -> WorkerReport | None:
        """The first report of a worker that was started; None if the run is over before."""
        while not self._over.is_set():
            opening = asyncio.ensure_future(worker.port.open(worker.spec))
            try:
                await _first(self._over.wait(), opening)
                return decode_report(opening.result()) if opening.done() else None
            except WorkerLostError:
                await asyncio.sleep(_AGAIN_S)
            finally:
                opening.cancel()
        return None

    def _enter(self, worker: WorkerState, session: str) -> None:
        worker.starts += 1
        worker.session, worker.is_lost = session, False
        worker.orders = 0
        worker.report, worker.per_second, worker.measured_at = WorkerReport(session=session), 0.0, 0.0
        self._book.enter(worker.name)

    async def _exchanged(self, worker: WorkerState, order: WorkOrder) -> WorkerReport | None:
        """The report that follows an order; None if the worker was started anew meanwhile, or is given up."""
        message, ends = encode(order), self._clock() + LEASE_S
        while not (self._over.is_set() and worker.is_lost):
            call = asyncio.ensure_future(worker.port.exchange(message))
            try:
                while not call.done() and not (self._over.is_set() and worker.is_lost):
                    await asyncio.wait([call], timeout=_AGAIN_S if worker.is_lost else max(ends - self._clock(), 0.0))
                    if not call.done() and self._clock() >= ends:
                        await asyncio.wait([call], timeout=_AGAIN_S)  # this process may have been held up itself
                        if not call.done():
                            self._lose(worker)
                if not call.done():
                    break
                report = decode_report(call.result())
            except WorkerLostError:
                if self._clock() >= ends:
                    self._lose(worker)
                    message = encode(msgspec.structs.replace(order, rows=()))  # others have them now
                await asyncio.sleep(_AGAIN_S)
                continue
            finally:
                call.cancel()
            if report.session != order.session:
                self._lose(worker)
                return None
            if worker.is_lost:
                self._find_again(worker)
            return report
        return None

    def _find_again(self, worker: WorkerState) -> None:
        """A worker was only out of reach: it goes on, without the rows that others have now."""
        worker.starts += 1
        worker.is_lost = False
        self._progress.ended -= worker.lost_in_flight
        self._book.enter(worker.name)

    def _lose(self, worker: WorkerState) -> None:
        """A worker is gone: its rows are for others."""
        if worker.is_lost:
            return
        worker.is_lost = True
        at_most, report = worker.most_in_flight, worker.report
        most_usd = self._book.lose(worker.name, report.spent_usd + at_most * report.next_usd)
        self._unanswered_usd += most_usd - report.spent_usd + report.unanswered_usd
        worker.lost_in_flight = report.counts.sent - report.counts.ended
        self._progress.ended += worker.lost_in_flight
        if worker.rows:
            self._progress.maybe_paid_twice += 0 if self._over.is_set() else at_most
            again = "" if self._over.is_set() else "; they are sent again"
            self._session.observer.say(
                f"lost {worker.place} with {counted(len(worker.rows), 'row')}, of which at most {at_most:,} were in "
                f"flight{again}"
            )
        self._returned.extend(worker.rows.values())
        worker.rows.clear()

    # Orders.

    @property
    def _most_holders(self) -> int:
        tokens = self._rates.tokens
        of_one = tokens.at_least(len(self._longest))
        return most_holders(len(self._workers), self._rates.requests.per_minute, tokens.pace.per_minute, of_one)

    async def _order(self, worker: WorkerState) -> WorkOrder:
        now = self._clock()
        self._note_need(worker, now)
        worker.orders += 1
        lease = self._book.lease(worker.name, worker.orders, worker.heard_at, now, most_holders=self._most_holders)
        if self._book.is_spent(now):
            self._drain(StopReason.BUDGET)
        a_minute = self._rates.requests.per_minute
        most = None if a_minute is None else a_minute * lease.share / _SECONDS
        rows = await self._take(worker.room(most) if lease.share else 0)
        worker.rows.update((row.request.key, row) for row in rows)
        self._look_for_the_end()
        pause_s = 0.0
        if self._pause_until > max(now, worker.told_pause_until):
            pause_s, worker.told_pause_until = self._pause_until - now, self._pause_until
        return WorkOrder(
            session=worker.session,
            number=worker.orders,
            written=worker.report.number,
            share=lease.share,
            usd=lease.usd,
            until=worker.report.clock + LEASE_S,
            requests_per_minute=self._rates.requests.per_minute,
            tokens_per_minute=self._rates.tokens.pace.per_minute,
            rows=tuple(_sent(row) for row in rows),
            is_last=self._over.is_set(),
            pause_s=pause_s,
            pause_cause=self._pause_cause,
        )

    async def _take(self, count: int) -> list[RowInWork]:
        """At most `count` open rows, those of lost workers first.

        Passing over settled rows must not keep a worker from its next lease: it gets what was found in time.
        """
        rows: list[RowInWork] = []
        until = self._clock() + _AGAIN_S
        async with self._turn:
            while len(rows) < count and not self._draining.is_set() and self._clock() < until:
                if self._returned:
                    rows.append(self._returned.popleft())
                elif self._is_used_up:
                    break
                elif (row := self._next_fresh()) is not None:
                    rows.append(row)
                else:
                    await asyncio.sleep(0)
        return rows

    def _next_fresh(self) -> RowInWork | None:
        """The next row of the job; None where there is none in this turn of the event loop."""
        try:
            return next(self._fresh)
        except StopIteration:
            self._is_used_up = True
        except AsyncgenError as refused:  # a request that is too large
            self._is_used_up = True
            self._stop.refused = refused
            self._drain(None)
        return None

    def _look_for_the_end(self) -> None:
        if self._is_used_up and not self._returned and not any(worker.rows for worker in self._workers):
            self._over.set()

    def _note_need(self, worker: WorkerState, now: float) -> None:
        report = worker.report
        limits = (
            (worker.per_second, self._rates.requests.per_minute),
            (worker.tokens_per_second, self._rates.tokens.pace.per_minute),
        )
        need = Need(
            waits=report.waits or not worker.measured_at,
            is_idle=not worker.rows and self._is_used_up and not self._returned,
            used=max((per_second * _SECONDS / limit for per_second, limit in limits if limit), default=0.0),
            spent_usd=report.spent_usd,
            in_flight_usd=report.in_flight_usd,
            wants_usd=report.next_usd * (len(worker.rows) + report.slots),
            next_usd=report.next_usd,
        )
        if (budget := self._session.budget) is not None and budget.rates is None and worker.rows:
            need = replace(need, wants_usd=max(need.wants_usd, budget.max_cost_usd * _UNPRICED))
        self._book.heard(worker.name, report.order, need)
        worker.measure(now)

    # Reports.

    def _heard(self, worker: WorkerState, report: WorkerReport) -> bool:
        """Take in a report; returns True while the worker goes on."""
        before, worker.report = worker.report, report
        worker.heard_at = now = self._clock()
        self._settle(worker, report)
        for failure, usage in report.failed:
            if self._accept(worker, bytes.fromhex(failure.key), usage):
                self._write_failure(failure, usage)
        for key, tried, usage in report.postponed:
            self._postpone(worker, key, tried, usage)
        self._count(before.counts, report.counts)
        self._learn(worker, before, report, now)
        for text in report.said:
            self._session.observer.say(f"{worker.place}: {text}")
        if report.end is not None:
            self._ended(worker, report.end)
        self._look_for_the_end()
        return report.end is None

    def _settle(self, worker: WorkerState, report: WorkerReport) -> None:
        """Write the records of a report, but for those that came before."""
        if not report.settled:
            return
        lines, keys, usages = report.lines, [], []
        for key, usage in report.settled:
            if self._accept(worker, key, usage):
                keys.append(key)
                usages.append(usage)
        if len(keys) < len(report.settled):
            kept = set(keys)
            pairs = zip(report.lines.splitlines(keepends=True), report.settled, strict=True)
            lines = b"".join(line for line, (key, _) in pairs if key in kept)
        if keys:
            self._write(lines, [key.hex() for key in keys], usages)
        worker.finished += len(report.settled) + len(report.failed)
        worker.tokens += sum(usage.prompt_tokens + usage.completion_tokens for _, usage in report.settled)

    def _accept(self, worker: WorkerState, key: bytes, usage: Usage) -> bool:
        """True if a row that ended was still open; a second answer is only counted as paid for."""
        if worker.rows.pop(key, None) is not None:
            return True
        for other in self._workers:
            if other.rows.pop(key, None) is not None:
                return True
        for row in self._returned:
            if row.request.key == key:
                self._returned.remove(row)
                return True
        if usage != NO_USAGE:
            self._journal.note_usage(usage)
        return False

    def _write(self, lines: bytes, keys: list[str], usages: list[Usage]) -> None:
        try:
            self._journal.settle_lines(lines, keys, usages)
        except NotSafeError as error:
            self._note_disk(error)
        except DiskError as error:
            if len(keys) > 1:  # none was written: try them one by one
                for line, key, usage in zip(lines.splitlines(keepends=True), keys, usages, strict=True):
                    self._write(line, [key], [usage])
                return
            self._unsaved += 1
            self._note_disk(error)
            return
        self._progress.settled += len(keys)
        if self._clock() - self._looked_at > _LATEST_S:
            self._looked_at = self._clock()
            self._progress.latest = decode_record(lines[lines.rfind(b"\n", 0, -1) + 1 :])

    def _write_failure(self, failure: Failure, usage: Usage) -> None:
        try:
            self._journal.fail(failure, usage)
        except NotSafeError as error:
            self._note_disk(error)
        except DiskError as error:
            self._note_disk(error)
            return
        self._progress.failed += 1

    def _postpone(self, worker: WorkerState, key: bytes, tried: RowAttempts, usage: Usage) -> None:
        """A worker that ends could not finish a row: another one goes on with it, or the next invocation."""
        row = worker.rows.pop(key, None)
        if row is None:
            return
        self._journal.note_attempts(key, tried, usage)
        self._returned.append(retried_row(row.request, tried))

    def _note_disk(self, error: DiskError) -> None:
        self._disk = self._disk or error
        self._drain(StopReason.IO)

    def _count(self, before: WorkerCounts, now: WorkerCounts) -> None:
        """Raise the counts of the run by what a worker's have grown."""
        progress = self._progress
        if now.sent > before.sent:
            progress.sent_at = asyncio.get_running_loop().time()
        for name in ("sent", "ended", "retries", "rate_limited", "maybe_paid_twice", "check_failures", "usable"):
            setattr(progress, name, getattr(progress, name) + getattr(now, name) - getattr(before, name))
        for name in ("failed_checks", "unusable", "failures"):
            if getattr(now, name) != getattr(before, name):
                more: Counter[str] = getattr(progress, name)
                more.update(getattr(now, name))
                more.subtract(getattr(before, name))
        progress.remedies.update(now.remedies)
        is_useless = progress.are_useless(USELESS) and self._session.stops_when_useless
        if is_useless and not self._over.is_set():
            simulated = progress.latest is not None and progress.latest.simulated
            self._stop.refused = useless_answers(progress, USELESS, simulated=simulated)
            self._drain(None)

    def _learn(self, worker: WorkerState, before: WorkerReport, report: WorkerReport, now: float) -> None:
        """Take in what the worker was told by the server: limits, pauses, troubles."""
        progress, loop_now = self._progress, asyncio.get_running_loop().time()
        if report.limits != NO_LIMITS:
            self._rates.learn(report.limits, self._longest, progress.sent, 0.0)
        if report.counts.rate_limited > before.counts.rate_limited and now + report.paused_s > self._pause_until:
            self._pause_until, self._pause_cause = now + report.paused_s, report.pause_cause
            worker.told_pause_until = self._pause_until
        worker.paused_until = loop_now + report.paused_s
        present = [each for each in self._workers if not each.is_lost]
        if (until := min((each.paused_until for each in present), default=0.0)) > loop_now:
            progress.paused_until, progress.pause_cause = until, report.pause_cause or progress.pause_cause
        if report.trouble:
            progress.note_trouble(report.trouble, loop_now)
        elif not any(each.report.trouble for each in present):
            progress.trouble = ""
        waits = any(each.report.waits and each.rows for each in present)
        progress.waits_for = self._rates.as_text if waits else ""
        budget = self._session.budget
        if budget is not None and report.is_blind:
            budget.is_blind = True
            if budget.must_know:
                self._drain(StopReason.BUDGET)

    def _ended(self, worker: WorkerState, end: WorkerEnd) -> None:
        """A worker has ended: by itself, for a reason of its own, or because the run drains."""
        self._dropped += end.dropped
        self._returned.extend(worker.rows.values())
        worker.rows.clear()
        if self._over.is_set():
            return
        others = [each for each in self._workers if each is not worker and each.report.end is None]
        if end.error is not None and end.error.kind is ErrorClass.RETRY and others:
            said = end.error.message or end.error.type
            self._session.observer.say(f"{worker.place} is not used: {said}")
            return
        self._stop.error = end.error
        self._stop.refused = end.refused.error(worker.place) if end.refused else None
        self._drain(StopReason(end.reason) if end.reason else None)

    def _close_budget(self) -> None:
        """Count as spent what workers held for requests without an answer."""
        if self._session.budget is None:
            return
        present = [each.report.unanswered_usd for each in self._workers if not each.is_lost]
        self._session.budget.unanswered_usd += self._unanswered_usd + sum(present)


async def _tell(port: WorkerPort, *, drops: bool) -> None:
    with suppress(WorkerLostError):
        await port.drain(drops)


async def _first(*waits: Awaitable[object]) -> None:
    """Wait until one of them is done; the others are cancelled, but for futures that were begun before."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task, wait in zip(tasks, waits, strict=True):
            if task is not wait:
                task.cancel()


def _sent(row: RowInWork) -> SentRow:
    request = row.request
    tried = None
    if row.attempts:
        tried = RowAttempts(attempts=row.attempts, failed=row.failed, maybe_paid=row.maybe_paid, forgiven=row.forgiven)
    return SentRow(request.index, request.repeat, request.values, tried)
