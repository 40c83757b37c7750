"""Display of a tuning: upload bar, events, live status of a training, loss chart, and the sentences before and after.

Bars and the status are live on a terminal and plain lines elsewhere, refreshed by a timer. The loss chart needs the
extra `plot`. Display only: events and states come from `finetune.follow`.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING

from asyncgen.cli.output import error_console, is_live, is_verbose, say
from asyncgen.errors import AsyncgenError, UsageError
from asyncgen.finetune.follow import points_of_events
from asyncgen.run.directory import output_file
from asyncgen.terminal import cells, clean, duration, in_units, local_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from asyncgen.finetune.api import Event, OnProgress, TuningJob
    from asyncgen.finetune.follow import Point

_TRANSFER_S = 30.0


def upload_bar() -> AbstractContextManager[Callable[[int, int], None]]:
    """A progress bar: a function to call with bytes sent and bytes in total, repeatedly if need be."""
    return _transfer_bar("upload", "uploaded")


def download_bar(name: str) -> AbstractContextManager[Callable[[int, int], None]]:
    """A progress bar: a function to call with bytes received and bytes in total, 0 if unknown."""
    return _transfer_bar(name, f"{name}: got")


@contextmanager
def _transfer_bar(label: str, done: str, now: Callable[[], float] = time.monotonic) -> Iterator[OnProgress]:
    last, said_at = (0, 0), now()

    def plain(bytes_: int, size: int) -> None:
        nonlocal last, said_at
        if bytes_ == size and last != (bytes_, size):
            say(f"{done} {in_units(size)}")
        elif not is_live() and now() - said_at > _TRANSFER_S:
            said_at = now()
            say(f"{done} {in_units(bytes_)}" + (f" of {in_units(size)}" if size else ""))
        last = (bytes_, size)

    if not is_live():
        yield plain
        return
    from rich.markup import escape  # noqa: PLC0415 - with the next, costs time
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn  # noqa: PLC0415

    columns = (escape(label), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=error_console(), transient=True) as progress:
        task = progress.add_task(label, total=None, visible=False)

        def drawn(bytes_: int, size: int) -> None:
            progress.update(task, completed=bytes_, total=size or None, visible=True)
            plain(bytes_, size)

        yield drawn


def draw_losses(points: Sequence[Point], path: Path, title: str) -> None:
    """Write the curves of training and validation loss to `path` as PNG.

    Raises:
        UsageError: matplotlib is not installed.
        DiskError: the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise UsageError("--png needs matplotlib", help_text="pip install 'asyncgen[plot]'", code="no_extra") from error
    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    train = [(point.step, point.train_loss) for point in points if point.train_loss is not None]
    valid = [(point.step, point.valid_loss) for point in points if point.valid_loss is not None]
    for curve, name, marker in ((train, "training", ""), (valid, "validation", "o")):
        if curve:
            axes.plot(*zip(*curve, strict=True), label=name, marker=marker)
    axes.set(title=title, xlabel="step", ylabel="loss", ylim=(0, None))
    axes.legend()
    with output_file(path) as file:
        figure.savefig(file, format="png")


_LIVE_S = 0.2
_PLAIN_S = 10.0
_SPARK_WIDTH = 30
_NARROWEST_SPARK = 5
_LASTING = re.compile(r"\bepochs?\b|checkpoint", re.IGNORECASE)
_NAME_OF_CHECKPOINT = re.compile(r"(?<=step )(\d+)(?:: | with snapshot id: )\S+$", re.IGNORECASE)
_STEP = re.compile(r"step \d+", re.IGNORECASE)
_LOSS_SEEN = 2000  # points of a sparkline; more could not be distinguished


class TrainingDisplay:
    """Shows a training. Implements `TrainingWatcher`.

    Args:
        history: events that an earlier command has shown; drawn, but not shown again.
        now: Unix seconds.
    """

    def __init__(self, history: Iterable[Event] = (), now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._job: TuningJob | None = None
        self._losses: list[float] = []
        self._step = self._steps = 0
        self._is_away = False
        for event in history:
            self._learn(event)

    def on_event(self, event: Event) -> None:
        if is_verbose() or _is_lasting(event):
            level = "" if event.level == "info" else f"{event.level}: "
            message = event.message if is_verbose() else _NAME_OF_CHECKPOINT.sub(r"\1", event.message)
            say(f"{local_time(event.created_at, '%H:%M:%S')}  {level}{message}")
        self._learn(event)

    def on_job(self, job: TuningJob) -> None:
        if self._is_away:
            say("the provider responds again")
        self._is_away = False
        self._job = job

    def on_outage(self, error: AsyncgenError) -> None:
        if not self._is_away:
            say(f"{error.what}: {error.cause}; retrying (the job goes on meanwhile)")
        self._is_away = True

    def _learn(self, event: Event) -> None:
        for point in points_of_events([event]):
            self._step = point.step
            if point.train_loss is not None:
                self._losses = [*self._losses[-_LOSS_SEEN:], point.train_loss]
        total = event.data.get("total_steps")
        self._steps = total if isinstance(total, int) else self._steps

    def line(self, width: int = 0) -> str:
        """State, step, times and loss in one line, the loss drawn as wide as there is room; "" before all is known.

        Args:
            width: columns; 0 for no limit.
        """
        if self._job is None:
            return ""
        parts = [f"{self._job.status.replace('_', ' ')}{', provider not reached' if self._is_away else ''}"]
        if self._step:
            parts.append(f"step {self._step:,}" + (f" of {self._steps:,}" if self._steps else ""))
        parts.append(self._times(self._job))
        text = "  ".join(filter(None, parts))
        if self._losses:
            loss = f"  loss {self._losses[-1]:.3g}"
            text += loss if not width or cells(text + loss) <= width else ""
        room = min(width - cells(text) - 2, _SPARK_WIDTH) if width else _SPARK_WIDTH
        return f"{text}  {sparkline(self._losses, room)}" if self._losses and room >= _NARROWEST_SPARK else text

    def _times(self, job: TuningJob) -> str:
        now = self._now()
        elapsed = duration(max(now - job.created, 0)) if job.created else ""
        if not job.estimated_finish or job.outcome:
            return elapsed
        left_s = job.estimated_finish - now
        return f"{elapsed}, about {duration(left_s)} left" if left_s > 0 else elapsed


def _is_lasting(event: Event) -> bool:
    """Whether an event stays on the screen: no single step, which the live line shows; all are in events.jsonl."""
    if event.level != "info":
        return True
    return bool(_LASTING.search(event.message)) and not _STEP.match(event.message)


@asynccontextmanager
async def training_shown(history: Iterable[Event]) -> AsyncIterator[TrainingDisplay]:
    """A display that is shown while the block runs; `history` as for the display."""
    display = TrainingDisplay(history)
    task = asyncio.create_task(_live(display) if is_live() else _plain(display))
    try:
        yield display
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _live(display: TrainingDisplay) -> None:
    from rich.live import Live  # noqa: PLC0415 - costs a tenth of a second
    from rich.text import Text  # noqa: PLC0415 - as above

    console = error_console()
    with Live(Text(""), console=console, auto_refresh=False, transient=True) as live:
        while True:
            live.update(Text(clean(display.line(console.width)), no_wrap=True, overflow="ellipsis"), refresh=True)
            await asyncio.sleep(_LIVE_S)


async def _plain(display: TrainingDisplay) -> None:
    while True:
        await asyncio.sleep(_PLAIN_S)
        if line := display.line():
            say(line)


_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int) -> str:
    """Draw values as one line of bars.

    Args:
        values: in order.
        width: maximum characters; with more values each bar is the mean of its share.

    Returns:
        The line; "" for no values.
    """
    means = _means(values, width)
    if not means:
        return ""
    low, high = min(means), max(means)
    span = high - low
    top = len(_BARS) - 1
    return "".join(_BARS[round((mean - low) / span * top) if span else 0] for mean in means)


def chart(values: Sequence[float], width: int, height: int) -> list[str]:
    """Draw values as bars from zero up, with a scale on the left.

    Args:
        values: 0 or more; others are drawn as 0.
        width: characters for the bars, without the scale.
        height: number of lines.

    Returns:
        The lines; empty for no values.
    """
    means = _means(values, width)
    if not means:
        return []
    high = max(*means, 0.0, 1e-9)
    eighths = [round(max(mean, 0.0) / high * height * len(_BARS)) for mean in means]
    scale = [f"{high * level / height:.3g}" for level in range(height, 0, -1)]
    margin = max(map(len, scale))
    return [
        f"{label:>{margin}} │" + "".join(_cell(count - len(_BARS) * (height - 1 - row)) for count in eighths)
        for row, label in enumerate(scale)
    ]


def _cell(eighths: int) -> str:
    return " " if eighths <= 0 else _BARS[min(eighths, len(_BARS)) - 1]


def _means(values: Sequence[float], width: int) -> list[float]:
    """The values in at most `width` shares of nearly equal size, each as its mean."""
    count = min(len(values), width)
    edges = [len(values) * share // count for share in range(count + 1)] if count > 0 else []
    return [fmean(values[start:end]) for start, end in pairwise(edges)]
