"""`asyncgen finetune list`, `show`, `events`, `checkpoints`: what a provider says of its jobs."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from asyncgen.cli.finetune_options import job_argument, job_lines, opened, place_options, where_of
from asyncgen.cli.options import output_options
from asyncgen.cli.output import json_result, result, say
from asyncgen.cli.table import local_time, table
from asyncgen.cli.tuning_target import Target, find_target
from asyncgen.finetune.api import Checkpoint, Event, TuningJob
from asyncgen.provider_choice import Where, choose_tuner


@click.command("list")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, metavar="N", help="The newest N.")
@place_options
@output_options
def list_jobs(as_json: bool, limit: int, **options: Any) -> None:
    """List the provider's jobs, the newest first."""
    from asyncgen.cli.loop import run as run_loop  # noqa: PLC0415 - imports asyncio

    jobs = run_loop(_newest(where_of(options), limit))
    if as_json:
        json_result({"jobs": [job.raw for job in jobs]})
        return
    if not jobs:
        say("there are no jobs; asyncgen finetune create   (creates one)")
        return
    rows = [(job.id, local_time(job.created), job.status, job.model, job.tuned_model or "") for job in jobs]
    for line in table(("job", "created", "state", "base model", "tuned model"), rows):
        result(line)


async def _newest(where: Where, limit: int) -> list[TuningJob]:
    found: list[TuningJob] = []
    async with opened(Target("", None, choose_tuner(where), where)) as tuner:
        async for job in tuner.jobs.all():
            found.append(job)
            if len(found) == limit:
                break
    return found


@click.command("show")
@job_argument
@place_options
@output_options
def show(job: str | None, as_json: bool, **options: Any) -> None:
    """Show one job: state, models, tokens, error."""
    from asyncgen.cli.loop import run as run_loop  # noqa: PLC0415 - imports asyncio

    found = run_loop(_job(find_target(job, where_of(options))))
    if as_json:
        json_result(found.raw)
        return
    for name, text in job_lines(found):
        result(f"{name:<11} {text}")


async def _job(target: Target) -> TuningJob:
    async with opened(target) as tuner:
        return await tuner.jobs.get(target.job_id)


@click.command("events")
@job_argument
@place_options
@output_options
def events(job: str | None, as_json: bool, **options: Any) -> None:
    """Show all that a job told so far, the oldest first."""
    from asyncgen.cli.loop import run as run_loop  # noqa: PLC0415 - imports asyncio

    found = run_loop(_events(find_target(job, where_of(options))))
    if as_json:
        json_result({"events": msgspec.to_builtins(found)})
        return
    for event in found:
        level = "" if event.level == "info" else f"{event.level}: "
        result(f"{local_time(event.created_at, '%Y-%m-%d %H:%M:%S')}  {level}{event.message}")


async def _events(target: Target) -> list[Event]:
    from asyncgen.finetune.follow import all_events  # noqa: PLC0415 - imports asyncio

    async with opened(target) as tuner:
        return await all_events(tuner.jobs, target.job_id)


@click.command("checkpoints")
@job_argument
@place_options
@output_options
def checkpoints(job: str | None, as_json: bool, **options: Any) -> None:
    """List the models that a job made on its way, the newest first."""
    from asyncgen.cli.loop import run as run_loop  # noqa: PLC0415 - imports asyncio

    found = run_loop(_checkpoints(find_target(job, where_of(options))))
    if as_json:
        json_result({"checkpoints": msgspec.to_builtins(found)})
        return
    if not found:
        say("there are no checkpoints yet")
        return
    rows = [(str(each.step), local_time(each.created_at), _figures(each), each.model) for each in found]
    for line in table(("step", "created", "figures", "model"), rows):
        result(line)


async def _checkpoints(target: Target) -> list[Checkpoint]:
    async with opened(target) as tuner:
        return await tuner.jobs.checkpoints(target.job_id)


def _figures(checkpoint: Checkpoint) -> str:
    shown = {name: value for name, value in checkpoint.metrics.items() if name != "step"}
    return ", ".join(f"{name} {value:.4g}" for name, value in shown.items() if isinstance(value, int | float))
