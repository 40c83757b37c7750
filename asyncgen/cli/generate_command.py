"""`asyncgen generate` and `asyncgen preview`: ask for the rows of a job that are not there yet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from asyncgen.cli.arguments import job_file
from asyncgen.cli.options import (
    endpoint_options,
    file_argument,
    limit_option,
    limit_options,
    out_option,
    output_options,
    retry_failed_option,
    yes_option,
)
from asyncgen.cli.output import json_result, result, say, show_error
from asyncgen.run.jsonl import read_rows
from asyncgen.run.records import Record, decode_record
from asyncgen.terminal import duration, money, one_line

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Mapping

    from asyncgen.generate.session import Generated

_REASONS_SHOWN = 3
_REASON_WIDTH = 160


@click.command("generate")
@file_argument
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
def generate(file: Path | None, *, as_json: bool, **options: Any) -> int:
    """Ask for every row of FILE that is not there yet, and keep the answers in runs/NAME/records.jsonl.

    The same command goes on where it stopped. Ctrl-C finishes what is in flight; with --batch it leaves the batches
    at work, and the same command, given any day later, collects them.
    """
    done = _generated(job_file(file, built_in=False), options)
    if as_json:
        json_result(done.as_json())
    return done.exit_code


@click.command("preview")
@file_argument
@click.option("-n", "count", type=click.IntRange(min=1), default=3, show_default=True, help="How many requests.")
@out_option
@endpoint_options
@yes_option
@output_options
def preview(file: Path | None, *, count: int, as_json: bool, **options: Any) -> int:
    """Send a few requests of FILE and show the answers; they are kept as rows of the run."""
    done = _generated(job_file(file, built_in=True), {**options, "limit": count})
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


def _generated(job: Path | None, options: Mapping[str, Any]) -> Generated:
    from asyncgen.cli.loop import run  # noqa: PLC0415 - imports asyncio
    from asyncgen.cli.screen import Screen  # noqa: PLC0415 - likewise
    from asyncgen.generate.engine import GenerateOptions  # noqa: PLC0415 - imports aiohttp
    from asyncgen.generate.session import generate_rows  # noqa: PLC0415 - imports aiohttp

    done = run(generate_rows(job, GenerateOptions.from_mapping(options), Screen(yes=options["yes"])))
    summarise(done)
    return done


def summarise(done: Generated) -> None:
    """Say what a generation came to."""
    progress, error = done.progress, done.outcome.error
    cost = f", {money(done.cost_usd)}" if done.cost_usd is not None else ""
    if cost and done.estimate is not None and done.estimate.high:
        cost += f" (estimated {money(done.estimate.low)} to {money(done.estimate.high)})"
    say(
        f"{progress.settled:,} answers in {duration(done.elapsed_s)}{cost}; "
        f"{progress.done:,} of {progress.requests:,} rows are in {done.run / 'records.jsonl'}"
    )
    if progress.unusable:
        say(f"{progress.usable:,} of {progress.settled:,} answers can be used (asyncgen report {done.run})")
        _say_reasons(progress.unusable, progress.remedies)
    if failed := progress.failed + progress.failed_before:
        say(f"{failed:,} rows failed: {done.run / 'failures.jsonl'}; --retry-failed asks for them again")
        _say_reasons(progress.failures, progress.remedies)
    if progress.maybe_paid_twice:
        say(f"{progress.maybe_paid_twice:,} requests were sent again and may have been paid twice")
    if error is not None:
        show_error(error, as_json=False)


def _say_reasons(reasons: Counter[str], remedies: Mapping[str, str]) -> None:
    """The commonest ones, with what can be done."""
    for reason, count in reasons.most_common(_REASONS_SHOWN):
        remedy = f": {remedies[reason]}" if reason in remedies else ""
        say(f"  {count:,} x {one_line(reason, _REASON_WIDTH)}{remedy}")
