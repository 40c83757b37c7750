"""Progress of batches while they are waited for: bars on a terminal, one line for each new state elsewhere.

Display only; the states come from the engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from asyncgen.cli.output import error_console, is_live, say
from asyncgen.generate.batch.join import Joined
from asyncgen.generate.batch.send import Watcher
from asyncgen.generate.pool.progress import Progress
from asyncgen.run.state import BatchState
from asyncgen.terminal import clean, counted, in_units

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
            say(f"sent {in_units(size)}, {counted(batch.requests, 'row')}")

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
