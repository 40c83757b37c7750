"""The main path: every request of a grid that is not settled goes through the pool into the journal.

Owns the order of the steps, the drain after a stop, and what a run came to. Knows no file, no signal and no command:
it is given a journal, two events and counts to raise.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from random import Random

from asyncgen.endpoint import Endpoint
from asyncgen.errors import AsyncgenError
from asyncgen.generate.admission import Budget
from asyncgen.generate.completer import Completer, StopReason
from asyncgen.generate.explain import disk_error, provider_error
from asyncgen.generate.pool import Pool
from asyncgen.generate.progress import Progress
from asyncgen.generate.rate import Rates
from asyncgen.generate.source import ResumableJournal, Source
from asyncgen.generate.spend import budget_used_up
from asyncgen.job.checks import AnswerChecks
from asyncgen.job.model import Limits
from asyncgen.job.requests import RequestGrid

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
