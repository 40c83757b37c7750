"""The main path: every request of a grid that is not settled goes through the pool into the journal.

Owns the order of the steps, the drain after a stop, and what a run came to. Knows no file, no signal and no command:
it is given a journal, two events and counts to raise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Protocol

from asyncgen.errors import AsyncgenError, AuthError, DiskError, QuotaError
from asyncgen.generate.completer import AttemptError, Completer, ErrorClass, StopReason
from asyncgen.generate.pool import Budget, Journal, Pool, Stop
from asyncgen.generate.progress import Progress
from asyncgen.generate.rate import Rates
from asyncgen.generate.spend import budget_used_up
from asyncgen.job.checks import AnswerChecks
from asyncgen.job.model import Limits
from asyncgen.job.requests import Request, RequestGrid

DEFAULT_CONCURRENCY = 64
_DRAIN_S = 120.0
_GIVEN_AT_MOST = 10_000


class ResumableJournal(Journal, Protocol):
    """A journal that also knows what is there already."""

    def is_settled(self, key: bytes) -> bool: ...


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
        rng: for jitter.
    """
    concurrency = limits.concurrency or DEFAULT_CONCURRENCY
    rates = Rates(limits.requests_per_minute, limits.tokens_per_minute, grid.max_output_tokens)
    pool = Pool(
        grid, journal, completer, checks=checks, rates=rates, concurrency=concurrency,
        progress=progress, budget=budget, rng=rng,
    )  # fmt: skip
    source = _Source(grid, journal, rates, progress, limit)
    work = asyncio.create_task(pool.run(iter(source), concurrency))
    dropped = await _until_done(work, pool, progress, stop, abandon)
    if source.is_cut and pool.stop == Stop():
        pool.stop.reason = StopReason.LIMIT
    if pool.stop.reason is StopReason.INTERRUPTED and not progress.left:
        pool.stop.reason = None  # the drain finished all there was
    return Outcome(pool.stop.reason, _error(pool.stop), dropped)


class _Source:
    """The requests still to be sent, with twins left out and the limit kept."""

    def __init__(
        self, grid: RequestGrid, journal: ResumableJournal, rates: Rates, progress: Progress, limit: int | None
    ) -> None:
        self._grid = grid
        self._journal = journal
        self._rates = rates
        self._progress = progress
        self._limit = limit
        self.is_cut = False

    def __iter__(self) -> Iterator[Request | None]:
        sent = 0
        given: set[bytes] = set()  # keys on their way; what has ended, the journal knows
        for request in self._grid.walk(self._journal.is_settled):
            if request is None:
                yield None
            elif request.key in given:
                self._progress.twins += 1
            elif self._limit is not None and sent >= self._limit:
                self.is_cut = True
                return
            else:
                self._rates.tokens.refuse_too_large(request.body)
                sent += 1
                if len(given) > _GIVEN_AT_MOST:
                    given = {key for key in given if not self._journal.is_settled(key)}
                given.add(request.key)
                yield request


async def _until_done(
    work: asyncio.Task[None], pool: Pool, progress: Progress, stop: asyncio.Event, abandon: asyncio.Event
) -> int:
    """Wait for the pool's end; returns how many requests in flight were dropped."""
    first, second = asyncio.create_task(stop.wait()), asyncio.create_task(abandon.wait())
    try:
        await asyncio.wait([work, first], return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            pool.take_no_more(StopReason.INTERRUPTED)
            await asyncio.wait([work, second], return_when=asyncio.FIRST_COMPLETED, timeout=_DRAIN_S)
    finally:
        first.cancel()
        second.cancel()
    dropped = 0
    if not work.done():
        dropped = progress.in_flight
        work.cancel()
        await asyncio.wait([work])
    if not work.cancelled():
        _raise_plainly(work)
    return dropped


def _raise_plainly(work: asyncio.Task[None]) -> None:
    """Let a foreseen error out of the group that it came in."""
    error = work.exception()
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if error is not None:
        raise error


def _error(stop: Stop) -> AsyncgenError | None:
    """What ended the run, in words for the person who reads it."""
    if stop.disk is not None:
        return _disk_error(stop.disk, stop.unsaved)
    if stop.refused is not None:
        return stop.refused
    if stop.reason is StopReason.BUDGET:
        return budget_used_up()
    return None if stop.error is None else provider_error(stop.error, stop.reason)


def _disk_error(disk: DiskError, unsaved: int) -> DiskError:
    if not unsaved:
        return disk
    answers = "1 paid answer" if unsaved == 1 else f"{unsaved} paid answers"
    return DiskError(
        f"{disk.what}; {answers} could not be saved", cause=disk.cause, help_text=disk.help_text, code=disk.code
    )


def provider_error(error: AttemptError, reason: StopReason | None) -> AsyncgenError:
    """The error of ours for an attempt that no row survives."""
    status = f" (status {error.status}{f', {error.code}' if error.code else ''})" if error.status else ""
    cause = error.message or None
    if reason is StopReason.QUOTA and error.kind is ErrorClass.WAIT:
        return QuotaError(
            f"the provider's rate limit does not clear{status}", cause=cause,
            help_text="give the same command later, or with a lower --rpm; it goes on where it stopped",
        )  # fmt: skip
    if reason is StopReason.QUOTA:
        return QuotaError(
            f"the account's credit or spending limit is used up{status}", cause=cause,
            help_text="raise it at the provider; the same command then goes on where it stopped",
        )  # fmt: skip
    if reason is StopReason.AUTH:
        return AuthError(
            _REFUSED.get(error.status or 0, "the provider refused the request") + status, cause=cause,
            help_text="asyncgen doctor   (looks at key, address and model)",
        )  # fmt: skip
    if error.code in {"unsupported_parameter", "unsupported_value", "unknown_parameter"}:
        name = error.param or "a parameter"
        return AsyncgenError(
            f"the model refuses {name}{status}", cause=cause,
            help_text=f"change or take out {name} under [generate.parameters] in the job file", code="parameter",
        )  # fmt: skip
    help_text = error.remedy or "asyncgen doctor   (looks at key, address and model); the same command goes on"
    return AsyncgenError(
        f"no request succeeds: {error.type}{status}", cause=cause, help_text=help_text, code=error.type
    )


_REFUSED = {
    401: "the provider does not take the key",
    403: "the key may not do this",
    404: "there is no such model or address",
}
