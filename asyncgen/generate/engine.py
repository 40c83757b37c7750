"""The `Engine` interface: what online requests and batches have in common, and what both work on.

An engine gets an answer for each open row of a session and settles it in the session's journal. The session
(`session.py`) decides which rows there are, asks for consent before anything is paid for, and makes the summary.
"""

from __future__ import annotations

import asyncio
import gc
import time
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from asyncgen.generate.http.completer import StopReason
from asyncgen.generate.live_file import LIVE_NAME, LiveFile, LiveState, PauseNote, Pauses
from asyncgen.generate.pool.budget import Budget, BudgetGate
from asyncgen.job.answers import AnswerChecks, checks_of
from asyncgen.providers.choose import EndpointFlags
from asyncgen.terminal import counted, usd

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from pathlib import Path

    from asyncgen.generate.distributed.plan import Shard
    from asyncgen.generate.journal.journal import Journal
    from asyncgen.generate.observer import Interrupt, Observer
    from asyncgen.generate.pool.pool import Outcome
    from asyncgen.generate.pool.progress import Progress
    from asyncgen.generate.spending import Spending
    from asyncgen.job.model import Limits
    from asyncgen.job.opened import OpenedJob
    from asyncgen.providers.endpoint import Endpoint
    from asyncgen.run.directory import RunWriter
    from asyncgen.run.state import Spend

_OBJECTS_TO_COLLECT = 50_000
_LIVE_EVERY_S = 1.0


class GenerateOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of a generation, from flags or from Python arguments.

    Attributes:
        where: provider, address, model and key.
        out: the run directory; None for `runs/<job name>`.
        concurrency: maximum requests in flight; None for the job's.
        rpm: maximum requests per minute; None for the job's.
        tpm: maximum tokens per minute; None for the job's.
        max_cost: maximum USD, over all invocations of the run; None for the job's.
        limit: maximum number of requests of this invocation; None for all.
        spread: sample these evenly from the grid, the same ones each time.
        retry_failed: request failed rows again.
        retry_rejected: request rows again whose answers `prepare` rejected.
        fsync_each: fsync each answer at once.
        finetune_provider: name of the provider that tunes later; selects the job file's overlay.
        batch: use the Batch API.
        cost_is_agreed: the caller has asked about the cost, as part of a larger sum.
        goes_on_when_useless: the user has agreed to go on although the first answers all fail their checks.
        shard: the part of the open rows to work on; None for all of them.
        ray: address of a Ray cluster whose nodes send the requests, or "local"; None for this process alone.
    """

    where: EndpointFlags = msgspec.field(default_factory=EndpointFlags)
    out: Path | None = None
    concurrency: int | None = None
    rpm: float | None = None
    tpm: float | None = None
    max_cost: float | None = None
    limit: int | None = None
    spread: bool = False
    retry_failed: bool = False
    retry_rejected: bool = False
    fsync_each: bool = False
    finetune_provider: str | None = None
    batch: bool = False
    cost_is_agreed: bool = False
    goes_on_when_useless: bool = False
    shard: Shard | None = None
    ray: str | None = None

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> GenerateOptions:
        """Build options from named values.

        Args:
            options: names of these fields and of those of `EndpointFlags`; others are ignored.

        Returns:
            The options.
        """
        where = {name: options[name] for name in EndpointFlags.__dataclass_fields__ if name in options}
        rest = {name: options[name] for name in cls.__struct_fields__ if name in options}
        return cls(where=EndpointFlags(**where), **rest)

    def limits(self, limits: Limits) -> Limits:
        """Override the job's limits with those of the options that are set.

        Args:
            limits: of the job.

        Returns:
            The limits to use.
        """
        given = {
            "concurrency": self.concurrency,
            "requests_per_minute": self.rpm,
            "tokens_per_minute": self.tpm,
            "max_cost": self.max_cost,
        }
        return msgspec.structs.replace(limits, **{name: value for name, value in given.items() if value is not None})


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A running generation, as engines see it.

    Attributes:
        run: open for writing.
        opened: the job and its requests.
        endpoint: the provider that answers.
        journal: knows which rows are settled, and takes records and failures.
        progress: counts, updated by the engine.
        limits: the user's limits.
        spending: price and price tier.
        budget: limit in USD; None for none.
        options: of this invocation.
        observer: gets reports, gives consent, and interrupts.
        share: this process's part of the rate limits that servers report, from 0 to 1.
    """

    run: RunWriter
    opened: OpenedJob
    endpoint: Endpoint
    journal: Journal
    progress: Progress
    limits: Limits
    spending: Spending
    budget: Budget | None
    options: GenerateOptions
    observer: Observer
    share: float = 1.0

    @property
    def checks(self) -> AnswerChecks:
        """The checks that an answer must pass."""
        return checks_of(self.opened.job, self.opened.grid.answers)

    @property
    def stops_when_useless(self) -> bool:
        """Whether to stop, and ask, where the first answers all fail their checks."""
        return not (self.observer.agrees_to_all or self.options.goes_on_when_useless)

    def gate(self) -> BudgetGate | None:
        """The gate at which requests wait for budget; None for no budget."""
        return BudgetGate(self.budget, self.opened.grid.max_output_tokens) if self.budget else None

    def spent(self) -> str:
        """Tokens and USD of this invocation so far, for the screen."""
        lately = self.journal.spend.lately
        return used(lately, has_price=self.spending.price is not None or lately.cost_usd > 0)


@dataclass(frozen=True, slots=True)
class EngineResult:
    """The result of an engine.

    Attributes:
        outcome: how it ended.
        exit_code: of the process if a signal ended it, else 0.
        interrupted: exit code of a signal that came, also if the rows in flight were the last ones; 0 if none came.
    """

    outcome: Outcome
    exit_code: int = 0
    interrupted: int = 0


class Engine(Protocol):
    """A way to get answers for the open rows of a session: online requests, or batches."""

    async def run(self, session: Session) -> EngineResult:
        """Settle the session's open rows in its journal.

        Args:
            session: the running generation.

        Returns:
            The outcome. What stops the engine (a refused key, a full disk, an interruption) is in it, and not raised.
        """


@contextmanager
def rare_collections() -> Iterator[None]:
    """Raise the garbage collector's threshold while requests are sent: they leave no cycles, but make many objects.

    Objects made at start-up are frozen, so that they are not scanned again and again.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(_OBJECTS_TO_COLLECT)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@asynccontextmanager
async def watched(session: Session, concurrency: int) -> AsyncIterator[Interrupt]:
    """Show a generation of online requests, and let signals interrupt it, for the duration of the block.

    Args:
        session: the running generation.
        concurrency: maximum number of requests in flight.
    """
    observer, progress = session.observer, session.progress

    def on_first() -> None:
        observer.say(f"stopping: waiting for {progress.in_flight:,} in flight; Ctrl-C again drops them")

    async with (
        observer.interruptible(on_first) as interrupt,
        observer.watching(progress, session.spent),
        kept_live(session.run.directory.path, progress, concurrency, session.run.directory.live.name),
    ):
        with rare_collections():
            yield interrupt


@asynccontextmanager
async def kept_live(folder: Path, progress: Progress, concurrency: int, name: str = LIVE_NAME) -> AsyncIterator[None]:
    """Write the live file of a run each second while the block runs, and remove it at the end.

    Args:
        folder: the run directory.
        progress: updated by the pool.
        concurrency: maximum number of requests in flight.
        name: name of the file.
    """
    file, ended = LiveFile(folder, name), asyncio.Event()
    writing = asyncio.create_task(_write_each_second(file, progress, concurrency, ended))
    try:
        yield
    finally:
        ended.set()
        try:
            await writing  # a write under way would restore the removed file
        finally:
            file.remove()


async def _write_each_second(file: LiveFile, progress: Progress, concurrency: int, ended: asyncio.Event) -> None:
    clock, began, pauses = asyncio.get_running_loop().time, time.time(), Pauses()
    while True:
        with suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), _LIVE_EVERY_S)
            return
        pauses.update(progress, clock(), time.time())
        state = _state_of(progress, concurrency, began, pauses.newest)
        await asyncio.to_thread(file.write, state)  # a network folder may be slow


def _state_of(progress: Progress, concurrency: int, began: float, pauses: tuple[PauseNote, ...]) -> LiveState:
    per_second = progress.per_second(time.monotonic())
    return LiveState(
        updated=time.time(),
        began=began,
        requests=progress.requests,
        done=progress.done,
        failed=progress.failed + progress.failed_before,
        left=progress.left,
        in_flight=progress.in_flight,
        waits_for=progress.waits_for,
        concurrency=concurrency,
        per_second=per_second,
        eta_s=progress.eta_s(per_second),
        retries=progress.retries,
        rate_limited=progress.rate_limited,
        pauses=pauses,
    )


def result_of(session: Session, outcome: Outcome, interrupt: Interrupt) -> EngineResult:
    """The result of an engine of online requests; says how an interrupted run goes on."""
    if outcome.stopped is not StopReason.INTERRUPTED:
        return EngineResult(outcome, interrupted=interrupt.exit_code or 0)
    observer = session.observer
    dropped = f"; {outcome.abandoned:,} in flight were dropped" if outcome.abandoned else ""
    go_on = f" To continue: {observer.resume_command}" if observer.resume_command else ""
    observer.say(f"stopped{dropped}.{go_on}")
    return EngineResult(outcome, interrupt.exit_code or 0, interrupt.exit_code or 0)


def used(spend: Spend, *, has_price: bool) -> str:
    """Format a spend: tokens, and USD if the price is known.

    Args:
        spend: of an invocation or a run.
        has_price: whether the model's price is known.

    Returns:
        A short text.
    """
    usage = spend.usage
    tokens = f"{counted(usage.prompt_tokens, 'token')} in, {usage.completion_tokens:,} out"
    return f"{tokens}, {usd(spend.cost_usd)}" if has_price else tokens
