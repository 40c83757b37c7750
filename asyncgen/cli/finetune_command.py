"""`asyncgen finetune`: create, follow, list, show, events, checkpoints, results, download, cancel and delete.

Parses arguments and prints results. Creating and following a job is left to `finetune.session`, what a provider answers
to its tuner.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from asyncgen.cli.arguments import next_command, with_run
from asyncgen.cli.finetune_display import chart
from asyncgen.cli.options import (
    api_key_file_option,
    base_url_option,
    out_option,
    output_options,
    provider_option,
    verbose_option,
    yes_option,
)
from asyncgen.cli.output import confirm, json_result, result, say, table
from asyncgen.errors import AsyncgenError, AuthError, UsageError, command_line
from asyncgen.finetune.api import AbsentError, Checkpoint, Event, TuningJob
from asyncgen.finetune.follow import Point, note_state, points_of_table
from asyncgen.finetune.target import Target, find_target, owner_of_model
from asyncgen.providers.choose import EndpointFlags, choose_tuner
from asyncgen.run.directory import RunDirectory, is_job_file, output_file
from asyncgen.terminal import local_time

if TYPE_CHECKING:
    from asyncgen.finetune.api import TunedWeights, Tuner
    from asyncgen.finetune.session import Tuned
    from asyncgen.finetune.source import TuningSource


Command = TypeVar("Command", bound=Callable[..., Any])

job_argument = click.argument("job", required=False, metavar="[JOB_ID]")


def provider_options(command: Command) -> Command:
    """The options for the provider of a job: --provider, --base-url, --api-key-file."""
    return provider_option(base_url_option(api_key_file_option(command)))


@asynccontextmanager
async def opened(target: Target) -> AsyncIterator[Tuner]:
    """Open the tuner of the target's provider."""
    from asyncgen.finetune.target import open_tuner  # noqa: PLC0415 - imports the SDK
    from asyncgen.providers.choose import open_endpoint  # noqa: PLC0415 - with the next, what needs a connection

    async with open_endpoint(target.choice, target.where, "", say) as endpoint, open_tuner(endpoint) as tuner:
        yield tuner


def _job_or_run(argument: str | None) -> str | None:
    """A job's id or a run directory unchanged; for a job file the run that it made."""
    return None if argument is None else str(with_run(argument))


def endpoint_flags_of(options: dict[str, Any]) -> EndpointFlags:
    """Collect the values of `provider_options`."""
    return EndpointFlags(
        provider=options["provider"], base_url=options["base_url"], api_key_file=options["api_key_file"]
    )


def job_lines(job: TuningJob) -> list[tuple[str, str]]:
    """Labelled lines about a job."""
    error = f"{job.error.code}: {job.error.message}".strip(": ") if job.error else ""
    finish = f"about {local_time(job.estimated_finish)}" if job.estimated_finish else ""
    found = [
        ("job", job.id),
        ("state", job.status),
        ("base model", job.model),
        ("tuned model", job.tuned_model or ""),
        ("created", local_time(job.created)),
        ("finished", local_time(job.finished) or finish),
        ("tokens", f"{job.trained_tokens:,} trained" if job.trained_tokens else ""),
        ("file", job.training_file),
        ("error", error),
    ]
    return [(name, text) for name, text in found if text]


_METHODS = ("supervised", "dpo")


def name_values(_context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    """Options of the form NAME=VALUE."""
    for text in texts:
        if not text.partition("=")[0].strip() or "=" not in text:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE")
    return {text.partition("=")[0].strip(): text.partition("=")[2].strip() for text in texts}


def json_values(pairs: dict[str, str]) -> dict[str, Any]:
    """Parse values as JSON if possible (`4`, `0.1`, `true`, `{"type": "Lora"}`), else keep them as text."""
    return {name: _json_or_text(value) for name, value in pairs.items()}


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


@click.command("create")
@click.argument("source", required=False, metavar="[RUN|FILE]", type=click.Path(path_type=Path))
@click.option("--validation", type=click.Path(path_type=Path), metavar="FILE", help="With FILE: the validation file.")
@out_option
@provider_options
@click.option("--model", envvar="ASYNCGEN_FINETUNE_MODEL", metavar="NAME", help="The model to fine-tune.")
@click.option("--suffix", metavar="TEXT", help="A part of the tuned model's name.")
@click.option("--seed", type=int, metavar="N", help="The training's seed.")
@click.option(
    "--method", type=click.Choice(_METHODS), help="Learn from answers, or from pairs of a better and a worse answer."
)
@click.option(
    "--hyperparameter", "hyperparameters", multiple=True, callback=name_values, metavar="NAME=VALUE",
    help="A hyperparameter, such as n_epochs=4; can be repeated.",
)  # fmt: skip
@click.option(
    "--metadata",
    multiple=True,
    callback=name_values,
    metavar="NAME=VALUE",
    help="Stored with the job; can be repeated.",
)
@click.option("--wandb", metavar="PROJECT", help="Report to this Weights & Biases project.")
@click.option("--no-follow", is_flag=True, help="Exit once the job is created.")
@click.option("--simulated", is_flag=True, help="Use simulated answers, too, to test the stages. RUN only.")
@click.option("--another", is_flag=True, help="Create a new job even if the same one exists.")
@verbose_option
@yes_option
@output_options
def create(source: Path | None, as_json: bool, no_follow: bool, **options: Any) -> int:
    """Upload the dataset of RUN, or FILE, create a fine-tuning job, and follow it.

    Repeating the command finds the job that it created. Ctrl-C stops following; the job goes on.
    """
    from asyncgen.cli.loop import run as run_loop  # noqa: PLC0415 - imports asyncio
    from asyncgen.cli.screen import Screen  # noqa: PLC0415 - as above
    from asyncgen.finetune.session import tune  # noqa: PLC0415 - imports the SDK
    from asyncgen.finetune.source import find_source  # noqa: PLC0415 - with the job's rows
    from asyncgen.run.directory import open_run  # noqa: PLC0415 - with the rest

    if options["validation"] and (source is None or source.is_dir() or is_job_file(source)):
        raise UsageError("--validation is for a FILE; a run has its own validation file")
    source = with_run(source)
    found = find_source(source, options["validation"], options["out"], endpoint_flags_of(options), options["model"])
    wanted = _wanted(found, options)
    with open_run(found.run, job_name=found.new_run_name) as run:
        tuned = run_loop(tune(run, wanted, Screen(yes=options["yes"]), following=not no_follow))
    show_tuned(tuned, found.run, as_json=as_json)
    return tuned.exit_code


def _wanted(found: TuningSource, options: dict[str, Any]) -> Any:
    from asyncgen.finetune.session import WantedTuning  # noqa: PLC0415 - imports the SDK

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
        simulated=options["simulated"],
        price_folder=found.price_folder,
    )


_PLACE = ("provider", "base_url", "api_key_file")  # the options of this command, for the next one


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
        return
    if job is None:
        return
    result(job.tuned_model or job.id)
    if tuned.answers and job.tuned_model:
        from asyncgen.finetune.source import question_arguments  # noqa: PLC0415 - needs the reader of answers

        arguments = question_arguments(job.tuned_model, RunDirectory(run) if run else None)
        say(f"next: {next_command('complete', *arguments, keep=_PLACE)}")
    elif job.outcome is None and not tuned.exit_code:
        from asyncgen.finetune.target import name_of_job  # noqa: PLC0415 - with the run's state

        argument = name_of_job(job.id, RunDirectory(run) if run else None)
        say(f"next: {next_command('finetune follow', argument, keep=_PLACE)}")


@click.command("follow")
@job_argument
@provider_options
@verbose_option
@output_options
def follow(job: str | None, as_json: bool, **options: Any) -> int:
    """Show the events of JOB_ID until it ends, each event once. Reconnects when the connection breaks.

    Ctrl-C stops following; the job goes on. The exit code is 0 if the job succeeded, and 3 if it did not.
    """
    from asyncgen.cli.loop import run as run_loop  # noqa: PLC0415 - imports asyncio
    from asyncgen.cli.screen import Screen  # noqa: PLC0415 - as above
    from asyncgen.finetune.follow import event_log  # noqa: PLC0415 - with the run's state
    from asyncgen.finetune.session import follow_job  # noqa: PLC0415 - imports the SDK
    from asyncgen.finetune.target import find_target  # noqa: PLC0415 - with the run's state

    target = find_target(_job_or_run(job), endpoint_flags_of(options))
    with event_log(target, say) as log:
        tuned = run_loop(follow_job(target, log, Screen(yes=False)))
    show_tuned(tuned, target.run.path if target.run else None, as_json=as_json)
    return tuned.exit_code


@click.command("list")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, metavar="N", help="At most N jobs.")
@provider_options
@output_options
def list_jobs(as_json: bool, limit: int, **options: Any) -> None:
    """List the provider's fine-tuning jobs, newest first."""
    from asyncgen.cli.loop import run as run_loop  # noqa: PLC0415 - imports asyncio

    jobs = run_loop(_newest(endpoint_flags_of(options), limit))
    if as_json:
        json_result({"jobs": [job.raw for job in jobs]})
        return
    if not jobs:
        say("there are no jobs; asyncgen finetune create   (creates one)")
        return
    rows = [(job.id, local_time(job.created), job.status, job.model, job.tuned_model or "") for job in jobs]
    for line in table(("job", "created", "state", "base model", "tuned model"), rows):
        result(line)


async def _newest(where: EndpointFlags, limit: int) -> list[TuningJob]:
    found: list[TuningJob] = []
    async with opened(Target("", None, choose_tuner(where), where)) as tuner:
        async for job in tuner.jobs.all():
            found.append(job)
            if len(found) == limit:
                break
    return found


@click.command("show")
@job_argument
@provider_options
@output_options
def show(job: str | None, as_json: bool, **options: Any) -> None:
    """Show a job: state, models, tokens, error."""
    from asyncgen.cli.loop import run as run_loop  # noqa: PLC0415 - imports asyncio

    found = run_loop(_job(find_target(_job_or_run(job), endpoint_flags_of(options))))
    if as_json:
        json_result(found.raw)
        return
    for name, text in job_lines(found):
        result(f"{name:<11} {text}")


async def _job(target: Target) -> TuningJob:
    async with opened(target) as tuner:
        return await tuner.jobs.get(target.job_id)


@click.command("events")
@job_argument
@provider_options
@output_options
def events(job: str | None, as_json: bool, **options: Any) -> None:
    """Show all events of a job so far, oldest first."""
    from asyncgen.cli.loop import run as run_loop  # noqa: PLC0415 - imports asyncio

    found = run_loop(_events(find_target(_job_or_run(job), endpoint_flags_of(options))))
    if as_json:
        json_result({"events": msgspec.to_builtins(found)})
        return
    for event in found:
        level = "" if event.level == "info" else f"{event.level}: "
        result(f"{local_time(event.created_at, '%Y-%m-%d %H:%M:%S')}  {level}{event.message}")


async def _events(target: Target) -> list[Event]:
    from asyncgen.finetune.follow import all_events  # noqa: PLC0415 - imports asyncio

    async with opened(target) as tuner:
        return await all_events(tuner.jobs, target.job_id)


@click.command("checkpoints")
@job_argument
@provider_options
@output_options
def checkpoints(job: str | None, as_json: bool, **options: Any) -> None:
    """List the checkpoints of a job, newest first."""
    from asyncgen.cli.loop import run as run_loop  # noqa: PLC0415 - imports asyncio

    found = run_loop(_checkpoints(find_target(_job_or_run(job), endpoint_flags_of(options))))
    if as_json:
        json_result({"checkpoints": msgspec.to_builtins(found)})
        return
    if not found:
        say("there are no checkpoints")
        return
    rows = [(str(each.step), local_time(each.created_at), _figures(each), each.model) for each in found]
    for line in table(("step", "created", "figures", "model"), rows):
        result(line)


async def _checkpoints(target: Target) -> list[Checkpoint]:
    async with opened(target) as tuner:
        return await tuner.jobs.checkpoints(target.job_id)


def _figures(checkpoint: Checkpoint) -> str:
    shown = {name: value for name, value in checkpoint.metrics.items() if name != "step"}
    return ", ".join(f"{name} {value:.4g}" for name, value in shown.items() if isinstance(value, int | float))


_WIDTH, _HEIGHT = 72, 12


_NOT_IN_NAMES = re.compile("[^A-Za-z0-9_-]")  # of ids: a server may send any


@click.command("results")
@job_argument
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="The CSV file; - for stdout.")
@click.option(
    "--png",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also plot the loss to this file; needs asyncgen[plot].",
)
@provider_options
@output_options
def results(job: str | None, output: Path | None, png: Path | None, as_json: bool, **options: Any) -> None:
    """Write the metrics of a job as CSV, and plot its loss in the terminal.

    The CSV file is results.csv in the run directory, or JOB_ID.csv if the job belongs to no run.
    """
    from asyncgen.cli.loop import run as run_loop  # noqa: PLC0415 - imports asyncio

    target = find_target(_job_or_run(job), endpoint_flags_of(options))
    found, content = run_loop(_metrics(target))
    points = points_of_table(content)
    if output == Path("-"):
        click.echo(content.decode("utf-8", "replace"), nl=False)
        return
    path = output or (
        target.run.path / "results.csv" if target.run else Path(f"{_NOT_IN_NAMES.sub('_', found.id)}.csv")
    )
    with output_file(path) as file:
        file.write(content)
    if png is not None:
        _draw(points, png, found.id)
    _show(points, path, found, png, as_json=as_json)


async def _metrics(target: Target) -> tuple[TuningJob, bytes]:
    async with opened(target) as tuner:
        job = await tuner.jobs.get(target.job_id)
        content = await tuner.jobs.metrics(job)
    if not content:
        raise AsyncgenError(
            f"{job.id} has no results: its status is {job.status}",
            help_text=f"{command_line('finetune events', job.id)}   (shows its events)",
            code="no_results",
        )
    return job, content


def _draw(points: list[Point], path: Path, title: str) -> None:
    from asyncgen.cli.finetune_display import draw_losses  # noqa: PLC0415 - an extra

    draw_losses(points, path, title)


def _show(points: list[Point], path: Path, job: TuningJob, png: Path | None, *, as_json: bool) -> None:
    losses = [point.train_loss for point in points if point.train_loss is not None]
    valid = [(point.step, point.valid_loss) for point in points if point.valid_loss is not None]
    if as_json:
        last = losses[-1] if losses else None
        measured = {"steps": len(points), "train_loss": last, "valid_loss": valid[-1][1] if valid else None}
        json_result({"job": job.id, "table": str(path), "png": str(png) if png else None, **measured})
        return
    if losses:
        result(f"training loss, steps {points[0].step} to {points[-1].step}: {losses[0]:.4g} to {losses[-1]:.4g}")
        for line in chart(losses, _WIDTH, _HEIGHT):
            result(line)
    for step, loss in valid[-5:]:
        result(f"validation loss at step {step}: {loss:.4g}")
    say(" and ".join(map(str, filter(None, (path, png)))) + " written")


@click.command("cancel")
@job_argument
@provider_options
@yes_option
@output_options
def cancel(job: str | None, as_json: bool, yes: bool, **options: Any) -> None:
    """Cancel a job. The training so far may still be billed."""
    from asyncgen.cli.loop import run as run_loop  # noqa: PLC0415 - imports asyncio

    target = find_target(_job_or_run(job), endpoint_flags_of(options))
    ended = run_loop(_cancelled(target, yes=yes))
    note_state(target, ended)
    if as_json:
        json_result({"job": ended.id, "status": ended.status})
    else:
        result(f"{ended.id}: {ended.status}")


async def _cancelled(target: Target, *, yes: bool) -> TuningJob:
    async with opened(target) as tuner:
        job = await tuner.jobs.get(target.job_id)
        if job.outcome is not None:
            raise UsageError(f"{job.id} has ended already: {job.status}", code="job_ended")
        question = f"Cancel {job.id} ({job.status}, tunes {job.model}) at {tuner.label}?"
        confirm(question, yes=yes, why=f"{job.id} would be cancelled at {tuner.label}")
        return await tuner.jobs.cancel(job.id)


@dataclass(frozen=True, slots=True)
class _Named:
    """What an argument names: a file or a model."""

    kind: str
    name: str


@click.command("delete")
@click.argument("what", metavar="MODEL|JOB_ID|FILE_ID")
@provider_options
@yes_option
@output_options
def delete(what: str, as_json: bool, yes: bool, **options: Any) -> None:
    """Delete a tuned MODEL, the model of JOB_ID, or an uploaded file. This cannot be undone."""
    from asyncgen.cli.loop import run as run_loop  # noqa: PLC0415 - imports asyncio

    deleted = run_loop(_deleted(what, endpoint_flags_of(options), yes=yes))
    if as_json:
        json_result({"deleted": deleted.name, "kind": deleted.kind})
    else:
        result(f"deleted the {deleted.kind} {deleted.name}")


async def _deleted(what: str, where: EndpointFlags, *, yes: bool) -> _Named:
    async with opened(_owner(what, where)) as tuner:
        deleted = await _named(tuner, what)
        question = f"Delete the {deleted.kind} {deleted.name} at {tuner.label}?"
        confirm(question, yes=yes, why=f"the {deleted.kind} {deleted.name} would be deleted permanently")
        if deleted.kind == "file":
            await tuner.files.delete(deleted.name)
        else:
            await _delete_model(tuner, deleted.name)
        return deleted


def _owner(what: str, where: EndpointFlags) -> Target:
    if _is_job(what):
        return find_target(what, where)
    return owner_of_model(what, where) or Target("", None, choose_tuner(where), where)


async def _named(tuner: Tuner, what: str) -> _Named:
    if what.startswith("file-") or "/datasets/" in what:
        return _Named("file", (await tuner.files.get(what)).id)
    if not _is_job(what):
        return _Named("model", what)
    job = await tuner.jobs.get(what)
    if job.tuned_model is None:
        raise UsageError(f"{job.id} has no tuned model: its status is {job.status}", code="no_model")
    return _Named("model", job.tuned_model)


def _is_job(what: str) -> bool:
    """OpenAI's, Together's and Fireworks' ids; a tuned model's name begins with `ft:`."""
    return what.startswith(("ftjob-", "ft-")) or "/supervisedFineTuningJobs/" in what


async def _delete_model(tuner: Tuner, name: str) -> None:
    try:
        await tuner.models.delete(name)
    except AuthError as error:
        raise AuthError(
            error.what,
            cause=error.cause,
            help_text="only an owner of the organization can delete a tuned model, with their own key",
            code=error.code,
        ) from error
    except AbsentError as error:
        raise AbsentError(
            f"{tuner.label} has no model {name} that you can delete",
            cause=error.cause,
            help_text="asyncgen finetune list   (shows the tuned models)",
            code=error.code,
        ) from error


@click.command("download")
@click.argument("model", metavar="MODEL|JOB_ID")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The output folder.  [default: the model's name]",
)
@click.option(
    "--step", type=click.IntRange(min=1), metavar="N", help="The checkpoint of step N; see finetune checkpoints."
)
@provider_options
@yes_option
@output_options
def download(model: str, as_json: bool, **options: Any) -> None:
    """Download a tuned MODEL, or the model of JOB_ID: the weights, and a model card that says how to serve them.

    Works with Together, Fireworks, Nebius and asyncgen's local server. OpenAI and Azure offer no download. To continue
    an interrupted download, repeat the command.
    """
    from asyncgen.cli.loop import run as run_loop  # noqa: PLC0415 - imports asyncio

    found = run_loop(
        _downloaded(model, endpoint_flags_of(options), options["output"], options["step"], yes=options["yes"])
    )
    if as_json:
        weights = found.weights
        files = [str(file) for file in found.files]
        json_result({"model": weights.model, "files": files, "base_model": weights.base_model, "job": weights.job})
        return
    for file in found.files:
        result(str(file))
    for number, command in enumerate(found.next_steps):
        say(f"{'next' if number == 0 else 'then'}: {command}")


@dataclass(frozen=True, slots=True)
class _Downloaded:
    weights: TunedWeights
    files: list[Path]
    next_steps: list[str]


async def _downloaded(
    what: str, where: EndpointFlags, output: Path | None, step: int | None, *, yes: bool
) -> _Downloaded:
    from asyncgen.cli.finetune_display import download_bar  # noqa: PLC0415 - with the next, of this command alone
    from asyncgen.finetune import download as downloads  # noqa: PLC0415

    target = _owner(what, where)
    model = None if _is_job(what) else what
    async with opened(target) as tuner:
        weights = await downloads.find_weights(tuner, job_id=target.job_id or None, model=model, step=step)
        folder = output or Path(downloads.folder_name(weights, step))
        paths = downloads.target_paths(weights, folder)
        if there := downloads.in_the_way(paths, folder):
            names = ", ".join(map(str, there))
            confirm(f"Replace {names}?", yes=yes, why=f"{names} would be replaced")
        files = await downloads.download(tuner, weights, folder, paths, download_bar)
        return _Downloaded(weights, files, downloads.serving_commands(weights, folder, files))


@click.group("finetune")
def finetune() -> None:
    """Create, follow and manage fine-tuning jobs.

    JOB_ID is the ID of a job, or a run directory (its newest job). Default: the newest job of the newest run.
    """


for command in (create, follow, list_jobs, show, events, checkpoints, results, download, cancel, delete):
    finetune.add_command(command)
