"""How far a run is, as its files tell.

Owns the counts. Reads only, and needs no lock: the run may be written meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyncgen.generate.journal.settled import read_settled
from asyncgen.run.directory import is_held

if TYPE_CHECKING:
    from asyncgen.run.directory import RunDirectory
    from asyncgen.run.state import RunState


@dataclass(frozen=True, slots=True)
class RunStatus:
    """A run at one moment.

    Attributes:
        state: what `run.json` says; a second old at most while the run is written.
        done: rows of the job that have an answer.
        failed: rows of the job that were given up on.
        left: rows of the job still to be asked for.
        being_written: a process works on it now.
    """

    state: RunState
    done: int
    failed: int
    left: int
    being_written: bool


def run_status(directory: RunDirectory) -> RunStatus:
    """Count what a run holds.

    Raises:
        AsyncgenError: `run.json` was written by a newer release.
        BadLineError: a line is no record or failure.
        DiskError: a file cannot be read, or is damaged.
    """
    state = directory.read_state()
    keys = read_settled(directory)
    done = max(len(keys.settled) - state.job.stale, 0) + state.job.twins
    failed = max(len(keys.failed) - state.job.stale_failures, 0)
    left = max(state.job.requests - done - failed, 0)
    return RunStatus(state, done, failed, left, is_held(directory.path))
