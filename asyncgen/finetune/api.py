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
from asyncgen.providers.endpoint import provider_or_host
from asyncgen.providers.profiles import PROFILES, Finetuning, Outcome, Profile
from asyncgen.terminal import counted

if TYPE_CHECKING:
    from datetime import date
    from pathlib import Path


_MAX_PAIRS, _MAX_KEY, _MAX_VALUE = 16, 64, 512
_SEEDS = 2**31
_OWN_PAIR = 1


class JobOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A fine-tuning job to create.

    Attributes:
        model: the model to tune.
        training_file: the provider's id of the file; "" until it is uploaded.
        validation_file: the provider's id of the file; "" until it is uploaded; None if there is none.
        method: training method, by our names.
        suffix: part of the tuned model's name; None for the provider's choice.
        seed: seed of the training; None for the provider's choice.
        hyperparameters: by the provider's names.
        metadata: name to value, which the job keeps.
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
    """Add the default hyperparameters of the provider's profile to an order.

    Args:
        order: the job to create.
        finetuning: how the provider tunes.

    Returns:
        The order; hyperparameters that it sets are kept.
    """
    chosen = {**finetuning.default_hyperparameters, **order.hyperparameters}
    return msgspec.structs.replace(order, hyperparameters=chosen)


def fingerprint(order: JobOrder, *sha256s: str) -> str:
    """A hash of what the job will be: the order and its files' content, not the ids that they have somewhere."""
    content = msgspec.structs.replace(order, training_file="", validation_file=None)
    text = msgspec.json.encode([content, sha256s], order="sorted")
    return hashlib.sha256(text).hexdigest()[:32]


def check_order(order: JobOrder, profile: Profile) -> None:
    """Check that the provider accepts an order.

    Args:
        order: the job to create.
        profile: of a provider that tunes.

    Raises:
        UsageError: it would refuse the order; the cause lists every problem.
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
        yield f"method: {order.method!r} is not supported; possible: {', '.join(finetuning.methods)}"
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
            yield f"hyperparameters.{name}: not supported{hint}"


def _metadata_problems(metadata: dict[str, str], *, kept: bool) -> Iterator[str]:
    if metadata and not kept:
        yield "metadata: this provider does not store metadata"
    if len(metadata) > _MAX_PAIRS - _OWN_PAIR:
        yield f"metadata: {counted(len(metadata), 'pair')}, of at most {_MAX_PAIRS - _OWN_PAIR} (asyncgen adds one)"
    for key, value in metadata.items():
        if len(key) > _MAX_KEY or len(value) > _MAX_VALUE:
            yield f"metadata.{key}: at most {_MAX_KEY} characters for a key and {_MAX_VALUE} for a value"


def _is_wandb(integration: dict[str, Any]) -> bool:
    settings = integration.get("wandb")
    return integration.get("type") == "wandb" and isinstance(settings, dict) and bool(settings.get("project"))


Kind = TypeVar("Kind", bound=AsyncgenError)


class OutageError(AsyncgenError):
    """The provider cannot be reached, or did not answer in its own format. Trying again later may help."""

    code = "unreachable"


class AbsentError(AsyncgenError):
    """The provider has no such job, file or model."""

    code = "not_found"


class TrainingClosedError(AuthError):
    """The account may not create jobs.

    Args:
        profile: of the provider.
        said: the provider's message; None if it sent none.
        file_ids: files that were uploaded for the job, which are of no use there now.
    """

    code = "training_not_available"

    def __init__(self, profile: Profile, said: str | None, file_ids: tuple[str, ...]) -> None:
        super().__init__(
            f"{profile.title} does not allow this account to fine-tune models",
            cause=_who_may(profile) + (f" ({said})" if said else ""),
            help_text=f"choose another provider with --provider: {_others(profile)}",
        )
        self.file_ids = file_ids


def as_kind(kind: type[Kind], error: AsyncgenError) -> Kind:
    """The error with another class, its texts unchanged."""
    return kind(error.what, cause=error.cause, help_text=error.help_text, code=error.code)


def _who_may(profile: Profile) -> str:
    if profile.name != "openai":
        return "the account does not have the permission"
    # OpenAI's deprecations page: "Update to OpenAI's self-serve fine-tuning", announced on 2026-05-07.
    return (
        "since 7 May 2026 only organizations that fine-tuned before can do so, since 2 July 2026 only those that "
        "used a tuned model in the previous 60 days, and from 6 January 2027 nobody"
    )


def _others(profile: Profile) -> str:
    able = [
        other.name
        for other in PROFILES.values()
        if other.finetuning and other.finetuning.new_customers and other.name not in {profile.name, "custom"}
    ]
    return ", ".join(able) + " (local needs no key; the dataset works with all of them)"


OnProgress = Callable[[int, int], None]
"""Called with the bytes sent so far and the size; begins again at 0 with each attempt."""


class JobError(msgspec.Struct, frozen=True, kw_only=True):
    """Why a job failed, as the provider describes it."""

    code: str = ""
    message: str = ""
    param: str | None = None


class TuningJob(msgspec.Struct, frozen=True, kw_only=True):
    """A fine-tuning job, as the provider described it last.

    Attributes:
        id: the provider's id.
        status: as the provider names it.
        outcome: how it ended; None while it runs, whatever its status is called.
        model: the model that is tuned.
        tuned_model: name of the tuned model; None until the job succeeds.
        created: Unix seconds; 0 if unknown.
        finished: Unix seconds; None while it runs.
        estimated_finish: Unix seconds; None if unknown.
        training_file: the provider's id of the file.
        result_files: ids of the files with its metrics.
        trained_tokens: tokens that are billed; None until they are known.
        metadata: as it was sent.
        error: why it failed; None if it did not.
        raw: the provider's object, unchanged.
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
    """An event of a job: one line of `events.jsonl`, with the names of OpenAI's API.

    Attributes:
        job: the job's id.
        id: the provider's id of the event.
        created_at: Unix seconds.
        level: "info", "warn" or "error".
        message: for the user.
        type: "message" or "metrics".
        data: the values of a "metrics" event.
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
    """The model at one step of the training.

    Attributes:
        id: the provider's id.
        created_at: Unix seconds.
        step: number of the training step.
        model: its name if it can be asked, else the location of its weights.
        metrics: as the provider reports them.
        files: ids of the files with its weights; empty if the provider does not keep them as files.
    """

    id: str
    created_at: int
    step: int
    model: str
    metrics: dict[str, Any] = {}
    files: tuple[str, ...] = ()


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file at the provider."""

    id: str
    filename: str = ""
    bytes: int = 0


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A model that the provider lists; `shutdown` is the announced day from which it is gone, else None."""

    id: str
    shutdown: date | None = None


class RemoteFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that can be downloaded.

    Attributes:
        name: path within a folder.
        url: address, in full or relative to the provider's.
        bytes: size; None if unknown.
        sha256: hexadecimal hash; None if unknown.
    """

    name: str
    url: str
    bytes: int | None = None
    sha256: str | None = None


class TunedWeights(msgspec.Struct, frozen=True, kw_only=True):
    """The files of a tuned model.

    Attributes:
        model: its name.
        files: the files to download.
        base_model: the model that it was tuned from, by the provider's name.
        job: id of the job that made it.
        base_path: path of that model's file on the server's machine, if an adapter fits that file alone; else None.
        facts: further details of its training, by name.
    """

    model: str
    files: tuple[RemoteFile, ...]
    base_model: str
    job: str
    base_path: str | None = None
    facts: dict[str, Any] = {}


class FileApi(Protocol):
    """The provider's files.

    Every method may raise OutageError, AbsentError, AuthError, QuotaError and AsyncgenError.
    """

    async def upload(self, path: Path, filename: str, on_progress: OnProgress) -> str:
        """Store a file for fine-tuning.

        Args:
            path: the file.
            filename: its name at the provider.
            on_progress: called with bytes sent and bytes in total.

        Returns:
            The provider's id of the file.
        """
        ...

    async def get(self, file_id: str) -> StoredFile:
        """Fetch what the provider knows of a file.

        Args:
            file_id: the provider's id.

        Returns:
            Name, size and status.
        """

    def all(self) -> AsyncIterator[StoredFile]:
        """List the files for fine-tuning."""
        ...

    async def content(self, file_id: str) -> bytes:
        """Download a file into memory.

        Args:
            file_id: the provider's id.

        Returns:
            Its content.
        """

    async def delete(self, file_id: str) -> None:
        """Delete a file.

        Args:
            file_id: the provider's id.
        """


class JobApi(Protocol):
    """The provider's fine-tuning jobs. Raises as `FileApi`."""

    async def create(self, order: JobOrder) -> TuningJob:
        """Create a job with one call. After an OutageError the job may exist or not.

        Args:
            order: the job, with the ids of its files.

        Returns:
            The job.
        """
        ...

    async def get(self, job_id: str) -> TuningJob:
        """Fetch a job.

        Args:
            job_id: the provider's id.

        Returns:
            The job as it is now.
        """

    def all(self) -> AsyncIterator[TuningJob]:
        """List the jobs, newest first."""
        ...

    async def events(self, job_id: str, after: str | None) -> EventPage:
        """Fetch a page of a job's events.

        Args:
            job_id: the provider's id.
            after: id of the last event of the page before; None for the first page.

        Returns:
            The page.
        """
        ...

    async def checkpoints(self, job_id: str) -> list[Checkpoint]:
        """Fetch a job's checkpoints.

        Args:
            job_id: the provider's id.

        Returns:
            The checkpoints; empty if the provider keeps none.
        """

    async def cancel(self, job_id: str) -> TuningJob:
        """Cancel a job.

        Args:
            job_id: the provider's id.

        Returns:
            The job as it is now.
        """

    async def metrics(self, job: TuningJob) -> bytes | None:
        """Fetch a job's metrics.

        Args:
            job: a job that has ended.

        Returns:
            A CSV table; None if there is none.
        """
        ...


class ModelApi(Protocol):
    """The provider's models. Raises as `FileApi`."""

    async def get(self, name: str) -> ModelFacts:
        """Fetch what the provider knows of a model.

        Args:
            name: of the model.

        Returns:
            Owner, date and shutdown date.
        """

    async def delete(self, name: str) -> None:
        """Delete a tuned model.

        Args:
            name: of the model.
        """


class WeightApi(Protocol):
    """The weights of tuned models. Raises as `FileApi`."""

    async def find(self, model: str | None, job: TuningJob | None, step: int | None) -> TunedWeights:
        """Find the weights of a model.

        Args:
            model: its name; None if the job has not named one.
            job: the job that made it; None if unknown.
            step: step of one of the job's checkpoints; None for the finished model.

        Returns:
            The files, with their addresses.

        Raises:
            AbsentError: the provider does not hand out these weights; the help says what it does hand out.
        """
        ...


class FileFetcher(Protocol):
    """Downloads the files that `WeightApi` finds."""

    async def fetch(self, file: RemoteFile, path: Path, on_progress: OnProgress) -> None:
        """Download a file as a stream. It appears at `path` complete, or not at all.

        Raises as `FileApi`, and DiskError.

        Args:
            file: the file.
            path: where to save it.
            on_progress: called with bytes received and bytes in total, 0 if unknown.
        """
        ...


@dataclass(frozen=True, slots=True)
class Tuner:
    """A provider, open for calls. Made by `open_tuner`.

    Attributes:
        profile: of the provider.
        place: identifies the server in `run.json`: its address, or "" for this user's own server, whose port changes.
        files: the provider's files.
        jobs: the provider's fine-tuning jobs.
        models: the provider's models.
        weights: the weights of tuned models.
        make_fetcher: makes what downloads files.
    """

    profile: Profile
    place: str
    files: FileApi
    jobs: JobApi
    models: ModelApi
    weights: WeightApi
    make_fetcher: Callable[[], FileFetcher]

    @property
    def label(self) -> str:
        """Name of the provider at its own address, else the host, for questions and messages."""
        return provider_or_host(self.profile, self.place or None)

    @property
    def finetuning(self) -> Finetuning:
        """How it tunes."""
        assert self.profile.finetuning is not None, "a tuner is opened for providers that tune"
        return self.profile.finetuning
