"""`asyncgen generate` and `asyncgen preview`: ask for the rows of a job that are not there yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from asyncgen.cli.arguments import given_options, job_file, next_command
from asyncgen.cli.options import (
    endpoint_options,
    file_argument,
    limit_option,
    limit_options,
    out_option,
    output_options,
    ray_option,
    retry_failed_option,
    shard_option,
    yes_option,
)
from asyncgen.cli.output import json_result, result, say, show_error
from asyncgen.errors import UsageError
from asyncgen.job.answers import short_reasons
from asyncgen.run.jsonl import read_rows
from asyncgen.run.records import Record, decode_record
from asyncgen.terminal import counted, duration, one_line, usd, usd_range

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Mapping
    from pathlib import Path

    from asyncgen.generate.session import Generated

_REASONS_SHOWN = 3
_SIGNALLED = frozenset({129, 130, 143})
_PLACE = ("out", "provider", "base_url", "model", "api_key_file")
_REASON_WIDTH = 160


@click.command("generate")
@file_argument
@out_option
@endpoint_options
@limit_options
@limit_option
@retry_failed_option
@click.option("--retry-rejected", is_flag=True, help="Retry rows whose answers `prepare` rejected.")
@click.option("--batch", is_flag=True, help="Use the Batch API: half the price, answers within a day.")
@shard_option
@click.option(
    "--shard-script", type=click.Choice(["slurm", "k8s"]), help="Print a script that submits N shards (--shard N)."
)
@ray_option
@click.option("--fsync-each", is_flag=True, help="Sync every answer to disk at once, against power loss. Slower.")
@yes_option
@output_options
def generate(file: Path | None, *, as_json: bool, shard: str | None, shard_script: str | None, **options: Any) -> int:
    """Send the requests of FILE that have no answer yet, and write the answers to runs/NAME/records.jsonl.

    To continue after an interruption, repeat the command. Ctrl-C waits for the requests in flight. With --batch, Ctrl-C
    leaves the batches running; repeat the command later to collect them. --shard is for job arrays: asyncgen merge
    merges the shards into the run.
    """
    job = job_file(file, built_in=False)
    if shard_script is not None:
        result(_script(shard_script, job, shard))
        return 0
    if shard is not None:
        from asyncgen.generate.distributed.plan import parse_shard  # noqa: PLC0415 - imports the rows of a job

        options["shard"] = parse_shard(shard)
    done = _generated(job, options)
    summarise(done)
    if as_json:
        json_result(done.as_json())
    elif step := _step_after(done, job):
        say(f"next: {step}")
    return done.exit_code


def _step_after(done: Generated, job: Path | None) -> str:
    """The next step after a generation; "" if its error or interruption has already named it."""
    if done.outcome.error is not None or done.exit_code in _SIGNALLED:
        return ""
    if done.shard is not None:
        return ""  # other shards may still be running
    if done.progress.left:
        return next_command("generate", job, keep=_PLACE)
    if done.progress.unusable and not done.progress.usable and done.progress.settled:
        return next_command("show", done.run, "--rejected")
    if not done.progress.done:
        return next_command("show", done.run, "--failed")
    return next_command("prepare", done.run, "--simulated" if done.simulated else None)


def _script(kind: str, job: Path | None, shard: str | None) -> str:
    from asyncgen.generate.distributed.plan import MOST_SHARDS  # noqa: PLC0415 - imports the rows of a job
    from asyncgen.generate.distributed.scripts import shard_script  # noqa: PLC0415 - as above
    from asyncgen.job.load import read_job_file  # noqa: PLC0415 - as above

    count = (shard or "4").rpartition("/")[2]
    if not count.isdecimal() or not 0 < int(count) <= MOST_SHARDS:
        raise UsageError(
            f"--shard {shard!r} does not give the number of shards", help_text="--shard 8, with --shard-script"
        )
    words = [word for word in given_options({"shard", "shard_script"}) if word != str(job)]
    named = ["--yes"] if "--yes" not in words and "-y" not in words else []
    name = read_job_file(job).raw.get("name")
    return shard_script(kind, ["generate", str(job), *words, *named], int(count), job=str(job), name=str(name))


@click.command("preview")
@file_argument
@click.option("-n", "count", type=click.IntRange(min=1), default=3, show_default=True, help="How many requests.")
@out_option
@endpoint_options
@yes_option
@output_options
def preview(file: Path | None, *, count: int, as_json: bool, **options: Any) -> int:
    """Send a few requests of FILE, from different combinations, and show the answers.

    The answers are kept as rows of the run. Repeating the command shows the same rows and sends nothing.
    """
    job = job_file(file, built_in=True)
    command = next_command("generate" if job else "run", job, keep=_PLACE)
    done = _generated(job, {**options, "limit": count, "spread": True}, resume_command=command)
    records = _records_of(done.run, done.sample)
    say_failures(done)
    if as_json:
        json_result({**done.as_json(), "records": [_shown(record) for record in records]})
        return done.exit_code
    for record in records:
        show_record(record)
    cost = f", {usd(done.cost_usd)}" if done.cost_usd is not None else ""
    there = len(records) - done.progress.settled
    before = f", {counted(there, 'answer')} from before" if there > 0 else ""
    new = counted(done.progress.settled, "new answer")
    say(f"{new} in {duration(done.elapsed_s)}{cost}{before}; saved in {done.run}")
    if done.outcome.error is not None:
        return done.exit_code
    if job and records and all(record.check_failures for record in records):
        say("none of these can be used: first change [prompt] or [checks] in the job file")
        command = next_command("preview", job, keep=_PLACE)
    say(f"next: {command}")
    return done.exit_code


def _records_of(run: Path, keys: tuple[str, ...]) -> list[Record]:
    """The records with these keys, in their order."""
    found = {record.key: record for _, record in read_rows(run / "records.jsonl", decode_record) if record.key in keys}
    return [found[key] for key in keys if key in found]


def show_record(record: Record) -> None:
    """An answer under its short prompt, with what is wrong with it."""
    result(record.prompt or ", ".join(f"{name} {value}" for name, value in record.variables.items()))
    for line in record.completion.strip().splitlines() or ["(empty)"]:
        result(f"    {line}")
    for name in record.check_failures:
        result(f"    fails the check {name}")


def _shown(record: Record) -> dict[str, Any]:
    names = ("prompt", "completion", "finish_reason", "check_failures", "model")
    return {name: getattr(record, name) for name in names}


def _generated(job: Path | None, options: Mapping[str, Any], resume_command: str | None = None) -> Generated:
    from asyncgen.cli.loop import run  # noqa: PLC0415 - imports asyncio
    from asyncgen.cli.screen import Screen  # noqa: PLC0415 - as above
    from asyncgen.generate.engine import GenerateOptions  # noqa: PLC0415 - imports aiohttp
    from asyncgen.generate.session import generate_rows  # noqa: PLC0415 - imports aiohttp

    screen = Screen(yes=options["yes"], resume_command=resume_command)
    return run(generate_rows(job, GenerateOptions.from_mapping(options), screen))


def summarise(done: Generated) -> None:
    """Print the result of a generation."""
    progress = done.progress
    cost = f", {usd(done.cost_usd)}" if done.cost_usd is not None else ""
    if cost and done.estimate is not None and done.estimate.high:
        cost += f" (estimated {usd_range(done.estimate.low, done.estimate.high)})"
    say(
        f"{counted(progress.settled, 'answer')} in {duration(done.elapsed_s)}{cost}; "
        f"{_part(progress.done, progress.requests)} in {done.files.records}"
    )
    say_failures(done)


def _part(done: int, requests: int) -> str:
    if done == requests:
        return "the row is" if requests == 1 else f"all {counted(requests, 'row')} are"
    return f"{done:,} of {counted(requests, 'row is', 'rows are')}"


def say_failures(done: Generated) -> None:
    """Print how many answers of a generation cannot be used, and why."""
    progress, error = done.progress, done.outcome.error
    if progress.unusable:
        say(f"{progress.usable:,} of {counted(progress.settled, 'answer')} can be used")
        _say_reasons(progress.unusable, progress.remedies)
        if done.simulated and not progress.usable and error is None:
            from asyncgen.generate.pool.progress import REMEDY_FOR_SIMULATED  # noqa: PLC0415 - imports aiohttp

            say(f"note: {REMEDY_FOR_SIMULATED}")
    if failed := progress.failed + progress.failed_before:
        say(f"{counted(failed, 'row')} failed: {done.files.failures}; --retry-failed sends them again")
        _say_reasons(progress.failures, progress.remedies)
    if progress.maybe_paid_twice:
        were = "was" if progress.maybe_paid_twice == 1 else "were"
        say(f"{counted(progress.maybe_paid_twice, 'request')} {were} sent again and may have been paid twice")
    if error is not None:
        show_error(error, as_json=False)


def _say_reasons(reasons: Counter[str], remedies: Mapping[str, str]) -> None:
    """Print the most frequent reasons, with remedies."""
    for reason, count in short_reasons(reasons).most_common(_REASONS_SHOWN):
        remedy = f": {remedies[reason]}" if reason in remedies else ""
        say(f"  {count:,} x {one_line(reason, _REASON_WIDTH)}{remedy}")
