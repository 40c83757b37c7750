"""`asyncgen status`: how far a run is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec

from asyncgen.cli.arguments import next_command, run_directory
from asyncgen.cli.options import output_options, run_argument
from asyncgen.cli.output import json_result, result, say
from asyncgen.generate.distributed.shard_status import slowest_first
from asyncgen.generate.journal.run_status import RunStatus, run_status
from asyncgen.job.opened import generate_again
from asyncgen.run.directory import RunDirectory
from asyncgen.terminal import counted, usd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from asyncgen.generate.distributed.shard_status import ShardStatus
    from asyncgen.run.state import FinetuningState, RunState, Spend

_ENDED = {"failed": "failed", "cancelled": "was cancelled", "error": "failed", "user_error": "failed"}


@click.command("status")
@run_argument
@output_options
def status(run: Path | None, as_json: bool) -> None:
    """Say how far RUN is: rows, spend, dataset, fine-tuning. Reads only; works while the run is written."""
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
    text = f"{wanted:,}: {text}, {found.left:,} left" if wanted else f"{text}; how many are wanted is not known"
    return text + (f"; {found.stale:,} more belong to an earlier form of the job" if found.stale else "")


def _warnings(path: Path, found: RunStatus) -> Iterator[tuple[str, str]]:
    if found.simulated:
        yield "simulated", f"{found.simulated:,} of the answers were made up by a simulation: a rehearsal"
    if found.lost:
        noted, held = found.state.spend.records, found.state.spend.records - found.lost
        yield (
            "lost",
            f"run.json counts {counted(noted, 'answer')}, and {path / 'records.jsonl'} holds {held:,} of them",
        )


_SHARDS_SHOWN = 40


def _shard_lines(found: RunStatus) -> list[tuple[str, str]]:
    """A line per shard; of very many, those that delay the others first."""
    if not found.shards:
        return []
    running, ended = sum(each.is_running for each in found.shards), sum(not each.left for each in found.shards)
    lines = [("shards", f"{len(found.shards):,}: {running:,} at work, {ended:,} done; not merged yet")]
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
        text += ", nobody works on it"
    return text + (" (straggler)" if shard.is_straggler else "")


def _spend_text(spend: Spend) -> str:
    usage = spend.usage
    tokens = f"{counted(usage.prompt_tokens, 'prompt token')} ({usage.cached_tokens:,} cached), "
    tokens += f"{counted(usage.completion_tokens, 'completion token')} ({usage.reasoning_tokens:,} of reasoning)"
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
        return f"{next_command('status', path)}   (it goes on)"
    if found.shards:
        again = "submit the shards again, or, to divide what is left anew, first " if found.left else ""
        return f"{again}{next_command('merge', path)}"
    if found.lost:
        return f"put {path / 'records.jsonl'} back from a copy; generate would ask, and pay, for what is gone again"
    if found.left or not found.state.job.requests:
        return found.state.job.command or generate_again(RunDirectory(path))
    if found.failed:
        return f"{next_command('show', path, '--failed')}   (says why); --retry-failed asks again"
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
        from asyncgen.finetune.complete import example_prompt  # noqa: PLC0415 - needs the reader of answers

        return next_command("complete", example_prompt(RunDirectory(path)), "--model", last.tuned_model)
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
