"""The observer of a command: lines on stderr, questions on the terminal, live display of progress, Ctrl-C.

Progress is a live block on a terminal, and a plain line now and then elsewhere. It reads the counts of `Progress` and
refreshes by a timer, never for an answer. Generation and tuning are left to their sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from asyncgen.cli.loop import interruptible
from asyncgen.cli.output import confirm, confirm_optional, error_console, is_live, say, this_command
from asyncgen.terminal import duration, one_line, wrapped

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from asyncgen.finetune.api import Event
    from asyncgen.finetune.follow import TrainingWatcher
    from asyncgen.generate.batch.send import Watcher
    from asyncgen.generate.observer import Interrupt
    from asyncgen.generate.pool.progress import Progress
    from asyncgen.run.records import Record


_LIVE_S = 0.2
_LATEST_S = 2.0  # minimum time that an answer stays on the screen
_FIRST_PLAIN_S = 5.0
_PLAIN_S = 30.0
_SILENT_S = 30.0
_UNANSWERED_S = 5.0
_ENOUGH_S = 3.0  # before that an estimate of the time left would be arbitrary
_TROUBLE_S = 2.0
_CAUSE_WIDTH = 120
_ANSWER_LINES = 2


@asynccontextmanager
async def progress_display(progress: Progress, spent: Callable[[], str]) -> AsyncIterator[None]:
    """Show the counts while the block runs.

    Args:
        progress: the counts.
        spent: says what was used so far.
    """
    progress.began_at = time.monotonic()
    progress.per_second(progress.began_at)  # from here on rows are counted
    task = asyncio.create_task(_live(progress, spent) if is_live() else _plain(progress, spent))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError):  # a closed terminal must not end the run
            await task


async def _live(progress: Progress, spent: Callable[[], str]) -> None:
    from rich.live import Live  # noqa: PLC0415 - costs a tenth of a second
    from rich.text import Text  # noqa: PLC0415 - as above

    console = error_console()
    latest, shown_at = progress.latest, 0.0
    with Live(Text(""), console=console, auto_refresh=False, transient=True) as live:
        while True:
            now_s, width = time.monotonic(), console.width
            if now_s - shown_at > _LATEST_S and progress.latest is not latest:
                latest, shown_at = progress.latest, now_s
            lines = [*block(progress, now_s, width), spent()]
            drawn = Text(wrapped("\n".join(lines), width))
            for text in answer_lines(latest, width) if latest else ():
                drawn.append(f"\n{text}", style="dim")
            live.update(drawn, refresh=True)
            await asyncio.sleep(_LIVE_S)


async def _plain(progress: Progress, spent: Callable[[], str]) -> None:
    wait_s = min(_FIRST_PLAIN_S, _PLAIN_S)
    while True:
        await asyncio.sleep(wait_s)
        say(f"{line(progress, time.monotonic())}; {spent()}")
        wait_s = _PLAIN_S


def block(progress: Progress, now_s: float, width: int) -> list[str]:
    """The live block: a bar, the rate, the time left and the time gone."""
    share = progress.done / progress.requests if progress.requests else 0.0
    bar_width = max(min(width - 30, 40), 10)
    filled = round(share * bar_width)
    bar = "━" * filled + "╺" * (filled < bar_width) + "─" * (bar_width - filled - 1)
    return [f"{bar} {progress.done:,} of {progress.requests:,} ({share:.0%})", _progress_line(progress, now_s)]


def line(progress: Progress, now_s: float) -> str:
    """The progress as one plain line."""
    return f"{progress.done:,} of {progress.requests:,} done, {_progress_line(progress, now_s)}"


def answer_lines(record: Record, width: int) -> list[str]:
    """An answer and its row, in a few lines."""
    row = record.prompt or ", ".join(record.variables.values())
    text = one_line(record.completion, _ANSWER_LINES * (width - 6))
    return [one_line(row, width), *(f"  {part}" for part in wrapped(f'"{text}"', width - 4, 1).split("\n"))]


def _progress_line(progress: Progress, now_s: float) -> str:
    per_second = progress.per_second(now_s)
    gone = f", {duration(now_s - progress.began_at)} so far" if progress.began_at else ""
    rate = f"{_rate(per_second)}, " if per_second > 0 else ""
    moving = f"{rate}{progress.in_flight:,} in flight, {_left(progress, per_second, now_s)}{gone}"
    return moving + _problem_counts(progress) + _wait(progress, now_s)


def _rate(per_second: float) -> str:
    return f"{per_second:,.1f} rows/s" if per_second >= 1 else f"{per_second * 60:,.1f} rows/min"


def _left(progress: Progress, per_second: float, now_s: float) -> str:
    is_early = bool(progress.began_at) and now_s - progress.began_at < _ENOUGH_S
    eta_s = None if is_early else progress.eta_s(per_second)
    return f"{progress.left:,} left" + (f", about {duration(eta_s)}" if eta_s is not None and progress.left else "")


def _problem_counts(progress: Progress) -> str:
    failed = progress.failed + progress.failed_before
    troubles = (
        (failed, "failed"),
        (progress.check_failures, "failed a check" if progress.check_failures == 1 else "failed checks"),
        (progress.retries, "retried"),
        (progress.rate_limited, "rate limited"),
    )
    return "".join(f", {count:,} {name}" for count, name in troubles if count)


def _wait(progress: Progress, now_s: float) -> str:
    """Why nothing is being sent, if that lasts longer than a moment."""
    paused_s, silent_s = progress.paused_until - now_s, now_s - progress.sent_at
    if progress.trouble and now_s - progress.trouble_since > _TROUBLE_S:
        since = duration(now_s - progress.trouble_since)
        return f", {one_line(progress.trouble, _CAUSE_WIDTH)} for {since}, retrying"
    if paused_s > 1:
        cause = progress.pause_cause
        return f", paused for {duration(paused_s)}" + (f" ({one_line(cause, _CAUSE_WIDTH)})" if cause else "")
    if progress.waits_for and progress.sent_at and silent_s > _SILENT_S:
        return f", nothing sent for {duration(silent_s)} (waiting for the limit of {progress.waits_for})"
    is_unanswered = progress.in_flight and progress.began_at and not progress.settled + progress.failed
    if is_unanswered and now_s - progress.began_at > _UNANSWERED_S:
        return ", no answer yet (the server may still be loading the model)"
    return ""


class Screen:
    """Implements `Observer` and `TuningObserver` for the command line.

    Args:
        yes: whether --yes was passed, which answers every question.
        resume_command: the command that resumes the run; None for this command itself.
    """

    def __init__(self, *, yes: bool, resume_command: str | None = None) -> None:
        self._yes = yes
        self._resume_command = resume_command

    @property
    def agrees_to_all(self) -> bool:
        return self._yes

    @property
    def resume_command(self) -> str:
        return self._resume_command or this_command()

    def say(self, text: str) -> None:
        say(text)

    def agree(self, question: str, *, why: str, notice: str = "") -> None:
        confirm(question, yes=self._yes, why=why, notice=notice)

    def offer(self, question: str) -> bool | None:
        return confirm_optional(question, yes=self._yes)

    def interruptible(self, on_first: Callable[[], None]) -> AbstractAsyncContextManager[Interrupt]:
        return interruptible(on_first)

    def watching(self, progress: Progress, spent: Callable[[], str]) -> AbstractAsyncContextManager[None]:
        return progress_display(progress, spent)

    def watching_batches(self, progress: Progress) -> AbstractContextManager[Watcher]:
        from asyncgen.cli.batch_command import watching  # noqa: PLC0415 - imports the SDK

        return watching(progress)

    def uploading(self) -> AbstractContextManager[Callable[[int, int], None]]:
        from asyncgen.cli.finetune_display import upload_bar  # noqa: PLC0415 - imports prices

        return upload_bar()

    def watching_training(self, history: Iterable[Event]) -> AbstractAsyncContextManager[TrainingWatcher]:
        from asyncgen.cli.finetune_display import training_shown  # noqa: PLC0415 - imports prices

        return training_shown(history)
