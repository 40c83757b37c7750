"""`asyncgen plan`: what a job would send, and what that would cost."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
import msgspec

from asyncgen.cli.arguments import job_file, next_command
from asyncgen.cli.options import (
    concurrency_option,
    endpoint_options,
    file_argument,
    out_option,
    output_options,
    rpm_option,
    tpm_option,
)
from asyncgen.cli.output import json_result, result, say
from asyncgen.cli.plan_lines import break_even_lines, labelled, plan_lines
from asyncgen.cli.preflight import Ahead, ahead_lines, problems_ahead, tuning_where
from asyncgen.generate.plan.plan import PlanTarget, compare_with_tuning, make_plan, plan_as_json, tuners_within_reach
from asyncgen.generate.plan.rows_there import rows_there
from asyncgen.job.model import Limits
from asyncgen.job.of_run import open_named_job
from asyncgen.providers.choose import Where, named_address
from asyncgen.providers.prices_file import load_price_list
from asyncgen.run.directory import RunDirectory

_PLACE = ("out", "provider", "base_url", "model", "api_key_file")


@click.command("plan")
@file_argument
@out_option
@endpoint_options
@click.option("--finetune-provider", metavar="NAME", help="Who would tune.")
@concurrency_option
@rpm_option
@tpm_option
@click.option("--break-even", is_flag=True, help="From how many calls on tuning pays against the long prompt.")
@output_options
def plan(
    file: Path | None,
    *,
    out: Path | None,
    finetune_provider: str | None,
    concurrency: int | None,
    rpm: float | None,
    tpm: float | None,
    break_even: bool,
    as_json: bool,
    **where: Any,
) -> None:
    """Show what FILE would send, what is there already, and the price and time of the rest. Sends nothing.

    Prices are published ones, unless $XDG_CONFIG_HOME/asyncgen/prices.toml (or one beside the job file) names yours.
    """
    job = job_file(file, built_in=True)
    flags = Where(**where)
    opened, generation, tuning = open_named_job(job, flags, finetune_provider=finetune_provider)
    prices = load_price_list(opened.file.path and opened.file.folder, os.environ)
    there = rows_there(RunDirectory(out or Path("runs", opened.job.name)), opened.grid)
    place = PlanTarget(
        generation.profile,
        named_address(generation.profile, flags),
        opened.model,
        tuning.profile,
        tuners_within_reach(opened.file.profiles),
        lambda name: opened.file.job(generation.profile.name, name),
    )
    limits = _limits(opened.job.limits, concurrency, rpm, tpm)
    made = make_plan(
        msgspec.structs.replace(opened.job, limits=limits), opened.grid, there, place, prices, opened.remarks
    )
    compared = compare_with_tuning(made, prices) if break_even else None
    if as_json:
        json_result(plan_as_json(made, compared))
        return
    ahead = Ahead(opened, generation, flags, tuning, tuning_where(opened, flags), None, yes=True)
    later = labelled("then", ahead_lines(ahead, problems_ahead(ahead)))
    for line in (*plan_lines(made), *later, *(break_even_lines(*compared) if compared else ())):
        result(line)
    say(f"next: {_next_step(job, made.left)}")


def _next_step(job: Path | None, left: int) -> str:
    if job is None:
        return next_command("run", keep=_PLACE)  # the only command that takes the built-in job and sends all of it
    return next_command("generate", job, keep=_PLACE) if left else next_command("prepare", job)


def _limits(limits: Limits, concurrency: int | None, rpm: float | None, tpm: float | None) -> Limits:
    return msgspec.structs.replace(
        limits,
        concurrency=concurrency or limits.concurrency,
        requests_per_minute=rpm or limits.requests_per_minute,
        tokens_per_minute=tpm or limits.tokens_per_minute,
    )
