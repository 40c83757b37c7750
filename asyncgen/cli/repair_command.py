"""`asyncgen repair`: damaged lines of a run set aside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from asyncgen.cli.arguments import run_directory, with_run
from asyncgen.cli.options import output_options, run_argument
from asyncgen.cli.output import json_result, result, say
from asyncgen.generate.journal.repair import FileRepair, RunRepair, repair_run
from asyncgen.terminal import counted

if TYPE_CHECKING:
    from pathlib import Path

_NUMBERS_SHOWN = 20


@click.command("repair")
@run_argument
@output_options
def repair(run: Path | None, as_json: bool) -> None:
    """Set damaged lines of RUN aside, with their numbers, in files named *.bad; keep all others.

    The rows that they held are asked for, and paid for, again by the next `asyncgen generate`.
    """
    path = with_run(run) or run_directory(None).path
    repaired = repair_run(path)
    if as_json:
        json_result(_as_json(path, repaired))
        return
    for line in _lines(repaired):
        result(line)
    if any(file.bad for file in repaired.files):
        say(f"next: look at the *.bad files in {path}; `asyncgen generate` asks for the missing rows again")


def _lines(repaired: RunRepair) -> list[str]:
    lines = [_file_line(file) for file in repaired.files]
    if repaired.state_made_anew:
        lines.append("run.json: made anew; uploads and fine-tuning jobs are no longer known")
    return lines


def _file_line(file: FileRepair) -> str:
    parts = [f"{counted(file.kept, 'line')} kept"]
    if file.bad:
        numbers = ", ".join(map(str, file.bad[:_NUMBERS_SHOWN])) + (", …" if len(file.bad) > _NUMBERS_SHOWN else "")
        parts.append(f"{len(file.bad)} bad ones moved to {file.path.name}.bad (line {numbers})")
    if file.torn_bytes:
        parts.append(f"a torn last line of {file.torn_bytes} bytes moved to {file.path.name}.torn")
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
