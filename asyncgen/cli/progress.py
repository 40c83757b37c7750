"""How a run is shown while it works: one live block on a terminal, a plain line now and then elsewhere.

Owns the look of the figures. Reads the counts and raises none; refreshes by a timer, never by an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from asyncgen.cli.output import error_console, is_live, say
from asyncgen.generate.pool.progress import Progress
from asyncgen.terminal import duration, one_line

_LIVE_S = 0.2
_PLAIN_S = 30.0
_SILENT_S = 30.0
_CAUSE_WIDTH = 120


@asynccontextmanager
async def shown(progress: Progress, spent: Callable[[], str]) -> AsyncIterator[None]:
    """Show the counts while the block runs.

    Args:
        progress: the counts.
        spent: says what was used so far.
    """
    progress.per_second(time.monotonic())  # from here on rows are counted
    task = asyncio.create_task(_live(progress, spent) if is_live() else _plain(progress, spent))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError):  # a terminal that is gone must not end the run
            await task


async def _live(progress: Progress, spent: Callable[[], str]) -> None:
    from rich.live import Live  # noqa: PLC0415 - costs a tenth of a second
    from rich.text import Text  # noqa: PLC0415 - likewise

    console = error_console()
    with Live(Text(""), console=console, auto_refresh=False, transient=True) as live:
        while True:
            lines = [*block(progress, time.monotonic(), console.width), spent()]
            live.update(Text("\n".join(lines)), refresh=True)
            await asyncio.sleep(_LIVE_S)


async def _plain(progress: Progress, spent: Callable[[], str]) -> None:
    while True:
        await asyncio.sleep(_PLAIN_S)
        say(f"{line(progress, time.monotonic())}; {spent()}")


def block(progress: Progress, now_s: float, width: int) -> list[str]:
    """The live block: a bar, the rate and time left."""
    per_second = progress.per_second(now_s)
    moving = f"{_rate(per_second)}, {progress.in_flight:,} in flight, {_left(progress, per_second)}"
    share = progress.done / progress.requests if progress.requests else 0.0
    bar_width = max(min(width - 30, 40), 10)
    filled = round(share * bar_width)
    bar = "━" * filled + "╺" * (filled < bar_width) + "─" * (bar_width - filled - 1)
    return [
        f"{bar} {progress.done:,} of {progress.requests:,} ({share:.0%})",
        moving + _troubles(progress, now_s),
    ]


def line(progress: Progress, now_s: float) -> str:
    """The same in one plain line."""
    per_second = progress.per_second(now_s)
    return (
        f"{progress.done:,} of {progress.requests:,} done, {_rate(per_second)}, {progress.in_flight:,} in flight, "
        f"{_left(progress, per_second)}{_troubles(progress, now_s)}"
    )


def _rate(per_second: float) -> str:
    return f"{per_second:,.1f} rows/s" if per_second >= 1 else f"{per_second * 60:,.1f} rows/min"


def _left(progress: Progress, per_second: float) -> str:
    eta_s = progress.eta_s(per_second)
    return f"{progress.left:,} left" + (f", about {duration(eta_s)}" if eta_s is not None and progress.left else "")


def _troubles(progress: Progress, now_s: float) -> str:
    figures = {
        "failed": progress.failed + progress.failed_before,
        "answers failed a check": progress.check_failures,
        "tried again": progress.retries,
        "refused for the rate": progress.rate_limited,
    }
    troubles = "".join(f", {count:,} {name}" for name, count in figures.items() if count)
    return troubles + _wait(progress, now_s)


def _wait(progress: Progress, now_s: float) -> str:
    """Why nothing is sent, where that is so for more than a moment."""
    paused_s, silent_s = progress.paused_until - now_s, now_s - progress.sent_at
    if paused_s > 1:
        cause = progress.pause_cause
        return f", waits {duration(paused_s)}" + (f" ({one_line(cause, _CAUSE_WIDTH)})" if cause else "")
    if progress.waits_for and progress.sent_at and silent_s > _SILENT_S:
        return f", nothing sent for {duration(silent_s)} (waits for the limit of {progress.waits_for})"
    return ""
