"""Open one shard of a run: its files and lock, its rows, and its part of the limits.

Shards that start at the same time take turns to make or join a plan. Rows are requested by the session of a whole run,
with another directory and the keys to skip.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from asyncgen.errors import DiskError, RunInUseError, UsageError, command_line
from asyncgen.generate.distributed.merge import merge_shards, refuse_running
from asyncgen.generate.distributed.plan import (
    OpenRows,
    Shard,
    ShardPlan,
    digest_of_job,
    missing_rows,
    new_plan,
    read_plan,
    write_plan,
)
from asyncgen.generate.journal.settled import CostOf, OtherShards, key_number, read_settled
from asyncgen.run.directory import RunDirectory, RunWriter, open_run
from asyncgen.run.key_set import KeySet
from asyncgen.run.lock import FolderLock, locked
from asyncgen.run.state import RunState, write_state
from asyncgen.run.whole_file import as_disk_error, remove_leftovers
from asyncgen.terminal import counted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from asyncgen.generate.observer import Observer
    from asyncgen.job.model import Limits
    from asyncgen.job.requests import RequestGrid

_TURN_NAME = ".lock-shards"
_LOOK_S = 0.2
Agreed = TypeVar("Agreed")


@dataclass(frozen=True, slots=True)
class OpenShard(Generic[Agreed]):
    """A shard that this process alone works on.

    Attributes:
        shard: which one.
        plan: of the run.
        run: its own files.
        elsewhere: what it leaves to others.
        rows: of its own that had no answer when the plan was made.
        failed_before: of them, those that were given up on before.
        spent_usd: by the run before the plan.
        agreed: what the questions before it came to.
    """

    shard: Shard
    plan: ShardPlan
    run: RunWriter
    elsewhere: OtherShards
    rows: int
    failed_before: int
    spent_usd: float
    agreed: Agreed

    def limits(self, limits: Limits) -> Limits:
        """Its part of the limits of the run; what the run had spent before the plan is off the budget."""
        count = self.shard.count
        parts = {
            "concurrency": limits.concurrency and max(limits.concurrency // count, 1),
            "requests_per_minute": limits.requests_per_minute and limits.requests_per_minute / count,
            "tokens_per_minute": limits.tokens_per_minute and limits.tokens_per_minute / count,
            "max_cost": limits.max_cost and max(limits.max_cost - self.spent_usd, 0.0) / count,
        }
        return msgspec.structs.replace(limits, **parts)

    def as_text(self, limits: Limits) -> str:
        """What it works on, and within which limits: those that `limits` gave."""
        parts = [
            f"{value:,.6g} {name}"
            for value, name in (
                (limits.concurrency, "in flight"),
                (limits.requests_per_minute, "requests per minute"),
                (limits.tokens_per_minute, "tokens per minute"),
                (limits.max_cost, "USD"),
            )
            if value is not None
        ]
        bounds = f"; its share of the run's limits: {', '.join(parts)}" if parts else ""
        return (
            f"shard {self.shard}: {self.rows:,} of {counted(self.plan.rows, 'row')} of plan "
            f"{self.plan.generation}{bounds}"
        )


class _PlanLock(FolderLock):
    """A shard's lock, which is lost, too, when a new plan was made."""

    def __init__(self, lock: FolderLock, directory: RunDirectory, plan: ShardPlan) -> None:
        self._lock = lock
        self._directory = directory
        self._plan = plan

    def check(self) -> None:
        self._lock.check()
        refuse_other_plan(self._directory, self._plan)


def refuse_other_plan(directory: RunDirectory, plan: ShardPlan) -> None:
    """See that a plan is still the run's.

    Raises:
        RunInUseError: another one was made, or the shards were merged.
    """
    current = read_plan(directory)
    if current is None or current.merged or current.generation != plan.generation:
        known = f"plan {current.generation} is current" if current and not current.merged else "the shards were merged"
        raise RunInUseError(
            f"{known}; this is a shard of plan {plan.generation} of {directory.path}",
            cause="the remaining rows have been divided again",
            help_text=f"submit the shards again; `{command_line('status', directory.path)}` shows what is left",
            code="other_plan",
        )


@asynccontextmanager
async def open_shard(
    path: Path,
    shard: Shard,
    grid: RequestGrid,
    observer: Observer,
    *,
    job_name: str,
    cost_of: CostOf,
    retry_failed: bool,
    agree: Callable[[RunWriter, bool], Agreed],
) -> AsyncIterator[OpenShard[Agreed]]:
    """Open a shard until the block ends; makes the plan where none fits.

    Args:
        path: the run directory.
        shard: which one.
        grid: the job's rows.
        observer: is told.
        job_name: the run's.
        cost_of: prices answers that a killed shard had not counted.
        retry_failed: rows that were given up on are asked for again.
        agree: asks what has to be asked of the run, open for writing, before rows are bought; told whether a plan is
            to be made.

    Raises:
        RunInUseError: the run is written by another process, the shard is worked on, or a shard of another plan is.
        UsageError: open batches hold rows.
        DiskError: a file cannot be read or written; or the rows that are left are not those of the plan.
    """
    _make_folder(path)
    with ExitStack() as stack:
        with ExitStack() as turn:
            await _wait_for_turn(turn, path, observer)
            with open_run(path, job_name=job_name) as run:
                plan = _fitting_plan(run, shard, grid)
                is_new = plan is None
                if is_new:
                    refuse_running(run.directory)
                    merge_shards(run, cost_of)
                agreed = agree(run, is_new)
                if plan is None:
                    plan = _make_plan(run, shard, grid)
                part = _open_part(stack, run, shard, plan)
                before = run.state.spend
        yield _opened(part, shard, plan, grid, before.cost_usd + before.unanswered_usd, agreed, retry_failed)


def _make_folder(path: Path) -> None:
    with as_disk_error(f"the folder {path} could not be created"):
        path.mkdir(parents=True, exist_ok=True, mode=0o700)  # prompts and answers may be personal data


async def _wait_for_turn(turn: ExitStack, path: Path, observer: Observer) -> None:
    """Wait for other shards of the run that are being opened."""
    has_told = False
    while True:
        try:
            turn.enter_context(locked(path, _TURN_NAME))
        except RunInUseError:
            if not has_told:
                observer.say(f"waiting: another shard of {path} is being opened")
                has_told = True
            await asyncio.sleep(_LOOK_S)
        else:
            return


def _fitting_plan(run: RunWriter, shard: Shard, grid: RequestGrid) -> ShardPlan | None:
    """The plan of the run, where it divides the same job into as many shards."""
    plan = read_plan(run.directory)
    fits = plan is not None and not plan.merged and plan.shards == shard.count and plan.job == digest_of_job(grid)
    return plan if fits and run.state.fold is None else None


def _make_plan(run: RunWriter, shard: Shard, grid: RequestGrid) -> ShardPlan:
    if any(not batch.collected for batch in run.state.batches):
        raise UsageError(
            f"some rows of {run.directory.path} are in open batches",
            help_text="collect them first: run the same command with --batch and without --shard",
        )
    keys = read_settled(run.directory)
    missing = missing_rows(grid, shard.count, keys.settled, keys.failed)
    twins = max(missing.found - len(keys.settled) + run.state.job.stale, 0)
    run.update(lambda state: msgspec.structs.replace(state, job=msgspec.structs.replace(state.job, twins=twins)))
    plan = new_plan(grid, missing, read_plan(run.directory))
    write_plan(run.directory, plan)
    return plan


def _open_part(stack: ExitStack, run: RunWriter, shard: Shard, plan: ShardPlan) -> RunWriter:
    """The shard's own files, locked; its state is there from then on, so that others know of the shard."""
    directory = shard.directory(run.directory)
    lock = stack.enter_context(locked(directory.path, directory.lock_name))
    remove_leftovers(directory.path, {directory.state.name, directory.records.name}.__contains__)
    try:
        state = directory.read_state()
    except FileNotFoundError:
        job = msgspec.structs.replace(
            run.state.job, requests=plan.rows_of[shard.index], twins=0, stale=0, stale_failures=0, renamed=0
        )
        own = {key: each for key, each in run.state.tried.items() if key_number(key) % shard.count == shard.index}
        state = RunState(job=job, tried=own, servers=run.state.servers)
        write_state(directory.state, state)
    return RunWriter(directory, state, _PlanLock(lock, run.directory, plan))


def _opened(
    part: RunWriter,
    shard: Shard,
    plan: ShardPlan,
    grid: RequestGrid,
    spent_usd: float,
    agreed: Agreed,
    retry_failed: bool,
) -> OpenShard[Agreed]:
    run = RunDirectory(part.directory.path)
    keys = read_settled(run, merged=True)
    missing = missing_rows(grid, shard.count, keys.settled, keys.failed)
    _refuse_other_rows(run, plan, missing)
    failed = KeySet() if retry_failed else keys.failed
    elsewhere = OtherShards(shard.index, shard.count, keys, failed)
    failed_before = 0 if retry_failed else missing.failed_of[shard.index]
    return OpenShard(shard, plan, part, elsewhere, missing.rows_of[shard.index], failed_before, spent_usd, agreed)


def _refuse_other_rows(run: RunDirectory, plan: ShardPlan, missing: OpenRows) -> None:
    if missing.digest != plan.digest:
        raise DiskError(
            f"the {counted(sum(missing.rows_of), 'row')} left in {run.path} are not the {plan.rows:,} of plan "
            f"{plan.generation}",
            cause="the job's files differ between the machines, or records.jsonl was changed after the plan was "
            "created",
            help_text=f"{command_line('merge', run.path)}   (then submit the shards again: they create a new plan)",
            code="other_rows",
        )
