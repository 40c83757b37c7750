"""Progress of a run, read from its files.

Read-only and without a lock: the run may be written at the same time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyncgen.errors import UsageError
from asyncgen.generate.distributed.plan import ShardStatus, shard_statuses
from asyncgen.generate.journal.settled import read_settled
from asyncgen.job.opened import job_of_run
from asyncgen.job.requests import MOST_ENUMERATED
from asyncgen.job.row_matching import count_twins
from asyncgen.run.lock import is_held

if TYPE_CHECKING:
    from asyncgen.generate.journal.settled import SettledKeys
    from asyncgen.run.directory import RunDirectory
    from asyncgen.run.state import RunState


@dataclass(frozen=True, slots=True)
class RunStatus:
    """The progress of a run at one moment.

    Attributes:
        state: content of `run.json`; at most a second old while the run is written.
        done: rows of the job that have an answer.
        failed: rows of the job that were given up on.
        left: rows of the job still to be asked for.
        stale: answers of an earlier form of the job.
        simulated: simulated answers.
        lost: answers that `run.json` counts and `records.jsonl` no longer has.
        being_written: whether a process works on the run or on a shard of it.
        shards: shards that are not merged yet.
    """

    state: RunState
    done: int
    failed: int
    left: int
    stale: int
    simulated: int
    lost: int
    being_written: bool
    shards: tuple[ShardStatus, ...] = ()

    def __repr__(self) -> str:
        return f"<RunStatus: {self.done:,} done, {self.failed:,} failed, {self.left:,} left, {self.stale:,} stale>"


def run_status(directory: RunDirectory) -> RunStatus:
    """Count the rows of a run.

    Args:
        directory: of the run.

    Returns:
        The counts, with the content of `run.json`.

    Raises:
        AsyncgenError: `run.json` was written by a newer release.
        BadLineError: a line is not a record or failure.
        DiskError: a file cannot be read, or is damaged.
    """
    state = directory.read_total()
    shards = shard_statuses(directory)
    being_written = is_held(directory.path) or any(shard.is_running for shard in shards)
    keys = read_settled(directory)
    settled = len(keys.settled)
    stale = min(state.job.stale, settled)
    done = settled - stale
    if settled > 0 and done < state.job.requests:  # else there is an answer to each row, or to none
        done += _twins(directory, state, keys)
    failed = max(len(keys.failed) - state.job.stale_failures, 0)
    left = max(state.job.requests - done - failed, 0)
    is_moving = being_written or state.move is not None  # then files and counts are not of the same moment
    lost = 0 if is_moving else max(state.spend.records - settled, 0)
    return RunStatus(state, done, failed, left, stale, keys.simulated, lost, being_written, shards)


def _twins(directory: RunDirectory, state: RunState, keys: SettledKeys) -> int:
    """Rows that share the answer of another row; as counted last if the job cannot be opened."""
    try:
        grid = job_of_run(directory).grid
    except UsageError:  # a job that was lost, or names files that are gone
        return state.job.twins
    return count_twins(grid, lambda key: key in keys.settled) if grid.count <= MOST_ENUMERATED else state.job.twins
