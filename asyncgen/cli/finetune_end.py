"""`asyncgen finetune cancel` and `delete`: what ends a job, a model or a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from asyncgen.cli.finetune_options import job_argument, opened, place_options, where_of
from asyncgen.cli.options import output_options, yes_option
from asyncgen.cli.output import confirm, json_result, result
from asyncgen.cli.tuning_target import Target, find_target, note_state, owner_of_model
from asyncgen.errors import AuthError, UsageError
from asyncgen.finetune.errors import AbsentError
from asyncgen.provider_choice import Where, choose_tuner

if TYPE_CHECKING:
    from asyncgen.finetune.api import Tuner, TuningJob


@click.command("cancel")
@job_argument
@place_options
@yes_option
@output_options
def cancel(job: str | None, as_json: bool, yes: bool, **options: Any) -> None:
    """Cancel a job; what was trained so far may still be billed."""
    from asyncgen.cli.loop import run as run_loop  # noqa: PLC0415 - imports asyncio

    target = find_target(job, where_of(options))
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
        question = f"Cancel {job.id} ({job.status}, tunes {job.model}) at {tuner.profile.title}?"
        confirm(question, yes=yes, why=f"{job.id} would be cancelled at {tuner.profile.title}, for good")
        return await tuner.jobs.cancel(job.id)


@dataclass(frozen=True, slots=True)
class _Doomed:
    """What is to be deleted."""

    kind: str
    name: str


@click.command("delete")
@click.argument("what", metavar="MODEL|JOB|FILE")
@place_options
@yes_option
@output_options
def delete(what: str, as_json: bool, yes: bool, **options: Any) -> None:
    """Delete a tuned MODEL, the model that a JOB made, or an uploaded FILE (by its id), for good."""
    from asyncgen.cli.loop import run as run_loop  # noqa: PLC0415 - imports asyncio

    doomed = run_loop(_deleted(what, where_of(options), yes=yes))
    if as_json:
        json_result({"deleted": doomed.name, "kind": doomed.kind})
    else:
        result(f"deleted the {doomed.kind} {doomed.name}")


async def _deleted(what: str, where: Where, *, yes: bool) -> _Doomed:
    async with opened(_owner(what, where)) as tuner:
        doomed = await _doomed(tuner, what)
        question = f"Delete the {doomed.kind} {doomed.name} at {tuner.profile.title}?"
        confirm(question, yes=yes, why=f"the {doomed.kind} {doomed.name} would be deleted, for good")
        if doomed.kind == "file":
            await tuner.files.delete(doomed.name)
        else:
            await _delete_model(tuner, doomed.name)
        return doomed


def _owner(what: str, where: Where) -> Target:
    if _is_job(what):
        return find_target(what, where)
    return owner_of_model(what, where) or Target("", None, choose_tuner(where), where)


async def _doomed(tuner: Tuner, what: str) -> _Doomed:
    if what.startswith("file-"):
        return _Doomed("file", (await tuner.files.get(what)).id)
    if not _is_job(what):
        return _Doomed("model", what)
    job = await tuner.jobs.get(what)
    if job.tuned_model is None:
        raise UsageError(f"{job.id} made no model: it is {job.status}", code="no_model")
    return _Doomed("model", job.tuned_model)


def _is_job(what: str) -> bool:
    """OpenAI's and Together's ids; a tuned model's name begins with `ft:`."""
    return what.startswith(("ftjob-", "ft-"))


async def _delete_model(tuner: Tuner, name: str) -> None:
    try:
        await tuner.models.delete(name)
    except AuthError as error:
        raise AuthError(
            error.what,
            cause=error.cause,
            help_text="only an owner of the organization may delete a tuned model, and only with a key of theirs",
            code=error.code,
        ) from error
    except AbsentError as error:
        raise AbsentError(
            f"there is no model {name} at {tuner.profile.title} that could be deleted",
            cause=error.cause,
            help_text="asyncgen finetune list   (shows the tuned models)",
            code=error.code,
        ) from error
