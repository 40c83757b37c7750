"""How far each shard of a run is, and which of them hold the others up.

Reads only, and needs no lock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import median_low
from typing import TYPE_CHECKING

from asyncgen.generate.distributed.plan import Shard, ShardPlan, read_plan
from asyncgen.generate.journal.settled import read_settled
from asyncgen.generate.live_file import read_live
from asyncgen.run.directory import is_held

if TYPE_CHECKING:
    from asyncgen.run.directory import RunDirectory

_STRAGGLES = 2.0  # times as long as half of the shards need at most


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """A shard at one moment.

    Attributes:
        shard: which one.
        rows: that it had at first.
        done: of them, those with an answer.
        failed: of them, those that it has given up on.
        is_running: a process works on it now.
        per_second: rows finished a second; None where nobody works on it.
        eta_s: seconds that it still needs; 0 when it is done, infinite when nobody works on it.
        is_straggler: it needs more than twice as long as half of the shards need at most.
    """

    shard: Shard
    rows: int
    done: int
    failed: int
    is_running: bool
    per_second: float | None
    eta_s: float
    is_straggler: bool = False

    @property
    def left(self) -> int:
        """Rows still to be asked for."""
        return max(self.rows - self.done - self.failed, 0)


def shard_statuses(directory: RunDirectory) -> tuple[ShardStatus, ...]:
    """Every shard of the run's plan, those that were never begun included; none where nothing is to be merged.

    Raises:
        BadLineError: a line is not a record or failure.
        DiskError: a file cannot be read.
    """
    plan = read_plan(directory)
    if plan is None or plan.merged:
        return ()
    found = [_status(directory, plan, Shard(index, plan.shards)) for index in range(plan.shards)]
    usual_s = median_low([each.eta_s for each in found])
    return tuple(replace(each, is_straggler=each.eta_s > _STRAGGLES * usual_s) for each in found)


def _status(run: RunDirectory, plan: ShardPlan, shard: Shard) -> ShardStatus:
    directory = shard.directory(run)
    keys = read_settled(directory)
    rows, done, failed = plan.rows_of[shard.index], len(keys.settled), len(keys.failed)
    twins = directory.read_state().job.twins if directory.state.exists() else 0
    live = read_live(directory.path, name=directory.live.name)
    is_running = is_held(directory.path, directory.lock_name)
    left = max(rows - done - failed - twins, 0)
    eta_s = 0.0 if not left else math.inf
    if left and live is not None and live.per_second > 0:
        eta_s = left / live.per_second
    return ShardStatus(shard, rows, done + twins, failed, is_running, live.per_second if live else None, eta_s)
