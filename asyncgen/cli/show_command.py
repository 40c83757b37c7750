"""`asyncgen show` and `asyncgen runs`: the answers of a run on the screen, and the runs that are here."""

from __future__ import annotations

import heapq
import os
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import click
import msgspec

from asyncgen.cli.arguments import RUNS, next_command, run_directory
from asyncgen.cli.options import output_options, run_argument
from asyncgen.cli.output import json_result, result, say, table
from asyncgen.errors import AsyncgenError, UsageError, nearest
from asyncgen.generate.journal.run_status import RunStatus, run_status
from asyncgen.run.directory import STATE_NAME, RunDirectory
from asyncgen.run.jsonl import read_rows
from asyncgen.run.records import Failure, Record, decode_failure, decode_record
from asyncgen.terminal import age, counted, in_units

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_WHOLE = frozenset({"stop", "tool_calls", ""})


def _conditions(_context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    for text in texts:
        if "=" not in text or text.startswith("="):
            raise click.BadParameter(f"{text!r} is not NAME=VALUE, such as city=Paris")
    return {text.partition("=")[0].strip(): text.partition("=")[2].strip() for text in texts}


@click.command("show")
@run_argument
@click.option("-n", "count", type=click.IntRange(min=1), default=5, show_default=True, metavar="N", help="How many.")
@click.option(
    "--where", multiple=True, callback=_conditions, metavar="NAME=VALUE", help="Only rows of this value; repeatable."
)
@click.option("--rejected", is_flag=True, help="Only answers that fail a check or are cut off.")
@click.option("--failed", is_flag=True, help="Rows that failed, with the reason.")
@click.option("--random", "at_random", is_flag=True, help="Any of them, others each time; else the newest.")
@output_options
def show(
    run: Path | None,
    *,
    count: int,
    where: dict[str, str],
    rejected: bool,
    failed: bool,
    at_random: bool,
    as_json: bool,
) -> None:
    """Show answers of RUN: the newest ones, or those that you name. Reads only; works while the run is written."""
    if rejected and failed:
        raise UsageError("--rejected and --failed are of different rows", help_text="leave one of them out")
    directory = run_directory(run)
    rows = list(_chosen(_rows(directory, where, rejected=rejected, failed=failed), count, at_random=at_random))
    if as_json:
        json_result({"run": str(directory.path), "rows": [msgspec.to_builtins(row) for row in rows]})
        return
    for row in rows:
        _print(row)
    if not rows:
        kind = "failed row" if failed else "rejected answer" if rejected else "answer"
        say(f"{directory.path} has no {kind}{' like that' if where else ''}")
    elif not failed:
        say(f"next: {next_command('report', directory.path)}   (all of them in figures)")


def _rows(
    directory: RunDirectory, where: Mapping[str, str], *, rejected: bool, failed: bool
) -> Iterator[Record | Failure]:
    """The rows that meet all conditions, in the order of the file.

    Raises:
        UsageError: no row has a variable of that name.
    """
    names: set[str] = set()
    for row in _all_rows(directory, failed=failed):
        if not names:
            names = set(row.variables)
            _see_names(where, names)
        if rejected and isinstance(row, Record) and not row.check_failures and row.finish_reason in _WHOLE:
            continue
        if all(row.variables.get(name, "").casefold() == value.casefold() for name, value in where.items()):
            yield row


def _all_rows(directory: RunDirectory, *, failed: bool) -> Iterator[Record | Failure]:
    if failed:
        yield from (failure for _, failure in read_rows(directory.failures, decode_failure))
    else:
        yield from (record for _, record in read_rows(directory.records, decode_record))


def _see_names(where: Mapping[str, str], names: set[str]) -> None:
    for name in where:
        if name not in names:
            near = nearest(name, names)
            raise UsageError(
                f"rows of this run have no {name!r}" + (f" (did you mean {near!r}?)" if near else ""),
                help_text=f"they have {', '.join(sorted(names))}",
            )


def _chosen(rows: Iterable[Any], count: int, *, at_random: bool) -> list[Any]:
    """So many of the rows, with no more of them in memory: the last ones, or any."""
    rng = Random()  # noqa: S311 - what is looked at is not a secret
    numbered = ((rng.random() if at_random else place, place, row) for place, row in enumerate(rows))
    return [row for _, _, row in sorted(heapq.nlargest(count, numbered, key=lambda each: each[0]), key=lambda e: e[1])]


def _print(row: Any) -> None:
    title = getattr(row, "prompt", "") or ", ".join(f"{name} {value}" for name, value in row.variables.items())
    result(title or f"row {row.index}")
    error = getattr(row, "error", None)
    if error is not None:
        result(f"    failed after {counted(row.attempts, 'attempt')}: {error.message or error.type}")
        return
    for line in row.completion.strip().splitlines() or ["(empty)"]:
        result(f"    {line}")
    for name in row.check_failures:
        result(f"    fails the check {name}")
    if row.finish_reason not in _WHOLE:
        cut = "cut off at the token limit" if row.finish_reason == "length" else f"ended with {row.finish_reason}"
        result(f"    {cut}")


@dataclass(frozen=True, slots=True)
class _Listed:
    """A run in the list."""

    path: Path
    status: RunStatus | None
    problem: str
    changed: float
    bytes: int

    @property
    def state(self) -> str:
        if self.status is None:
            return self.problem
        if self.status.being_written:
            return "being written"
        state = self.status.state
        if self.status.left or not state.job.requests:
            return f"{self.status.left:,} left"
        if state.finetuning:
            return f"tuning {state.finetuning[-1].status.replace('_', ' ') or 'not known'}"
        return "dataset made" if state.dataset else "generated"

    def as_json(self) -> dict[str, Any]:
        status = self.status
        return {
            "run": str(self.path),
            "job": status.state.job.name if status else None,
            "requests": status.state.job.requests if status else None,
            "done": status.done if status else None,
            "failed": status.failed if status else None,
            "state": self.state,
            "changed": int(self.changed),
            "bytes": self.bytes,
        }


@click.command("runs")
@output_options
def runs(as_json: bool) -> None:
    """List the runs here, the newest first: under runs/, and in folders that --out named."""
    found = sorted(_listed(), key=lambda each: -each.changed)
    if as_json:
        json_result({"runs": [each.as_json() for each in found]})
        return
    if not found:
        say("there is no run here")
        say("next: asyncgen run   (the built-in example)")
        return
    now = time.time()
    rows = [
        (str(each.path), _count(each.status), each.state, age(now - each.changed), in_units(each.bytes))
        for each in found
    ]
    for line in table(("run", "rows", "state", "changed", "size"), rows):
        result(line)
    say(f"next: {next_command('status', found[0].path)}")


def _row(listed: _Listed, now: float) -> tuple[str, ...]:
    changed, size = age(now - listed.changed), in_units(listed.bytes)
    return str(listed.path), _count(listed.status), listed.state, changed, size


def _count(status: RunStatus | None) -> str:
    return f"{status.done:,} of {status.state.job.requests:,}" if status else ""


def _listed() -> Iterator[_Listed]:
    for path in sorted({state.parent for state in (*RUNS.glob(f"*/{STATE_NAME}"), *Path().glob(f"*/{STATE_NAME}"))}):
        try:
            files = [entry.stat() for entry in os.scandir(path) if entry.is_file()]
            changed = (path / STATE_NAME).stat().st_mtime
        except OSError:
            continue  # removed meanwhile
        status, problem = None, ""
        try:
            status = run_status(RunDirectory(path))
        except AsyncgenError as error:
            problem = f"damaged: {error.what}"
        yield _Listed(path, status, problem, changed, sum(file.st_size for file in files))
