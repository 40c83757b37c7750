"""A job loaded for the providers that answer and tune, and what it would send."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from asyncgen.generate.plan.plan import Plan, PlanTarget, make_plan, tuners_within_reach
from asyncgen.generate.plan.request_tokens import rows_there
from asyncgen.generate.session import RUNS
from asyncgen.job.of_run import OpenedJob, open_named_job
from asyncgen.providers.choose import Where, named_address
from asyncgen.providers.prices import load_price_list
from asyncgen.run.directory import RunDirectory

if TYPE_CHECKING:
    from asyncgen.providers.profiles import ProviderChoice


@dataclass(frozen=True, slots=True)
class LoadedJob:
    """A job file, read and checked, with who answers and who tunes; made by `load_job`.

    Attributes:
        opened: the job laid over for these providers, and its requests.
        generation: who answers, and why.
        tuning: who tunes, and why.
        where: address, model and key file that were given.
    """

    opened: OpenedJob
    generation: ProviderChoice
    tuning: ProviderChoice
    where: Where

    @property
    def name(self) -> str:
        """The job's name, which is also that of its run directory under `runs/`."""
        return self.opened.job.name

    @property
    def model(self) -> str:
        """The model that is asked."""
        return self.opened.model

    def __len__(self) -> int:
        """How many requests the job has, repeats counted."""
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
    """Read a job file and choose who answers.

    Args:
        path: the job file; None for the built-in campaign.
        provider: a provider's name; None for the job's, else the first one whose key is in the environment.
        base_url: an address of an OpenAI-compatible API, up to its /v1.
        model: the model to ask; None for the job's, else the provider's default.
        api_key_file: a file that holds the key; None for the provider's environment variable.
        finetune_provider: who tunes later; None for the job's.

    Raises:
        JobFileError: the file has mistakes; all of them are in `problems`.
        UsageError: there is no such provider, or it has no model of its own choice.

    Example:
        >>> job = load_job(provider="local")
        >>> job.name, len(job)
        ('direct-marketing', 162)
    """
    where = Where(provider, base_url, model, Path(api_key_file) if api_key_file is not None else None)
    opened, generation, tuning = open_named_job(
        Path(path) if path is not None else None, where, finetune_provider=finetune_provider
    )
    return LoadedJob(opened, generation, tuning, where)


def plan(job: LoadedJob | str | os.PathLike[str], *, out: str | os.PathLike[str] | None = None) -> Plan:
    """What a job would send, what is there already, and the price and time of the rest. Sends nothing.

    Args:
        job: a loaded job, or the path of a job file.
        out: the run directory; None for `runs/<job name>`.

    Raises:
        JobFileError: the file has mistakes.

    Example:
        >>> plan(load_job(provider="local")).left
        162
    """
    loaded = loaded_job(job)
    opened = loaded.opened
    there = rows_there(RunDirectory(Path(out) if out is not None else RUNS / loaded.name), opened.grid)
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
    """The job itself, or the one that stands in the file."""
    return job if isinstance(job, LoadedJob) else load_job(job)
