"""Fine-tuning jobs from creation to their end: files checked at once, training one job at a time.

Owns which state follows which. A job that a stop or a crash of the server interrupted is trained again from
its beginning when the server is next started, twice at most; then it fails. Does not know how an engine
trains.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

from asyncgen.serve.engine import TrainingTask
from asyncgen.serve.stores.jobs import ENDED, Job, JobError, JobStore, Kept
from asyncgen.serve.tuning.course import Course, JobFailedError
from asyncgen.serve.tuning.samples import SampleError, check_samples
from asyncgen.serve.wire import ApiError, Clock

if TYPE_CHECKING:
    from asyncgen.serve.engine import Engine
    from asyncgen.serve.stores.files import FileStore
    from asyncgen.serve.stores.models import ModelStore

Step = Callable[[Job], Awaitable[None]]

_MOST_STARTS = 3
_FEWEST_SAMPLES = 10


class TuningQueue:
    """The queue of a server.

    Args:
        root: the data folder.
        clock: Unix seconds.
    """

    def __init__(
        self,
        engine: Engine,
        jobs: JobStore,
        files: FileStore,
        models: ModelStore,
        *,
        root: Path,
        clock: Clock,
    ) -> None:
        self._engine = engine
        self._jobs = jobs
        self._files = files
        self._models = models
        self._root = root
        self._clock = clock
        self._news: asyncio.Queue[str] = asyncio.Queue()
        self._ready: asyncio.Queue[str] = asyncio.Queue()
        self._in_progress: set[tuple[str, asyncio.Task[None]]] = set()

    @property
    def is_busy(self) -> bool:
        """Whether a job is waiting or running."""
        return any(job.status not in ENDED for job in self._jobs.all())

    def submit(self, kept: Kept) -> Job:
        """Take a new job."""
        self._jobs.add(kept)
        identifier = kept.job.id
        self._jobs.tell(identifier, f"Created fine-tuning job: {identifier}")
        if self._engine.traits.notice:
            self._jobs.tell(identifier, self._engine.traits.notice, level="warn")
        self._news.put_nowait(identifier)
        return kept.job

    async def cancel(self, identifier: str) -> Job:
        """End a job; a training in progress has stopped when this returns.

        Raises:
            ApiError: 404, or 400 where it has already ended.
        """
        job = self._jobs.get(identifier)
        if job.status in ENDED:
            raise ApiError(400, f"The job {identifier} is already {job.status}.", code="job_already_ended")
        job = self._jobs.change(identifier, status="cancelled", finished_at=int(self._clock()), estimated_finish=None)
        self._jobs.tell(identifier, "The job was cancelled", level="warn")
        tasks = [task for name, task in self._in_progress if name == identifier]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        return job

    async def run(self) -> None:
        """Check what is new and train what is ready, for ever; cancelling it stops the training."""
        self._take_up_again()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._work(self._news, self._check))
            group.create_task(self._work(self._ready, self._train))

    def _take_up_again(self) -> None:
        for job in reversed(self._jobs.all()):
            starts = self._jobs.kept(job.id).starts
            if job.status in ENDED:
                continue
            if starts >= _MOST_STARTS:
                message = f"The server ended {starts} times while it trained this job."
                self._fail(job.id, JobError(code="server_error", message=message))
            elif job.status == "validating_files":
                self._news.put_nowait(job.id)
            else:
                if job.status == "running":
                    self._jobs.tell(job.id, "The server was stopped; the training begins again", level="warn")
                self._jobs.change(job.id, status="queued", estimated_finish=None)
                self._ready.put_nowait(job.id)

    async def _work(self, waiting: asyncio.Queue[str], step: Step) -> None:
        while True:
            identifier = await waiting.get()
            if self._jobs.get(identifier).status in ENDED:  # cancelled while it waited
                continue
            task = asyncio.create_task(self._guarded(identifier, step))
            entry = (identifier, task)
            self._in_progress.add(entry)
            try:
                await asyncio.wait([task])
            finally:
                task.cancel()
                await asyncio.wait([task])
                self._in_progress.remove(entry)
            if not task.cancelled():
                task.result()  # a bug ends the server with its traceback, and no job hangs for ever

    async def _guarded(self, identifier: str, step: Step) -> None:
        try:
            await step(self._jobs.get(identifier))
        except JobFailedError as failure:
            self._fail(identifier, failure.error)
        except ApiError as refusal:  # a file that was deleted meanwhile, an adapter that does not load
            error = JobError(code=refusal.code or "server_error", message=str(refusal), param=refusal.param)
            self._fail(identifier, error)

    def _fail(self, identifier: str, error: JobError) -> None:
        self._jobs.tell(identifier, f"The job failed: {error.message}", level="error")
        self._jobs.change(
            identifier, status="failed", error=error, finished_at=int(self._clock()), estimated_finish=None
        )

    async def _check(self, job: Job) -> None:
        method = job.method["type"]
        self._jobs.tell(job.id, f"Validating training file: {job.training_file}")
        samples = await self._count(job.training_file, method, "training_file", _FEWEST_SAMPLES)
        if job.validation_file:
            self._jobs.tell(job.id, f"Validating validation file: {job.validation_file}")
            await self._count(job.validation_file, method, "validation_file", 1)
        self._jobs.note(job.id, samples=samples)
        self._jobs.tell(job.id, "Files validated, moving job to queued state")
        self._jobs.change(job.id, status="queued")
        self._ready.put_nowait(job.id)

    async def _count(self, file: str, method: str, param: str, fewest: int) -> int:
        try:
            return await asyncio.to_thread(check_samples, self._files.content(file), method, fewest)
        except SampleError as error:
            message = f"The job failed due to an invalid {param.replace('_', ' ')}. {error}"
            raise JobFailedError(message, code=f"invalid_{param}", param=param) from None

    async def _train(self, job: Job) -> None:
        kept = self._jobs.kept(job.id)
        task = self._task(kept)
        self._jobs.begin(job.id)
        self._jobs.tell(job.id, "Fine-tuning job started")
        try:
            await self._follow(job, task)
        except asyncio.CancelledError:  # an orderly stop is not the training's fault
            self._jobs.note(job.id, starts=kept.starts)
            raise

    async def _follow(self, job: Job, task: TrainingTask) -> None:
        course = Course(job.id, self._jobs, self._files, self._models, root=self._root, clock=self._clock)
        async with aclosing(self._engine.train(task)) as messages:
            async for message in messages:
                if end := course.record(message):
                    if end.path:
                        await self._engine.adopt(Path(end.path))
                    course.succeed(end)
                    return
        raise JobFailedError("The training ended before its end.", code="server_error")

    def _task(self, kept: Kept) -> TrainingTask:
        job, wanted = kept.job, kept.job.hyperparameters
        return TrainingTask(
            folder=self._jobs.folder(job.id),
            train=self._files.content(job.training_file),
            validation=self._files.content(job.validation_file) if job.validation_file else None,
            samples=kept.samples,
            n_epochs=wanted.n_epochs,
            batch_size=wanted.batch_size,
            learning_rate_multiplier=wanted.learning_rate_multiplier,
            seed=job.seed,
        )
