"""Follow a fine-tuning job to its end: every event once, oldest first, through outages; and keep them on disk.

Reads event pages that come newest first, polls at an adapted interval, and decides which errors to wait out. Never
changes the job: an interruption only ends the following. `events.jsonl` holds the events of a run's jobs, each once,
however often a job is followed. Also reads the metrics of a training, from its events or a table, under the names
that providers give them. Display is left to the observer.
"""

from __future__ import annotations

import asyncio
import csv
import io
import math
import random
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec

from asyncgen.backoff import full_jitter_s
from asyncgen.errors import RunInUseError
from asyncgen.finetune.api import Event, JobApi, OutageError, TuningJob
from asyncgen.finetune.target import Target, noted_job, with_job, with_last_event
from asyncgen.json_text import decoder
from asyncgen.run.directory import open_run
from asyncgen.run.jsonl import LineFile, read_rows

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from asyncgen.errors import AsyncgenError
    from asyncgen.run.directory import RunWriter


_decode_event = decoder(Event)
_encode = msgspec.json.Encoder().encode


class EventLog(Protocol):
    """Keeps the events of one job."""

    @property
    def history(self) -> tuple[Event, ...]:
        """The events so far, oldest first."""
        ...

    def add(self, event: Event) -> None:
        """Remember an event; raises DiskError."""
        ...

    def note(self, job: TuningJob) -> None:
        """Remember the job's state; raises DiskError."""
        ...


class MemoryLog:
    """The log of a job that belongs to no run; lost with the process. Implements `EventLog`."""

    def __init__(self, history: tuple[Event, ...] = ()) -> None:
        self.history = history

    def add(self, event: Event) -> None:
        pass

    def note(self, job: TuningJob) -> None:
        pass


class RunLog:
    """The log in a run directory. Implements `EventLog`.

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
    """Open the log of one of the run's jobs. It is synced when the block ends.

    Args:
        run: open for writing.
        job_id: one of the run's jobs.

    Yields:
        The log.

    Raises:
        BadLineError: a line is damaged.
        DiskError: it cannot be read or written.
    """
    with closing(LineFile(run.directory.events)) as file:
        yield RunLog(run, file, job_id)
        file.sync()


def past_events(path: Path, job_id: str) -> tuple[Event, ...]:
    """Read the job's events from an `events.jsonl`.

    Args:
        path: the file; a missing one has none.
        job_id: of the job.

    Returns:
        The events, oldest first.

    Raises:
        BadLineError: a line is damaged.
    """
    return tuple(event for _, event in read_rows(path, _decode_event) if event.job == job_id)


T = TypeVar("T")
_MOST_PAGES = 1000  # of events; more means a server whose pages never end
_OUTAGE_BASE_S = 2.0


class TrainingWatcher(Protocol):
    """Gets reports of a training. Called from the event loop, so it must not block."""

    def on_event(self, event: Event) -> None:
        """Report an event. Events come oldest first, each once.

        Args:
            event: the event.
        """
        ...

    def on_job(self, job: TuningJob) -> None:
        """Report the job's present state, after its events.

        Args:
            job: the job.
        """
        ...

    def on_outage(self, error: AsyncgenError) -> None:
        """Report that the provider could not be reached; it will be asked again.

        Args:
            error: the error.
        """
        ...


@dataclass(frozen=True, slots=True)
class FollowPace:
    """The polling interval.

    Attributes:
        first_s: seconds after news.
        growth: factor while there is no news.
        longest_s: maximum in seconds.
        sleep: waits a number of seconds; a stop ends it early.
    """

    first_s: float = 1.0
    growth: float = 1.5
    longest_s: float = 30.0
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    rng: random.Random = field(default_factory=random.Random)


async def follow(
    jobs: JobApi,
    job_id: str,
    log: EventLog,
    watcher: TrainingWatcher,
    *,
    stop: asyncio.Event,
    pace: FollowPace | None = None,
) -> TuningJob | None:
    """Follow a job until it ends, or until `stop` is set.

    Args:
        jobs: the provider's jobs.
        job_id: of any job there.
        log: events in it are not reported again; new ones are added.
        watcher: called with events and states.
        stop: set it to stop following; the job goes on.
        pace: polling interval; None for the default.

    Returns:
        The last known state of the job; None if `stop` was set before there was one.

    Raises:
        OutageError: the first request was not answered.
        AbsentError, AuthError, QuotaError, AsyncgenError: a final error of the provider.
        DiskError: the log cannot be written.
    """
    following = _Following(jobs, job_id, log, watcher, pace or FollowPace())
    return await _unless(stop, following.to_the_end()) or following.last


async def all_events(jobs: JobApi, job_id: str) -> list[Event]:
    """Fetch all events of a job so far.

    Args:
        jobs: the provider's jobs.
        job_id: the provider's id.

    Returns:
        The events, oldest first.

    Raises:
        AsyncgenError: as `JobApi.events`.
    """
    return await _events_unless_told(jobs, job_id, frozenset())


class _Following:
    """One job being followed."""

    def __init__(self, jobs: JobApi, job_id: str, log: EventLog, watcher: TrainingWatcher, pace: FollowPace) -> None:
        self._jobs = jobs
        self._job_id = job_id
        self._log = log
        self._watcher = watcher
        self._pace = pace
        self._told = {event.id for event in log.history}
        self.last: TuningJob | None = None

    async def to_the_end(self) -> TuningJob:
        wait_s, outages = self._pace.first_s, 0
        while True:
            try:
                job, news = await self._turn()
            except OutageError as error:
                if self.last is None:
                    raise
                self._watcher.on_outage(error)
                await self._pace.sleep(self._after_outage_s(outages))
                outages += 1
                continue
            if job.outcome is not None:
                return job
            outages = 0
            wait_s = self._pace.first_s if news else min(wait_s * self._pace.growth, self._pace.longest_s)
            await self._pace.sleep(wait_s)

    async def _turn(self) -> tuple[TuningJob, bool]:
        """Ask once. The job is fetched before its events, so that none is missed after it has ended."""
        job = await self._jobs.get(self._job_id)
        before, self.last = self.last, self.last or job
        events = await _events_unless_told(self._jobs, self._job_id, self._told)
        for event in events:
            self._log.add(event)
            self._told.add(event.id)
            self._watcher.on_event(event)
        self.last = job
        changed = before is None or job.status != before.status
        if events or changed:
            self._log.note(job)
        self._watcher.on_job(job)
        return job, bool(events) or changed

    def _after_outage_s(self, outages: int) -> float:
        return self._pace.first_s + full_jitter_s(outages, self._pace.rng, base_s=_OUTAGE_BASE_S)


async def _events_unless_told(jobs: JobApi, job_id: str, told: AbstractSet[str]) -> list[Event]:
    """Fetch the events that are not known yet, oldest first.

    Pages come newest first, so fetching stops at a page that ends with a known event. If the times show that a server
    lists the oldest first, all its pages are read.
    """
    found: dict[str, Event] = {}
    after, newest_first = None, True
    for _ in range(_MOST_PAGES):
        page = await jobs.events(job_id, after)
        fresh = [event for event in page.events if event.id not in found]
        found.update((event.id, event) for event in fresh)
        if not fresh or not page.has_more:
            break
        newest_first = newest_first and page.events[0].created_at >= page.events[-1].created_at
        after = page.events[-1].id
        if newest_first and after in told:
            break
    return [event for event in _oldest_first([*found.values()]) if event.id not in told]


def _oldest_first(events: list[Event]) -> list[Event]:
    """The events turned round, unless their times say that they already stand so; equal times keep their order."""
    if events and events[0].created_at < events[-1].created_at:
        return events
    return events[::-1]


async def _unless(stop: asyncio.Event, work: Awaitable[T]) -> T | None:
    """The result of `work`; None if `stop` is set earlier, and the work is then cancelled."""
    task = asyncio.ensure_future(work)
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for each in (task, stopped):
            each.cancel()
        await asyncio.wait([task, stopped])


def note_state(target: Target, job: TuningJob) -> None:
    """Note the job's state in its run. Does nothing without a run, or while another process writes it.

    Args:
        target: the job.
        job: its present state.
    """
    if target.run is None:
        return
    with suppress(RunInUseError), open_run(target.run.path) as run, open_run_log(run, target.job_id) as log:
        log.note(job)


@contextmanager
def event_log(target: Target, say: Callable[[str], None]) -> Iterator[EventLog]:
    """Open the log of the target's events.

    It is the run's; in memory if there is no run, or while another process writes it.

    Args:
        target: the job.
        say: called to report that events are not kept.

    Yields:
        The log.
    """
    if target.run is None:
        yield MemoryLog()
        return
    with ExitStack() as stack:
        try:
            run = stack.enter_context(open_run(target.run.path))
        except RunInUseError:
            say(f"another asyncgen process is writing to {target.run.path}: the events are shown, but not saved")
            yield MemoryLog(past_events(target.run.events, target.job_id))
            return
        yield stack.enter_context(open_run_log(run, target.job_id))


_TRAIN = ("train_loss", "train/loss", "training_loss", "loss")


_VALID = ("full_valid_loss", "valid_loss", "eval/loss", "eval_loss", "validation_loss")


_STEP = ("step", "global_step", "train/global_step")


@dataclass(frozen=True, slots=True)
class Point:
    """The metrics of a step; None for one that was not measured."""

    step: int
    train_loss: float | None = None
    valid_loss: float | None = None


def points_of_events(events: Iterable[Event]) -> list[Point]:
    """Read the steps from "metrics" events.

    Args:
        events: of a job.

    Returns:
        The steps, in the events' order.
    """
    found = (_point(event.data) for event in events)
    return [point for point in found if point is not None]


def points_of_table(content: bytes) -> list[Point]:
    """Read the steps from a CSV table of metrics.

    Args:
        content: the table; lines without a step are skipped.

    Returns:
        The steps; empty if it is not a table.
    """
    rows = csv.DictReader(io.StringIO(content.decode("utf-8-sig", "replace"), newline=""))
    try:
        found = [_point(row) for row in rows]
    except csv.Error:  # not a table
        return []
    return [point for point in found if point is not None]


def _point(figures: dict[str, object] | dict[str, str]) -> Point | None:
    step = _figure(figures, _STEP)
    point = None if step is None else Point(int(step), _figure(figures, _TRAIN), _figure(figures, _VALID))
    return point if point and (point.train_loss, point.valid_loss) != (None, None) else None


def _figure(figures: dict[str, object] | dict[str, str], names: Sequence[str]) -> float | None:
    for name in names:
        try:
            value = float(figures[name])  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError):
            continue
        if math.isfinite(value):
            return value
    return None
