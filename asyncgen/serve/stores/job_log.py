"""What happened in a fine-tuning job: its events and its checkpoints, a file of lines each.

Owns these objects as the API shows them, and their life on disk. Does not know what a job is.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

from asyncgen.json_text import decode_json
from asyncgen.run.whole_file import explained
from asyncgen.serve.wire import Clock, new_id

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Level = Literal["info", "warn", "error"]
Line = TypeVar("Line")


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a job's log."""

    id: str
    created_at: int
    level: Level
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any] = {}
    object: str = "fine_tuning.job.event"


class JobCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A model as it was after an epoch."""

    id: str
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    metrics: dict[str, Any]
    step_number: int
    object: str = "fine_tuning.job.checkpoint"


class JobLog:
    """The logs of all jobs of a data folder.

    Args:
        folder: holds a folder a job.
        clock: Unix seconds.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock
        self._events: dict[str, list[Event]] = defaultdict(list)
        self._checkpoints: dict[str, list[JobCheckpoint]] = defaultdict(list)
        for path in folder.iterdir():
            self._events[path.name] = _lines(path / "events.jsonl", Event)
            self._checkpoints[path.name] = _lines(path / "checkpoints.jsonl", JobCheckpoint)

    def tell(
        self,
        identifier: str,
        message: str,
        *,
        level: Level = "info",
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        """Add an event."""
        event = Event(
            id=new_id("ftevent-"),
            created_at=int(self._clock()),
            level=level,
            message=message,
            type="message" if metrics is None else "metrics",
            data=dict(metrics or {}),
        )
        self._events[identifier].append(event)
        _append(self._folder / identifier / "events.jsonl", event)

    def events(self, identifier: str) -> list[Event]:
        """Newest first."""
        return self._events[identifier][::-1]

    def add_checkpoint(self, checkpoint: JobCheckpoint) -> None:
        self._checkpoints[checkpoint.fine_tuning_job_id].append(checkpoint)
        _append(self._folder / checkpoint.fine_tuning_job_id / "checkpoints.jsonl", checkpoint)

    def checkpoints(self, identifier: str) -> list[JobCheckpoint]:
        """Newest first."""
        return self._checkpoints[identifier][::-1]

    def forget_checkpoints(self, identifier: str) -> None:
        """Those of a training that begins again."""
        self._checkpoints[identifier].clear()
        (self._folder / identifier / "checkpoints.jsonl").unlink(missing_ok=True)


def _append(path: Path, value: msgspec.Struct) -> None:
    with explained(f"{path} could not be written"), path.open("ab") as stream:
        stream.write(msgspec.json.encode(value) + b"\n")


def _lines(path: Path, kind: type[Line]) -> list[Line]:
    """The whole lines of a file; a torn last one is cut off, so that the next does not stick to it."""
    if not path.exists():
        return []
    whole, newline, torn = path.read_bytes().rpartition(b"\n")
    if torn:
        path.write_bytes(whole + newline)
    return [decode_json(line, kind) for line in whole.split(b"\n") if line]
