"""The job, provider and run that a `finetune` command is about, and what `run.json` notes of uploads and jobs.

Resolves an argument: nothing (the newest run), a run directory, or a job's id. Each change of the noted state is a
function from state to state; the file and its lock are left to `Notes`, which an open run implements. Opens the tuner
of a provider: the implementation that its profile asks for. Requests are left to the tuners.
"""

from __future__ import annotations

import dataclasses
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from msgspec.structs import replace

from asyncgen.errors import UsageError, command_line
from asyncgen.finetune.api import Tuner
from asyncgen.finetune.complete import PromptForm, form_of
from asyncgen.providers.choose import EndpointFlags, choose_tuner, is_same_place, named_profile
from asyncgen.providers.profiles import LOCAL, ProviderChoice
from asyncgen.run.directory import STATE_NAME, RunDirectory, find_run
from asyncgen.run.state import FinetuningState, RunState, UploadState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from asyncgen.finetune.api import FileApi, FileFetcher, JobApi, ModelApi, TuningJob, WeightApi
    from asyncgen.finetune.json_calls import JsonCalls
    from asyncgen.providers.endpoint import Endpoint, Secret
    from asyncgen.providers.openai_client import Pacing
    from asyncgen.providers.profiles import Finetuning


RUNS = Path("runs")


@dataclass(frozen=True, slots=True)
class Target:
    """A job and where it runs.

    Attributes:
        job_id: the provider's id.
        run: the run that it belongs to; None if it was created elsewhere.
        choice: the provider.
        where: the flags, with the address that the run notes.
    """

    job_id: str
    run: RunDirectory | None
    choice: ProviderChoice
    where: EndpointFlags


def find_target(argument: str | None, where: EndpointFlags, environment: Mapping[str, str] = os.environ) -> Target:
    """Find the job that a command's argument means.

    Args:
        argument: a run directory for its newest job, or a job's id; None for the newest job of the newest run.
        where: the flags; a provider named there takes precedence over the one that the run notes.
        environment: for the provider of a job that no run knows.

    Returns:
        The job, its provider and its run.

    Raises:
        UsageError: there is no run, or the run has no job.
    """
    if argument is None or Path(argument).is_dir():
        run = find_run(Path(argument) if argument else None, root=RUNS)
        noted = newest_job(run.read_state())
        if noted is None or noted.job_id is None:
            raise UsageError(
                f"{run.path} has no fine-tuning job",
                help_text=_way_to_a_job(run),
            )
        return Target(noted.job_id, run, *_noted_place(noted, where))
    found = _run_of(argument)
    if found is None:
        return Target(argument, None, choose_tuner(where, environment), where)
    return Target(argument, found[0], *_noted_place(found[1], where))


def name_of_job(job_id: str, run: RunDirectory | None) -> str:
    """Return what commands name a job by: its id, or its run if only the run says at which provider it is.

    Args:
        job_id: the provider's id.
        run: the run that the job is noted in; None if there is none.
    """
    return job_id if run is None or run.path.parent == RUNS else str(run.path)


def _noted_place(noted: FinetuningState, where: EndpointFlags) -> tuple[ProviderChoice, EndpointFlags]:
    if where.provider or not all(is_same_place(address, noted.base_url) for address in where.addresses):
        return choose_tuner(where, {}), where
    return ProviderChoice(named_profile(noted.provider), "the run's job is at this provider"), dataclasses.replace(
        where, base_url=noted.base_url or None
    )


def _run_of(job_id: str) -> tuple[RunDirectory, FinetuningState] | None:
    for path in sorted(RUNS.glob(f"*/{STATE_NAME}")):
        run = RunDirectory(path.parent)
        noted = noted_job(run.read_state(), job_id)
        if noted is not None:
            return run, noted
    return None


def newest_tuned_model(path: Path | None) -> str:
    """Find the model that a run tuned last.

    Args:
        path: the run directory; None for the newest run.

    Returns:
        Name of the model.

    Raises:
        UsageError: there is no run, or none of its jobs has succeeded yet.
    """
    run = find_run(path, root=RUNS)
    tuned = [noted.tuned_model for noted in run.read_state().finetuning if noted.tuned_model]
    if not tuned:
        raise UsageError(
            f"{run.path} has no tuned model yet",
            help_text=f"{_way_to_a_job(run)}; or choose a model with --model",
        )
    return tuned[-1]


def owner_of_model(model: str, where: EndpointFlags, run: Path | None = None) -> Target | None:
    """Find the job that made a model, among the runs here.

    Args:
        model: name of the model.
        where: the flags.
        run: a run to look into first, which may be elsewhere.

    Returns:
        The job; None if no run knows the model.
    """
    named = [find_run(run, root=RUNS)] if run is not None else []
    for directory in [*named, *(RunDirectory(path.parent) for path in sorted(RUNS.glob(f"*/{STATE_NAME}")))]:
        for noted in directory.read_state().finetuning:
            if noted.tuned_model == model and noted.job_id:
                return Target(noted.job_id, directory, *_noted_place(noted, where))
    return None


def form_for(owner: Target | None, run: Path | None) -> PromptForm:
    """Find the form in which prompts are sent to a model.

    Args:
        owner: the job that made the model; None if no run knows it.
        run: the run that the user named; None for that of the owner.

    Returns:
        That of the run's dataset; a plain chat without one.

    Raises:
        UsageError: `run` is not a run, or has no dataset.
    """
    directory = find_run(run, root=RUNS) if run else owner.run if owner else None
    dataset = directory.read_state().dataset if directory is not None else None
    if run is not None and directory is not None and dataset is None:
        raise UsageError(f"{directory.path} has no dataset", help_text=command_line("prepare", directory.path))
    return form_of(dataset) if dataset is not None else PromptForm()


def _way_to_a_job(run: RunDirectory) -> str:
    """The next command on the way to a fine-tuning job."""
    if run.read_state().dataset is None:
        return f"{command_line('prepare', run.path)}   (creates the dataset first)"
    return f"{command_line('finetune create', run.path)}   (creates a job)"


class Notes(Protocol):
    """A state that outlives the process, such as `run.json`."""

    @property
    def state(self) -> RunState:
        """The noted state."""
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


def with_upload(state: RunState, upload: UploadState) -> RunState:
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
    """Return the state with a job's newest event in `events.jsonl`."""
    return replace(
        state,
        finetuning=[
            replace(noted, last_event=event_id) if noted.job_id == job_id else noted for noted in state.finetuning
        ],
    )


def noted_job(state: RunState, job_id: str) -> FinetuningState | None:
    """The noted job; None if it is not one of the run's."""
    return next((noted for noted in state.finetuning if noted.job_id == job_id), None)


def newest_job(state: RunState) -> FinetuningState | None:
    """The run's newest job that surely exists."""
    return next((noted for noted in reversed(state.finetuning) if noted.job_id), None)


@asynccontextmanager
async def open_tuner(
    endpoint: Endpoint, *, wandb_key: Secret | None = None, pacing: Pacing | None = None
) -> AsyncIterator[Tuner]:
    """Open the files, jobs and models of an endpoint; the connection is closed at the end of the block.

    Args:
        endpoint: of a provider that tunes.
        wandb_key: API key of Weights & Biases, which some providers need for jobs that report there; None for none.
        pacing: retry settings; None for the defaults.

    Yields:
        The open provider.

    Raises:
        UsageError: a variable names a proxy or certificates that cannot be used.
    """
    finetuning = endpoint.profile.finetuning
    assert finetuning is not None, "the choice of a provider sees to it"
    async with open_calls(endpoint, pacing=pacing) as calls:
        files, jobs, models, weights = _apis(endpoint, finetuning, calls, wandb_key)
        yield Tuner(
            endpoint.profile, place_of(endpoint), files, jobs, models, weights, lambda: _fetcher(endpoint, calls.pacing)
        )


def _apis(
    endpoint: Endpoint, finetuning: Finetuning, calls: JsonCalls, wandb_key: Secret | None
) -> tuple[FileApi, JobApi, ModelApi, WeightApi]:
    """The implementations that the endpoint's profile asks for; those of other providers are not imported."""
    if finetuning.api == "fireworks":
        from asyncgen.finetune import fireworks  # noqa: PLC0415 - see above

        named = os.environ.get(fireworks.ACCOUNT_VARIABLE) or None
        account = fireworks.FireworksAccount(calls, endpoint.base_url, named)
        jobs = fireworks.FireworksJobs(account, finetuning, wandb_key)
        models, weights = fireworks.FireworksModels(account), fireworks.FireworksWeights(account)
        return fireworks.FireworksFiles(account), jobs, models, weights
    from asyncgen.finetune import openai_shape  # noqa: PLC0415 - imports the SDK

    if finetuning.api == "together":
        from asyncgen.finetune import together  # noqa: PLC0415 - see above

        jobs_there = together.TogetherJobs(calls, finetuning, wandb_key)
        return together.TogetherFiles(calls), jobs_there, openai_shape.OpenaiModels(calls), together.TogetherWeights()
    files, usual_jobs = openai_shape.OpenaiFiles(calls), openai_shape.OpenaiJobs(calls, finetuning)
    return files, usual_jobs, openai_shape.OpenaiModels(calls), openai_shape.OpenaiWeights(calls, files, usual_jobs)


def _fetcher(endpoint: Endpoint, pacing: Pacing) -> FileFetcher:
    from asyncgen.finetune.fetch import Downloader  # noqa: PLC0415 - few commands download

    return Downloader(endpoint, pacing)


@asynccontextmanager
async def open_calls(endpoint: Endpoint, *, pacing: Pacing | None = None) -> AsyncIterator[JsonCalls]:
    """Open calls of an endpoint's API; the connection is closed at the end of the block.

    Args:
        endpoint: address, key and headers.
        pacing: retry settings; None for the defaults.

    Yields:
        The calls.

    Raises:
        UsageError: a variable names a proxy or certificates that cannot be used.
    """
    from asyncgen.finetune.json_calls import JsonCalls  # noqa: PLC0415 - imports the SDK
    from asyncgen.providers.openai_client import Pacing, open_client  # noqa: PLC0415 - imports the SDK

    async with open_client(endpoint) as client:
        yield JsonCalls(client, pacing or Pacing())


def place_of(endpoint: Endpoint) -> str:
    """The address as `run.json` keeps it: "" for this user's own server, whose port changes."""
    return "" if endpoint.profile.name == LOCAL else endpoint.base_url
