"""`asyncgen export`: a run's answers as a file or folder for other programs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from asyncgen.cli.arguments import run_directory
from asyncgen.cli.options import output_options, run_argument
from asyncgen.cli.output import json_result, result, say
from asyncgen.dataset.export.files import CsvStyle, Exported, export_file, ordered_records
from asyncgen.dataset.export.folder import export_folder
from asyncgen.dataset.export.prepared import export_for_trainer, export_prepared_folder
from asyncgen.dataset.export.trainers import TRAINERS
from asyncgen.dataset.samples import PREFERENCE, may_be_stale
from asyncgen.dataset.split import known_plan, plan_split
from asyncgen.job.opened import job_of_run
from asyncgen.run.reviews import read_reviews
from asyncgen.run.simulated import SimulationCheck, refuse_simulated
from asyncgen.terminal import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncgen.job.opened import OpenedJob
    from asyncgen.run.directory import RunDirectory
    from asyncgen.run.records import Record


@click.command("export")
@run_argument
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="FILE",
    help="FILE.csv, FILE.jsonl or FILE.parquet, or FOLDER/ for the Hugging Face Hub.",
)
@click.option(
    "--for",
    "trainer",
    type=click.Choice(list(TRAINERS)),
    help="Write a folder for this trainer: data, configuration, and the command to run.",
)
@click.option(
    "--model", envvar="ASYNCGEN_FINETUNE_MODEL", metavar="NAME", help="With --for: the Hub name of the model to train."
)
@click.option("--raw-csv", is_flag=True, help="Do not escape CSV cells that a spreadsheet would run as formulas.")
@click.option("--variables", is_flag=True, help="CSV: also write a column for each variable.")
@click.option("--fields", is_flag=True, help="CSV: also write a column for each field of JSON answers.")
@click.option("--simulated", is_flag=True, help="Use simulated answers, too, to test the stages.")
@output_options
def export(
    run: Path | None,
    output: str,
    trainer: str | None,
    model: str | None,
    raw_csv: bool,
    variables: bool,
    fields: bool,
    simulated: bool,
    as_json: bool,
) -> None:
    """Export the answers of RUN in the order of its grid.

    Works during a run. The output is written completely or not at all.
    """
    directory = run_directory(run)
    path = Path(output)
    check = SimulationCheck(allowed=simulated)
    if trainer is not None:
        _for_trainer(directory, path, trainer, model, check, as_json=as_json)
        return
    is_folder = output.endswith(os.sep) or path.is_dir()
    style = CsvStyle(raw_csv, variables, fields)
    exported = _folder(directory, path, check) if is_folder else _file(directory, path, style, check)
    if exported.defused:
        say(
            f"{exported.defused:,} cells would run as formulas in a spreadsheet and were prefixed with ' (--raw-csv "
            "turns this off)"
        )
    if check.found:
        say(f"note: {check.found:,} of these answers are simulated")
    if as_json:
        json_result({"output": output, "rows": exported.rows, "defused": exported.defused, "simulated": check.found})
    else:
        result(f"{output}: {counted(exported.rows, 'row')}")


def _file(directory: RunDirectory, path: Path, csv: CsvStyle, check: SimulationCheck) -> Exported:
    job = directory.read_state().job
    stale = job.stale
    # If all rows have the job's variables, the grid is not needed, and a run without its job can be exported.
    grid = job_of_run(directory).grid if stale or job.renamed else None
    exported = export_file(path, check.passing(ordered_records(directory.record_files(), grid)), csv)
    if stale:
        say(f"{counted(stale, 'answer')} from an earlier version of the job were left out")
    return exported


def _folder(directory: RunDirectory, path: Path, check: SimulationCheck) -> Exported:
    opened = job_of_run(directory)
    settings = opened.job.dataset
    if settings.format == PREFERENCE or settings.scores is not None:
        _refuse_made_up_dataset(directory, check)
        made = export_prepared_folder(path, directory, opened, _records(directory, opened, check))
        for remark in made.remarks:
            say(remark)
        return Exported(rows=made.rows + made.validation_rows)
    plan = plan_split(opened.grid, settings, known_plan(directory.read_state()))
    return export_folder(path, _records(directory, opened, check), opened, plan, read_reviews(directory.path))


def _records(directory: RunDirectory, opened: OpenedJob, check: SimulationCheck) -> Iterator[Record]:
    grid = opened.grid if may_be_stale(directory.read_state().job, opened.grid) else None
    return check.passing(ordered_records(directory.record_files(), grid))


def _refuse_made_up_dataset(directory: RunDirectory, check: SimulationCheck) -> None:
    """Refuse a prepared dataset of simulated answers; the records may have changed since."""
    dataset = directory.read_state().dataset
    refuse_simulated(dataset.simulated if dataset else 0, allowed=check.allowed)


def _for_trainer(
    directory: RunDirectory, path: Path, trainer: str, model: str | None, check: SimulationCheck, *, as_json: bool
) -> None:
    _refuse_made_up_dataset(directory, check)
    opened = job_of_run(directory)
    made = export_for_trainer(path, trainer, directory, opened, _records(directory, opened, check), model)
    for remark in made.remarks:
        say(remark)
    plan = made.plan
    assert plan is not None, "a trainer has one"
    said = f"{counted(plan.epochs, 'epoch')}, rank {plan.rank}, at most {plan.max_length:,} tokens a sample"
    say(f"trains {plan.model}: {said}, learning rate {plan.learning_rate:g}")
    say(f"next: {made.command}")
    if as_json:
        json_result(
            {
                "output": str(path),
                "for": trainer,
                "rows": made.rows,
                "validation_rows": made.validation_rows,
                "model": plan.model,
                "epochs": plan.epochs,
                "rank": plan.rank,
                "max_length": plan.max_length,
                "learning_rate": plan.learning_rate,
                "next": made.command,
            }
        )
    else:
        held_out = f", {made.validation_rows:,} held out" if made.validation_rows else ""
        result(f"{path}: {counted(made.rows, 'row')}{held_out}")
