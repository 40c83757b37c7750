"""`live.json`: the current state of a running generation, for the viewer and other readers.

Replaced atomically by the generating process, at most once a second, and removed at the end. Never fsynced: nothing is
lost with it, since `records.jsonl` and `run.json` are the truth. A reader takes a file older than `FRESH_S` seconds for
the leftover of a killed process.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from asyncgen.errors import DiskError
from asyncgen.json_text import NotJsonError, decoder
from asyncgen.run.whole_file import read_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from asyncgen.generate.pool.progress import Progress

LIVE_NAME = "live.json"
FRESH_S = 10.0
_PAUSES_KEPT = 20
_MAX_BYTES = 1 << 20


class PauseNote(msgspec.Struct, frozen=True):
    """A pause in sending; `began` and `until` are Unix seconds."""

    began: float
    until: float
    reason: str


class LiveState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a running generation.

    Attributes:
        updated: Unix seconds of this state.
        began: Unix seconds of the start.
        requests: rows of the job.
        done: rows that have an answer.
        failed: rows given up on.
        left: rows still to be asked for.
        in_flight: HTTP calls without an outcome.
        waits_for: the limits that requests wait for now; "" if they wait for none.
        concurrency: maximum requests in flight.
        per_second: rows finished per second, over the last ten seconds.
        eta_s: seconds until the end at this rate; None if the rate is 0.
        retries: HTTP calls for rows that were attempted before.
        rate_limited: calls refused for a rate limit or overload.
        pauses: the latest pauses, oldest first.
    """

    updated: float
    began: float
    requests: int
    done: int
    failed: int
    left: int
    in_flight: int
    waits_for: str = ""
    concurrency: int
    per_second: float
    eta_s: float | None
    retries: int
    rate_limited: int
    pauses: tuple[PauseNote, ...] = ()


_decode = decoder(LiveState)
_encode = msgspec.json.Encoder().encode


class LiveFile:
    """Writes the file. A disk error here does not end the run.

    Args:
        folder: the run directory.
        name: name of the file; a shard has its own.
    """

    def __init__(self, folder: Path, name: str = LIVE_NAME) -> None:
        self._path = folder / name
        self._temporary = folder / f".{name}.{os.getpid()}.tmp"

    def write(self, state: LiveState) -> None:
        """Replace the file."""
        with suppress(OSError):
            self._temporary.write_bytes(_encode(state))
            self._temporary.replace(self._path)

    def remove(self) -> None:
        """Remove the file at the end of the run."""
        for path in (self._temporary, self._path):
            with suppress(OSError):
                path.unlink()


def read_live(folder: Path, now: Callable[[], float] = time.time, name: str = LIVE_NAME) -> LiveState | None:
    """Read the state of the process that generates a run or a shard.

    Args:
        folder: the run directory.
        now: Unix seconds.
        name: name of the file.

    Returns:
        The state; None if no process is running.
    """
    try:
        state = _decode(read_whole(folder / name, _MAX_BYTES))
    except (OSError, DiskError, NotJsonError):
        return None
    return state if abs(now() - state.updated) < FRESH_S else None


def sum_of_live(states: Sequence[LiveState]) -> LiveState:
    """Add up the states of several processes that work on one run.

    Args:
        states: at least one.

    Returns:
        Their sum, with the latest time and the earliest start.
    """
    per_second = sum(state.per_second for state in states)
    left = sum(state.left for state in states)
    pauses = sorted((note for state in states for note in state.pauses), key=lambda note: note.began)
    return LiveState(
        updated=max(state.updated for state in states),
        began=min(state.began for state in states),
        requests=sum(state.requests for state in states),
        done=sum(state.done for state in states),
        failed=sum(state.failed for state in states),
        left=left,
        in_flight=sum(state.in_flight for state in states),
        waits_for=next((state.waits_for for state in states if state.waits_for), ""),
        concurrency=sum(state.concurrency for state in states),
        per_second=per_second,
        eta_s=left / per_second if per_second > 0 else None,
        retries=sum(state.retries for state in states),
        rate_limited=sum(state.rate_limited for state in states),
        pauses=tuple(pauses[-_PAUSES_KEPT:]),
    )


class Pauses:
    """The pauses of a run, detected from its counts.

    Attributes:
        newest: the latest pauses, oldest first.
    """

    def __init__(self) -> None:
        self.newest: tuple[PauseNote, ...] = ()
        self._until = 0.0

    def update(self, progress: Progress, now_s: float, wall_s: float) -> None:
        """Note a new pause, or extend the last one.

        Args:
            progress: the counts.
            now_s: seconds of the loop's clock, which `progress.paused_until` uses.
            wall_s: Unix seconds.
        """
        if progress.paused_until <= max(self._until, now_s):
            return
        goes_on, self._until = self._until > now_s, progress.paused_until
        began = self.newest[-1].began if goes_on and self.newest else wall_s
        note = PauseNote(began, wall_s + self._until - now_s, progress.pause_cause or "the server asked for a pause")
        self.newest = (*self.newest[:-1], note) if goes_on else (*self.newest, note)[-_PAUSES_KEPT:]
