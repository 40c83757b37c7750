"""`asyncgen prepare`: a dataset for fine-tuning from a run, or from a file of somebody else's."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any, Literal

import click
import msgspec

from asyncgen.cli.arguments import run_directory
from asyncgen.cli.options import output_options, yes_option
from asyncgen.cli.output import json_result, result, say
from asyncgen.cli.prepare_lines import (
    file_lines,
    file_object,
    next_step,
    pairs_lines,
    pairs_object,
    run_lines,
    run_object,
)
from asyncgen.dataset.files.forms import PAIR, Wanted
from asyncgen.dataset.files.scan import first_form
from asyncgen.dataset.pairs.checks import AUTO
from asyncgen.dataset.pairs.prepare import prepare_pairs
from asyncgen.dataset.prepare_file import prepare_file
from asyncgen.dataset.prepare_run import prepare_run
from asyncgen.errors import UsageError
from asyncgen.job.model import DatasetSettings
from asyncgen.job.of_run import OpenedJob, changed_job_file, job_in, job_of_run, open_job
from asyncgen.providers.choose import named_profile
from asyncgen.providers.prices_file import load_price_list
from asyncgen.run.directory import RunDirectory, open_run


def _unescaped(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    r"""Let `\n` and `\t` be written in a shell."""
    return value.replace("\\n", "\n").replace("\\t", "\t") if value is not None else None


@click.command("prepare")
@click.argument("source", required=False, type=click.Path(path_type=Path), metavar="[RUN|FILE]")
@click.option("--format", "format_", type=click.Choice(["chat", "completion"]), help="How samples are written.")
@click.option("--system", metavar="TEXT", help="The first message of every chat sample.")
@click.option(
    "--separator",
    callback=_unescaped,
    metavar="TEXT",
    help=r"Ends prompts (completion); \n is a line break. FILE: auto.",
)
@click.option("--ending", callback=_unescaped, metavar="TEXT", help="Ends completions, likewise. FILE: auto.")
@click.option(
    "--validation",
    type=click.FloatRange(min=0, max=1, max_open=True),
    metavar="SHARE",
    help="The share of the samples that validate.",
)
@click.option("--seed", type=int, metavar="N", help="Another seed, another choice of these.")
@click.option("--provider", metavar="NAME", help="Who will train: its rules hold.")
@click.option("--prompt-column", metavar="NAME", help="The column of FILE that holds the prompts.")
@click.option("--completion-column", metavar="NAME", help="The column of FILE that holds the completions.")
@click.option("--drop-near-duplicates", is_flag=True, help="Leave out what is nearly an earlier answer. RUN only.")
@click.option("--simulated", is_flag=True, help="Take a simulation's answers, too: a rehearsal. RUN only.")
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
    """Make a dataset for fine-tuning of RUN (the newest when left out), or of FILE.

    FILE is .csv, .tsv, .xlsx, .parquet, .json, .jsonl or .txt, and holds pairs of prompt and completion, chats
    (messages, or ShareGPT's conversations), alpaca's instructions, or preferences (TRL's or OpenAI's). It is only
    read, and the result stands beside it.
    """
    given = {name: value for name, value in (("format", format_), *settings.items()) if value is not None}
    if source is not None and not source.is_dir() and source.suffix.lower() != ".toml":
        if drop_near_duplicates:
            raise UsageError("--drop-near-duplicates is for runs", help_text="leave it out, or name a run directory")
        wanted = Wanted(prompt_column, completion_column)
        _prepare_file(source, given, provider, wanted, _Questions(yes=yes), as_json=as_json)
        return
    if prompt_column is not None or completion_column is not None:
        raise UsageError("--prompt-column and --completion-column are for files", help_text="leave them out")
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
    for line in run_lines(prepared, job.dataset):
        result(line)
    say(f"next: asyncgen finetune create {directory.path}")


def _job(source: Path | None, directory: RunDirectory, provider: str | None) -> OpenedJob:
    """The job, of the file that was named or of the run, with the tables of the provider that will train laid over."""
    if source is not None and source.is_file():
        opened = job_in(source, directory)
        say(f"{directory.path}, as {source} says today")
    else:
        opened = job_of_run(directory)
        if changed := changed_job_file(directory):
            say(
                f"{changed} has changed since the run; the run's own copy counts here. As the file says today: "
                f"asyncgen prepare {shlex.quote(str(changed))}"
            )
    if provider is None or provider == opened.tuning:
        return opened
    return open_job(opened.file, generation=opened.generation, tuning=provider, model=opened.model)


def _prepare_file(
    path: Path, given: dict[str, Any], provider: str | None, wanted: Wanted, questions: _Questions, *, as_json: bool
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


def _prepare_pairs(path: Path, given: dict[str, Any], wanted: Wanted, questions: _Questions, *, as_json: bool) -> None:
    _refuse_unused(given, "completion")
    if given.get("validation"):
        raise UsageError(
            "--validation is not for a FILE in the completion format",
            cause="it is prepared as the legacy tool did, which splits classifications only",
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
    """A flag that the format has no use for is a misunderstanding, and better told than passed over."""
    for name, format_of_flag in (("separator", "completion"), ("ending", "completion"), ("system", "chat")):
        if name in given and format_ != format_of_flag:
            raise UsageError(
                f"--{name} is for the {format_of_flag} format, and this is {format_}",
                help_text=f"leave it out, or add --format {format_of_flag}",
            )


class _Questions:
    """Tells what is found, and asks on a terminal; `-y` says yes to everything."""

    def __init__(self, *, yes: bool) -> None:
        self._yes = yes

    def found(self, text: str) -> None:
        say(f"- {text}")

    def necessary(self, text: str) -> None:
        say(f"[necessary] {text}")

    def accepts(self, question: str) -> bool:
        """One question, yes by default.

        Raises:
            UsageError: there is nobody to ask.
        """
        if self._yes:
            say(f"[recommended] {question} yes")
            return True
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise UsageError(
                f"this needs an answer: {question}",
                cause="there is no terminal to ask on, and nothing is guessed",
                help_text="add --yes to accept everything that is recommended",
                code="needs_yes",
            )
        return click.confirm(f"[recommended] {question}", default=True, err=True)

    def insists(self, question: str) -> bool:
        """One question, no by default, that `-y` does not answer."""
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            return False
        return click.confirm(f"[doubtful] {question}", default=False, err=True)
