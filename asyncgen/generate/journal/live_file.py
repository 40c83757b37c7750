"""How a run goes at this moment, for whoever looks on: `live.json` in its directory.

Owns the file: replaced in one step, at most once a second, by the process that generates, and removed at its end. It
is never made safe from a power loss, since nothing is lost with it; `records.jsonl` and `run.json` are what counts.
Whoever reads it takes one that is older than `FRESH_S` for the leftover of a process that was killed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

LIVE_NAME = "live.json"
FRESH_S = 10.0
_MAX_BYTES = 1 << 20


class PauseNote(msgspec.Struct, frozen=True):
    """A time in which nothing is sent; `began` and `until` are Unix seconds."""

    began: float
    until: float
    reason: str


class LiveState(msgspec.Struct, frozen=True, kw_only=True):
    """A run at one moment.

    Attributes:
        updated: Unix seconds, likewise `began`.
        requests: rows of the job, and of them those done, failed and left.
        in_flight: HTTP calls without an answer yet.
        concurrency: the most in flight now.
        per_second: rows finished a second, over the last moments.
        eta_s: seconds until the end at this rate; None when nothing moves.
        retries: calls for rows that had been tried before.
        rate_limited: calls that the server refused for the rate or its load.
        pauses: the newest ones, oldest first.
    """

    updated: float
    began: float
    requests: int
    done: int
    failed: int
    left: int
    in_flight: int
    concurrency: int
    per_second: float
    eta_s: float | None
    retries: int
    rate_limited: int
    pauses: tuple[PauseNote, ...] = ()


_decode = msgspec.json.Decoder(LiveState).decode
_encode = msgspec.json.Encoder().encode


class LiveFile:
    """Writes the file; a disk that refuses it is no reason to end a run.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LIVE_NAME
        self._temporary = folder / f".{LIVE_NAME}.{os.getpid()}.tmp"

    def write(self, state: LiveState) -> None:
        """Put the state in the place of the last one."""
        with suppress(OSError):
            self._temporary.write_bytes(_encode(state))
            self._temporary.replace(self._path)

    def remove(self) -> None:
        """The run ended, or is given up."""
        for path in (self._temporary, self._path):
            with suppress(OSError):
                path.unlink()


def read_live(folder: Path, now: Callable[[], float] = time.time) -> LiveState | None:
    """What the generating process says; None where none works on the run.

    Args:
        folder: of the run.
        now: Unix seconds.
    """
    try:
        state = _decode((folder / LIVE_NAME).read_bytes()[:_MAX_BYTES])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return state if abs(now() - state.updated) < FRESH_S else None
