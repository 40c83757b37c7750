"""`asyncgen report`: what a run's answers are like."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from asyncgen.cli.arguments import job_file_of, run_directory
from asyncgen.cli.options import output_options, run_argument
from asyncgen.cli.output import json_result, result, say
from asyncgen.cli.report_lines import next_step, report_lines, report_object
from asyncgen.dataset.report.collect import Report, make_report
from asyncgen.dataset.report.page import report_page
from asyncgen.job.of_run import job_of_run
from asyncgen.run.directory import output_file


@click.command("report")
@run_argument
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write a page with charts."
)
@output_options
def report(run: Path | None, html: Path | None, as_json: bool) -> None:
    """Look at the answers of RUN: coverage by axis, lengths, duplicates, openings, checks, spend. Reads only.

    Works while the run is written.
    """
    directory = run_directory(run)
    opened = job_of_run(directory)
    made = make_report(directory, opened.job, opened.grid)
    if html is not None:
        _write_page(html, made)
    if as_json:
        json_result(report_object(made) | {"html": str(html) if html else None})
        return
    if html is None:
        for line in report_lines(made, _bar_character()):
            result(line)
    say(f"next: {next_step(made, job_file_of(directory, directory.read_state().job))}")


def _write_page(path: Path, made: Report) -> None:
    with output_file(path) as file:
        file.write(report_page(made).encode())
    result(str(path))


def _bar_character() -> str:
    """A block, where stdout can show one."""
    try:
        "█".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "#"
    return "█"
