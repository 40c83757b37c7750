"""`asyncgen finetune results`: a job's metrics as a table, and its loss drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from asyncgen.cli.finetune_options import job_argument, opened, place_options, where_of
from asyncgen.cli.options import output_options
from asyncgen.cli.output import json_result, result, say
from asyncgen.cli.tuning_target import Target, find_target
from asyncgen.errors import AsyncgenError
from asyncgen.finetune.loss_curve import Point, chart, points_of_table
from asyncgen.whole_file import replacing

if TYPE_CHECKING:
    from asyncgen.finetune.api import TuningJob

_WIDTH, _HEIGHT = 72, 12


@click.command("results")
@job_argument
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write the CSV table there; - for stdout."
)
@click.option(
    "--png", type=click.Path(path_type=Path), metavar="FILE", help="Draw the loss there too; needs asyncgen[plot]."
)
@place_options
@output_options
def results(job: str | None, output: Path | None, png: Path | None, as_json: bool, **options: Any) -> None:
    """Write a job's metrics as CSV, and draw its loss in the terminal.

    The table goes to the run's folder as results.csv, or to JOB.csv where the job belongs to no run.
    """
    from asyncgen.cli.loop import run as run_loop  # noqa: PLC0415 - imports asyncio

    target = find_target(job, where_of(options))
    found, content = run_loop(_metrics(target))
    points = points_of_table(content)
    if output == Path("-"):
        click.echo(content.decode("utf-8", "replace"), nl=False)
        return
    path = output or (target.run.path / "results.csv" if target.run else Path(f"{found.id}.csv"))
    with replacing(path) as file:
        file.write(content)
    if png is not None:
        _draw(points, png, found.id)
    _show(points, path, found, png, as_json=as_json)


async def _metrics(target: Target) -> tuple[TuningJob, bytes]:
    async with opened(target) as tuner:
        job = await tuner.jobs.get(target.job_id)
        content = await tuner.jobs.metrics(job)
    if not content:
        raise AsyncgenError(
            f"{job.id} has no results: it is {job.status}",
            help_text=f"asyncgen finetune events {job.id}   (what it told)",
            code="no_results",
        )
    return job, content


def _draw(points: list[Point], path: Path, title: str) -> None:
    from asyncgen.cli.loss_png import draw_losses  # noqa: PLC0415 - an extra

    draw_losses(points, path, title)


def _show(points: list[Point], path: Path, job: TuningJob, png: Path | None, *, as_json: bool) -> None:
    losses = [point.train_loss for point in points if point.train_loss is not None]
    valid = [(point.step, point.valid_loss) for point in points if point.valid_loss is not None]
    if as_json:
        last = losses[-1] if losses else None
        measured = {"steps": len(points), "train_loss": last, "valid_loss": valid[-1][1] if valid else None}
        json_result({"job": job.id, "table": str(path), "png": str(png) if png else None, **measured})
        return
    if losses:
        result(f"training loss, steps {points[0].step} to {points[-1].step}: {losses[0]:.4g} to {losses[-1]:.4g}")
        for line in chart(losses, _WIDTH, _HEIGHT):
            result(line)
    for step, loss in valid[-5:]:
        result(f"validation loss at step {step}: {loss:.4g}")
    say(" and ".join(map(str, filter(None, (path, png)))) + " written")
