"""Events and checkpoints of a fine-tuning job, as the API's objects, in one JSON Lines file each."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

from asyncgen.json_text import NotJsonError, decode_json
from asyncgen.serve.wire import Clock, new_id

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Level = Literal["info", "warn", "error"]
Line = TypeVar("Line")
_log = logging.getLogger(__name__)


class LoggedEvent(msgspec.Struct, frozen=True, kw_only=True):
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
        self._events: dict[str, list[LoggedEvent]] = defaultdict(list)
        self._checkpoints: dict[str, list[JobCheckpoint]] = defaultdict(list)
        for path in folder.iterdir():
            self._events[path.name] = _lines(path / "events.jsonl", LoggedEvent)
            self._checkpoints[path.name] = _lines(path / "checkpoints.jsonl", JobCheckpoint)

    def tell(
        self,
        identifier: str,
        message: str,
        *,
        level: Level = "info",
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        """Add an event. Where the disk refuses it, it is told until the server ends: no job fails for its log."""
        event = LoggedEvent(
            id=new_id("ftevent-"),
            created_at=int(self._clock()),
            level=level,
            message=message,
            type="message" if metrics is None else "metrics",
            data=dict(metrics or {}),
        )
        self._events[identifier].append(event)
        _append(self._folder / identifier / "events.jsonl", event)

    def events(self, identifier: str) -> list[LoggedEvent]:
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
    """Add a line; where only a part of it could be written, the next one begins on a line of its own."""
    try:
        with path.open("a+b", buffering=0) as stream:
            end = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, end - 1))
            is_torn = end > 0 and stream.read(1) != b"\n"
            stream.write((b"\n" if is_torn else b"") + msgspec.json.encode(value) + b"\n")
    except OSError as error:
        _log.warning("%s could not be written: %s", path, error.strerror or error)


def _lines(path: Path, kind: type[Line]) -> list[Line]:
    """The lines that can be read; damaged ones are passed over, and stay where they are."""
    lines: list[Line] = []
    try:
        texts = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return lines
    except OSError as error:
        _log.warning("%s is passed over: %s", path, error.strerror or error)
        return lines
    for number, text in enumerate(texts, start=1):
        try:
            lines += [decode_json(text, kind)] if text.strip() else []
        except NotJsonError as error:
            _log.warning("line %d of %s is passed over: %s", number, path, error)
    return lines
