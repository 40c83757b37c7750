"""The generating stage of a command: job, endpoint, run directory and pool put together.

Owns the questions asked before anything is paid for, the summary after it, and the exit code. Shared by `generate`,
`preview` and `run`; knows nothing of the pool's inside.
"""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from asyncgen.cli.output import confirm, say, show_error, this_command
from asyncgen.cli.progress import duration, money, shown, used
from asyncgen.cli.resolve import open_endpoint, open_named_job
from asyncgen.cli.signals import Interrupt, interruptible
from asyncgen.cli.spending import Spending, consent_to_cost, refuse_without_batches, spending_of
from asyncgen.errors import DiskError, IncompleteError
from asyncgen.generate.http.client import open_completer
from asyncgen.generate.http.completer import StopReason
from asyncgen.generate.journal.files import GROUP_ROWS
from asyncgen.generate.journal.journal import Journal, open_journal
from asyncgen.generate.journal.repair import set_rejected_aside
from asyncgen.generate.journal.stale import Stale, accept_stale, find_stale
from asyncgen.generate.plan.request_tokens import Span
from asyncgen.generate.pool.budget import Budget, BudgetGate
from asyncgen.generate.pool.pool import DEFAULT_CONCURRENCY, Outcome
from asyncgen.generate.pool.pool import generate as generate_grid
from asyncgen.generate.pool.progress import Progress
from asyncgen.job.checks import AnswerChecks
from asyncgen.job.model import Limits
from asyncgen.job.of_run import OpenedJob, keep_job
from asyncgen.providers.choose import Where
from asyncgen.providers.endpoint import Endpoint
from asyncgen.providers.profiles import Choice
from asyncgen.run.directory import Run, open_run
from asyncgen.terminal import one_line

RUNS = Path("runs")
_OBJECTS_TO_COLLECT = 50_000
_REASONS_SHOWN = 3
_REASON_WIDTH = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the flags of a generating command say."""

    where: Where
    out: Path | None = None
    concurrency: int | None = None
    rpm: float | None = None
    tpm: float | None = None
    max_cost: float | None = None
    limit: int | None = None
    retry_failed: bool = False
    retry_rejected: bool = False
    fsync_each: bool = False
    yes: bool = False
    finetune_provider: str | None = None
    batch: bool = False

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Wanted:
        """Sort the options of a command into these fields."""
        where = {name: options[name] for name in Where.__dataclass_fields__ if name in options}
        rest = {name: options[name] for name in cls.__dataclass_fields__ if name in options}
        return cls(where=Where(**where), **rest)

    def limits(self, limits: Limits) -> Limits:
        """The job's limits, with the flags' in their places."""
        flags = {
            "concurrency": self.concurrency,
            "requests_per_minute": self.rpm,
            "tokens_per_minute": self.tpm,
            "max_cost": self.max_cost,
        }
        return msgspec.structs.replace(limits, **{name: value for name, value in flags.items() if value is not None})


@dataclass(frozen=True, slots=True)
class Generated:
    """How the stage ended."""

    run: Path
    progress: Progress
    outcome: Outcome
    cost_usd: float | None
    stale: int
    elapsed_s: float
    exit_code: int

    def as_json(self) -> dict[str, Any]:
        """The last line of `generate --json`."""
        progress, error = self.progress, self.outcome.error
        failed = progress.failed + progress.failed_before
        answer: dict[str, Any] = {
            "requests": progress.requests,
            "done": progress.done,
            "failed": failed,
            "already_done": progress.already_done,
            "stale": self.stale,
            "left": progress.left,
            "retries": progress.retries,
            "maybe_paid_twice": progress.maybe_paid_twice,
            "cost_usd": self.cost_usd,
            "elapsed_s": round(self.elapsed_s, 3),
            "stopped": self.outcome.stopped.value if self.outcome.stopped else None,
            "run": str(self.run),
        }
        if error is not None:
            answer["error"] = {
                "code": error.code, "message": error.what, "cause": error.cause, "help": error.help_text,
            }  # fmt: skip
        return answer


async def generate_rows(job: Path | None, wanted: Wanted) -> Generated:
    """Ask for every row of the job that is not there yet, and say how it went.

    Raises:
        AsyncgenError: nothing was begun; what ends a run on its way stands in the outcome.
    """
    opened, generation, _ = open_named_job(job, wanted.where, finetune_provider=wanted.finetune_provider)
    path = wanted.out or RUNS / opened.job.name
    if wanted.batch:
        refuse_without_batches(generation.profile)
    with open_run(path, job_name=opened.job.name) as run:
        stale = _consent_to_stale(run, opened, wanted)
        keep_job(run, opened)
        accept_stale(run, opened.grid, stale)
        if wanted.retry_rejected:
            _set_rejected_aside(run)
        return await _generate(run, opened, generation, wanted, stale)


def _set_rejected_aside(run: Run) -> None:
    aside = set_rejected_aside(run)
    if aside.goes_on:
        say(f"goes on with the rows whose rejected answers stand in {run.directory.replaced}")
    else:
        say(f"{aside.moved:,} rejected answers are asked for again; the old ones are kept in {run.directory.replaced}")


def _consent_to_stale(run: Run, opened: OpenedJob, wanted: Wanted) -> Stale:
    """Ask before rows that were paid for are left behind."""
    stale = find_stale(run, opened.grid)
    if stale.more:
        rows = "1 row" if stale.more == 1 else f"{stale.more:,} rows"
        what = f"{rows} of {run.directory.path} no longer belong to the job: {', '.join(stale.changed)} changed"
        say(f"{what}; they stay in the file and out of the dataset")
        confirm("Go on, and leave them behind?", yes=wanted.yes, why=what)
    return stale


async def _generate(run: Run, opened: OpenedJob, generation: Choice, wanted: Wanted, stale: Stale) -> Generated:
    limits = wanted.limits(opened.job.limits)
    spending = spending_of(opened, generation, wanted.where, in_batch=wanted.batch)
    outcome, code, estimate, began = Outcome(None, None), 0, None, time.monotonic()
    progress, cost_usd = Progress(requests=opened.grid.count), None
    try:
        with open_journal(
            run,
            cost_of=spending.cost_of,
            retry_failed=wanted.retry_failed,
            fsync_each=wanted.fsync_each,
            on_lost=partial(_consent_to_lost, run, wanted),
        ) as journal:
            progress = _counts(run, opened, journal, stale, retry_failed=wanted.retry_failed)
            _say_what_is_there(run, progress, journal, in_batch=wanted.batch)
            began = time.monotonic()
            if progress.left > (0 if wanted.batch else len(journal.held)) or (wanted.batch and journal.held):
                estimate = _consent_to_cost(spending, opened, journal, progress, wanted)
                is_demanded = wanted.max_cost is not None
                budget = spending.budget(limits.max_cost, journal.spend.total, run.state, is_demanded=is_demanded)
                send = partial(_in_batches, run, budget) if wanted.batch else partial(_work, limits, budget, spending)
                async with open_endpoint(generation, wanted.where, opened.model) as endpoint:
                    outcome, code = await send(endpoint, opened, journal, progress, wanted)
                if outcome.stopped is None:
                    _note_twins(run, progress.twins)
                if budget is not None:
                    journal.spend.add_unanswered(budget.unanswered_usd)
            cost_usd = journal.spend.lately.cost_usd if spending.price is not None else None
    except DiskError:
        if not isinstance(outcome.error, DiskError):  # else the first one tells more: how many paid answers are lost
            raise
    elapsed_s = time.monotonic() - began
    code = code or _exit_code(outcome, progress)
    done = Generated(run.directory.path, progress, outcome, cost_usd, stale.records, elapsed_s, code)
    _summarise(done, estimate)
    return done


def _consent_to_lost(run: Run, wanted: Wanted, lost: int) -> None:
    """Ask before rows are bought again whose answers are no longer in the file."""
    counted = run.state.spend.records
    what = f"{lost:,} of {counted:,} records that run.json counts are gone from {run.directory.records}"
    say(f"{what}; their rows are asked for, and paid for, again")
    if lost > GROUP_ROWS:  # more than a power loss takes
        confirm("Go on, and pay for them again?", yes=wanted.yes, why=what)


def _consent_to_cost(
    spending: Spending, opened: OpenedJob, journal: Journal, progress: Progress, wanted: Wanted
) -> Span | None:
    """Estimate what is left to be sent, and ask when that is much."""
    rows = max(progress.left - len(journal.held), 0)
    rows = rows if wanted.limit is None else min(rows, wanted.limit)
    estimate = spending.estimate(opened, rows)
    consent_to_cost(estimate, rows, yes=wanted.yes)
    return estimate


def _note_twins(run: Run, twins: int) -> None:
    """Keep what the pass over all rows found, so that a finished run is known as such without another one."""
    run.update(lambda state: msgspec.structs.replace(state, job=msgspec.structs.replace(state.job, twins=twins)))


def _counts(run: Run, opened: OpenedJob, journal: Journal, stale: Stale, *, retry_failed: bool) -> Progress:
    counts = journal.counts
    return Progress(
        requests=opened.grid.count,
        twins=run.state.job.twins,
        already_done=max(counts.settled - stale.records, 0),
        failed_before=0 if retry_failed else max(counts.failed - stale.failures, 0),
    )


def _say_what_is_there(run: Run, progress: Progress, journal: Journal, *, in_batch: bool) -> None:
    for path, size in journal.files.torn.items():
        say(f"{path.name} ended in the middle of a line; its {size:,} bytes are kept beside it, the row is asked again")
    failed = f", {progress.failed_before:,} failed (--retry-failed asks again)" if progress.failed_before else ""
    collected = "" if in_batch else ", which --batch collects"
    held = f" ({len(journal.held):,} of them in open batches{collected})" if journal.held else ""
    say(f"{run.directory.path}: {progress.done:,} done, {progress.left:,} left{held}{failed}")


async def _in_batches(
    run: Run,
    budget: Budget | None,
    endpoint: Endpoint,
    opened: OpenedJob,
    journal: Journal,
    progress: Progress,
    wanted: Wanted,
) -> tuple[Outcome, int]:
    """The same through the Batch API."""
    from asyncgen.cli.batching import generate_in_batches  # noqa: PLC0415 - imports the SDK
    from asyncgen.generate.batch.send import Allowance  # noqa: PLC0415 - likewise

    allowance = Allowance(rows=wanted.limit, budget=budget)
    return await generate_in_batches(
        endpoint, run, opened, journal, progress, allowance=allowance, resume=this_command()
    )


async def _work(
    limits: Limits,
    budget: Budget | None,
    spending: Spending,
    endpoint: Endpoint,
    opened: OpenedJob,
    journal: Journal,
    progress: Progress,
    wanted: Wanted,
) -> tuple[Outcome, int]:
    """Run the pool; returns how it ended, and the exit code where a signal ended it."""
    concurrency = limits.concurrency or DEFAULT_CONCURRENCY

    def on_first() -> None:
        say(f"stopping: {progress.in_flight:,} in flight are waited for; Ctrl-C again drops them")

    def spent() -> str:
        return used(journal.spend.lately, has_price=spending.price is not None)

    with _collector_at_rest():
        async with (
            interruptible(on_first) as interrupt,
            open_completer(endpoint, concurrency=concurrency, timeout_s=limits.timeout_s) as completer,
            shown(progress, spent),
        ):
            outcome = await generate_grid(
                opened.grid, journal, completer, limits=limits,
                checks=AnswerChecks(opened.job.checks, opened.grid.answers),
                stops_when_useless=not wanted.yes,
                progress=progress, stop=interrupt.stop, abandon=interrupt.abandon, limit=wanted.limit,
                budget=BudgetGate(budget, opened.grid.max_output_tokens) if budget else None, endpoint=endpoint,
            )  # fmt: skip
    if outcome.stopped is StopReason.INTERRUPTED:
        dropped = f"; {outcome.abandoned:,} in flight were dropped" if outcome.abandoned else ""
        say(f"stopped{dropped}. To go on: {this_command()}")
    return outcome, _signal_code(interrupt, outcome)


@contextmanager
def _collector_at_rest() -> Iterator[None]:
    """Let the collector of cycles look for nothing in the block: a request leaves none.

    What start-up made is here to stay, and a round makes objects for many rows at a stretch.
    """
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(_OBJECTS_TO_COLLECT)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def _signal_code(interrupt: Interrupt, outcome: Outcome) -> int:
    return interrupt.exit_code or 0 if outcome.stopped is StopReason.INTERRUPTED else 0


def _exit_code(outcome: Outcome, progress: Progress) -> int:
    if outcome.error is not None:
        return outcome.error.exit_code
    return IncompleteError.exit_code if progress.failed + progress.failed_before else 0


def _summarise(done: Generated, estimate: Span | None) -> None:
    progress, error = done.progress, done.outcome.error
    cost = f", {money(done.cost_usd)}" if done.cost_usd is not None else ""
    if cost and estimate is not None and estimate.high:
        cost += f" (estimated {money(estimate.low)} to {money(estimate.high)})"
    say(
        f"{progress.settled:,} answers in {duration(done.elapsed_s)}{cost}; "
        f"{progress.done:,} of {progress.requests:,} rows are in {done.run / 'records.jsonl'}"
    )
    if progress.unusable:
        say(f"{progress.usable:,} of {progress.settled:,} answers can be used (asyncgen report {done.run})")
        _say_reasons(progress.unusable, progress.remedies)
    if failed := progress.failed + progress.failed_before:
        say(f"{failed:,} rows failed: {done.run / 'failures.jsonl'}; --retry-failed asks for them again")
        _say_reasons(progress.failures, progress.remedies)
    if progress.maybe_paid_twice:
        say(f"{progress.maybe_paid_twice:,} requests were sent again and may have been paid twice")
    if error is not None:
        show_error(error, as_json=False)


def _say_reasons(reasons: Counter[str], remedies: Mapping[str, str]) -> None:
    """The commonest ones, with what can be done."""
    for reason, count in reasons.most_common(_REASONS_SHOWN):
        remedy = f": {remedies[reason]}" if reason in remedies else ""
        say(f"  {count:,} x {one_line(reason, _REASON_WIDTH)}{remedy}")
