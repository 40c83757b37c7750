"""Fine-tuning jobs on disk: the API's object, and a folder each for its files, events and checkpoints.

Events and checkpoints are the API's objects, in one JSON Lines file each. Running jobs is left to `tuning`.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

from asyncgen.json_text import NotJsonError, decode_json
from asyncgen.run.whole_file import as_disk_error
from asyncgen.serve.stores.files import JsonStore, file_stem
from asyncgen.serve.training.protocol import Hyperparameters
from asyncgen.serve.wire import Clock, new_id, no_such

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
        folder: contains a folder per job.
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

    def add(
        self,
        identifier: str,
        message: str,
        *,
        level: Level = "info",
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        """Add an event. If the disk refuses it, it stays in memory: no job fails because of its log."""
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
        """Remove the checkpoints of a training that starts over."""
        self._checkpoints[identifier].clear()
        (self._folder / identifier / "checkpoints.jsonl").unlink(missing_ok=True)


def _append(path: Path, value: msgspec.Struct) -> None:
    """Append a line; after an incomplete one, the next begins on a new line."""
    try:
        with path.open("a+b", buffering=0) as stream:
            end = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, end - 1))
            is_torn = end > 0 and stream.read(1) != b"\n"
            stream.write((b"\n" if is_torn else b"") + msgspec.json.encode(value) + b"\n")
    except OSError as error:
        _log.warning("%s could not be written: %s", path, error.strerror or error)


def _lines(path: Path, kind: type[Line]) -> list[Line]:
    """The readable lines; damaged ones are skipped."""
    lines: list[Line] = []
    try:
        texts = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return lines
    except OSError as error:
        _log.warning("%s is skipped: %s", path, error.strerror or error)
        return lines
    for number, text in enumerate(texts, start=1):
        try:
            lines += [decode_json(text, kind)] if text.strip() else []
        except NotJsonError as error:
            _log.warning("line %d of %s is skipped: %s", number, path, error)
    return lines


Status = Literal["validating_files", "queued", "running", "succeeded", "failed", "cancelled"]
ENDED: frozenset[Status] = frozenset({"succeeded", "failed", "cancelled"})


class ServedJobError(msgspec.Struct, frozen=True, kw_only=True):
    """Why a job failed."""

    code: str
    message: str
    param: str | None = None


class ServedJob(msgspec.Struct, frozen=True, kw_only=True):
    """A fine-tuning job as the API shows it."""

    id: str
    created_at: int
    model: str
    organization_id: str
    training_file: str
    hyperparameters: Hyperparameters
    method: dict[str, Any]
    seed: int
    object: str = "fine_tuning.job"
    validation_file: str | None = None
    status: Status = "validating_files"
    error: ServedJobError | None = None
    fine_tuned_model: str | None = None
    estimated_finish: int | None = None
    finished_at: int | None = None
    trained_tokens: int | None = None
    result_files: list[str] = []
    integrations: list[dict[str, Any]] = []
    metadata: dict[str, str] | None = None
    user_provided_suffix: str | None = None


class JobEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Content of `job.json`: the job, and fields that the API does not show.

    Attributes:
        model_name: the name that the tuned model will have.
        starts: how often the check of its files, or then its training, was begun.
        samples: how many the training file has; 0 until it was found valid.
    """

    job: ServedJob
    model_name: str
    starts: int = 0
    samples: int = 0


class JobStore:
    """The fine-tuning jobs of a data folder.

    Args:
        folder: contains a folder per job.
        clock: Unix seconds.

    Attributes:
        log: events and checkpoints of the jobs.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder = folder
        self.log = JobLog(folder, clock)
        self._entries = JsonStore(
            folder,
            "*/job.json",
            JobEntry,
            identify=lambda entry: entry.job.id,
            made_at=lambda entry: entry.job.created_at,
        )

    def folder(self, identifier: str) -> Path:
        return self._folder / file_stem(identifier)

    def all(self) -> list[ServedJob]:
        """Newest first."""
        return [entry.job for entry in self._entries.newest_first()]

    def get(self, identifier: str) -> ServedJob:
        """Raises ApiError: 404."""
        return self.entry(identifier).job

    def entry(self, identifier: str) -> JobEntry:
        """Raises ApiError: 404."""
        entry = self._entries.get(identifier)
        if entry is None:
            raise no_such("fine-tuning job", identifier, param="fine_tuning_job_id")
        return entry

    def find(self, identifier: str) -> JobEntry | None:
        """The job; None if there is none."""
        return self._entries.get(identifier)

    def add(self, entry: JobEntry) -> None:
        """Add a job. Raises DiskError if it cannot be written; it is not added then."""
        folder = self.folder(entry.job.id)
        with as_disk_error(f"{folder} could not be created"):
            folder.mkdir()
        self._entries.put(entry)

    def change(self, identifier: str, **changes: Any) -> ServedJob:
        """Replace fields of the job, on disk too.

        Raises:
            DiskError: it could not be written; until the server ends the job is changed all the same.
        """
        entry = self.entry(identifier)
        job = msgspec.structs.replace(entry.job, **changes)
        self._entries.put(msgspec.structs.replace(entry, job=job))
        return job

    def estimate(self, identifier: str, finish: int) -> None:
        """Note when the job will probably end; not on disk, as it changes with every step."""
        entry = self.entry(identifier)
        job = msgspec.structs.replace(entry.job, estimated_finish=finish)
        self._entries.replace_in_memory(msgspec.structs.replace(entry, job=job))

    def note(self, identifier: str, *, starts: int | None = None, samples: int | None = None) -> None:
        """Change what is stored besides the job."""
        entry = self.entry(identifier)
        self._entries.put(
            msgspec.structs.replace(
                entry,
                starts=entry.starts if starts is None else starts,
                samples=entry.samples if samples is None else samples,
            )
        )
