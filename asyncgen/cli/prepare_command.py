"""`asyncgen prepare`: a dataset for fine-tuning from a run, or from a file of somebody else's.

Asks and prints; the dataset is made in `dataset`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
import msgspec

from asyncgen.cli.arguments import run_directory
from asyncgen.cli.options import output_options, verbose_option, yes_option
from asyncgen.cli.output import is_verbose, json_result, result, say
from asyncgen.dataset.files.forms import PAIR, WantedColumns
from asyncgen.dataset.files.scan import first_form
from asyncgen.dataset.pairs.checks import AUTO, visible
from asyncgen.dataset.pairs.prepare import prepare_pairs
from asyncgen.dataset.prepare_file import prepare_file
from asyncgen.dataset.prepare_run import prepare_run
from asyncgen.errors import UsageError, command_line
from asyncgen.finetune.source import tuning_command
from asyncgen.job.answers import short_reasons
from asyncgen.job.model import DatasetSettings
from asyncgen.job.opened import OpenedJob, changed_job_file, job_in, job_of_run, open_job
from asyncgen.providers.choose import named_profile
from asyncgen.providers.user_files import load_price_list
from asyncgen.run.directory import RunDirectory, open_run
from asyncgen.terminal import counted, in_units, usd_range

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from asyncgen.dataset.pairs.prepare import PreparedPairs
    from asyncgen.dataset.prepare_file import PreparedFile
    from asyncgen.dataset.prepare_run import Prepared
    from asyncgen.dataset.token_counts import Histogram, TrainingCost


_PRICES_SHOWN = 4
_COMPLETION = "completion"


def run_lines(prepared: Prepared, settings: DatasetSettings, tuning: str, *, detailed: bool) -> Iterator[str]:
    """Lines about the dataset of a run, with the next step.

    Args:
        prepared: the dataset.
        settings: [dataset] of the job.
        tuning: the provider that will train on it.
        detailed: include the cost of training at other providers.
    """
    folder = prepared.train.parent
    for file in prepared.files:
        yield f"{folder / file.name}: {counted(file.samples, 'sample')}, {in_units(file.bytes)}"
    if prepared.validation is not None:
        prompts = counted(prepared.validation_prompts, "validation prompt")
        yield f"{prompts}, {f'{prepared.trained_on:,}' if prepared.trained_on else 'none'} of them in the training data"
    for reason, count in short_reasons(prepared.rejected).most_common():
        yield f"left out: {count:,} {reason}"
    if prepared.rejected:
        yield f"reasons for each: {folder / 'rejected.jsonl'}"
    yield from _token_lines(prepared.tokens, prepared.token_label)
    yield from _cost_lines([cost for cost in prepared.costs if detailed or cost.provider == tuning])
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
    """Tokens of the training samples, for `--json`."""
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
            f"tokens: {summary.total:,}; {summary.smallest:,} to {summary.largest:,} a sample, median "
            f"{summary.median:,} ({label})"
        )


def _cost_lines(costs: Sequence[TrainingCost]) -> Iterator[str]:
    for cost in costs[:_PRICES_SHOWN]:
        label = f"training at {cost.provider}" if cost.chosen else f"alternative, at {cost.provider}"
        tokens = f"{counted(cost.billed_tokens, 'billed token')}"
        yield f"{label}: {cost.model or 'your model'}, {counted(cost.epochs, 'epoch')}, {tokens}, {_price(cost)}"


def _price(cost: TrainingCost) -> str:
    if cost.usd is None:
        return "price not known"
    if not cost.usd[1]:
        return "free"
    span = f"about {usd_range(*cost.usd)}"
    return f"{span} (prices of {cost.as_of})" if cost.as_of else span


def _asking(separator: str, ending: str) -> str:
    """The form of prompts for the tuned model."""
    parts = []
    if separator:
        parts.append(f"end each prompt in `{visible(separator)}`")
    if ending:
        parts.append(f'set stop=["{visible(ending)}"]')
    return f"when you ask the tuned model, {' and '.join(parts)}; `asyncgen complete` does so automatically"


def pairs_lines(prepared: PreparedPairs) -> Iterator[str]:
    """Lines about the result for a file of prompts and completions, with the next step."""
    if prepared.outcome == "declined":
        yield "not written, as you chose"
        return
    if prepared.outcome == "fits":
        yield f"{prepared.source} can be used unchanged: {counted(prepared.rows[0], 'row')}"
    for path, rows in zip(prepared.files, prepared.rows, strict=False):
        yield f"{path}: {counted(rows, 'row')}"
    if prepared.separator or prepared.ending:
        yield _asking(prepared.separator, prepared.ending).replace("; `asyncgen complete` does so automatically", "")


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
    """Lines about the result for a file of training lines, or of pairs as chats."""
    if prepared.declined:
        yield "not written, as you chose"
        return
    if not prepared.files:
        yield f"{prepared.source} can be used unchanged: {counted(prepared.samples[0], 'sample')}"
    for path, samples in zip(prepared.files, prepared.samples, strict=False):
        yield f"{path}: {counted(samples, 'sample')}"
    if len(prepared.files) > 1:
        yield "no validation prompt is in the training data"
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
    """The command that trains on what was written, or on `source` if nothing had to be written."""
    train = files[0] if files else source
    validation = ("--validation", files[1]) if len(files) > 1 else ()
    return command_line("finetune create", train, *validation)


def _unescaped(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    r"""Replace `\n` and `\t`, so that they can be written in a shell."""
    return value.replace("\\n", "\n").replace("\\t", "\t") if value is not None else None


@click.command("prepare")
@click.argument("source", required=False, type=click.Path(path_type=Path), metavar="[RUN|FILE]")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["chat", "completion"]),
    help="The format of the samples.  [default: the job's, else chat]",
)
@click.option("--system", metavar="TEXT", help="The system message of every chat sample.")
@click.option(
    "--separator",
    callback=_unescaped,
    metavar="TEXT",
    help=r"Text that ends every prompt (completion format); \n is a line break.  [FILE: automatic]",
)
@click.option(
    "--ending",
    callback=_unescaped,
    metavar="TEXT",
    help="Text that ends every completion.  [FILE: automatic]",
)
@click.option(
    "--validation",
    type=click.FloatRange(min=0, max=1, max_open=True),
    metavar="SHARE",
    help="The share of samples for validation.  [default: the job's, else 0]",
)
@click.option("--seed", type=int, metavar="N", help="The seed of the random split.")
@click.option("--provider", metavar="NAME", help="The provider that will train; its rules apply.")
@click.option("--prompt-column", metavar="NAME", help="The column of FILE with the prompts.")
@click.option("--completion-column", metavar="NAME", help="The column of FILE with the completions.")
@click.option("--drop-near-duplicates", is_flag=True, help="Leave out near-duplicates of earlier answers. RUN only.")
@click.option("--simulated", is_flag=True, help="Use simulated answers, too, to test the stages. RUN only.")
@verbose_option
@yes_option
@output_options
def prepare(
    source: Path | None,
    format_: Literal["chat", "completion"] | None,
    provider: str | None,
    drop_near_duplicates: bool,
    prompt_column: str | None,
    completion_column: str | None,
    simulated: bool,
    yes: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Prepare a fine-tuning dataset from RUN (default: the newest run) or from FILE.

    FILE is .csv, .tsv, .xlsx, .parquet, .json, .jsonl or .txt. It contains prompt-completion pairs, chats (OpenAI
    messages or ShareGPT), Alpaca instructions, or preferences (TRL or OpenAI). FILE is not changed; the dataset is
    written next to it.
    """
    given = {name: value for name, value in (("format", format_), *settings.items()) if value is not None}
    if source is not None and not source.is_dir() and source.suffix.lower() != ".toml":
        if drop_near_duplicates:
            raise UsageError("--drop-near-duplicates is for runs", help_text="leave it out, or name a run directory")
        wanted = WantedColumns(prompt_column, completion_column)
        _prepare_file(source, given, provider, wanted, _Questions(yes=yes), as_json=as_json)
        return
    if prompt_column is not None or completion_column is not None:
        raise UsageError("--prompt-column and --completion-column are for files", help_text="remove them")
    options = {"drop_near_duplicates": drop_near_duplicates, "simulated": simulated}
    _prepare_run(source, given, provider, options, as_json=as_json)


def _prepare_run(
    source: Path | None, given: dict[str, Any], provider: str | None, options: dict[str, bool], *, as_json: bool
) -> None:
    directory = run_directory(source)
    opened = _job(source, directory, provider)
    job = msgspec.structs.replace(opened.job, dataset=msgspec.structs.replace(opened.job.dataset, **given))
    _refuse_unused(given, job.dataset.format)
    profile = named_profile(provider or opened.tuning, opened.file.profiles)
    prices = load_price_list(opened.file.folder, os.environ)
    with open_run(directory.path) as run:
        prepared = prepare_run(run, job, opened.grid, provider=profile, prices=prices, **options)
    for warning in prepared.warnings:
        say(f"warning: {warning}")
    if as_json:
        json_result(run_object(prepared))
        return
    for line in run_lines(prepared, job.dataset, profile.name, detailed=is_verbose()):
        result(line)
    dataset = directory.read_state().dataset
    rehearsal = ("--simulated",) if dataset is not None and dataset.simulated else ()
    say(f"next: {tuning_command(directory, *rehearsal)}")


def _job(source: Path | None, directory: RunDirectory, provider: str | None) -> OpenedJob:
    """The job, of the file that was named or of the run, with the tables of the provider that will train laid over."""
    if source is not None and source.is_file():
        opened = job_in(source, directory)
        say(f"{directory.path}, with the current settings of {source}")
    else:
        opened = job_of_run(directory)
        if changed := changed_job_file(directory):
            say(
                f"{changed} has changed since the run; this command used the run's copy. To use the changed file: "
                + command_line("prepare", changed)
            )
    if provider is None or provider == opened.tuning:
        return opened
    return open_job(opened.file, generation=opened.generation, tuning=provider, model=opened.model)


def _prepare_file(
    path: Path,
    given: dict[str, Any],
    provider: str | None,
    wanted: WantedColumns,
    questions: _Questions,
    *,
    as_json: bool,
) -> None:
    profile = named_profile(provider or "openai")
    if given.get("format") == "completion" and first_form(path, wanted) in {PAIR, ""}:
        _prepare_pairs(path, given, wanted, questions, as_json=as_json)
        return
    _refuse_unused(given, "chat")
    settings = DatasetSettings(**{**given, "format": "chat"})
    written = prepare_file(path, questions, settings, profile, wanted)
    if as_json:
        json_result(file_object(written))
        return
    for line in file_lines(written):
        result(line)
    if not written.declined:
        say(f"next: {next_step(path, written.files)}")


def _prepare_pairs(
    path: Path, given: dict[str, Any], wanted: WantedColumns, questions: _Questions, *, as_json: bool
) -> None:
    _refuse_unused(given, "completion")
    if given.get("validation"):
        raise UsageError(
            "--validation is not for a FILE in the completion format",
            cause="this format follows the legacy tool, which splits classification data only",
            help_text="leave it out, or use --format chat",
        )
    ends = {name: given.get(name, AUTO) for name in ("separator", "ending")}
    prepared = prepare_pairs(path, questions, columns=wanted.names(), **ends)
    if as_json:
        json_result(pairs_object(prepared))
        return
    for line in pairs_lines(prepared):
        result(line)
    if prepared.outcome != "declined":
        say(f"next: {next_step(path, prepared.files)}")


def _refuse_unused(given: dict[str, Any], format_: str) -> None:
    """Refuse flags that the format does not use, rather than ignore them."""
    for name, format_of_flag in (("separator", "completion"), ("ending", "completion"), ("system", "chat")):
        if name in given and format_ != format_of_flag:
            raise UsageError(
                f"--{name} is for the {format_of_flag} format; this dataset has the {format_} format",
                help_text=f"leave it out, or add --format {format_of_flag}",
            )


class _Questions:
    """Shows findings, and asks on a terminal; `-y` answers everything with yes. Implements `Dialogue`."""

    def __init__(self, *, yes: bool) -> None:
        self._yes = yes

    def found(self, text: str) -> None:
        say(f"- {text}")

    def necessary(self, text: str) -> None:
        say(f"[necessary] {text}")

    def accepts(self, question: str) -> bool:
        """Ask one question, with yes as the default.

        Raises:
            UsageError: nobody can be asked.
        """
        if self._yes:
            say(f"[recommended] {question} yes")
            return True
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise UsageError(
                f"cannot ask without a terminal: {question}",
                cause="stdin or stderr is not a terminal",
                help_text="add --yes to accept all recommendations",
                code="needs_yes",
            )
        return click.confirm(f"[recommended] {question}", default=True, err=True)

    def insists(self, question: str) -> bool:
        """One question, no by default, that `-y` does not answer."""
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            return False
        return click.confirm(f"[doubtful] {question}", default=False, err=True)
