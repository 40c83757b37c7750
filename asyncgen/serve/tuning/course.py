"""Apply a trainer's messages to its job: events, metrics, checkpoints, models.

When a job runs is left to `queue`, training to the engines.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from asyncgen.serve.stores.job_log import JobCheckpoint
from asyncgen.serve.stores.jobs import ServedJobError
from asyncgen.serve.stores.models import ServedModel, checkpoint_name
from asyncgen.serve.training.config import Hyperparameters
from asyncgen.serve.training.messages import End, Failed, Start, Step, TrainedCheckpoint, TrainingProgress
from asyncgen.serve.tuning import results
from asyncgen.serve.tuning.trainers import is_adapter
from asyncgen.serve.wire import new_id

if TYPE_CHECKING:
    from asyncgen.serve.stores.files import FileStore
    from asyncgen.serve.stores.jobs import JobStore
    from asyncgen.serve.stores.models import ModelStore
    from asyncgen.serve.training.messages import TrainerMessage
    from asyncgen.serve.wire import Clock


class JobFailedError(Exception):
    """Ends a job.

    Args:
        message: what the job's `error` will say.
    """

    def __init__(self, message: str, *, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.error = ServedJobError(code=code, message=message, param=param)


class JobRecorder:
    """One job in training.

    Args:
        root: the data folder; adapters are noted relative to it.
    """

    def __init__(
        self,
        identifier: str,
        jobs: JobStore,
        files: FileStore,
        models: ModelStore,
        *,
        root: Path,
        clock: Clock,
    ) -> None:
        self._id = identifier
        self._jobs = jobs
        self._files = files
        self._models = models
        self._root = root
        self._clock = clock
        self._steps: list[Step] = []
        self._first_step_at = 0.0

    def record(self, message: TrainerMessage) -> End | None:
        """Take in one message.

        Returns:
            The end, when this was it.

        Raises:
            JobFailedError: the trainer gave up.
        """
        match message:
            case Start():
                self._start(message)
            case TrainingProgress():
                self._jobs.log.tell(self._id, message.message)
            case Step():
                self._step(message)
            case TrainedCheckpoint():
                self._checkpoint(message)
            case Failed():
                raise JobFailedError(message.message, code=message.code, param=message.param)
            case End():
                return message
        return None

    def succeed(self, end: End) -> None:
        """The model answers by now: give it its name, and end the job well."""
        name = self._add_model(self._jobs.kept(self._id).model_name, end.path, end)
        table = self._files.add(
            results.metrics_csv(self._steps), filename=results.RESULT_FILENAME, purpose="fine-tune-results"
        )
        self._jobs.log.tell(self._id, f"New fine-tuned model created: {name}")
        self._jobs.log.tell(self._id, "The job has successfully completed")
        self._jobs.change(
            self._id,
            status="succeeded",
            fine_tuned_model=name,
            finished_at=int(self._clock()),
            estimated_finish=None,
            trained_tokens=end.trained_tokens,
            result_files=[table.id],
        )

    def _start(self, start: Start) -> None:
        decided = {name: getattr(start, name) for name in Hyperparameters.__struct_fields__}
        asked = self._jobs.get(self._id).method
        kind = asked["type"]
        shown = {**asked.get(kind, {}).get("hyperparameters", {}), **decided}
        self._jobs.change(
            self._id,
            hyperparameters=Hyperparameters(**decided),
            method={"type": kind, kind: {"hyperparameters": shown}},
        )
        self._jobs.log.tell(self._id, results.start_message(start))

    def _step(self, step: Step) -> None:
        self._steps.append(step)
        self._jobs.log.tell(self._id, results.step_message(step), metrics=results.step_metrics(step))
        now = self._clock()
        if len(self._steps) == 1:
            self._first_step_at = now
        elif 1 < step.step <= step.total_steps:
            left_s = (now - self._first_step_at) / (step.step - 1) * (step.total_steps - step.step)
            self._jobs.estimate(self._id, int(now + left_s))

    def _checkpoint(self, checkpoint: TrainedCheckpoint) -> None:
        tuned = checkpoint_name(self._jobs.kept(self._id).model_name, checkpoint.step)
        name = self._add_model(tuned, checkpoint.path)
        self._jobs.log.add_checkpoint(
            JobCheckpoint(
                id=new_id("ftckpt_"),
                created_at=int(self._clock()),
                fine_tuned_model_checkpoint=name,
                fine_tuning_job_id=self._id,
                metrics=results.checkpoint_metrics(checkpoint),
                step_number=checkpoint.step,
            )
        )
        if checkpoint.full_valid_loss is not None:
            message = f"Epoch {checkpoint.epoch}: full validation loss={checkpoint.full_valid_loss:.2f}"
            self._jobs.log.tell(self._id, message, metrics=results.validation_metrics(checkpoint))
        self._jobs.log.tell(self._id, f"Checkpoint created at step {checkpoint.step}: {name}")

    def _add_model(self, name: str, path: str | None, end: End | None = None) -> str:
        servable = path is not None and is_servable(path)
        self._models.add(
            ServedModel(
                id=name,
                created=int(self._clock()),
                base=self._jobs.get(self._id).model,
                adapter=Path(path).relative_to(self._root).as_posix() if path and servable else None,
                job=self._id,
                kept_at=path if path and not servable else None,
                base_url=end.base_url if end else None,
                remote_model=end.model if end else None,
            )
        )
        return name


def is_servable(path: str) -> bool:
    """Whether what a trainer made is an adapter that llama.cpp reads; anything else lies where it says."""
    return path.endswith(".gguf") and is_adapter(Path(path))
