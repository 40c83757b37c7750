"""The queue of fine-tuning jobs: files checked at once, trainings run one at a time.

A check or training that a stop or crash of the server interrupted starts over at the next start, after a crash at most
twice; then the job fails. Training is left to the engines.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from asyncgen.errors import AsyncgenError, DiskError
from asyncgen.serve.stores.jobs import ENDED, JobEntry, JobStore, ServedJob, ServedJobError
from asyncgen.serve.tuning.work import JobFailedError
from asyncgen.serve.wire import ApiError, Clock

if TYPE_CHECKING:
    from asyncgen.serve.tuning.work import TuningWork

TrainingStep = Callable[[ServedJob], Awaitable[None]]

_MOST_STARTS = 3
_log = logging.getLogger(__name__)


class TuningQueue:
    """The queue of a server's fine-tuning jobs.

    Args:
        jobs: the store.
        work: what is done with each.
        notice: said at the beginning of each; "" for nothing.
        clock: Unix seconds.
    """

    def __init__(self, jobs: JobStore, work: TuningWork, notice: str, clock: Clock) -> None:
        self._jobs = jobs
        self._work = work
        self._notice = notice
        self._clock = clock
        self._news: asyncio.Queue[str] = asyncio.Queue()
        self._ready: asyncio.Queue[str] = asyncio.Queue()
        self._in_progress: set[tuple[str, asyncio.Task[None]]] = set()

    @property
    def is_busy(self) -> bool:
        """Whether a job is waiting or running."""
        return any(job.status not in ENDED for job in self._jobs.all())

    def submit(self, job_entry: JobEntry) -> ServedJob:
        """Add a new job."""
        self._jobs.add(job_entry)
        identifier = job_entry.job.id
        self._jobs.log.add(identifier, f"Created fine-tuning job: {identifier}")
        if self._notice:
            self._jobs.log.add(identifier, self._notice, level="warn")
        self._news.put_nowait(identifier)
        return job_entry.job

    async def cancel(self, identifier: str) -> ServedJob:
        """Cancel a job. A training in progress has stopped when this returns.

        Raises:
            ApiError: 404, or 400 if it has already ended.
        """
        job = self._jobs.get(identifier)
        if job.status in ENDED:
            raise ApiError(400, f"The job {identifier} is already {job.status}.", code="job_already_ended")
        try:
            self._jobs.change(identifier, status="cancelled", finished_at=int(self._clock()), estimated_finish=None)
        finally:  # on a full disk it is cancelled in memory
            self._jobs.log.add(identifier, "The job was cancelled", level="warn")
            tasks = [task for name, task in self._in_progress if name == identifier]
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
        return self._jobs.get(identifier)

    async def run(self) -> None:
        """Validate new jobs and train those that are ready, forever; cancelling it stops the training."""
        self._requeue_unfinished()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._consume(self._news, self._check))
            group.create_task(self._consume(self._ready, self._work.train))

    def _requeue_unfinished(self) -> None:
        for job in reversed(self._jobs.all()):
            starts = self._jobs.entry(job.id).starts
            if job.status in ENDED:
                continue
            if starts >= _MOST_STARTS:
                message = f"The server stopped {starts} times during this job."
                self._fail(job.id, ServedJobError(code="server_error", message=message))
            elif job.status == "validating_files":
                self._news.put_nowait(job.id)
            else:
                if job.status == "running":
                    self._jobs.log.add(job.id, "The server was stopped; the training starts again", level="warn")
                self._jobs.change(job.id, status="queued", estimated_finish=None)
                self._ready.put_nowait(job.id)

    async def _consume(self, waiting: asyncio.Queue[str], step: TrainingStep) -> None:
        while True:
            identifier = await waiting.get()
            if self._jobs.get(identifier).status in ENDED:  # cancelled while it waited
                continue
            task = asyncio.create_task(self._run_step(identifier, step))
            entry = (identifier, task)
            self._in_progress.add(entry)
            try:
                await asyncio.wait([task])
            finally:
                task.cancel()
                await asyncio.wait([task])
                self._in_progress.remove(entry)
            if not task.cancelled():
                task.result()

    async def _run_step(self, identifier: str, step: TrainingStep) -> None:
        starts = self._jobs.entry(identifier).starts
        try:
            self._jobs.note(identifier, starts=starts + 1)
            await step(self._jobs.get(identifier))
        except asyncio.CancelledError:  # an orderly stop is not the job's fault
            with suppress(DiskError):
                self._jobs.note(identifier, starts=starts)
            raise
        except JobFailedError as failure:
            self._fail(identifier, failure.error)
        except ApiError as refusal:  # an adapter cannot be loaded
            error = ServedJobError(code=refusal.code or "server_error", message=str(refusal), param=refusal.param)
            self._fail(identifier, error)
        except (OSError, AsyncgenError) as error:  # a full disk, most likely
            message = f"The job's files could not be read or written: {_reason(error)}."
            self._fail(identifier, ServedJobError(code="io_error", message=message))
        except Exception:  # noqa: BLE001 - the edge: a bug ends this job, its traceback in the log, and no other one
            _log.exception("%s", identifier)
            message = "The server had an internal error; see its log."
            self._fail(identifier, ServedJobError(code="server_error", message=message))

    async def _check(self, job: ServedJob) -> None:
        await self._work.check(job)
        self._jobs.note(job.id, starts=0)
        self._ready.put_nowait(job.id)

    def _fail(self, identifier: str, error: ServedJobError) -> None:
        self._jobs.log.add(identifier, f"The job failed: {error.message}", level="error")
        try:
            self._jobs.change(
                identifier, status="failed", error=error, finished_at=int(self._clock()), estimated_finish=None
            )
        except DiskError as refused:  # it has failed in memory; the next server tries it once more
            _log.warning("%s: %s", refused.what, refused.cause)


def _reason(error: OSError | AsyncgenError) -> str:
    if isinstance(error, AsyncgenError):
        return error.what + (f" ({error.cause})" if error.cause else "")
    return error.strerror or str(error)
