"""`asyncgen finetune create`: a run's dataset, or a file, to a fine-tuning job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from asyncgen.cli.finetune_options import place_options, where_of
from asyncgen.cli.options import out_option, output_options, yes_option
from asyncgen.cli.output import json_result, result
from asyncgen.errors import UsageError

if TYPE_CHECKING:
    from asyncgen.cli.tuning import Tuned
    from asyncgen.cli.tuning_source import Source

_METHODS = ("supervised", "dpo")


def name_values(_context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    """Options of the form NAME=VALUE."""
    for text in texts:
        if not text.partition("=")[0].strip() or "=" not in text:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE")
    return {text.partition("=")[0].strip(): text.partition("=")[2].strip() for text in texts}


def json_values(pairs: dict[str, str]) -> dict[str, Any]:
    """The values as JSON where they are: `4`, `0.1`, `true`, `{"type": "Lora"}`; else as texts."""
    return {name: _json_or_text(value) for name, value in pairs.items()}


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


@click.command("create")
@click.argument("source", required=False, metavar="[RUN|FILE]", type=click.Path(path_type=Path))
@click.option("--validation", type=click.Path(path_type=Path), metavar="FILE", help="For a FILE: measure by this one.")
@out_option
@place_options
@click.option("--model", envvar="ASYNCGEN_FINETUNE_MODEL", metavar="NAME", help="The model to tune.")
@click.option("--suffix", metavar="TEXT", help="Becomes a part of the tuned model's name.")
@click.option("--seed", type=int, metavar="N", help="The same seed makes the same training, nearly.")
@click.option("--method", type=click.Choice(_METHODS), help="Answers to imitate, or pairs of a better and a worse one.")
@click.option(
    "--hyperparameter", "hyperparameters", multiple=True, callback=name_values, metavar="NAME=VALUE",
    help="Such as n_epochs=4; can be repeated.",
)  # fmt: skip
@click.option(
    "--metadata", multiple=True, callback=name_values, metavar="NAME=VALUE", help="Kept with the job; can be repeated."
)
@click.option("--wandb", metavar="PROJECT", help="Report to this project of Weights & Biases.")
@click.option("--no-follow", is_flag=True, help="Return once the job exists.")
@click.option("--another", is_flag=True, help="Create a job although the same one exists.")
@yes_option
@output_options
def create(source: Path | None, as_json: bool, no_follow: bool, **options: Any) -> int:
    """Upload the dataset of RUN, or FILE, and create a fine-tuning job; then follow it.

    The same command, given again, finds the job that it created. Ctrl-C stops following, never the job.
    """
    from asyncgen.cli.loop import run as run_loop  # noqa: PLC0415 - imports asyncio
    from asyncgen.cli.tuning import tune  # noqa: PLC0415 - imports the SDK
    from asyncgen.cli.tuning_source import find_source  # noqa: PLC0415 - with the job's rows
    from asyncgen.run_directory import open_run  # noqa: PLC0415 - with the rest

    if options["validation"] and (source is None or source.is_dir()):
        raise UsageError("--validation is for a FILE; a run has its own")
    found = find_source(source, options["validation"], options["out"], where_of(options), options["model"])
    wanted = _wanted(found, options)
    with open_run(found.run, job_name=found.new_run_name) as run:
        tuned = run_loop(tune(run, wanted, following=not no_follow))
    show_tuned(tuned, found.run, as_json=as_json)
    return tuned.exit_code


def _wanted(found: Source, options: dict[str, Any]) -> Any:
    from asyncgen.cli.tuning import WantedTuning  # noqa: PLC0415 - imports the SDK

    settings = found.settings
    given = {name: options[name] for name in ("suffix", "seed", "method") if options[name] is not None}
    given["hyperparameters"] = {**settings.hyperparameters, **json_values(options["hyperparameters"])}
    given["metadata"] = {**settings.metadata, **options["metadata"]}
    if options["wandb"]:
        given["integrations"] = [{"type": "wandb", "wandb": {"project": options["wandb"]}}]
    return WantedTuning(
        choice=found.choice,
        where=found.where,
        order=found.order(msgspec.structs.replace(settings, **given)),
        dataset=found.dataset,
        is_file=found.new_run_name is not None,
        another=options["another"],
        yes=options["yes"],
        price_folder=found.price_folder,
    )


def show_tuned(tuned: Tuned, run: Path | None, *, as_json: bool) -> None:
    """The job's id, or its model once there is one, on stdout; with `as_json` all of it."""
    job = tuned.job
    if as_json:
        json_result(
            {
                "job": job.id if job else None,
                "how": tuned.how,
                "status": job.status if job else None,
                "outcome": job.outcome if job else None,
                "model": job.tuned_model if job else None,
                "trained_tokens": job.trained_tokens if job else None,
                "run": str(run) if run else None,
            }
        )
    elif job is not None:
        result(job.tuned_model or job.id)
