"""What `run.json` keeps of uploads and fine-tuning jobs, and how it changes.

Owns these changes, each a function from state to state. Does not know the file or its lock: `Notes` is the seam,
and an open run is one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from msgspec.structs import replace

from asyncgen.finetune.api import TuningJob
from asyncgen.run_state import FinetuningState, RunState, Upload


class Notes(Protocol):
    """A state that outlives the process."""

    @property
    def state(self) -> RunState:
        """What is noted."""
        ...

    def update(self, change: Callable[[RunState], RunState]) -> RunState:
        """Note what `change` makes of the state; raises DiskError."""
        ...


def noted_file(state: RunState, provider: str, place: str, sha256: str) -> str | None:
    """The id that these bytes had at the provider, as far as is noted."""
    for upload in reversed(state.uploads):
        if (upload.provider, upload.base_url, upload.sha256) == (provider, place, sha256):
            return upload.file_id
    return None


def with_upload(state: RunState, upload: Upload) -> RunState:
    """The state with an upload, which replaces an earlier one of the same bytes to the same place."""
    place = (upload.provider, upload.base_url, upload.sha256, upload.purpose)
    others = [old for old in state.uploads if (old.provider, old.base_url, old.sha256, old.purpose) != place]
    return replace(state, uploads=[*others, upload])


def with_intent(state: RunState, intent: FinetuningState) -> RunState:
    """The state with a job that is about to be asked for."""
    return replace(state, finetuning=[*state.finetuning, intent])


def without_intent(state: RunState, intent: FinetuningState) -> RunState:
    """The state without a job that was asked for and does not exist."""
    return replace(state, finetuning=[noted for noted in state.finetuning if noted.intent != intent.intent])


def with_job(state: RunState, intent: str, job: TuningJob) -> RunState:
    """The state with what the provider says of the job that was asked for under this intent."""
    return replace(
        state,
        finetuning=[
            replace(noted, job_id=job.id, status=job.status, tuned_model=job.tuned_model or noted.tuned_model)
            if noted.intent == intent
            else noted
            for noted in state.finetuning
        ],
    )


def with_last_event(state: RunState, job_id: str, event_id: str) -> RunState:
    """The state with the newest event that `events.jsonl` holds of a job."""
    return replace(
        state,
        finetuning=[
            replace(noted, last_event=event_id) if noted.job_id == job_id else noted for noted in state.finetuning
        ],
    )


def noted_job(state: RunState, job_id: str) -> FinetuningState | None:
    """What is noted of the job; None where it is not one of the run's."""
    return next((noted for noted in state.finetuning if noted.job_id == job_id), None)


def newest_job(state: RunState) -> FinetuningState | None:
    """The run's newest job that surely exists."""
    return next((noted for noted in reversed(state.finetuning) if noted.job_id), None)
