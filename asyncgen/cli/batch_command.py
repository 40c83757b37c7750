"""`asyncgen batch list`, `show` and `cancel`: the batches of a run, and their progress while they are waited for.

Shows bars on a terminal, one line for each new state elsewhere. The states come from the engine.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import click
import msgspec

from asyncgen.cli.arguments import RUNS, run_directory, with_run
from asyncgen.cli.options import api_key_file_option, base_url_option, output_options, run_argument, yes_option
from asyncgen.cli.output import confirm, error_console, is_live, json_result, result, say, table
from asyncgen.errors import UsageError, command_line
from asyncgen.job.opened import generate_again
from asyncgen.providers.choose import EndpointFlags, named_profile, open_endpoint
from asyncgen.providers.profiles import LOCAL, ProviderChoice
from asyncgen.run.directory import STATE_NAME, RunDirectory, open_run
from asyncgen.terminal import clean, counted, in_units, local_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    import rich.progress

    from asyncgen.generate.batch.api import BatchApi, RemoteBatch
    from asyncgen.generate.batch.join import JoinResult
    from asyncgen.generate.batch.send import Watcher
    from asyncgen.generate.pool.progress import Progress
    from asyncgen.run.state import BatchState


_COUNTS_S = 30.0


@contextmanager
def watching(progress: Progress) -> Iterator[Watcher]:
    """A watcher of batches while the block runs; `progress` counts what is collected."""
    if not is_live():
        yield _Lines(progress, time.monotonic)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415 - costs time
    from rich.progress import Progress as Bars  # noqa: PLC0415 - as above

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=error_console(), transient=True) as bars:
        yield _Bars(progress, bars)


def _counted(progress: Progress, batch: BatchState, joined: JoinResult) -> str:
    """Add to the counts; returns the line to print."""
    progress.settled += joined.answered
    progress.failed += joined.failed
    remarks = {
        "failed": joined.failed,
        "without an outcome": joined.open,
        "lines that match no row": joined.unread,
    }
    said = "".join(f", {count:,} {what}" for what, count in remarks.items() if count)
    return f"{batch.batch_id}: {counted(joined.answered, 'answer')} saved{said}"


class _Lines:
    """Reports every new state at once, and counts at intervals."""

    def __init__(self, progress: Progress, clock: Callable[[], float]) -> None:
        self._progress = progress
        self._clock = clock
        self._uploaded: set[str] = set()
        self._told: dict[str, tuple[str, float]] = {}

    def uploading(self, batch: BatchState, sent: int, size: int) -> None:
        if sent == size and batch.intent not in self._uploaded:
            self._uploaded.add(batch.intent)
            say(f"sent {in_units(size)}, {counted(batch.requests, 'row')}")

    def changed(self, batch: BatchState) -> None:
        status, told_s = self._told.get(batch.intent, ("", 0.0))
        now_s = self._clock()
        if batch.status == status and now_s < told_s + _COUNTS_S:
            return
        self._told[batch.intent] = batch.status, now_s
        failed = f", {batch.failed:,} failed" if batch.failed else ""
        say(f"{batch.batch_id or batch.intent}: {batch.status}, {batch.answered:,} of {batch.requests:,} done{failed}")

    def collected(self, batch: BatchState, joined: JoinResult) -> None:
        say(_counted(self._progress, batch, joined))


class _Bars:
    """A bar for each batch: bytes while it is uploaded, then rows."""

    def __init__(self, progress: Progress, bars: rich.progress.Progress) -> None:
        self._progress = progress
        self._bars = bars
        self._tasks: dict[str, rich.progress.TaskID] = {}

    def uploading(self, batch: BatchState, sent: int, size: int) -> None:
        self._show(batch, f"upload of {counted(batch.requests, 'row')}", sent, size)

    def changed(self, batch: BatchState) -> None:
        text = f"{batch.batch_id or batch.intent}: {batch.status}"
        self._show(batch, text, batch.answered + batch.failed, batch.requests)

    def collected(self, batch: BatchState, joined: JoinResult) -> None:
        if batch.intent in self._tasks:
            self._bars.remove_task(self._tasks.pop(batch.intent))
        self._bars.console.print(clean(_counted(self._progress, batch, joined)))  # above the bars

    def _show(self, batch: BatchState, text: str, completed: int, total: int) -> None:
        if batch.intent not in self._tasks:
            self._tasks[batch.intent] = self._bars.add_task("")
        self._bars.update(self._tasks[batch.intent], description=clean(text), completed=completed, total=total)


batch_argument = click.argument("batch", required=False, metavar="[BATCH]")


@click.group("batch")
def batch() -> None:
    """List, show and cancel the batches of a run. `asyncgen generate --batch` creates and collects them.

    BATCH is the ID of a batch, or a run directory (its newest batch). Default: the newest batch of the newest run.
    """


@batch.command("list")
@run_argument
@output_options
def list_batches(run: Path | None, as_json: bool) -> None:
    """List the batches of RUN in their last known state. Sends nothing."""
    directory = run_directory(run)
    state = directory.read_state()
    if as_json:
        json_result({"batches": [msgspec.to_builtins(each) for each in state.batches]})
        return
    if not state.batches:
        say(f"this run has no batch; {generate_again(directory, '--batch')}   (creates them)")
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
    """Show the current state of BATCH at the provider."""
    from asyncgen.cli.loop import run as run_loop  # noqa: PLC0415 - imports asyncio

    directory, noted = _target(batch)
    remote = run_loop(_retrieve(directory, noted, EndpointFlags(base_url=base_url, api_key_file=api_key_file)))
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
    """Cancel BATCH at the provider. The answers that it already has are kept.

    If the provider no longer knows the batch, its rows are released: they may be sent, and paid for, again.
    """
    from asyncgen.cli.loop import run as run_loop  # noqa: PLC0415 - imports asyncio

    directory, noted = _target(batch)
    if noted.collected:
        help_text = command_line("batch list", directory.path)
        raise UsageError(f"batch {noted.batch_id} is already collected", help_text=help_text)
    status = run_loop(_cancel(noted, EndpointFlags(base_url=base_url, api_key_file=api_key_file)))
    if status is None:
        _give_up(directory, noted, yes=yes)
        status = "given up"
    if as_json:
        json_result({"batch": noted.batch_id, "status": status})
        return
    result(f"{noted.batch_id or noted.intent}: {status}")
    say(f"next: {generate_again(directory, '--batch')}   (collects the answers and shows what is left)")


def _give_up(directory: RunDirectory, noted: BatchState, *, yes: bool) -> None:
    """Release the rows of a batch that is not at the provider, or no longer."""
    from asyncgen.generate.batch.engine import release_batch  # noqa: PLC0415 - imports the SDK

    what = f"{noted.provider} does not know batch {noted.batch_id or noted.intent}"
    say(f"{what}; if it has answers, they are lost")
    confirm(f"Give the batch up, and send its {counted(noted.requests, 'row')} again later?", yes=yes, why=what)
    with open_run(directory.path) as run:
        release_batch(run, noted, "given up")


def _target(argument: str | None) -> tuple[RunDirectory, BatchState]:
    """Find the batch that the argument names, and its run.

    Raises:
        UsageError: there is none.
    """
    path = with_run(argument)
    if path is None or path.is_dir():
        directory = run_directory(path)
        batches = directory.read_state().batches
        if not batches:
            help_text = f"{generate_again(directory, '--batch')}   (creates batches)"
            raise UsageError(f"{directory.path} has no batch", help_text=help_text)
        return directory, batches[-1]
    for path in sorted(RUNS.glob(f"*/{STATE_NAME}")):
        directory = RunDirectory(path.parent)
        for noted in directory.read_state().batches:
            if argument in {noted.batch_id, noted.intent}:
                return directory, noted
    raise UsageError(
        f"no run under {RUNS} has a batch {argument!r}",
        help_text="name the run directory; asyncgen runs   (lists the runs)",
    )


async def _retrieve(directory: RunDirectory, noted: BatchState, where: EndpointFlags) -> RemoteBatch:
    if noted.batch_id is None:
        help_text = f"{generate_again(directory, '--batch')}   (sends it)"
        raise UsageError(f"batch {noted.intent} has not been sent yet", help_text=help_text)
    async with _api(noted, where) as api:
        return await api.retrieve(noted.batch_id)


async def _cancel(noted: BatchState, where: EndpointFlags) -> str | None:
    """The batch's new state; None if the provider does not know it."""
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
    if noted.batch_id is None:  # it may have been created, and its id lost
        return await api.find(noted.file_id, noted.intent, noted.created)
    return await api.retrieve(noted.batch_id)


@asynccontextmanager
async def _api(noted: BatchState, where: EndpointFlags) -> AsyncIterator[BatchApi]:
    from asyncgen.generate.batch.api import BatchApi  # noqa: PLC0415 - imports the SDK
    from asyncgen.providers.openai_client import open_client  # noqa: PLC0415 - as above

    if not where.addresses and noted.provider != LOCAL:  # the local server has another address each time
        where = replace(where, base_url=noted.base_url)
    choice = ProviderChoice(named_profile(noted.provider), "the run's batch is at this provider")
    async with open_endpoint(choice, where, noted.model, say) as endpoint, open_client(endpoint) as client:
        yield BatchApi(client)
