"""How far each shard of a run is, and which of them hold the others up.

Reads only, and needs no lock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import median_low
from typing import TYPE_CHECKING, Any

from asyncgen.generate.distributed.plan import Shard, ShardPlan, read_plan
from asyncgen.generate.journal.settled import read_settled
from asyncgen.generate.live_file import read_live
from asyncgen.run.lock import is_held

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from asyncgen.run.directory import RunDirectory

    # Of a shard's directory: rows with an answer, rows given up on.
    Ended = Callable[[RunDirectory], tuple[int, int]]

_STRAGGLES = 2.0  # times as long as half of the shards need at most


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """A shard at one moment.

    Attributes:
        shard: number of the shard.
        rows: rows that it began with.
        done: of them, rows that have an answer.
        failed: of them, rows given up on.
        is_running: whether a process works on it.
        per_second: rows finished per second; None if no process works on it.
        eta_s: seconds until its end; 0 if it is done, infinite if no process works on it.
        is_straggler: whether it needs more than twice the median.
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

    def as_json(self) -> dict[str, Any]:
        """The shard in the answers of `status --json` and of the page."""
        return {
            "shard": str(self.shard),
            "rows": self.rows,
            "done": self.done,
            "failed": self.failed,
            "left": self.left,
            "running": self.is_running,
            "per_second": self.per_second,
            "straggler": self.is_straggler,
        }


def shard_statuses(directory: RunDirectory, ended: Ended | None = None) -> tuple[ShardStatus, ...]:
    """Read the status of every shard in the run's plan, including shards that were never begun.

    Args:
        directory: of the run.
        ended: counts the rows of a shard that have an answer and that were given up on; None to read its files.

    Returns:
        The shards, in order; empty if nothing is left to merge.

    Raises:
        BadLineError: a line is not a record or failure.
        DiskError: a file cannot be read.
    """
    plan = read_plan(directory)
    if plan is None or plan.merged:
        return ()
    ended = ended or _read_ended
    found = [_status(directory, plan, Shard(index, plan.shards), ended) for index in range(plan.shards)]
    usual_s = median_low([each.eta_s for each in found])
    return tuple(replace(each, is_straggler=each.eta_s > _STRAGGLES * usual_s) for each in found)


def slowest_first(shards: Sequence[ShardStatus], most: int) -> list[ShardStatus]:
    """Choose the shards to show: those that delay the others first, then those that are not done.

    Args:
        shards: all shards.
        most: maximum number to show.

    Returns:
        The chosen shards, in order.
    """
    shown = sorted(shards, key=lambda each: (not each.is_straggler, not each.left, each.shard.index))
    return sorted(shown[:most], key=lambda each: each.shard.index)


def _read_ended(directory: RunDirectory) -> tuple[int, int]:
    keys = read_settled(directory)
    return len(keys.settled), len(keys.failed)


def _status(run: RunDirectory, plan: ShardPlan, shard: Shard, ended: Ended) -> ShardStatus:
    directory = shard.directory(run)
    rows, (done, failed) = plan.rows_of[shard.index], ended(directory)
    twins = directory.read_state().job.twins if directory.state.exists() else 0
    live = read_live(directory.path, name=directory.live.name)
    is_running = is_held(directory.path, directory.lock_name)
    left = max(rows - done - failed - twins, 0)
    eta_s = 0.0 if not left else math.inf
    if left and live is not None and live.per_second > 0:
        eta_s = left / live.per_second
    return ShardStatus(shard, rows, done + twins, failed, is_running, live.per_second if live else None, eta_s)
