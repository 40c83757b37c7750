"""A job loaded for the providers that answer and tune, and what it would send."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from asyncgen.generate.plan.plan import Plan, PlanTarget, make_plan, tuners_within_reach
from asyncgen.generate.plan.request_tokens import measure_run
from asyncgen.generate.session import RUNS
from asyncgen.job.opened import OpenedJob, open_named_job
from asyncgen.providers.choose import EndpointFlags, named_address
from asyncgen.providers.prices import load_price_list
from asyncgen.run.directory import RunDirectory

if TYPE_CHECKING:
    from asyncgen.providers.profiles import ProviderChoice


@dataclass(frozen=True, slots=True)
class LoadedJob:
    """A job file, read and checked, with the providers that answer and tune. Made by `load_job`.

    `len(job)` is the number of requests, repeats included.

    Attributes:
        opened: the job with the overlays of these providers applied, and its requests.
        generation: the provider that answers, and why it was chosen.
        tuning: the provider that tunes, and why it was chosen.
        where: the address, model and key file that the caller passed.

    Example:
        >>> job = load_job("campaign.toml", provider="local")
        >>> job.name, job.model, len(job)
        ('campaign', 'smollm2-135m-instruct', 12)
    """

    opened: OpenedJob
    generation: ProviderChoice
    tuning: ProviderChoice
    where: EndpointFlags

    @property
    def name(self) -> str:
        """The job's name. Its run directory is `runs/<name>`."""
        return self.opened.job.name

    @property
    def model(self) -> str:
        """The model that requests are sent to."""
        return self.opened.model

    def __len__(self) -> int:
        """Number of requests, repeats included."""
        return self.opened.grid.count


def load_job(
    path: str | os.PathLike[str] | None = None,
    *,
    provider: str | None = None,
    base_url: str | None = None,
    model: str | None = None,
    api_key_file: str | os.PathLike[str] | None = None,
    finetune_provider: str | None = None,
) -> LoadedJob:
    """Read a job file and choose the providers.

    Sends nothing, and needs no API key.

    Args:
        path: the job file (TOML); None for the built-in campaign.
        provider: name of the provider that answers; None for the job's, else the first one whose API key is in the
            environment, else `local`.
        base_url: address of an OpenAI-compatible API, including `/v1`; None for the provider's.
        model: model to ask; None for the job's, else the provider's default.
        api_key_file: file with the API key; None to read the provider's environment variable.
        finetune_provider: name of the provider that tunes; None for the job's.

    Returns:
        The job, ready for `plan`, `preview`, `generate` and `stream`.

    Raises:
        JobFileError: the file has mistakes; `problems` lists all of them.
        UsageError: the provider is unknown, or it has no default model and none was passed.

    Example:
        >>> job = load_job(provider="local")
        >>> job.name, len(job)
        ('direct-marketing', 162)
    """
    where = EndpointFlags(provider, base_url, model, Path(api_key_file) if api_key_file is not None else None)
    opened, generation, tuning = open_named_job(
        Path(path) if path is not None else None, where, finetune_provider=finetune_provider
    )
    return LoadedJob(opened, generation, tuning, where)


def plan(job: LoadedJob | str | os.PathLike[str], *, out: str | os.PathLike[str] | None = None) -> Plan:
    """Estimate what a job would send, cost and take, without sending anything.

    Args:
        job: a loaded job, or the path of a job file.
        out: the run directory, whose answers are not asked for again; None for `runs/<job name>`.

    Returns:
        Requests that are left, tokens, cost in USD, time in seconds, and whether each later stage can be done.

    Raises:
        JobFileError: the file has mistakes.
        DiskError: the run directory cannot be read.

    Example:
        >>> plan(load_job(provider="local"), out="new-run").left
        162
    """
    loaded = loaded_job(job)
    opened = loaded.opened
    there = measure_run(RunDirectory(Path(out) if out is not None else RUNS / loaded.name), opened.grid)
    generation = loaded.generation.profile
    place = PlanTarget(
        generation,
        named_address(generation, loaded.where),
        opened.model,
        loaded.tuning.profile,
        tuners_within_reach(opened.file.profiles),
        lambda name: opened.file.job(generation.name, name),
    )
    prices = load_price_list(opened.file.path and opened.file.folder, os.environ)
    return make_plan(opened.job, opened.grid, there, place, prices)


def loaded_job(job: LoadedJob | str | os.PathLike[str]) -> LoadedJob:
    """Return a loaded job as it is, and load the job of a path.

    Args:
        job: a loaded job, or the path of a job file.

    Raises:
        JobFileError: the file has mistakes.
    """
    return job if isinstance(job, LoadedJob) else load_job(job)
