"""`asyncgen merge`: finished shards folded into their run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from asyncgen.cli.arguments import run_directory
from asyncgen.cli.options import output_options, run_argument
from asyncgen.cli.output import json_result, result, say
from asyncgen.errors import AsyncgenError, command_line
from asyncgen.generate.distributed.merge import merge_shards, no_price
from asyncgen.run.directory import RunDirectory, open_run
from asyncgen.terminal import counted

if TYPE_CHECKING:
    from pathlib import Path

    from asyncgen.generate.journal.settled import CostOf


@click.command("merge")
@run_argument
@output_options
def merge(run: Path | None, as_json: bool) -> None:
    """Fold the shards of RUN into its records.jsonl, and add up what they spent.

    No shard may be at work. A merge that was cut short is ended by giving the command again.
    """
    directory = run_directory(run)
    cost_of = _cost_of(directory)
    with open_run(directory.path) as opened:
        merged = merge_shards(opened, cost_of)
    if as_json:
        json_result(
            {
                "run": str(directory.path),
                "shards": merged.shards,
                "records": merged.records,
                "failures": merged.failures,
            }
        )
        return
    if not merged.shards:
        result(f"{directory.path}: there are no shards to merge")
        return
    failures = f" and {counted(merged.failures, 'failure')}" if merged.failures else ""
    result(
        f"{directory.records}: {counted(merged.records, 'answer')}{failures} of "
        f"{counted(merged.shards, 'shard was', 'shards were')} added"
    )
    say(f"next: {command_line('status', directory.path)}")


def _cost_of(directory: RunDirectory) -> CostOf:
    """Price of answers that a killed shard had not counted; unknown if the job cannot be opened any more."""
    from asyncgen.generate.spending import spending_of  # noqa: PLC0415 - imports the prices
    from asyncgen.job.opened import job_of_run  # noqa: PLC0415 - as above
    from asyncgen.providers.choose import EndpointFlags, named_profile  # noqa: PLC0415 - as above
    from asyncgen.providers.profiles import ProviderChoice  # noqa: PLC0415 - as above

    try:
        opened = job_of_run(directory)
        profile = named_profile(opened.generation, opened.file.profiles)
        return spending_of(opened, ProviderChoice(profile, "asked by the run"), EndpointFlags(), in_batch=False).cost_of
    except AsyncgenError:
        return no_price
