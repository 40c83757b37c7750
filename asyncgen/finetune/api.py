"""The interface of every tuning provider: objects, errors, and three protocols (files, jobs, models).

    AsyncgenError
    ├─ OutageError           1  the provider cannot be asked just now, or answers nonsense: asking later may help
    ├─ AbsentError           1  it has no such job, file or model
    └─ AuthError
       └─ TrainingClosedError 4  this account may not tune there any more

HTTP calls are left to `openai_shape` and `together`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from asyncgen.errors import AsyncgenError, AuthError
from asyncgen.finetune.download import AdapterCard
from asyncgen.finetune.order import JobOrder
from asyncgen.providers.endpoint import place_words
from asyncgen.providers.profiles import PROFILES, Finetuning, Outcome, Profile

Kind = TypeVar("Kind", bound=AsyncgenError)


class OutageError(AsyncgenError):
    """The provider could not be asked, or did not answer in its own form."""

    code = "unreachable"


class AbsentError(AsyncgenError):
    """The provider has no such thing."""

    code = "not_found"


class TrainingClosedError(AuthError):
    """The account may not create jobs.

    Args:
        file_ids: what was uploaded for the job and is of no use there now.
    """

    code = "training_not_available"

    def __init__(self, profile: Profile, said: str | None, file_ids: tuple[str, ...]) -> None:
        super().__init__(
            f"{profile.title} does not let this account tune models",
            cause=_who_may(profile) + (f" ({said})" if said else ""),
            help_text=f"choose another one with --provider: {_others(profile)}",
        )
        self.file_ids = file_ids


def as_kind(kind: type[Kind], error: AsyncgenError) -> Kind:
    """The error with another class, its texts unchanged."""
    return kind(error.what, cause=error.cause, help_text=error.help_text, code=error.code)


def _who_may(profile: Profile) -> str:
    if profile.name != "openai":
        return "the account lacks the right"
    # OpenAI's deprecations page: "Update to OpenAI's self-serve fine-tuning", announced on 2026-05-07.
    return (
        "since 7 May 2026 only organizations that had tuned before may, since 2 July 2026 only those that asked a "
        "tuned model in the 60 days before, and from 6 January 2027 nobody"
    )


def _others(profile: Profile) -> str:
    able = [
        other.name
        for other in PROFILES.values()
        if other.finetuning and other.finetuning.new_customers and other.name not in {profile.name, "custom"}
    ]
    return ", ".join(able) + " (local needs no key; the dataset serves them all)"


OnProgress = Callable[[int, int], None]
"""Called with the bytes sent so far and the size; begins again at 0 with each attempt."""


class JobError(msgspec.Struct, frozen=True, kw_only=True):
    """Why a job failed, in the provider's words."""

    code: str = ""
    message: str = ""
    param: str | None = None


class TuningJob(msgspec.Struct, frozen=True, kw_only=True):
    """A fine-tuning job.

    Attributes:
        status: as the provider names it.
        outcome: how it ended; None while it has not, whatever its status is called.
        model: the one that is tuned.
        tuned_model: once it succeeded.
        created: Unix seconds, likewise `finished` and `estimated_finish`.
        result_files: ids of the files that hold its metrics.
        trained_tokens: what is billed, once it is known.
        raw: the provider's object as it came.
    """

    id: str
    status: str
    outcome: Outcome | None
    model: str = ""
    tuned_model: str | None = None
    created: int = 0
    finished: int | None = None
    estimated_finish: int | None = None
    training_file: str = ""
    result_files: tuple[str, ...] = ()
    trained_tokens: int | None = None
    metadata: dict[str, str] = {}
    error: JobError | None = None
    raw: dict[str, Any] = {}


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a job told: one line of `events.jsonl`, under the names of OpenAI's API.

    Attributes:
        job: the job's id.
        created_at: Unix seconds.
        type: "message" or "metrics".
        data: the figures of a "metrics" event.
    """

    job: str
    id: str
    created_at: int
    level: str = "info"
    message: str = ""
    type: str = "message"
    data: dict[str, Any] = {}


class EventPage(msgspec.Struct, frozen=True):
    """Some of a job's events, in the order in which the provider lists them."""

    events: tuple[Event, ...]
    has_more: bool


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A model as it was during the training; `model` is its name where it can be asked, else where it lies."""

    id: str
    created_at: int
    step: int
    model: str
    metrics: dict[str, Any] = {}


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that the provider holds."""

    id: str
    filename: str = ""
    bytes: int = 0


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A model that the provider lists; `shutdown` is the day from which it is gone, where one is announced."""

    id: str
    shutdown: date | None = None


class FileApi(Protocol):
    """The provider's files. All raise OutageError, AbsentError, AuthError, QuotaError, AsyncgenError."""

    async def upload(self, path: Path, filename: str, on_progress: OnProgress) -> str:
        """Store the file for fine-tuning under `filename`; gives its id."""
        ...

    async def get(self, file_id: str) -> StoredFile: ...

    def all(self) -> AsyncIterator[StoredFile]:
        """Those for fine-tuning."""
        ...

    async def content(self, file_id: str) -> bytes: ...

    async def delete(self, file_id: str) -> None: ...


class JobApi(Protocol):
    """The provider's fine-tuning jobs; raises as `FileApi` does."""

    async def create(self, order: JobOrder) -> TuningJob:
        """Ask for a job, once. An OutageError leaves open whether there is one now."""
        ...

    async def get(self, job_id: str) -> TuningJob: ...

    def all(self) -> AsyncIterator[TuningJob]:
        """The newest first."""
        ...

    async def events(self, job_id: str, after: str | None) -> EventPage:
        """A page of events; the one behind the event `after`."""
        ...

    async def checkpoints(self, job_id: str) -> list[Checkpoint]: ...

    async def cancel(self, job_id: str) -> TuningJob: ...

    async def metrics(self, job: TuningJob) -> bytes | None:
        """The job's metrics as a CSV table; None where there are none."""
        ...


class ModelApi(Protocol):
    """The provider's models; raises as `FileApi` does."""

    async def get(self, name: str) -> ModelFacts: ...

    async def delete(self, name: str) -> None: ...

    async def card(self, name: str) -> AdapterCard:
        """What the adapter is. Raises AbsentError where the provider gives no weights out."""
        ...

    async def adapter(self, name: str) -> bytes:
        """Its bytes; raises as `card` does."""
        ...


@dataclass(frozen=True, slots=True)
class Tuner:
    """A provider, open for calls; made by `open_tuner`.

    Attributes:
        place: tells two servers apart in `run.json`: the address, or "" for this user's own server, whose port
            changes.
    """

    profile: Profile
    place: str
    files: FileApi
    jobs: JobApi
    models: ModelApi

    @property
    def words(self) -> str:
        """Who is asked, for questions and messages: the provider at its own address, else the host."""
        return place_words(self.profile, self.place or None)

    @property
    def finetuning(self) -> Finetuning:
        """How it tunes."""
        assert self.profile.finetuning is not None, "a tuner is opened for providers that tune"
        return self.profile.finetuning
