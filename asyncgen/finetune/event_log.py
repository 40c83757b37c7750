"""`events.jsonl`: the events of a run's fine-tuning jobs, oldest first, each once, however often a job is followed.

Also the state of a followed job. Asking the provider is left to `follow`.
"""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Protocol

import msgspec

from asyncgen.finetune.api import Event, TuningJob
from asyncgen.finetune.uploads import noted_job, with_job, with_last_event
from asyncgen.json_text import decoder
from asyncgen.run.jsonl import LineFile, read_rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from asyncgen.run.directory import RunWriter

_decode_event = decoder(Event)
_encode = msgspec.json.Encoder().encode


class EventLog(Protocol):
    """The memory of one job's follower."""

    @property
    def history(self) -> tuple[Event, ...]:
        """What was told before, oldest first."""
        ...

    def add(self, event: Event) -> None:
        """Remember an event; raises DiskError."""
        ...

    def note(self, job: TuningJob) -> None:
        """Remember the job's state; raises DiskError."""
        ...


class MemoryLog:
    """An `EventLog` for a job that belongs to no run: forgotten with the process."""

    def __init__(self, history: tuple[Event, ...] = ()) -> None:
        self.history = history

    def add(self, event: Event) -> None:
        pass

    def note(self, job: TuningJob) -> None:
        pass


class RunLog:
    """An `EventLog` in a run's directory.

    Args:
        run: open for writing.
        file: its `events.jsonl`.
        job_id: one of the run's jobs.
    """

    def __init__(self, run: RunWriter, file: LineFile, job_id: str) -> None:
        self._run = run
        self._file = file
        self._job_id = job_id
        self._newest: str | None = None
        self.history = past_events(file.path, job_id)

    def add(self, event: Event) -> None:
        self._file.append(_encode(event) + b"\n")
        self._newest = event.id

    def note(self, job: TuningJob) -> None:
        noted = noted_job(self._run.state, self._job_id)
        if noted is None:
            return
        self._run.update(lambda state: with_job(state, noted.intent, job))
        newest = self._newest
        if newest:
            self._run.update(lambda state: with_last_event(state, self._job_id, newest))


@contextmanager
def open_run_log(run: RunWriter, job_id: str) -> Iterator[RunLog]:
    """The log of one of the run's jobs; on the disk for good when the block ends.

    Raises:
        DiskError: it cannot be read or written; BadLineError: a line of it is damaged.
    """
    with closing(LineFile(run.directory.events)) as file:
        yield RunLog(run, file, job_id)
        file.sync()


def past_events(path: Path, job_id: str) -> tuple[Event, ...]:
    """The job's events in an `events.jsonl`, oldest first; none where there is no file.

    Raises:
        BadLineError: a line is damaged.
    """
    return tuple(event for _, event in read_rows(path, _decode_event) if event.job == job_id)
