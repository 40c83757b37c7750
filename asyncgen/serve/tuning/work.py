"""Execute one fine-tuning job: check its files, train, and apply the trainer's messages to it.

The messages become events, metrics, checkpoints and models, and the results of a finished job. When a job runs is left
to `queue`, the format of its files to `samples`, training to the engines.
"""

from __future__ import annotations

import asyncio
import csv
import io
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncgen.serve.engine import TrainingTask
from asyncgen.serve.stores.jobs import JobCheckpoint, ServedJobError
from asyncgen.serve.stores.models import ServedModel, checkpoint_name
from asyncgen.serve.training.protocol import (
    Hyperparameters,
    TrainedCheckpoint,
    TrainingEnded,
    TrainingFailed,
    TrainingProgress,
    TrainingStarted,
    TrainingStep,
)
from asyncgen.serve.tuning.samples import SampleError, check_samples
from asyncgen.serve.tuning.trainers import is_adapter
from asyncgen.serve.wire import ApiError, new_id
from asyncgen.terminal import counted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asyncgen.serve.engine import ModelEngine
    from asyncgen.serve.stores.files import FileStore
    from asyncgen.serve.stores.jobs import JobEntry, JobStore, ServedJob
    from asyncgen.serve.stores.models import ModelStore
    from asyncgen.serve.training.protocol import TrainerMessage
    from asyncgen.serve.wire import Clock


RESULT_FILENAME = "step_metrics.csv"
_FEWEST_SAMPLES = 10
_COLUMNS = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")


def step_message(step: TrainingStep) -> str:
    validation = f", validation loss={step.valid_loss:.2f}" if step.valid_loss is not None else ""
    place = f"{step.step}/{step.total_steps}" if step.total_steps else str(step.step)
    return f"Step {place}: training loss={step.train_loss:.2f}{validation}"


def start_message(start: TrainingStarted) -> str:
    cut = f", {start.cut_samples} of them cut to the maximum length" if start.cut_samples else ""
    return (
        f"Training on {counted(start.train_samples, 'sample')}{cut}: {counted(start.n_epochs, 'epoch')} of batches of "
        f"{start.batch_size}, {counted(start.total_steps, 'step')}"
    )


def step_metrics(step: TrainingStep) -> dict[str, Any]:
    """The step's figures under the API's names and ours; those that were not measured are left out."""
    figures = {
        "step": step.step,
        "total_steps": step.total_steps or None,
        "epoch": step.epoch or None,
        "train_loss": step.train_loss,
        "train_mean_token_accuracy": step.train_mean_token_accuracy,
        "valid_loss": step.valid_loss,
        "valid_mean_token_accuracy": step.valid_mean_token_accuracy,
        "grad_norm": step.grad_norm,
        "learning_rate": step.learning_rate,
    }
    return {name: value for name, value in figures.items() if value is not None}


def checkpoint_metrics(checkpoint: TrainedCheckpoint) -> dict[str, Any]:
    """The checkpoint's figures under the API's names; those that were not measured are left out."""
    figures = {
        "step": checkpoint.step,
        "train_loss": checkpoint.train_loss,
        "train_mean_token_accuracy": checkpoint.train_mean_token_accuracy,
        "full_valid_loss": checkpoint.full_valid_loss,
        "full_valid_mean_token_accuracy": checkpoint.full_valid_mean_token_accuracy,
    }
    return {name: value for name, value in figures.items() if value is not None}


def validation_metrics(checkpoint: TrainedCheckpoint) -> dict[str, Any]:
    """Metrics of the whole validation file, for a separate event: the epoch's steps were already reported."""
    figures = checkpoint_metrics(checkpoint)
    return {name: figures[name] for name in figures if name == "step" or name.startswith("full_valid")}


def metrics_csv(steps: Iterable[TrainingStep]) -> bytes:
    """The result file: a line per step, with empty cells for what was not measured."""
    stream = io.StringIO(newline="")
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(_COLUMNS)
    for step in steps:
        accuracy = step.train_mean_token_accuracy
        table.writerow([step.step, step.train_loss, accuracy, step.valid_loss, step.valid_mean_token_accuracy])
    return stream.getvalue().encode()


class JobFailedError(Exception):
    """Ends a job with an error.

    Args:
        message: what the job's `error` will say.
    """

    def __init__(self, message: str, *, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.error = ServedJobError(code=code, message=message, param=param)


@dataclass(frozen=True, slots=True)
class TuningStores:
    """Where jobs, their files and their models are stored.

    Attributes:
        jobs, files, models: the stores.
        root: the data folder; adapters are noted relative to it.
        clock: Unix seconds.
    """

    jobs: JobStore
    files: FileStore
    models: ModelStore
    root: Path
    clock: Clock


class JobRecorder:
    """Records the messages of one training.

    Args:
        identifier: id of the job.
        stores: where the job and its results are stored.
    """

    def __init__(self, identifier: str, stores: TuningStores) -> None:
        self._id = identifier
        self._stores = stores
        self._steps: list[TrainingStep] = []
        self._first_step_at = 0.0

    def record(self, message: TrainerMessage) -> TrainingEnded | None:
        """Record one message.

        Returns:
            The end, when this was it.

        Raises:
            JobFailedError: the trainer gave up.
        """
        match message:
            case TrainingStarted():
                self._start(message)
            case TrainingProgress():
                self._stores.jobs.log.add(self._id, message.message)
            case TrainingStep():
                self._step(message)
            case TrainedCheckpoint():
                self._checkpoint(message)
            case TrainingFailed():
                raise JobFailedError(message.message, code=message.code, param=message.param)
            case TrainingEnded():
                return message
        return None

    def succeed(self, end: TrainingEnded) -> None:
        """Name the model, and mark the job as succeeded; the model answers from now on."""
        name = self._add_model(self._stores.jobs.entry(self._id).model_name, end.path, end)
        table = self._stores.files.add(metrics_csv(self._steps), filename=RESULT_FILENAME, purpose="fine-tune-results")
        self._stores.jobs.log.add(self._id, f"New fine-tuned model created: {name}")
        self._stores.jobs.log.add(self._id, "The job has successfully completed")
        self._stores.jobs.change(
            self._id,
            status="succeeded",
            fine_tuned_model=name,
            finished_at=int(self._stores.clock()),
            estimated_finish=None,
            trained_tokens=end.trained_tokens,
            result_files=[table.id],
        )

    def _start(self, start: TrainingStarted) -> None:
        decided = {name: getattr(start, name) for name in Hyperparameters.__struct_fields__}
        asked = self._stores.jobs.get(self._id).method
        kind = asked["type"]
        shown = {**asked.get(kind, {}).get("hyperparameters", {}), **decided}
        self._stores.jobs.change(
            self._id,
            hyperparameters=Hyperparameters(**decided),
            method={"type": kind, kind: {"hyperparameters": shown}},
        )
        self._stores.jobs.log.add(self._id, start_message(start))

    def _step(self, step: TrainingStep) -> None:
        self._steps.append(step)
        self._stores.jobs.log.add(self._id, step_message(step), metrics=step_metrics(step))
        now = self._stores.clock()
        if len(self._steps) == 1:
            self._first_step_at = now
        elif 1 < step.step <= step.total_steps:
            left_s = (now - self._first_step_at) / (step.step - 1) * (step.total_steps - step.step)
            self._stores.jobs.estimate(self._id, int(now + left_s))

    def _checkpoint(self, checkpoint: TrainedCheckpoint) -> None:
        tuned = checkpoint_name(self._stores.jobs.entry(self._id).model_name, checkpoint.step)
        name = self._add_model(tuned, checkpoint.path)
        self._stores.jobs.log.add_checkpoint(
            JobCheckpoint(
                id=new_id("ftckpt_"),
                created_at=int(self._stores.clock()),
                fine_tuned_model_checkpoint=name,
                fine_tuning_job_id=self._id,
                metrics=checkpoint_metrics(checkpoint),
                step_number=checkpoint.step,
            )
        )
        if checkpoint.full_valid_loss is not None:
            message = f"Epoch {checkpoint.epoch}: full validation loss={checkpoint.full_valid_loss:.2f}"
            self._stores.jobs.log.add(self._id, message, metrics=validation_metrics(checkpoint))
        self._stores.jobs.log.add(self._id, f"Checkpoint created at step {checkpoint.step}: {name}")

    def _add_model(self, name: str, path: str | None, end: TrainingEnded | None = None) -> str:
        servable = path is not None and is_servable(path)
        self._stores.models.add(
            ServedModel(
                id=name,
                created=int(self._stores.clock()),
                base=self._stores.jobs.get(self._id).model,
                adapter=Path(path).relative_to(self._stores.root).as_posix() if path and servable else None,
                job=self._id,
                kept_at=path if path and not servable else None,
                base_url=end.base_url if end else None,
                remote_model=end.model if end else None,
            )
        )
        return name


def is_servable(path: str) -> bool:
    """Whether a trainer's result is an adapter that llama.cpp can load."""
    return path.endswith(".gguf") and is_adapter(Path(path))


class TuningWork:
    """The two steps of a job: check its files, and train.

    Args:
        engine: what trains.
        stores: where jobs and their results are stored.
    """

    def __init__(self, engine: ModelEngine, stores: TuningStores) -> None:
        self._engine = engine
        self._stores = stores

    async def check(self, job: ServedJob) -> None:
        """Check the job's files, and mark it as ready for training.

        Raises:
            JobFailedError: a file is not as it must be, or was deleted.
        """
        method = job.method["type"]
        self._stores.jobs.log.add(job.id, f"Validating training file: {job.training_file}")
        samples = await self._count(job.training_file, method, "training_file", _FEWEST_SAMPLES)
        if job.validation_file:
            self._stores.jobs.log.add(job.id, f"Validating validation file: {job.validation_file}")
            await self._count(job.validation_file, method, "validation_file", 1)
        self._stores.jobs.note(job.id, samples=samples)
        self._stores.jobs.log.add(job.id, "Files validated, moving job to queued state")
        self._stores.jobs.change(job.id, status="queued")

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
        task = self._task(self._stores.jobs.entry(job.id))
        self._stores.jobs.change(job.id, status="running")
        self._stores.models.forget(job.id)  # of a training that was interrupted
        self._stores.jobs.log.forget_checkpoints(job.id)
        self._stores.jobs.log.add(job.id, "Fine-tuning job started")
        await self._follow(job, task)

    async def _follow(self, job: ServedJob, task: TrainingTask) -> None:
        recorder = JobRecorder(job.id, self._stores)
        async with aclosing(self._engine.train(task)) as messages:
            async for message in messages:
                if end := recorder.record(message):
                    if end.path and is_servable(end.path):
                        await self._engine.adopt(Path(end.path))
                    recorder.succeed(end)
                    return
        raise JobFailedError("The training stopped early.", code="server_error")

    def _task(self, entry: JobEntry) -> TrainingTask:
        job = entry.job
        return TrainingTask(
            model=job.model,
            suffix=job.user_provided_suffix,
            folder=self._stores.jobs.folder(job.id),
            train=self._path(job.training_file, "training_file"),
            validation=self._path(job.validation_file, "validation_file") if job.validation_file else None,
            samples=entry.samples,
            hyperparameters=job.hyperparameters,
            seed=job.seed,
        )

    def _path(self, file: str, param: str) -> Path:
        try:
            return self._stores.files.content(file)
        except ApiError:
            message = f"The {param.replace('_', ' ')} {file} was deleted."
            raise JobFailedError(message, code="file_not_found", param=param) from None
