"""The interface of every tuning provider: an order, objects, errors, four protocols (files, jobs, models, weights).

    AsyncgenError
    ├─ OutageError           1  the provider cannot be asked just now, or answers nonsense: asking later may help
    ├─ AbsentError           1  it has no such job, file or model
    └─ AuthError
       └─ TrainingClosedError 4  this account may not tune there any more

An order is checked for what a provider would refuse before anything is sent. Request bodies and HTTP calls are left to
`openai_shape`, `together` and `fireworks`.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec

from asyncgen.errors import AsyncgenError, AuthError, UsageError
from asyncgen.providers.endpoint import place_words
from asyncgen.providers.profiles import PROFILES, Finetuning, Outcome, Profile

if TYPE_CHECKING:
    from datetime import date
    from pathlib import Path


_MAX_PAIRS, _MAX_KEY, _MAX_VALUE = 16, 64, 512
_SEEDS = 2**31
_OWN_PAIR = 1


class JobOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A fine-tuning job to be created.

    Attributes:
        training_file: the provider's id of the file; "" until it is uploaded, likewise `validation_file`.
        hyperparameters: under the provider's own names.
        metadata: pairs that the job keeps.
        integrations: in OpenAI's form, `{"type": "wandb", "wandb": {"project": ...}}`.
    """

    model: str
    training_file: str = ""
    validation_file: str | None = None
    method: str = "supervised"
    suffix: str | None = None
    seed: int | None = None
    hyperparameters: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    integrations: list[dict[str, Any]] = []


def with_defaults(order: JobOrder, finetuning: Finetuning) -> JobOrder:
    """The order with the hyperparameters that the provider's profile puts in the place of its own defaults."""
    chosen = {**finetuning.default_hyperparameters, **order.hyperparameters}
    return msgspec.structs.replace(order, hyperparameters=chosen)


def fingerprint(order: JobOrder, *sha256s: str) -> str:
    """A hash of what the job will be: the order and its files' content, not the ids that they have somewhere."""
    content = msgspec.structs.replace(order, training_file="", validation_file=None)
    text = msgspec.json.encode([content, sha256s], order="sorted")
    return hashlib.sha256(text).hexdigest()[:32]


def check_order(order: JobOrder, profile: Profile) -> None:
    """See that the provider can take the order.

    Raises:
        UsageError: with everything that is wrong.
    """
    assert profile.finetuning is not None, "the choice of a provider sees to it"
    problems = [*_problems(order, profile.finetuning)]
    if problems:
        raise UsageError(
            f"{profile.title} would refuse this job" if len(problems) == 1 else f"{len(problems)} things are wrong",
            cause="\n".join(problems),
            help_text="change [finetune] in the job file, or the options of the same names",
        )


def _problems(order: JobOrder, finetuning: Finetuning) -> Iterator[str]:
    if order.method not in finetuning.methods:
        yield f"method: {order.method!r} is not taken; possible: {', '.join(finetuning.methods)}"
    if order.suffix is not None and not re.fullmatch(finetuning.suffix_pattern, order.suffix):
        yield f"suffix: {order.suffix!r} is not {finetuning.suffix_rule}"
    if order.seed is not None and not 0 <= order.seed < _SEEDS:
        yield f"seed: {order.seed} is not from 0 to {_SEEDS - 1}"
    yield from _hyperparameter_problems(order, finetuning)
    yield from _metadata_problems(order.metadata, kept=finetuning.metadata)
    for place, integration in enumerate(order.integrations):
        if not _is_wandb(integration):
            yield f'integrations[{place}]: expected type = "wandb" and wandb = {{ project = ... }}'


def _hyperparameter_problems(order: JobOrder, finetuning: Finetuning) -> Iterator[str]:
    known = (*finetuning.hyperparameters, *finetuning.fields)
    if not finetuning.hyperparameters:
        return
    for name in order.hyperparameters:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else f"; possible: {', '.join(known)}"
            yield f"hyperparameters.{name}: not taken{hint}"


def _metadata_problems(metadata: dict[str, str], *, kept: bool) -> Iterator[str]:
    if metadata and not kept:
        yield "metadata: this provider keeps none"
    if len(metadata) > _MAX_PAIRS - _OWN_PAIR:
        yield f"metadata: {len(metadata)} pairs, of at most {_MAX_PAIRS - _OWN_PAIR} (one more is ours)"
    for key, value in metadata.items():
        if len(key) > _MAX_KEY or len(value) > _MAX_VALUE:
            yield f"metadata.{key}: at most {_MAX_KEY} characters a key and {_MAX_VALUE} a value"


def _is_wandb(integration: dict[str, Any]) -> bool:
    settings = integration.get("wandb")
    return integration.get("type") == "wandb" and isinstance(settings, dict) and bool(settings.get("project"))


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
    """A model as it was during the training.

    Attributes:
        model: its name where it can be asked, else where it lies.
        files: ids of the files that hold its weights, where the provider keeps them as files.
    """

    id: str
    created_at: int
    step: int
    model: str
    metrics: dict[str, Any] = {}
    files: tuple[str, ...] = ()


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that the provider holds."""

    id: str
    filename: str = ""
    bytes: int = 0


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A model that the provider lists; `shutdown` is the day from which it is gone, where one is announced."""

    id: str
    shutdown: date | None = None


class RemoteFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that can be downloaded.

    Attributes:
        name: a path of its own within a folder.
        url: its address, in full or below the provider's.
        bytes: its size, where it is known; likewise `sha256`, in hexadecimal.
    """

    name: str
    url: str
    bytes: int | None = None
    sha256: str | None = None


class TunedWeights(msgspec.Struct, frozen=True, kw_only=True):
    """A tuned model's files.

    Attributes:
        model: its name.
        base_model: the model that it was tuned from, by the provider's name.
        base_path: that model's file on the server's machine, where an adapter fits that file alone.
        job: that made it.
        facts: what else is told of its training, by name.
    """

    model: str
    files: tuple[RemoteFile, ...]
    base_model: str
    job: str
    base_path: str | None = None
    facts: dict[str, Any] = {}


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


class WeightApi(Protocol):
    """The weights of tuned models; raises as `FileApi` does."""

    async def find(self, model: str | None, job: TuningJob | None, step: int | None) -> TunedWeights:
        """Where the weights of a model are.

        Args:
            model: its name; None where the job has made none under a name.
            job: that made it; None where it is not known.
            step: that of one of the job's checkpoints; None for the finished model.

        Raises:
            AbsentError: the provider gives no such weights out; its help names what does.
        """
        ...


class FileFetcher(Protocol):
    """The way to the disk of what `WeightApi` finds."""

    async def fetch(self, file: RemoteFile, path: Path, on_progress: OnProgress) -> None:
        """Stream a file to `path`, where it appears whole or not at all; raises as `FileApi` does, and DiskError."""
        ...


@dataclass(frozen=True, slots=True)
class Tuner:
    """A provider, open for calls; made by `open_tuner`.

    Attributes:
        fetcher: downloads files.
        place: tells two servers apart in `run.json`: the address, or "" for this user's own server, whose port
            changes.
    """

    profile: Profile
    place: str
    files: FileApi
    jobs: JobApi
    models: ModelApi
    weights: WeightApi
    fetcher: FileFetcher

    @property
    def words(self) -> str:
        """Who is asked, for questions and messages: the provider at its own address, else the host."""
        return place_words(self.profile, self.place or None)

    @property
    def finetuning(self) -> Finetuning:
        """How it tunes."""
        assert self.profile.finetuning is not None, "a tuner is opened for providers that tune"
        return self.profile.finetuning
