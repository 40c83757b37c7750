"""A prepared dataset as text, and as JSON.

Display only; the dataset is made in `dataset`.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from asyncgen.dataset.pairs.checks import visible
from asyncgen.terminal import usd

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from asyncgen.dataset.histogram import Histogram
    from asyncgen.dataset.pairs.prepare import PreparedPairs
    from asyncgen.dataset.prepare_file import PreparedFile
    from asyncgen.dataset.prepare_run import Prepared
    from asyncgen.dataset.training_costs import TrainingCost
    from asyncgen.job.model import DatasetSettings

_PRICES_SHOWN = 4
_COMPLETION = "completion"


def run_lines(prepared: Prepared, settings: DatasetSettings) -> Iterator[str]:
    """What was made of a run, and what to do with it."""
    folder = prepared.train.parent
    for file in prepared.files:
        yield f"{folder / file.name}: {file.samples:,} samples, {file.bytes / 1000:,.1f} kB"
    if prepared.validation is not None:
        yield f"{prepared.trained_on:,} of {prepared.validation_prompts:,} validation prompts are trained on"
    for reason, count in prepared.rejected.most_common():
        yield f"left out: {count:,} {reason}"
    if prepared.rejected:
        yield f"why each was left out: {folder / 'rejected.jsonl'}"
    yield from _token_lines(prepared.tokens, prepared.token_label)
    yield from _cost_lines(prepared.costs)
    if settings.format == _COMPLETION:
        yield _asking(settings.separator, settings.ending)


def run_object(prepared: Prepared) -> dict[str, Any]:
    """The result as JSON, for `--json`."""
    return {
        "run": str(prepared.train.parent),
        "train": str(prepared.train),
        "validation": str(prepared.validation) if prepared.validation else None,
        "files": [
            {"name": file.name, "samples": file.samples, "bytes": file.bytes, "sha256": file.sha256}
            for file in prepared.files
        ],
        "rejected": dict(prepared.rejected),
        "near_duplicates": prepared.near_duplicates,
        "validation_prompts": prepared.validation_prompts,
        "validation_prompts_trained_on": prepared.trained_on,
        "tokens": token_object(prepared.tokens, prepared.token_label),
        "training": [
            {
                "provider": cost.provider,
                "model": cost.model,
                "epochs": cost.epochs,
                "billed_tokens": cost.billed_tokens,
                "cut_samples": cost.cut_samples,
                "usd": list(cost.usd) if cost.usd else None,
                "prices_of": cost.as_of.isoformat() if cost.as_of else None,
            }
            for cost in prepared.costs
        ],
        "warnings": list(prepared.warnings),
    }


def token_object(tokens: Histogram, label: str) -> dict[str, Any]:
    """Tokens of the training samples for machines."""
    summary = tokens.summary()
    return {
        "total": summary.total,
        "mean": round(summary.mean, 1),
        "median": summary.median,
        "p5": summary.low,
        "p95": summary.high,
        "max": summary.largest,
        "counted_by": label,
    }


def _token_lines(tokens: Histogram, label: str) -> Iterator[str]:
    summary = tokens.summary()
    if summary.count:
        yield (
            f"tokens: {summary.total:,} in all; a sample has {summary.smallest:,} to {summary.largest:,}, "
            f"half of them at most {summary.median:,} ({label})"
        )


def _cost_lines(costs: Sequence[TrainingCost]) -> Iterator[str]:
    for place, cost in enumerate(costs[:_PRICES_SHOWN]):
        label = "training" if not place else "elsewhere"
        yield (
            f"{label}: {cost.provider}, {cost.model}: {cost.epochs} epochs, {cost.billed_tokens:,} billed tokens, "
            + _price(cost)
        )


def _price(cost: TrainingCost) -> str:
    if cost.usd is None:
        return "price not known"
    low, high = cost.usd
    if not high:
        return "free"
    span = f"about {usd(low)}" if low == high else f"about {usd(low)} to {usd(high)}"
    return f"{span} (prices of {cost.as_of})" if cost.as_of else span


def _asking(separator: str, ending: str) -> str:
    """How the tuned model has to be asked."""
    parts = []
    if separator:
        parts.append(f"end each prompt in `{visible(separator)}`")
    if ending:
        parts.append(f'give stop=["{visible(ending)}"]')
    return f"when you ask the tuned model, {' and '.join(parts)}; `asyncgen complete` does it by itself"


def pairs_lines(prepared: PreparedPairs) -> Iterator[str]:
    """What was made of a file of prompts and completions, and what to do with it."""
    if prepared.outcome == "declined":
        yield "not written, as you asked"
        return
    if prepared.outcome == "fits":
        yield f"{prepared.source} can be used as it is: {prepared.rows[0]:,} rows"
    for path, rows in zip(prepared.files, prepared.rows, strict=False):
        yield f"{path}: {rows:,} rows"
    if prepared.separator or prepared.ending:
        yield _asking(prepared.separator, prepared.ending).replace("; `asyncgen complete` does it by itself", "")
    yield (
        f"training takes about {_duration(prepared.legacy_seconds)} by the rule of the tool that this follows (a curie "
        "of 2023; smaller models less), once it starts: allow half an hour for each job queued before"
    )


def pairs_object(prepared: PreparedPairs) -> dict[str, Any]:
    """The result as JSON, for `--json`."""
    return {
        "source": str(prepared.source),
        "format": _COMPLETION,
        "outcome": prepared.outcome,
        "files": [str(path) for path in prepared.files],
        "rows": list(prepared.rows),
        "task": prepared.task,
        "classes": prepared.classes,
        "separator": prepared.separator,
        "ending": prepared.ending,
    }


def file_lines(prepared: PreparedFile) -> Iterator[str]:
    """What was made of a file of training lines, or of pairs as chats."""
    if prepared.declined:
        yield "not written, as you asked"
        return
    if not prepared.files:
        yield f"{prepared.source} can be used as it is: {prepared.samples[0]:,} samples"
    for path, samples in zip(prepared.files, prepared.samples, strict=False):
        yield f"{path}: {samples:,} samples"
    if len(prepared.files) > 1:
        yield "validation prompts that are trained on: 0 (a prompt is on one side only)"
    for reason, count in prepared.left_out.items():
        yield f"left out: {count:,} {reason}"
    yield from _token_lines(prepared.tokens, prepared.token_label)


def file_object(prepared: PreparedFile) -> dict[str, Any]:
    """The result as JSON, for `--json`."""
    outcome = "declined" if prepared.declined else "written" if prepared.files else "fits"
    return {
        "source": str(prepared.source),
        "format": prepared.format,
        "outcome": outcome,
        "files": [str(path) for path in prepared.files],
        "rows": list(prepared.samples),
        "read": prepared.read,
        "left_out": prepared.left_out,
        "tokens": token_object(prepared.tokens, prepared.token_label),
    }


def next_step(source: Path, files: Sequence[Path]) -> str:
    """The command that trains on what was written, or on `source` where nothing had to be."""
    train = files[0] if files else source
    validation = f" --validation {shlex.quote(str(files[1]))}" if len(files) > 1 else ""
    return f"asyncgen finetune create {shlex.quote(str(train))}{validation}"


def _duration(seconds: float) -> str:
    for unit, size, end in (("seconds", 1, 60), ("minutes", 60, 3600), ("hours", 3600, 86400)):
        if seconds < end:
            return f"{seconds / size:.2f} {unit}"
    return f"{seconds / 86400:.2f} days"
