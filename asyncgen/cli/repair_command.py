"""`asyncgen repair` and `asyncgen merge`: damaged lines of a run set aside; finished shards folded into their run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from asyncgen.cli.arguments import run_directory, with_run
from asyncgen.cli.options import output_options, run_argument
from asyncgen.cli.output import json_result, result, say
from asyncgen.errors import AsyncgenError, command_line
from asyncgen.generate.distributed.merge import merge_shards, no_price
from asyncgen.generate.journal.repair import FileRepair, RunRepair, repair_run
from asyncgen.run.directory import RunDirectory, open_run
from asyncgen.terminal import counted

if TYPE_CHECKING:
    from pathlib import Path

    from asyncgen.generate.journal.settled import CostOf


_NUMBERS_SHOWN = 20


@click.command("repair")
@run_argument
@output_options
def repair(run: Path | None, as_json: bool) -> None:
    """Move damaged lines of RUN, with their line numbers, to files named *.bad. All other lines are kept.

    The next `asyncgen generate` sends the requests of these rows again, and they are paid for again.
    """
    path = with_run(run) or run_directory(None).path
    repaired = repair_run(path)
    if as_json:
        json_result(_as_json(path, repaired))
        return
    for line in _lines(repaired):
        result(line)
    if any(file.bad for file in repaired.files):
        say(f"next: look at the *.bad files in {path}; `asyncgen generate` sends the missing rows again")


def _lines(repaired: RunRepair) -> list[str]:
    lines = [_file_line(file) for file in repaired.files]
    if repaired.state_made_anew:
        lines.append("run.json: rebuilt; uploads and fine-tuning jobs are no longer known")
    return lines


def _file_line(file: FileRepair) -> str:
    parts = [f"{counted(file.kept, 'line')} kept"]
    if file.bad:
        numbers = ", ".join(map(str, file.bad[:_NUMBERS_SHOWN])) + (", …" if len(file.bad) > _NUMBERS_SHOWN else "")
        parts.append(f"{len(file.bad)} damaged moved to {file.path.name}.bad (line {numbers})")
    if file.torn_bytes:
        parts.append(f"an incomplete last line of {file.torn_bytes} bytes moved to {file.path.name}.torn")
    return f"{file.path.name}: " + ", ".join(parts)


def _as_json(path: Path, repaired: RunRepair) -> dict[str, object]:
    return {
        "run": str(path),
        "files": [
            {"name": file.path.name, "kept": file.kept, "bad": list(file.bad), "torn_bytes": file.torn_bytes}
            for file in repaired.files
        ],
        "state_made_anew": repaired.state_made_anew,
    }


@click.command("merge")
@run_argument
@output_options
def merge(run: Path | None, as_json: bool) -> None:
    """Merge the shards of RUN into its records.jsonl, and add up their cost.

    No shard may be running. If a merge was interrupted, repeat the command.
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
        f"{counted(merged.shards, 'shard')} merged"
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
        return spending_of(opened, ProviderChoice(profile, "used by the run"), EndpointFlags(), in_batch=False).cost_of
    except AsyncgenError:
        return no_price
