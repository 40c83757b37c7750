"""Fine-tuning jobs on disk: the API's object, and a folder each for its files.

Running them is left to `tuning`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

from asyncgen.run.whole_file import explained
from asyncgen.serve.stores.job_log import JobLog
from asyncgen.serve.stores.shelf import Shelf, file_stem
from asyncgen.serve.training.config import Hyperparameters
from asyncgen.serve.wire import Clock, no_such

if TYPE_CHECKING:
    from pathlib import Path

Status = Literal["validating_files", "queued", "running", "succeeded", "failed", "cancelled"]
ENDED: frozenset[Status] = frozenset({"succeeded", "failed", "cancelled"})
Line = TypeVar("Line")


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
    """`job.json`: the job, and what the API does not show.

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
        folder: holds a folder a job.
        clock: Unix seconds.

    Attributes:
        log: what happened in each.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder = folder
        self.log = JobLog(folder, clock)
        self._kept = Shelf(
            folder,
            "*/job.json",
            JobEntry,
            identify=lambda kept: kept.job.id,
            made_at=lambda kept: kept.job.created_at,
        )

    def folder(self, identifier: str) -> Path:
        return self._folder / file_stem(identifier)

    def all(self) -> list[ServedJob]:
        """Newest first."""
        return [kept.job for kept in self._kept.newest_first()]

    def get(self, identifier: str) -> ServedJob:
        """Raises ApiError: 404."""
        return self.kept(identifier).job

    def kept(self, identifier: str) -> JobEntry:
        """Raises ApiError: 404."""
        kept = self._kept.get(identifier)
        if kept is None:
            raise no_such("fine-tuning job", identifier, param="fine_tuning_job_id")
        return kept

    def find(self, identifier: str) -> JobEntry | None:
        """None where there is no such job (any more)."""
        return self._kept.get(identifier)

    def add(self, kept: JobEntry) -> None:
        """Raises DiskError: it could not be written, and is not there."""
        folder = self.folder(kept.job.id)
        with explained(f"{folder} could not be made"):
            folder.mkdir()
        self._kept.put(kept)

    def change(self, identifier: str, **changes: Any) -> ServedJob:
        """Replace fields of the job, on disk too.

        Raises:
            DiskError: it could not be written; until the server ends the job is changed all the same.
        """
        kept = self.kept(identifier)
        job = msgspec.structs.replace(kept.job, **changes)
        self._kept.put(msgspec.structs.replace(kept, job=job))
        return job

    def estimate(self, identifier: str, finish: int) -> None:
        """Note when the job will probably end; not on disk, as it changes with every step."""
        kept = self.kept(identifier)
        job = msgspec.structs.replace(kept.job, estimated_finish=finish)
        self._kept.replace_in_memory(msgspec.structs.replace(kept, job=job))

    def note(self, identifier: str, *, starts: int | None = None, samples: int | None = None) -> None:
        """Replace what is kept beside the job."""
        kept = self.kept(identifier)
        self._kept.put(
            msgspec.structs.replace(
                kept,
                starts=kept.starts if starts is None else starts,
                samples=kept.samples if samples is None else samples,
            )
        )
