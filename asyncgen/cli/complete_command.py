"""`asyncgen complete`: ask a model, in the form in which the dataset taught it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from asyncgen.cli.finetune_command import endpoint_flags_of, json_values, name_values, provider_options
from asyncgen.cli.options import output_options
from asyncgen.cli.output import json_result, show_error
from asyncgen.errors import IncompleteError, UsageError

if TYPE_CHECKING:
    from asyncgen.cli.asking import ModelAnswers
    from asyncgen.finetune.complete import PromptForm

_SAMPLING = ("temperature", "top_p", "seed")


@click.command("complete")
@click.argument("prompts", nargs=-1, metavar="PROMPT...")
@click.option(
    "--model",
    "-m",
    metavar="MODEL",
    help="The model.  [default: the newest tuned model, else that of ASYNCGEN_MODEL]",
)
@click.option("--run", type=click.Path(path_type=Path), metavar="RUN", help="The run that tuned the model.")
@click.option("--compare", metavar="MODEL", help="Also ask this model, and show both answers side by side.")
@click.option("--system", metavar="TEXT", help="The system message.  [default: the dataset's]")
@click.option(
    "--format",
    "form",
    type=click.Choice(["chat", "completion"]),
    help="The format.  [default: the dataset's, else chat]",
)
@click.option("--separator", metavar="TEXT", help="Text that ends a prompt (completion).  [default: the dataset's]")
@click.option("--stop", multiple=True, metavar="TEXT", help="A stop sequence; can be repeated.")
@click.option(
    "--temperature",
    type=click.FloatRange(0, 2),
    metavar="N",
    help="The sampling temperature; 0 for the likeliest answer.",
)
@click.option(
    "--top-p",
    type=click.FloatRange(0, 1),
    metavar="N",
    help="Sample from the likeliest tokens only, up to this probability.",
)
@click.option("--max-tokens", type=click.IntRange(min=1), metavar="N", help="At most N tokens per answer.")
@click.option("--seed", type=int, metavar="N", help="The sampling seed.")
@click.option(
    "--parameter", "parameters", multiple=True, callback=name_values, metavar="NAME=VALUE",
    help="Any other API parameter; can be repeated.",
)  # fmt: skip
@provider_options
@output_options
def complete(prompts: tuple[str, ...], model: str | None, as_json: bool, **options: Any) -> int:
    """Send each PROMPT to a model and print its answer. PROMPT - reads prompts from stdin, one per line.

    The default model is the newest tuned model of RUN, or of the newest run. For a model that a run tuned, the system
    message, separator and stop sequences are those of the run's dataset.
    """
    from asyncgen.cli.asking import Question, as_object, ask_models, lines  # noqa: PLC0415 - imports the SDK
    from asyncgen.cli.loop import run as run_loop  # noqa: PLC0415 - imports asyncio

    texts = _texts(prompts)
    model = model or _default_model(options["run"])
    question = Question.of(model, options["compare"], endpoint_flags_of(options), options["run"], os.environ)
    form = _form(question.form, options)
    asked = run_loop(ask_models(question, form, texts, _parameters(options), options["max_tokens"]))
    if as_json:
        json_result(as_object(asked))
    else:
        for line in lines(asked, texts):
            click.echo(line)
    return _exit_code(asked)


def _default_model(run: Path | None) -> str:
    """The newest tuned model. The variable, which `serve` says to set for the other stages, holds where there is none.

    Raises:
        UsageError: there is neither.
    """
    from asyncgen.finetune.target import newest_tuned_model  # noqa: PLC0415 - with the SDK

    try:
        return newest_tuned_model(run)
    except UsageError:
        if run is not None or not (named := os.environ.get("ASYNCGEN_MODEL")):
            raise
        return named


def _texts(prompts: tuple[str, ...]) -> list[str]:
    if not prompts and sys.stdin.isatty():
        raise UsageError("there is no prompt", help_text="asyncgen complete 'small Hotel in New York'")
    texts: list[str] = []
    for prompt in prompts or ("-",):
        lines = sys.stdin.read().split("\n") if prompt == "-" else [prompt]
        texts += [line.removesuffix("\r") for line in lines if line.strip()]
    if not texts:
        raise UsageError("there is no prompt on stdin", help_text="write one prompt per line")
    return texts


def _form(taught: PromptForm, options: dict[str, Any]) -> PromptForm:
    from dataclasses import replace  # noqa: PLC0415 - only here

    given = {"format": options["form"], "system": options["system"], "separator": options["separator"]}
    changed: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if options["stop"]:
        changed["stop"] = options["stop"]
    return replace(taught, **changed)


def _parameters(options: dict[str, Any]) -> dict[str, Any]:
    sampling = {name: options[name] for name in _SAMPLING if options[name] is not None}
    return {**sampling, **json_values(options["parameters"])}


def _exit_code(asked: list[ModelAnswers]) -> int:
    """0, or 3 if some prompts have no answer; if none has, the code of the first error."""
    errors = [error for each in asked for error in each.errors]
    answers = sum(len(each.answers) for each in asked)
    different = {(error.what, error.cause): error for error in errors}
    for error in different.values():
        show_error(error, as_json=False)
    if not errors:
        return 0
    return errors[0].exit_code if len(errors) == answers else IncompleteError.exit_code
