"""`asyncgen batch list`, `show` and `cancel`: the batches of a run."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from asyncgen.cli.arguments import RUNS, run_directory, with_run
from asyncgen.cli.options import api_key_file_option, base_url_option, output_options, run_argument, yes_option
from asyncgen.cli.output import confirm, json_result, result, say, table
from asyncgen.errors import UsageError
from asyncgen.providers.choose import Where, named_profile, open_endpoint
from asyncgen.providers.profiles import LOCAL, ProviderChoice
from asyncgen.run.directory import STATE_NAME, RunDirectory, open_run
from asyncgen.terminal import local_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from asyncgen.generate.batch.api import BatchApi, RemoteBatch
    from asyncgen.run.state import BatchState

batch_argument = click.argument("batch", required=False, metavar="[BATCH]")


@click.group("batch")
def batch() -> None:
    """List, show and cancel a run's half-price batches; `asyncgen generate --batch` makes and collects them.

    BATCH is a batch's id, or a run directory for its newest batch, or left out for that of the newest run.
    """


@batch.command("list")
@run_argument
@output_options
def list_batches(run: Path | None, as_json: bool) -> None:
    """List the batches of RUN, as they were seen last. Asks nobody."""
    state = run_directory(run).read_state()
    if as_json:
        json_result({"batches": [msgspec.to_builtins(each) for each in state.batches]})
        return
    if not state.batches:
        say("this run has no batch; asyncgen generate --batch   (makes them)")
        return
    headers = ("batch", "created", "provider", "state", "rows", "done", "failed")
    for line in table(headers, list(map(_row, state.batches))):
        result(line)


def _row(noted: BatchState) -> tuple[str, ...]:
    status = f"{noted.status}, collected" if noted.collected else noted.status or "not sent yet"
    counts = (f"{each:,}" for each in (noted.requests, noted.answered, noted.failed))
    return (noted.batch_id or noted.intent, local_time(noted.created), noted.provider, status, *counts)


@batch.command("show")
@batch_argument
@base_url_option
@api_key_file_option
@output_options
def show(batch: str | None, base_url: tuple[str, ...], api_key_file: Path | None, as_json: bool) -> None:
    """Ask the provider how BATCH is."""
    from asyncgen.cli.loop import run as run_loop  # noqa: PLC0415 - imports asyncio

    _, noted = _target(batch)
    remote = run_loop(_look(noted, Where(base_url=base_url, api_key_file=api_key_file)))
    if as_json:
        json_result({**msgspec.to_builtins(remote), "rows": noted.requests, "collected": noted.collected})
        return
    for name, text in _lines(noted, remote):
        result(f"{name:<9} {text}")


def _lines(noted: BatchState, remote: RemoteBatch) -> list[tuple[str, str]]:
    counts = remote.counts
    done = f", {counts.completed:,} done, {counts.failed:,} failed" if counts else ""
    problems = [f"line {each.line}: {each.message}" if each.line else each.message or "" for each in remote.refusals]
    return [
        ("batch", remote.id),
        ("at", f"{noted.provider}, {noted.model}"),
        ("created", local_time(remote.created_at)),
        ("state", remote.status + (", collected" if noted.collected else "")),
        ("rows", f"{noted.requests:,}{done}"),
        *(("problem", problem) for problem in problems),
    ]


@batch.command("cancel")
@batch_argument
@base_url_option
@api_key_file_option
@yes_option
@output_options
def cancel(
    batch: str | None, base_url: tuple[str, ...], api_key_file: Path | None, *, yes: bool, as_json: bool
) -> None:
    """Stop BATCH at the provider; what it has answered is kept.

    A batch that the provider does not know any more is given up: its rows may then be asked for, and paid for, again.
    """
    from asyncgen.cli.loop import run as run_loop  # noqa: PLC0415 - imports asyncio

    directory, noted = _target(batch)
    if noted.collected:
        raise UsageError(f"batch {noted.batch_id} was collected already", help_text="asyncgen batch list   (tells so)")
    status = run_loop(_cancel(noted, Where(base_url=base_url, api_key_file=api_key_file)))
    if status is None:
        _give_up(directory, noted, yes=yes)
        status = "given up"
    if as_json:
        json_result({"batch": noted.batch_id, "status": status})
        return
    result(f"{noted.batch_id or noted.intent}: {status}")
    say("next: asyncgen generate --batch   (collects what was answered, and says what is left)")


def _give_up(directory: RunDirectory, noted: BatchState, *, yes: bool) -> None:
    """Let the rows of a batch go that is not, or no longer, at the provider."""
    from asyncgen.generate.batch.engine import release_batch  # noqa: PLC0415 - imports the SDK

    what = f"{noted.provider} does not know batch {noted.batch_id or noted.intent}"
    say(f"{what}; if it ever answered, those answers are lost")
    confirm(f"Give it up, and let its {noted.requests:,} rows be asked for again?", yes=yes, why=what)
    with open_run(directory.path) as run:
        release_batch(run, noted, "given up")


def _target(argument: str | None) -> tuple[RunDirectory, BatchState]:
    """The batch that the argument means, and its run.

    Raises:
        UsageError: there is none.
    """
    path = with_run(argument)
    if path is None or path.is_dir():
        directory = run_directory(path)
        batches = directory.read_state().batches
        if not batches:
            raise UsageError(f"{directory.path} has no batch", help_text="asyncgen generate --batch   (makes batches)")
        return directory, batches[-1]
    for path in sorted(RUNS.glob(f"*/{STATE_NAME}")):
        directory = RunDirectory(path.parent)
        for noted in directory.read_state().batches:
            if argument in {noted.batch_id, noted.intent}:
                return directory, noted
    raise UsageError(
        f"no run under {RUNS} has a batch {argument!r}",
        help_text="name the run's directory instead, or asyncgen batch list",
    )


async def _look(noted: BatchState, where: Where) -> RemoteBatch:
    if noted.batch_id is None:
        raise UsageError(f"batch {noted.intent} was not sent yet", help_text="asyncgen generate --batch   (sends it)")
    async with _api(noted, where) as api:
        return await api.retrieve(noted.batch_id)


async def _cancel(noted: BatchState, where: Where) -> str | None:
    """The batch's new state; None where the provider does not know it."""
    from asyncgen.generate.batch.api import GoneError  # noqa: PLC0415 - imports the SDK

    if noted.file_id is None and noted.batch_id is None:
        return None  # nothing of it was sent
    async with _api(noted, where) as api:
        try:
            remote = await _found(api, noted)
            if remote is None:
                return None
            return remote.status if remote.has_ended else (await api.cancel(remote.id)).status
        except GoneError:
            return None


async def _found(api: BatchApi, noted: BatchState) -> RemoteBatch | None:
    if noted.batch_id is None:  # it may have been created all the same, and its id been lost
        return await api.find(noted.file_id, noted.intent, noted.created)
    return await api.retrieve(noted.batch_id)


@asynccontextmanager
async def _api(noted: BatchState, where: Where) -> AsyncIterator[BatchApi]:
    from asyncgen.generate.batch.api import BatchApi  # noqa: PLC0415 - imports the SDK
    from asyncgen.providers.openai_client import open_client  # noqa: PLC0415 - likewise

    if not where.addresses and noted.provider != LOCAL:  # this machine's own server has another address each time
        where = replace(where, base_url=noted.base_url)
    choice = ProviderChoice(named_profile(noted.provider), "the run's batch is there")
    async with open_endpoint(choice, where, noted.model, say) as endpoint, open_client(endpoint) as client:
        yield BatchApi(client)
