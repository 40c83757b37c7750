"""Run one fine-tuning job: read its files, then train.

The order of jobs is left to `queue`, training to the engine.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

from asyncgen.serve.engine import TrainingTask
from asyncgen.serve.tuning.course import JobFailedError, JobRecorder, is_servable
from asyncgen.serve.tuning.samples import SampleError, check_samples
from asyncgen.serve.wire import ApiError

if TYPE_CHECKING:
    from asyncgen.serve.engine import ModelEngine
    from asyncgen.serve.stores.files import FileStore
    from asyncgen.serve.stores.jobs import JobEntry, JobStore, ServedJob
    from asyncgen.serve.stores.models import ModelStore
    from asyncgen.serve.wire import Clock

_FEWEST_SAMPLES = 10


class TuningWork:
    """The two steps, over one engine and its stores.

    Args:
        engine: what trains.
        jobs, files, models: the stores.
        root: the data folder.
        clock: Unix seconds.
    """

    def __init__(
        self,
        engine: ModelEngine,
        *,
        jobs: JobStore,
        files: FileStore,
        models: ModelStore,
        root: Path,
        clock: Clock,
    ) -> None:
        self._engine = engine
        self._jobs = jobs
        self._files = files
        self._models = models
        self._root = root
        self._clock = clock

    async def check(self, job: ServedJob) -> None:
        """Read the job's files, and find it ready to be trained.

        Raises:
            JobFailedError: a file is not as it must be, or was deleted.
        """
        method = job.method["type"]
        self._jobs.log.tell(job.id, f"Validating training file: {job.training_file}")
        samples = await self._count(job.training_file, method, "training_file", _FEWEST_SAMPLES)
        if job.validation_file:
            self._jobs.log.tell(job.id, f"Validating validation file: {job.validation_file}")
            await self._count(job.validation_file, method, "validation_file", 1)
        self._jobs.note(job.id, samples=samples)
        self._jobs.log.tell(job.id, "Files validated, moving job to queued state")
        self._jobs.change(job.id, status="queued")

    async def _count(self, file: str, method: str, param: str, fewest: int) -> int:
        try:
            return await asyncio.to_thread(check_samples, self._path(file, param), method, fewest)
        except SampleError as error:
            message = f"The job failed due to an invalid {param.replace('_', ' ')}. {error}"
            raise JobFailedError(message, code=f"invalid_{param}", param=param) from None

    async def train(self, job: ServedJob) -> None:
        """Train the job to its end.

        Raises:
            JobFailedError: the training failed, or a file was deleted meanwhile.
            ApiError: the adapter cannot be loaded.
        """
        task = self._task(self._jobs.kept(job.id))
        self._jobs.change(job.id, status="running")
        self._models.forget(job.id)  # of a training that was interrupted
        self._jobs.log.forget_checkpoints(job.id)
        self._jobs.log.tell(job.id, "Fine-tuning job started")
        await self._follow(job, task)

    async def _follow(self, job: ServedJob, task: TrainingTask) -> None:
        course = JobRecorder(job.id, self._jobs, self._files, self._models, root=self._root, clock=self._clock)
        async with aclosing(self._engine.train(task)) as messages:
            async for message in messages:
                if end := course.record(message):
                    if end.path and is_servable(end.path):
                        await self._engine.adopt(Path(end.path))
                    course.succeed(end)
                    return
        raise JobFailedError("The training ended before its end.", code="server_error")

    def _task(self, kept: JobEntry) -> TrainingTask:
        job = kept.job
        return TrainingTask(
            model=job.model,
            suffix=job.user_provided_suffix,
            folder=self._jobs.folder(job.id),
            train=self._path(job.training_file, "training_file"),
            validation=self._path(job.validation_file, "validation_file") if job.validation_file else None,
            samples=kept.samples,
            hyperparameters=job.hyperparameters,
            seed=job.seed,
        )

    def _path(self, file: str, param: str) -> Path:
        try:
            return self._files.content(file)
        except ApiError:
            message = f"The {param.replace('_', ' ')} {file} was deleted."
            raise JobFailedError(message, code="file_not_found", param=param) from None
