"""One generation from the opened job to its summary: shared by `generate`, `preview`, `run` and the Python API.

Chooses the provider, finds the open rows, asks for consent before anything is paid for, runs the engine and returns
the summary. An `Observer` is told and asked; nothing is printed and no signal is handled here. Sending requests is left
to the engine.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from asyncgen.errors import AsyncgenError, DiskError, IncompleteError, UsageError, command_line
from asyncgen.generate.engine import Engine, EngineResult, GenerateOptions, Session, result_of, watched
from asyncgen.generate.http.client import open_completer
from asyncgen.generate.http.completer import Completer, StopReason
from asyncgen.generate.journal.files import GROUP_ROWS
from asyncgen.generate.journal.journal import Journal, open_journal
from asyncgen.generate.journal.stale import Stale, accept_stale, find_stale
from asyncgen.generate.pool.pool import DEFAULT_CONCURRENCY, USELESS_CODE, Outcome
from asyncgen.generate.pool.pool import generate as generate_grid
from asyncgen.generate.pool.progress import Progress
from asyncgen.generate.servers import consent_to_server, is_simulation, note_simulation, server_of
from asyncgen.generate.spending import Spending, consent_to_cost, refuse_without_batches, spending_of
from asyncgen.job.opened import OpenedJob, keep_job, open_named_job
from asyncgen.job.requests import MOST_ENUMERATED
from asyncgen.job.row_matching import count_twins
from asyncgen.providers.choose import named_address, open_endpoint
from asyncgen.run.directory import RunDirectory, RunWriter, open_run
from asyncgen.run.simulated import count_simulated
from asyncgen.terminal import counted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from asyncgen.generate.distributed.plan import Shard
    from asyncgen.generate.distributed.shards import OpenShard
    from asyncgen.generate.observer import Observer
    from asyncgen.generate.plan.request_tokens import Span
    from asyncgen.providers.endpoint import Endpoint
    from asyncgen.providers.profiles import ProviderChoice
    from asyncgen.run.state import ServerState

RUNS = Path("runs")


class OnlineEngine:
    """The engine of online requests: one request for each row, sent by a pool of workers.

    Args:
        completer: sends the requests; None for HTTP to the session's endpoint.
    """

    def __init__(self, completer: Completer | None = None) -> None:
        self._completer = completer

    async def run(self, session: Session) -> EngineResult:
        """Send the session's open rows; see `Engine.run`.

        Args:
            session: the running generation.

        Returns:
            The outcome.
        """
        concurrency = session.limits.concurrency or session.endpoint.profile.concurrency or DEFAULT_CONCURRENCY
        limits = msgspec.structs.replace(session.limits, concurrency=concurrency)
        async with self._opened(session, concurrency) as completer, watched(session, concurrency) as interrupt:
            outcome = await generate_grid(
                session.opened.grid, session.journal, completer, limits=limits, checks=session.checks,
                stops_when_useless=session.stops_when_useless,
                progress=session.progress, stop=interrupt.stop, abandon=interrupt.abandon,
                limit=session.options.limit,
                spread=session.options.spread,
                budget=session.gate(),
                endpoint=session.endpoint,
                share=session.share,
            )  # fmt: skip
        return result_of(session, outcome, interrupt)

    @asynccontextmanager
    async def _opened(self, session: Session, concurrency: int) -> AsyncIterator[Completer]:
        if self._completer is not None:
            yield self._completer
            return
        timeout_s = session.limits.timeout_s
        say = session.observer.say
        async with open_completer(
            session.endpoint, concurrency=concurrency, timeout_s=timeout_s, say=say, share=session.share
        ) as completer:
            yield completer


class Generated(msgspec.Struct, frozen=True):
    """The result of a generation.

    Attributes:
        run: the run directory.
        progress: the counts.
        outcome: how it ended.
        cost_usd: of this invocation; None for an unknown price.
        estimate: USD estimated before; None if nothing was estimated.
        stale: number of records that are no longer in the job.
        elapsed_s: seconds.
        exit_code: of the process.
        sample: keys of the rows sampled with `options.spread`; empty without it.
        simulated: the answers come from a simulation.
        shard: the shard that was worked on; None for a whole run.
        interrupted: exit code of a signal that came, also if every row was settled nevertheless; 0 if none came.
    """

    run: Path
    progress: Progress
    outcome: Outcome
    cost_usd: float | None
    estimate: Span | None
    stale: int
    elapsed_s: float
    exit_code: int
    sample: tuple[str, ...] = ()
    simulated: bool = False
    shard: Shard | None = None
    interrupted: int = 0

    @property
    def files(self) -> RunDirectory:
        """Where the rows of this invocation stand."""
        return RunDirectory(self.run, self.shard.part if self.shard else "")

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
        if self.shard is not None:
            answer["shard"] = str(self.shard)
        if error is not None:
            answer["error"] = {
                "code": error.code, "message": error.what, "cause": error.cause, "help": error.help_text,
            }  # fmt: skip
        return answer


async def generate_rows(
    job: Path | None, options: GenerateOptions, observer: Observer, *, engine: Engine | None = None
) -> Generated:
    """Read a job file, and get an answer for each of its open rows.

    Args:
        job: the job file; None for the built-in one.
        options: of this invocation.
        observer: is told and asked.
        engine: sends the requests; None for the one that `options.batch` selects.

    Returns:
        How the generation ended. What stops it after it began is in the outcome, and not raised.

    Raises:
        AsyncgenError: nothing was begun.
    """
    opened, generation, _ = open_named_job(job, options.where, finetune_provider=options.finetune_provider)
    return await generate_opened(opened, generation, options, observer, engine=engine)


async def generate_opened(
    opened: OpenedJob,
    generation: ProviderChoice,
    options: GenerateOptions,
    observer: Observer,
    *,
    engine: Engine | None = None,
    endpoint: Endpoint | None = None,
) -> Generated:
    """Get an answer for each open row of an opened job.

    Args:
        opened: the job.
        generation: the provider that answers.
        options: of this invocation.
        observer: gets reports, gives consent, and interrupts.
        engine: sends the requests; None for the one that the options select.
        endpoint: already open; None to open the one of `generation`.

    Returns:
        How the generation ended, as `generate_rows`.

    Raises:
        UsageError: options contradict each other, or consent is needed.
        AsyncgenError: nothing was begun.
    """
    for remark in opened.remarks:
        observer.say(f"note: {remark}")
    path = options.out or RUNS / opened.job.name
    if options.ray is not None and options.batch:
        raise UsageError("--batch and --ray cannot be combined", help_text="leave out --ray or --batch")
    if options.batch:
        refuse_without_batches(generation.profile)
    address = endpoint.base_url if endpoint else named_address(generation.profile, options.where)
    server = server_of(generation.profile.name, address)
    spending = spending_of(opened, generation, options.where, in_batch=options.batch)
    engine = engine or _engine_of(options)
    work = _Work(opened, generation, options, observer, spending, engine, endpoint, server)
    if options.shard is not None:
        return await _generate_shard(path, options.shard, work)
    with open_run(path, job_name=opened.job.name) as run:
        if run.directory.plan.exists() or run.state.fold is not None or run.directory.shards():
            _merge_shards(run, work)
        simulated = await _is_simulation_again(run.directory, work)
        stale = _prepare_run(run, work, is_first=True, simulated=simulated)
        return await _generate_all(run, work, stale, simulated=simulated)


def _merge_shards(run: RunWriter, work: _Work) -> None:
    from asyncgen.generate.distributed.merge import merge_shards  # noqa: PLC0415 - few runs have shards

    merged = merge_shards(run, work.spending.cost_of)
    if merged.shards:
        shards = counted(merged.shards, "shard")
        work.observer.say(f"{counted(merged.records, 'row')} of {shards} merged into {run.directory.records}")


@dataclass(frozen=True, slots=True)
class _Work:
    """What an invocation is asked to do, and by whom."""

    opened: OpenedJob
    generation: ProviderChoice
    options: GenerateOptions
    observer: Observer
    spending: Spending
    engine: Engine
    endpoint: Endpoint | None
    server: ServerState


def _prepare_run(run: RunWriter, work: _Work, *, is_first: bool, simulated: bool) -> Stale:
    """Ask and note what has to be before rows are bought.

    Args:
        run: open for writing.
        work: what is to be done.
        is_first: no other process works on the run.
        simulated: a simulation is asked again.
    """
    opened, observer = work.opened, work.observer
    stale = _consent_to_stale(run, opened, observer)
    keep_job(run, opened, command=observer.resume_command if is_first else "")
    accept_stale(run, opened.grid, stale)
    if work.options.retry_rejected:
        _set_rejected_aside(run, observer)
    consent_to_server(run, work.server, observer, simulated=simulated)
    return stale


async def _generate_all(
    run: RunWriter, work: _Work, stale: Stale, shard: OpenShard[Stale] | None = None, *, simulated: bool
) -> Generated:
    """Answer what is left; a run without new answers is still a rehearsal where `simulated` says so."""
    generated = await _generate(run, work, stale, shard)
    useless = generated.outcome.error
    if useless is not None and useless.code == USELESS_CODE and not _left_of_limit(work, generated):
        stopped = StopReason.LIMIT if generated.progress.left else None
        generated = msgspec.structs.replace(generated, outcome=replace(generated.outcome, stopped=stopped, error=None))
    elif useless is not None and useless.code == USELESS_CODE:
        # The pool has drained and the journal is closed: what was answered so far is kept, whatever the answer is.
        agreed = work.observer.offer(f"{useless.what}: {useless.cause}. {useless.help_text}. Continue anyway?")
        if agreed:
            rest = await _generate(run, _rest_of(work, generated), stale, shard)
            generated = _joined_results(generated, rest)
        elif agreed is not None:
            generated = msgspec.structs.replace(generated, outcome=replace(generated.outcome, error=_declined_error()))
    if generated.progress.settled and not isinstance(generated.outcome.error, DiskError):
        simulated = simulated or generated.simulated
        note_simulation(run, work.server, simulated=simulated)
    return msgspec.structs.replace(generated, simulated=simulated)


def _rest_of(work: _Work, first: Generated) -> _Work:
    """The rest of an invocation whose first answers were useless, and which is to go on."""
    options = msgspec.structs.replace(work.options, cost_is_agreed=True, goes_on_when_useless=True)
    if options.limit is not None and not options.spread:
        options = msgspec.structs.replace(options, limit=_left_of_limit(work, first))
    return replace(work, options=options)


def _left_of_limit(work: _Work, first: Generated) -> int:
    """Rows that may still be sent."""
    limit = work.options.limit
    if limit is None:
        return first.progress.left
    return min(max(limit - first.progress.settled - first.progress.failed, 0), first.progress.left)


def _joined_results(first: Generated, rest: Generated) -> Generated:
    """Both parts of an invocation as one."""
    rest.progress.add_earlier(first.progress)
    costs = [each.cost_usd for each in (first, rest) if each.cost_usd is not None]
    return msgspec.structs.replace(
        rest,
        cost_usd=sum(costs) if costs else None,
        estimate=first.estimate,
        simulated=first.simulated or rest.simulated,
        elapsed_s=first.elapsed_s + rest.elapsed_s,
    )


def _declined_error() -> AsyncgenError:
    return AsyncgenError(
        "stopped; the answers so far are kept", help_text="change [prompt] or [checks] in the job file", code="declined"
    )


async def _is_simulation_again(directory: RunDirectory, work: _Work) -> bool:
    """Did a simulation make answers of the run up, and does one answer now?"""
    if not any(map(count_simulated, directory.record_files())):
        return False
    return await is_simulation(work.generation, work.options.where, work.opened.model)


async def _generate_shard(path: Path, shard: Shard, work: _Work) -> Generated:
    from asyncgen.generate.distributed.shards import open_shard  # noqa: PLC0415 - few runs have shards

    options = work.options
    if options.batch or options.retry_rejected:
        flag = "--batch" if options.batch else "--retry-rejected"
        raise UsageError(f"{flag} cannot be used with --shard", help_text=f"leave out --shard or {flag}")
    simulated = await _is_simulation_again(RunDirectory(path), work)
    async with open_shard(
        path, shard, work.opened.grid, work.observer,
        job_name=work.opened.job.name,
        cost_of=work.spending.cost_of,
        retry_failed=options.retry_failed,
        agree=lambda run, is_new: _prepare_run(run, work, is_first=is_new, simulated=simulated),
    ) as opened:  # fmt: skip
        work.observer.say(opened.as_text(opened.limits(options.limits(work.opened.job.limits))))
        consent_to_server(opened.run, work.server, work.observer, simulated=simulated)
        generated = await _generate_all(opened.run, work, Stale(0, 0, 0, ()), opened, simulated=simulated)
    work.observer.say(f"when all shards have finished: {command_line('merge', path)}")
    return generated


def _set_rejected_aside(run: RunWriter, observer: Observer) -> None:
    from asyncgen.generate.journal.repair import set_rejected_aside  # noqa: PLC0415 - for --retry-rejected alone

    aside = set_rejected_aside(run)
    if aside.goes_on:
        observer.say(f"continuing with the rows whose rejected answers are in {run.directory.replaced}")
    elif not aside.moved:
        observer.say("no answer is rejected")
    else:
        kept = f"the old answers are kept in {run.directory.replaced}"
        observer.say(f"{counted(aside.moved, 'rejected answer')} will be replaced; {kept}")


def _engine_of(options: GenerateOptions) -> Engine:
    if options.ray is not None:
        if find_spec("ray") is None:
            raise UsageError(
                "--ray needs Ray, which is not installed", help_text="pip install 'asyncgen[ray]'", code="no_extra"
            )
        from asyncgen.generate.distributed.ray_engine import RayEngine  # noqa: PLC0415 - imports Ray, an extra

        return RayEngine(options.ray)
    if not options.batch:
        return OnlineEngine()
    from asyncgen.generate.batch.engine import BatchEngine  # noqa: PLC0415 - imports the SDK

    return BatchEngine()


def _consent_to_stale(run: RunWriter, opened: OpenedJob, observer: Observer) -> Stale:
    """Ask before rows that were paid for become stale."""
    stale = find_stale(run, opened.grid)
    if stale.more:
        rows = counted(stale.more, "row")
        what = f"{rows} of {run.directory.path} no longer belong to the job: {', '.join(stale.changed)} changed"
        notice = f"{what}; their answers stay in the file, but not in the dataset"
        observer.agree("Continue without them?", why=what, notice=notice)
    return stale


async def _generate(run: RunWriter, work: _Work, stale: Stale, shard: OpenShard[Stale] | None) -> Generated:
    opened, options, observer, spending = work.opened, work.options, work.observer, work.spending
    endpoint = work.endpoint
    result, estimate, began = EngineResult(Outcome(None, None)), None, time.monotonic()
    progress, cost_usd, simulated = Progress(requests=opened.grid.count), None, False
    try:
        with open_journal(
            run,
            cost_of=spending.cost_of,
            retry_failed=options.retry_failed,
            fsync_each=options.fsync_each,
            on_lost=partial(_consent_to_lost, run, observer),
            elsewhere=shard.elsewhere if shard else None,
        ) as journal:
            progress = _initial_progress(run, opened, journal, stale, shard, retry_failed=options.retry_failed)
            began = time.monotonic()
            if not _has_work(progress, journal, in_batch=options.batch):
                _report_existing_rows(run, progress, journal, observer, in_batch=options.batch)
            else:
                opening = open_endpoint(work.generation, options.where, opened.model, observer.say)
                async with nullcontext(endpoint) if endpoint is not None else opening as answers:
                    _report_existing_rows(run, progress, journal, observer, in_batch=options.batch)
                    rows = shard.plan.rows if shard else max(progress.left - len(journal.batched), 0)
                    estimate = _consent_to_cost(work, rows)
                    limits = options.limits(opened.job.limits)
                    limits = shard.limits(limits) if shard else limits
                    budget = spending.budget(
                        limits.max_cost, journal.spend.total, run.state, observer,
                        is_demanded=options.max_cost is not None,
                    )  # fmt: skip
                    session = Session(
                        run=run, opened=opened, endpoint=answers, journal=journal, progress=progress, limits=limits,
                        spending=spending, budget=budget, options=options, observer=observer,
                        share=1 / shard.shard.count if shard else 1.0,
                    )  # fmt: skip
                    result = await work.engine.run(session)
                is_counted = shard is None and progress.done == progress.requests  # every row was met
                if not is_counted and opened.grid.count <= MOST_ENUMERATED:
                    progress.twins = count_twins(
                        opened.grid, lambda key: journal.has_record(key) and not journal.is_left(key)
                    )
                _note_twins(run, progress.twins)
                if budget is not None:
                    journal.spend.add_unanswered(budget.unanswered_usd)
            lately, simulated = journal.spend.lately, journal.simulated
            cost_usd = lately.cost_usd if spending.price is not None or lately.cost_usd else None
            if progress.settled and not (lately.usage.prompt_tokens or lately.usage.completion_tokens):
                observer.say("the server does not report token counts, so usage is not known")
    except DiskError:
        if not isinstance(
            result.outcome.error, DiskError
        ):  # otherwise that error says more: how many paid answers are lost
            raise
    elapsed_s = time.monotonic() - began
    code = result.exit_code or _exit_code(result.outcome, progress)
    sample = opened.grid.sample_evenly(options.limit) if options.spread and options.limit else ()
    return Generated(
        run.directory.path, progress, result.outcome, cost_usd, estimate, stale.records, elapsed_s, code,
        tuple(request.key.hex() for request in sample),
        simulated=simulated,
        shard=shard.shard if shard else None,
        interrupted=result.interrupted,
    )  # fmt: skip


def _consent_to_lost(run: RunWriter, observer: Observer, lost: int) -> None:
    """Ask before rows whose records are missing in the file are bought again."""
    records = counted(run.state.spend.records, "record")
    what = f"{lost:,} of {records} counted in run.json are missing in {run.directory.records}"
    notice = f"{what}; their rows will be sent, and paid for, again"
    if lost > GROUP_ROWS:  # more than a power loss can cost
        observer.agree("Continue, and pay for them again?", why=what, notice=notice)
    else:
        observer.say(notice)


def _has_work(progress: Progress, journal: Journal, *, in_batch: bool) -> bool:
    """True if there are rows to send, or in batch mode also batches to collect."""
    if in_batch:
        return bool(progress.left or journal.batched)
    return progress.left > len(journal.batched)


def _consent_to_cost(work: _Work, rows: int) -> Span | None:
    """Estimate what is left to be sent, by all shards together, and ask when that is much."""
    rows = rows if work.options.limit is None else min(rows, work.options.limit)
    estimate = work.spending.estimate(work.opened, rows)
    if not work.options.cost_is_agreed:
        consent_to_cost(estimate, rows, work.observer)
    return estimate


def _note_twins(run: RunWriter, twins: int) -> None:
    """Save the number of duplicate requests, so that a finished run is recognised without enumerating it again."""
    run.update(lambda state: msgspec.structs.replace(state, job=msgspec.structs.replace(state.job, twins=twins)))


def _initial_progress(
    run: RunWriter,
    opened: OpenedJob,
    journal: Journal,
    stale: Stale,
    shard: OpenShard[Stale] | None,
    *,
    retry_failed: bool,
) -> Progress:
    counts = journal.counts
    if shard is not None:
        return Progress(
            requests=shard.rows,
            twins=run.state.job.twins,
            already_done=counts.settled,
            failed_before=0 if retry_failed else counts.failed + shard.failed_before,
        )
    return Progress(
        requests=opened.grid.count,
        twins=run.state.job.twins,
        already_done=max(counts.settled - stale.records, 0),
        failed_before=0 if retry_failed else max(counts.failed - stale.failures, 0),
    )


def _report_existing_rows(
    run: RunWriter, progress: Progress, journal: Journal, observer: Observer, *, in_batch: bool
) -> None:
    for path, size in journal.files.torn.items():
        kept = f"its {size:,} bytes are kept in a *.torn file, and the row will be sent again"
        observer.say(f"{path.name} ended in the middle of a line; {kept}")
    failed = f", {progress.failed_before:,} failed (--retry-failed sends them again)" if progress.failed_before else ""
    collected = "" if in_batch else ", which --batch collects"
    held = f" ({len(journal.batched):,} of them in open batches{collected})" if journal.batched else ""
    observer.say(f"{run.directory.path}: {progress.done:,} done, {progress.left:,} left{held}{failed}")


def _exit_code(outcome: Outcome, progress: Progress) -> int:
    if outcome.error is not None:
        return outcome.error.exit_code
    return IncompleteError.exit_code if progress.failed + progress.failed_before else 0
