"""`asyncgen runs`, `status` and `show`: the runs that are here, how far one is, and its answers on the screen."""

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
from asyncgen.generate.distributed.plan import slowest_first
from asyncgen.generate.journal.run_status import RunStatus, run_status
from asyncgen.job.opened import generate_again
from asyncgen.run.directory import STATE_NAME, RunDirectory
from asyncgen.run.jsonl import read_rows
from asyncgen.run.records import Failure, Record, decode_failure, decode_record
from asyncgen.terminal import age, counted, in_units, usd

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from asyncgen.generate.distributed.plan import ShardStatus
    from asyncgen.run.state import FinetuningState, RunState, Spend


_WHOLE = frozenset({"stop", "tool_calls", ""})
_ENDED = {"failed": "failed", "cancelled": "was cancelled", "error": "failed", "user_error": "failed"}
_SHARDS_SHOWN = 40


def _conditions(_context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    for text in texts:
        if "=" not in text or text.startswith("="):
            raise click.BadParameter(f"{text!r} is not NAME=VALUE, such as city=Paris")
    return {text.partition("=")[0].strip(): text.partition("=")[2].strip() for text in texts}


@click.command("show")
@run_argument
@click.option(
    "-n", "count", type=click.IntRange(min=1), default=5, show_default=True, metavar="N", help="How many answers."
)
@click.option(
    "--where",
    multiple=True,
    callback=_conditions,
    metavar="NAME=VALUE",
    help="Only rows with this value; can be repeated.",
)
@click.option("--rejected", is_flag=True, help="Only answers that fail a check or are cut off.")
@click.option("--failed", is_flag=True, help="Rows that failed, with the reason.")
@click.option("--random", "at_random", is_flag=True, help="A random choice.  [default: the newest]")
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
    """Show answers of RUN: the newest, or those that the options select. Reads only; works during a run."""
    if rejected and failed:
        raise UsageError("--rejected and --failed cannot be combined", help_text="leave one of them out")
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
        say(f"next: {next_command('report', directory.path)}   (statistics of all answers)")


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
                f"rows of this run have no variable {name!r}" + (f" (did you mean {near!r}?)" if near else ""),
                help_text=f"variables: {', '.join(sorted(names))}",
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
    """List the runs under runs/ and in this folder, newest first."""
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
            continue  # removed in the meantime
        status, problem = None, ""
        try:
            status = run_status(RunDirectory(path))
        except AsyncgenError as error:
            problem = f"damaged: {error.what}"
        yield _Listed(path, status, problem, changed, sum(file.st_size for file in files))


@click.command("status")
@run_argument
@output_options
def status(run: Path | None, as_json: bool) -> None:
    """Show the progress of RUN: rows, cost, dataset, fine-tuning. Reads only; works during a run."""
    directory = run_directory(run)
    found = run_status(directory)
    if as_json:
        json_result(_as_json(directory.path, found))
        return
    for title, text in _lines(directory.path, found):
        result(f"{title:<9} {text}")
    say(f"next: {_next_step(directory.path, found)}")


def _lines(path: Path, found: RunStatus) -> list[tuple[str, str]]:
    state = found.state
    return [
        ("run", f"{path}{' (being written now)' if found.being_written else ''}"),
        ("job", f"{state.job.name}{_asked(state)}"),
        ("rows", _rows_text(found)),
        *_warnings(path, found),
        *_shard_lines(found),
        ("spend", _spend_text(state.spend)),
        *_dataset_lines(state),
        *(("tuning", _tuning_text(tuning)) for tuning in state.finetuning),
        *(
            (
                "batch",
                f"{batch.batch_id or 'not created yet'} at {batch.provider}: {counted(batch.requests, 'request')}, "
                + ("collected" if batch.collected else batch.status or "unknown"),
            )
            for batch in state.batches
        ),
    ]


def _asked(state: RunState) -> str:
    return f", model {state.job.model} at {state.job.generation_provider}" if state.job.model else ""


def _rows_text(found: RunStatus) -> str:
    wanted = found.state.job.requests
    text = f"{found.done:,} done, {found.failed:,} failed"
    text = f"{wanted:,}: {text}, {found.left:,} left" if wanted else f"{text}; the total is not known"
    return text + (f"; {found.stale:,} more belong to an earlier version of the job" if found.stale else "")


def _warnings(path: Path, found: RunStatus) -> Iterator[tuple[str, str]]:
    if found.simulated:
        yield "simulated", f"{found.simulated:,} of the answers; a model cannot learn anything from them"
    if found.lost:
        noted, held = found.state.spend.records, found.state.spend.records - found.lost
        yield (
            "lost",
            f"run.json counts {counted(noted, 'answer')}, but {path / 'records.jsonl'} has {held:,} of them",
        )


def _shard_lines(found: RunStatus) -> list[tuple[str, str]]:
    """A line per shard; of very many, those that delay the others first."""
    if not found.shards:
        return []
    running, ended = sum(each.is_running for each in found.shards), sum(not each.left for each in found.shards)
    lines = [("shards", f"{len(found.shards):,}: {running:,} running, {ended:,} done; not merged yet")]
    shown = slowest_first(found.shards, _SHARDS_SHOWN)
    lines += [("", _shard_text(each)) for each in shown]
    if more := len(found.shards) - len(shown):
        lines.append(("", f"and {more:,} more"))
    return lines


def _shard_text(shard: ShardStatus) -> str:
    text = f"{shard.shard}: {shard.done:,} done, {shard.failed:,} failed, {shard.left:,} left"
    if shard.per_second is not None:
        text += f", {shard.per_second:,.1f} a second"
    if shard.left and not shard.is_running:
        text += ", not running"
    return text + (" (straggler)" if shard.is_straggler else "")


def _spend_text(spend: Spend) -> str:
    usage = spend.usage
    tokens = f"{counted(usage.prompt_tokens, 'prompt token')} ({usage.cached_tokens:,} cached), "
    tokens += f"{counted(usage.completion_tokens, 'completion token')} ({usage.reasoning_tokens:,} reasoning)"
    if spend.unpriced:
        return f"{tokens}; {usd(spend.cost_usd)} and {counted(spend.unpriced, 'answer')} of unknown price"
    return f"{usd(spend.cost_usd)}; {tokens}"


def _dataset_lines(state: RunState) -> list[tuple[str, str]]:
    if state.dataset is None:
        return []
    files = ", ".join(f"{file.name} {counted(file.samples, 'sample')}" for file in state.dataset.files)
    return [("dataset", f"{files} ({state.dataset.format})")]


def _tuning_text(tuning: FinetuningState) -> str:
    text = f"{tuning.job_id or 'not created yet'} at {tuning.provider}: {tuning.status or 'unknown'}"
    return text + (f", {tuning.tuned_model}" if tuning.tuned_model else "")


def _next_step(path: Path, found: RunStatus) -> str:
    if found.being_written:
        return f"{next_command('status', path)}   (the run is still going)"
    if found.shards:
        again = "submit the shards again; or, to divide the rest into new shards, first " if found.left else ""
        return f"{again}{next_command('merge', path)}"
    if found.lost:
        return f"restore {path / 'records.jsonl'} from a copy; otherwise generate sends, and pays for, its rows again"
    if found.left or not found.state.job.requests:
        return found.state.job.command or generate_again(RunDirectory(path))
    if found.failed:
        return f"{next_command('show', path, '--failed')}   (shows the reasons); --retry-failed sends them again"
    return _step_of_training(path, found)


def _step_of_training(path: Path, found: RunStatus) -> str:
    tunings, simulated = found.state.finetuning, ("--simulated",) if found.simulated else ()
    if found.state.dataset is None:
        return next_command("prepare", path, *simulated)
    if not tunings:
        from asyncgen.finetune.source import tuning_command  # noqa: PLC0415 - most calls of status need no job file

        return tuning_command(RunDirectory(path), *simulated)
    last = tunings[-1]
    if last.tuned_model:
        from asyncgen.finetune.source import question_arguments  # noqa: PLC0415 - needs the reader of answers

        return next_command("complete", *question_arguments(last.tuned_model, RunDirectory(path)))
    if last.status in _ENDED:
        return f"{next_command('finetune create', path, '--another')}   (the last job {_ENDED[last.status]})"
    return next_command("finetune follow", path)


def _as_json(path: Path, found: RunStatus) -> dict[str, Any]:
    state = found.state
    spend = state.spend
    shards = {"shards": [shard.as_json() for shard in found.shards]} if found.shards else {}
    return {
        "run": str(path),
        "job": state.job.name,
        "provider": state.job.generation_provider,
        "model": state.job.model,
        "requests": state.job.requests,
        "done": found.done,
        "failed": found.failed,
        "left": found.left,
        "stale": found.stale,
        "simulated": found.simulated,
        "lost": found.lost,
        "being_written": found.being_written,
        "cost_usd": None if spend.unpriced and not spend.cost_usd else spend.cost_usd,
        "unpriced": spend.unpriced,
        "usage": msgspec.to_builtins(spend.usage),
        "dataset": msgspec.to_builtins(state.dataset),
        "finetuning": msgspec.to_builtins(state.finetuning),
        "batches": msgspec.to_builtins(state.batches),
        **shards,
    }
