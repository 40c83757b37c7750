"""What the commands of `finetune` share: the argument that names a job, where it is, and a job in words."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from asyncgen.cli.options import api_key_file_option, base_url_option, provider_option
from asyncgen.cli.table import local_time
from asyncgen.cli.tuning_target import Target
from asyncgen.provider_choice import Where

if TYPE_CHECKING:
    from asyncgen.finetune.api import Tuner, TuningJob

Command = TypeVar("Command", bound=Callable[..., Any])

job_argument = click.argument("job", required=False, metavar="[JOB]")


def place_options(command: Command) -> Command:
    """Where the job is: --provider, --base-url, --api-key-file."""
    return provider_option(base_url_option(api_key_file_option(command)))


@asynccontextmanager
async def opened(target: Target) -> AsyncIterator[Tuner]:
    """The provider of the target."""
    from asyncgen.cli.resolve import open_endpoint  # noqa: PLC0415 - with the next, what needs a connection
    from asyncgen.finetune.open_tuner import open_tuner  # noqa: PLC0415 - imports the SDK

    async with open_endpoint(target.choice, target.where, "") as endpoint, open_tuner(endpoint) as tuner:
        yield tuner


def where_of(options: dict[str, Any]) -> Where:
    """The flags of `place_options`."""
    return Where(provider=options["provider"], base_url=options["base_url"], api_key_file=options["api_key_file"])


def job_lines(job: TuningJob) -> list[tuple[str, str]]:
    """What there is to know of a job, each with its name."""
    error = f"{job.error.code}: {job.error.message}".strip(": ") if job.error else ""
    finish = f"about {local_time(job.estimated_finish)}" if job.estimated_finish else ""
    found = [
        ("job", job.id),
        ("state", job.status),
        ("base model", job.model),
        ("tuned model", job.tuned_model or ""),
        ("created", local_time(job.created)),
        ("finished", local_time(job.finished) or finish),
        ("tokens", f"{job.trained_tokens:,} trained" if job.trained_tokens else ""),
        ("file", job.training_file),
        ("error", error),
    ]
    return [(name, text) for name, text in found if text]
