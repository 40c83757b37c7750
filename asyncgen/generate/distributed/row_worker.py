"""The unit of work on another machine: a pool that is fed by orders, and whose results go home in reports.

Retries, concurrency, pauses and the reading of answers are the pool's, as on one machine. What is different: rows come
in orders, limits come as a lease, and records go into a report in place of a journal. A row is handed to the pool only
while those in work and those not yet written by the driver are together no more than the requests that may be in
flight: so if this process dies, no more than that is paid for again.

Knows nothing of what carries the messages.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from asyncgen.errors import AsyncgenError
from asyncgen.generate.distributed.messages import (
    SentRow,
    WorkerCounts,
    WorkerEnd,
    WorkerReport,
    WorkOrder,
    WorkSpec,
    decode_order,
    encode,
    told,
)
from asyncgen.generate.engine import rare_collections
from asyncgen.generate.http.client import open_completer
from asyncgen.generate.http.completer import NO_LIMITS, Completer, RateLimits, StopReason
from asyncgen.generate.pool.budget import Budget, BudgetGate
from asyncgen.generate.pool.pool import Pool
from asyncgen.generate.pool.progress import Progress
from asyncgen.generate.pool.rate import RequestRates
from asyncgen.generate.pool.settle import RowInWork, retried_row
from asyncgen.generate.pool.source import Later
from asyncgen.job.answers import checks_of
from asyncgen.providers.choose import EndpointFlags, addressed_endpoint
from asyncgen.run.records import Failure, Record, Usage, encode_line
from asyncgen.run.state import RowAttempts

REPORT_WITHIN_S = 0.5  # a worker with nothing to tell says so, and gets a new lease
_GATHER_S = 0.01  # what ends within so long goes home together
_GATHER = 8  # or so many parts of what may be in flight

Opener = Callable[[WorkSpec, Callable[[str], None]], AbstractAsyncContextManager[Completer]]


@asynccontextmanager
async def completer_here(spec: WorkSpec, say: Callable[[str], None]) -> AsyncIterator[Completer]:
    """The HTTP client of a worker, with the key that is on its machine.

    Raises:
        AuthError: there is no key here, where one is needed.
        UsageError: the system does not allow as many connections, or names an invalid proxy or certificate file.
    """
    where = EndpointFlags(base_url=spec.addresses, api_key_file=Path(spec.key_file) if spec.key_file else None)
    endpoint = addressed_endpoint(spec.choice, where, spec.form.model, os.environ)
    opening = open_completer(endpoint, concurrency=spec.concurrency, timeout_s=spec.timeout_s, say=say, share=spec.part)
    async with opening as completer:
        with rare_collections():
            yield completer


class LeasedRates(RequestRates):
    """This process's part of the run's rates: nothing is sent without a lease.

    Args:
        spec: of the work.
        max_output_tokens: maximum length of an answer, if the parameters limit it.

    Attributes:
        told: limits of the server, as it told them last.
    """

    def __init__(self, spec: WorkSpec, max_output_tokens: int | None) -> None:
        self._whole_tokens = spec.tokens_per_minute
        super().__init__(
            None if spec.requests_per_minute is None else spec.requests_per_minute * spec.part,
            None if spec.tokens_per_minute is None else spec.tokens_per_minute * spec.part,
            max_output_tokens,
            share=spec.part,
        )
        for pace in (self.requests, self.tokens.pace):
            pace.use_up()  # others may have used this share a moment ago
        self.told = NO_LIMITS
        self._is_leased = False
        self._until = 0.0
        self._renewed = asyncio.Event()

    @property
    def has_lease(self) -> bool:
        return asyncio.get_running_loop().time() < self._until

    def renew(self, order: WorkOrder) -> None:
        """Keep to a new lease from now on."""
        self._until = order.until if order.share > 0 else 0.0
        self._whole_tokens = order.tokens_per_minute
        for limit, pace in (
            (order.requests_per_minute, self.requests),
            (order.tokens_per_minute, self.tokens.pace),
        ):
            if limit is not None and order.share > 0:
                self._is_leased = True
                pace.learn(limit * order.share, float("inf"), 0.0)
        if self.has_lease:
            self._renewed.set()

    def learn(self, limits: RateLimits, body: bytes, sent: int, seconds: float) -> None:
        """Note the server's limits for the report; keep to a part of them until the driver has dealt them."""
        if limits.requests_per_minute is not None or limits.tokens_per_minute is not None:
            self.told = limits
        if not self._is_leased:
            super().learn(limits, body, sent, seconds)

    @property
    def _most_of_one(self) -> float | None:
        """A single request is held against the limit of the whole run, and not against this process's share."""
        return self._whole_tokens

    async def acquire(self, body: bytes) -> int:
        """Wait for both limits, and for a lease that still holds then."""
        while True:
            reserved = await super().acquire(body)
            if self.has_lease:
                return reserved
            self.tokens.release(reserved)
            self._renewed.clear()
            await self._renewed.wait()


class LeasedGate(BudgetGate):
    """Makes requests wait for money that the driver may still grant.

    Args:
        budget: its maximum is what was granted so far.
        max_output_tokens: maximum length of an answer, if the parameters limit it.
        on_lack: called when no request in flight can return enough.

    Attributes:
        next_usd: the most that one of the requests so far might have cost.
        lacks: requests wait for money that only the driver can grant.
    """

    def __init__(self, budget: Budget, max_output_tokens: int | None, on_lack: Callable[[], None]) -> None:
        super().__init__(budget, max_output_tokens)
        self._on_lack = on_lack
        self._granted = asyncio.Event()
        self.next_usd = 0.0
        self.lacks = False

    def grant(self, usd: float) -> None:
        """So much may be spent in all; less than before where it is not needed here."""
        is_more = usd > self.budget.max_cost_usd
        self.budget.max_cost_usd = usd
        if is_more:
            self.lacks = False
            self._granted.set()
            self._wake()

    async def acquire(self, body: bytes) -> float | None:
        """Reserve the most that one attempt may cost, waiting for it if necessary."""
        while (held_usd := await super().acquire(body)) is None:
            self.next_usd = max(self.next_usd, self.price_of(body))
            self._granted.clear()
            if not self.lacks:
                self.lacks = True
                self._on_lack()
            await self._granted.wait()
        self.next_usd = max(self.next_usd, held_usd if self.budget.rates else self.budget.highest_usd)
        return held_usd


class _Feed(Iterator[RowInWork | Later]):
    """The rows of orders that the pool has not begun.

    Args:
        may_begin: another row may be handed out now.
    """

    def __init__(self, may_begin: Callable[[], bool]) -> None:
        self.rows: deque[RowInWork] = deque()
        self.is_ended = False
        self.begun = 0
        self._may_begin = may_begin

    def __next__(self) -> RowInWork | Later:
        if not self.rows and self.is_ended:
            raise StopIteration
        if not self.rows or not self._may_begin():
            return Later.LATER
        self.begun += 1
        return self.rows.popleft()


@dataclass
class _Results:
    """What ended and is not written by the driver; the journal of the worker's pool.

    Attributes:
        ended: rows that ended since the worker began.
        on_news: called when one more did.
    """

    on_news: Callable[[], None]
    ended: int = 0
    lines: list[bytes] = field(default_factory=list)
    settled: list[tuple[bytes, Usage]] = field(default_factory=list)
    failed: list[tuple[Failure, Usage]] = field(default_factory=list)
    postponed: list[tuple[bytes, RowAttempts, Usage]] = field(default_factory=list)

    def settle(self, records: Sequence[Record]) -> None:
        self.lines += map(encode_line, records)
        self.settled += [(bytes.fromhex(record.key), record.usage) for record in records]
        self._ended(len(records))

    def fail(self, failure: Failure, usage: Usage) -> None:
        self.failed.append((failure, usage))
        self._ended(1)

    def note_attempts(self, key: bytes, tried: RowAttempts, usage: Usage) -> None:
        self.postponed.append((key, tried, usage))
        self._ended(1)

    def __len__(self) -> int:
        return len(self.settled) + len(self.failed) + len(self.postponed)

    def forget(self, settled: int, failed: int, postponed: int) -> None:
        """Drop the first ones of each: they are written."""
        del self.lines[:settled], self.settled[:settled], self.failed[:failed], self.postponed[:postponed]

    def _ended(self, rows: int) -> None:
        self.ended += rows
        self.on_news()


class RowWorker:
    """Answers rows until it is told that there are no more.

    Args:
        opener: makes the completer; another one in tests.
        place: its machine, for people.
    """

    def __init__(self, opener: Opener = completer_here, place: str = "") -> None:
        self._opener = opener
        self._place = place or socket.gethostname()
        self._session = ""
        self._news = asyncio.Event()
        self._closing: asyncio.Task[None] | None = None

    async def open(self, spec: WorkSpec) -> bytes:
        """Begin to work; the first report names the session, or says why there is none."""
        if self._closing is not None:  # the reply to an earlier call was lost
            await self.drain(drops=True)
            await asyncio.wait([self._closing])
        self._session = secrets.token_hex(8)
        self._spec, self._grid = spec, spec.form.grid()
        self._results = _Results(self._news.set)
        self._sent_home = (0, 0, 0)  # how much of the results the last report carried
        self._reports = self._followed = 0
        self._said: list[str] = []
        self._lacks = False
        self._progress = Progress(already_done=int(spec.has_succeeded))
        self._feed = _Feed(self._may_begin)
        self._rates = LeasedRates(spec, self._grid.max_output_tokens)
        self._gate = self._budget_gate()
        self._end: WorkerEnd | None = None
        self._bug: Exception | None = None
        self._pool: Pool | None = None
        opened = asyncio.Event()
        self._closing = asyncio.create_task(self._work(opened))
        await opened.wait()
        return self._report()

    async def exchange(self, message: bytes) -> bytes:
        """Follow an order, and report as soon as there is something to tell.

        Raises:
            Exception: a bug in the worker.
        """
        order = decode_order(message)
        if order.session != self._session:
            return encode(WorkerReport(session=self._session, place=self._place))
        self._follow(order)
        if not order.is_last or self._end is None:
            await self._gathered()
        if self._bug is not None:
            raise self._bug
        return self._report()

    async def drain(self, drops: bool) -> None:
        """Finish what is in flight, or drop that too."""
        if self._pool is not None:
            self._pool.drain(StopReason.INTERRUPTED)
        if drops and self._closing is not None:
            self._closing.cancel()

    # What orders change.

    def _follow(self, order: WorkOrder) -> None:
        if order.written == self._reports:
            self._results.forget(*self._sent_home)
            self._sent_home = (0, 0, 0)
        if order.number <= self._followed or self._pool is None:
            return
        self._followed = order.number
        self._rates.renew(order)
        if self._gate is not None and order.usd is not None:
            self._gate.grant(order.usd)
        if order.pause_s > 0:
            self._pool.pause(order.pause_s, order.pause_cause)
        self._feed.rows.extend(map(self._row, order.rows))
        self._feed.is_ended = self._feed.is_ended or order.is_last
        self._pool.look_again()

    def _row(self, sent: SentRow) -> RowInWork:
        request = self._grid.request_at(sent.index, sent.repeat, sent.values)
        return RowInWork(request) if sent.tried is None else retried_row(request, sent.tried)

    def _may_begin(self) -> bool:
        in_work = self._feed.begun - self._results.ended
        return self._rates.has_lease and in_work + len(self._results) < self._spec.concurrency

    # The pool.

    async def _work(self, opened: asyncio.Event) -> None:
        spec = self._spec
        try:
            async with self._opener(spec, self._say) as completer:
                self._pool = pool = Pool(
                    self._feed, self._grid, self._results, completer,
                    checks=checks_of(spec.form.job, spec.form.answers), rates=self._rates,
                    concurrency=spec.concurrency, progress=self._progress, budget=self._gate,
                    rng=Random(),  # noqa: S311 - jitter, no secret
                )  # fmt: skip
                opened.set()
                await self._run(pool)
        except AsyncgenError as error:
            self._end = WorkerEnd(refused=told(error))
        except Exception as error:  # noqa: BLE001 - raised where the driver hears of it
            self._bug = error
        finally:
            opened.set()
            self._end = self._end or WorkerEnd()
            self._news.set()

    async def _run(self, pool: Pool) -> None:
        try:
            await pool.run()
        except BaseException as error:  # noqa: BLE001 - cancelled by `drain`, or a bug: the results are kept
            bug: BaseException = error
            while isinstance(bug, BaseExceptionGroup):
                bug = bug.exceptions[0]
            self._bug = bug if isinstance(bug, Exception) else None
        stop = pool.stop
        refused = told(stop.refused) if stop.refused is not None else None
        self._end = WorkerEnd(stop.reason.value if stop.reason else None, stop.error, refused, pool.dropped)

    def _budget_gate(self) -> LeasedGate | None:
        spec = self._spec
        if not spec.has_budget:
            return None
        budget = Budget(spec.rates, 0.0, 0.0, must_know=spec.must_know)
        return LeasedGate(budget, self._grid.max_output_tokens, self._on_lack)

    def _on_lack(self) -> None:
        self._lacks = True
        self._news.set()

    def _say(self, text: str) -> None:
        self._said.append(text)
        self._news.set()

    # Reports.

    async def _gathered(self) -> None:
        """Wait for news, and a moment longer for more of them."""
        try:
            async with asyncio.timeout(REPORT_WITHIN_S):
                while not self._has_news:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return
        if self._end is None and len(self._results) < self._spec.concurrency // _GATHER:
            await asyncio.sleep(_GATHER_S)

    @property
    def _has_news(self) -> bool:
        return bool(self._results or self._said or self._end or self._bug or self._lacks)

    def _report(self) -> bytes:
        self._reports += 1
        results, progress, said = self._results, self._progress, tuple(self._said)
        self._said.clear()
        self._lacks = False  # it is told once, and again after a grant that was too small
        self._sent_home = (len(results.settled), len(results.failed), len(results.postponed))
        now = asyncio.get_running_loop().time()
        budget = self._gate.budget if self._gate else Budget(None, 0.0, 0.0)
        return encode(
            WorkerReport(
                session=self._session,
                place=self._place,
                number=self._reports,
                order=self._followed,
                clock=now,
                lines=b"".join(results.lines),
                settled=tuple(results.settled),
                failed=tuple(results.failed),
                postponed=tuple(results.postponed),
                counts=_counts(progress),
                slots=self._pool.slots if self._pool else 0,
                waits=bool(progress.waits_for) or not self._rates.has_lease,
                limits=self._rates.told,
                paused_s=max(progress.paused_until - now, 0.0),
                pause_cause=progress.pause_cause,
                trouble=progress.trouble,
                spent_usd=budget.spent_usd,
                in_flight_usd=budget.in_flight_usd,
                unanswered_usd=budget.unanswered_usd,
                next_usd=self._gate.next_usd if self._gate else 0.0,
                is_blind=budget.is_blind,
                said=said,
                end=self._end,
            )
        )


def _counts(progress: Progress) -> WorkerCounts:
    return WorkerCounts(**{name: getattr(progress, name) for name in WorkerCounts.__struct_fields__})
