"""`asyncgen generate` and `asyncgen preview`: ask for the rows of a job that are not there yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from asyncgen.cli.options import (
    endpoint_options,
    job_argument,
    limit_option,
    limit_options,
    out_option,
    output_options,
    retry_failed_option,
    yes_option,
)
from asyncgen.cli.output import json_result, result
from asyncgen.run.jsonl import read_rows
from asyncgen.run.records import Record, decode_record


@click.command("generate")
@job_argument
@out_option
@endpoint_options
@limit_options
@limit_option
@retry_failed_option
@click.option("--retry-rejected", is_flag=True, help="Ask again for rows whose answers `prepare` rejected.")
@click.option("--batch", is_flag=True, help="Through the Batch API: half the price, answers within a day.")
@click.option("--fsync-each", is_flag=True, help="Make every answer safe from a power loss at once; slower.")
@yes_option
@output_options
def generate(job: Path | None, *, as_json: bool, **options: Any) -> int:
    """Ask for every row of JOB that is not there yet, and keep the answers in runs/NAME/records.jsonl.

    The same command goes on where it stopped. Ctrl-C finishes what is in flight; with --batch it leaves the batches
    at work, and the same command, given any day later, collects them.
    """
    from asyncgen.cli.generation import Wanted, generate_rows  # noqa: PLC0415 - imports aiohttp
    from asyncgen.cli.loop import run  # noqa: PLC0415 - likewise

    done = run(generate_rows(job, Wanted.from_options(options)))
    if as_json:
        json_result(done.as_json())
    return done.exit_code


@click.command("preview")
@job_argument
@click.option("-n", "count", type=click.IntRange(min=1), default=3, show_default=True, help="How many requests.")
@out_option
@endpoint_options
@yes_option
@output_options
def preview(job: Path | None, *, count: int, as_json: bool, **options: Any) -> int:
    """Send a few requests of JOB and show the answers; they are kept as rows of the run."""
    from asyncgen.cli.generation import Wanted, generate_rows  # noqa: PLC0415 - imports aiohttp
    from asyncgen.cli.loop import run  # noqa: PLC0415 - likewise

    done = run(generate_rows(job, Wanted.from_options({**options, "limit": count})))
    answers = _last_records(done.run / "records.jsonl", done.progress.settled)
    if as_json:
        json_result({**done.as_json(), "records": [_shown(record) for record in answers]})
        return done.exit_code
    for record in answers:
        result(f"{record.prompt}\n    {record.completion.strip()}")
        for name in record.check_failures:
            result(f"    fails the check {name}")
    return done.exit_code


def _last_records(path: Path, count: int) -> list[Record]:
    records = [record for _, record in read_rows(path, decode_record)] if count else []
    return records[len(records) - count :]


def _shown(record: Record) -> dict[str, Any]:
    names = ("prompt", "completion", "finish_reason", "check_failures", "model")
    return {name: getattr(record, name) for name in names}
