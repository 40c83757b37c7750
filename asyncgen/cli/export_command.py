"""`asyncgen export`: a run's answers as a file or folder for other programs."""

from __future__ import annotations

import os
from pathlib import Path

import click

from asyncgen.cli.arguments import run_directory
from asyncgen.cli.options import output_options, run_argument
from asyncgen.cli.output import json_result, result, say
from asyncgen.dataset.export.files import CsvStyle, Exported, export_file, ordered_records
from asyncgen.dataset.export.folder import export_folder
from asyncgen.dataset.select import may_be_stale
from asyncgen.dataset.split import known_plan, plan_split
from asyncgen.job.of_run import job_of_run
from asyncgen.run.directory import RunDirectory
from asyncgen.run.reviews import read_reviews
from asyncgen.run.simulated import count_simulated, refuse_simulated


@click.command("export")
@run_argument
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="FILE",
    help="FILE.csv, FILE.jsonl or FILE.parquet; FOLDER/ for the Hugging Face Hub.",
)
@click.option("--raw-csv", is_flag=True, help="Leave CSV cells alone that a spreadsheet would run as formulas.")
@click.option("--variables", is_flag=True, help="CSV: a column for each variable, too.")
@click.option("--simulated", is_flag=True, help="Take a simulation's answers, too: a rehearsal.")
@output_options
def export(run: Path | None, output: str, raw_csv: bool, variables: bool, simulated: bool, as_json: bool) -> None:
    """Write the answers of RUN in the order of its grid, whole or not at all.

    \b
    asyncgen export -o answers.csv        prompt,completion; with --variables a column each
    asyncgen export -o answers.parquet    every field, each variable a column
    asyncgen export -o dataset/           the samples by split, and a card

    Works while the run is written.
    """  # noqa: D301 - click keeps the lines of a paragraph that begins with this character
    directory = run_directory(run)
    path = Path(output)
    made_up = count_simulated(directory.records)
    refuse_simulated(made_up, allowed=simulated)
    is_folder = output.endswith(os.sep) or path.is_dir()
    exported = _folder(directory, path) if is_folder else _file(directory, path, CsvStyle(raw_csv, variables))
    if exported.defused:
        say(f"{exported.defused:,} cells would run as formulas in a spreadsheet and got a ' in front (--raw-csv: none)")
    if made_up:
        say(f"note: a simulation made up {made_up:,} of these answers")
    if as_json:
        json_result({"output": output, "rows": exported.rows, "defused": exported.defused, "simulated": made_up})
    else:
        result(f"{output}: {exported.rows:,} rows")


def _file(directory: RunDirectory, path: Path, csv: CsvStyle) -> Exported:
    job = directory.read_state().job
    stale = job.stale
    # Without rows of another form the grid has nothing to say, and a run that lost its job can still be exported.
    grid = job_of_run(directory).grid if stale or job.renamed else None
    exported = export_file(path, ordered_records(directory.records, grid), csv)
    if stale:
        say(f"{stale:,} answers to an earlier form of the job were left out")
    return exported


def _folder(directory: RunDirectory, path: Path) -> Exported:
    opened = job_of_run(directory)
    state = directory.read_state()
    plan = plan_split(opened.grid, opened.job.dataset, known_plan(state))
    grid = opened.grid if may_be_stale(state.job, opened.grid) else None
    return export_folder(path, ordered_records(directory.records, grid), opened, plan, read_reviews(directory.path))
