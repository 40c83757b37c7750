"""What is seen of batches while they are waited for: bars on a terminal, a line at every new state elsewhere.

Owns the look. Reads what it is told, and counts what was collected.

The generating stage through the Batch API: sent, waited for, collected, or left to be collected later.

Owns what is said meanwhile, and what Ctrl-C does: it leaves, and the batches go on. Imports the SDK, which takes a
second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from asyncgen.cli.output import error_console, is_live, say
from asyncgen.cli.signals import interruptible
from asyncgen.errors import AsyncgenError, AuthError, DiskError, QuotaError
from asyncgen.generate.batch.api import BatchApi
from asyncgen.generate.batch.engine import open_engine
from asyncgen.generate.batch.files import BatchLedger
from asyncgen.generate.batch.join import Joined
from asyncgen.generate.batch.send import Allowance, Watcher
from asyncgen.generate.http.completer import StopReason
from asyncgen.generate.journal.journal import Journal
from asyncgen.generate.pool.pool import Outcome
from asyncgen.generate.pool.progress import Progress
from asyncgen.job.checks import AnswerChecks
from asyncgen.job.of_run import OpenedJob
from asyncgen.providers.endpoint import Endpoint
from asyncgen.providers.openai_client import open_client
from asyncgen.run.directory import Run
from asyncgen.run.state import BatchState
from asyncgen.terminal import clean

if TYPE_CHECKING:
    import rich.progress


_COUNTS_S = 30.0


@contextmanager
def watching(progress: Progress) -> Iterator[Watcher]:
    """A watcher for as long as the block runs; `progress` gets the counts of what is collected."""
    if not is_live():
        yield _Lines(progress, time.monotonic)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415 - costs time
    from rich.progress import Progress as Bars  # noqa: PLC0415 - likewise

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=error_console(), transient=True) as bars:
        yield _Bars(progress, bars)


def _counted(progress: Progress, batch: BatchState, joined: Joined) -> str:
    """Raise the counts; what to say of it."""
    progress.settled += joined.answered
    progress.failed += joined.failed
    remarks = {
        "failed": joined.failed,
        "without an outcome": joined.open,
        "lines that belong to no row": joined.unread,
    }
    said = "".join(f", {count:,} {what}" for what, count in remarks.items() if count)
    return f"{batch.batch_id}: {joined.answered:,} answers kept{said}"


class _Lines:
    """Tells of every new state at once, and of counts now and then."""

    def __init__(self, progress: Progress, clock: Callable[[], float]) -> None:
        self._progress = progress
        self._clock = clock
        self._uploaded: set[str] = set()
        self._told: dict[str, tuple[str, float]] = {}

    def uploading(self, batch: BatchState, sent: int, size: int) -> None:
        if sent == size and batch.intent not in self._uploaded:
            self._uploaded.add(batch.intent)
            say(f"uploaded {size / 1000:,.1f} kB, {batch.requests:,} rows")

    def changed(self, batch: BatchState) -> None:
        status, told_s = self._told.get(batch.intent, ("", 0.0))
        now_s = self._clock()
        if batch.status == status and now_s < told_s + _COUNTS_S:
            return
        self._told[batch.intent] = batch.status, now_s
        failed = f", {batch.failed:,} failed" if batch.failed else ""
        say(f"{batch.batch_id or batch.intent}: {batch.status}, {batch.answered:,} of {batch.requests:,} done{failed}")

    def collected(self, batch: BatchState, joined: Joined) -> None:
        say(_counted(self._progress, batch, joined))


class _Bars:
    """A bar for each batch: bytes while it is uploaded, then rows."""

    def __init__(self, progress: Progress, bars: rich.progress.Progress) -> None:
        self._progress = progress
        self._bars = bars
        self._tasks: dict[str, rich.progress.TaskID] = {}

    def uploading(self, batch: BatchState, sent: int, size: int) -> None:
        self._show(batch, f"upload of {batch.requests:,} rows", sent, size)

    def changed(self, batch: BatchState) -> None:
        text = f"{batch.batch_id or batch.intent}: {batch.status}"
        self._show(batch, text, batch.answered + batch.failed, batch.requests)

    def collected(self, batch: BatchState, joined: Joined) -> None:
        if batch.intent in self._tasks:
            self._bars.remove_task(self._tasks.pop(batch.intent))
        self._bars.console.print(clean(_counted(self._progress, batch, joined)))  # above the bars

    def _show(self, batch: BatchState, text: str, completed: int, total: int) -> None:
        if batch.intent not in self._tasks:
            self._tasks[batch.intent] = self._bars.add_task("")
        self._bars.update(self._tasks[batch.intent], description=clean(text), completed=completed, total=total)


_REASONS = ((AuthError, StopReason.AUTH), (QuotaError, StopReason.QUOTA), (DiskError, StopReason.IO))


async def generate_in_batches(
    endpoint: Endpoint,
    run: Run,
    opened: OpenedJob,
    journal: Journal,
    progress: Progress,
    *,
    allowance: Allowance,
    resume: str,
) -> tuple[Outcome, int]:
    """Send and collect batches until there are none; returns how it ended, and a signal's exit code or 0."""
    checks = AnswerChecks(opened.job.checks, opened.grid.answers)
    if checks.attempts > 1:
        say("in a batch every row is asked once; after `prepare`, --retry-rejected asks again where an answer failed")
    for batch in BatchLedger(run, endpoint).elsewhere:
        say(f"{batch.requests:,} rows wait in a batch at {batch.provider or 'another provider'} ({batch.base_url})")
    with watching(progress) as watcher:
        async with interruptible(lambda: None) as interrupt, open_client(endpoint) as client:
            engine = open_engine(
                run,
                journal,
                opened.grid,
                endpoint,
                BatchApi(client),
                checks=checks,
                allowance=allowance,
                watcher=watcher,
            )
            outcome = await _until_done_or_left(engine.run(), interrupt.stop)
    if outcome.stopped is StopReason.INTERRUPTED:
        say(f"left; what was sent goes on at {endpoint.profile.title}. To come back, today or another day: {resume}")
        return outcome, interrupt.exit_code or 0
    if outcome == Outcome(None, None):
        # Every row has come to an outcome: those that are not counted have that of a row with the same request.
        progress.twins += max(progress.left - len(journal.held), 0)
    return outcome, 0


async def _until_done_or_left(work: Coroutine[Any, Any, Outcome], stop: asyncio.Event) -> Outcome:
    task = asyncio.create_task(work)
    left = asyncio.create_task(stop.wait())
    await asyncio.wait([task, left], return_when=asyncio.FIRST_COMPLETED)
    left.cancel()
    if not task.done():
        task.cancel()
        await asyncio.wait([task])
    try:
        return task.result()
    except asyncio.CancelledError:
        return Outcome(StopReason.INTERRUPTED, None)
    except AsyncgenError as error:
        return Outcome(next((reason for kind, reason in _REASONS if isinstance(error, kind)), None), error)
