"""The bar of an upload: live on a terminal, a line at its end everywhere.

A training's loss as a picture; needs the extra `plot`.

What the tuning stage says: extent, price and life before, the next step or the failure after.

Owns the words. Decides nothing and prints nothing.

How a training is shown while it is followed: its events as lines, and one live block under them on a terminal.

Owns the look. Is told by `follow`, asks nothing, and refreshes by a timer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyncgen.cli.output import error_console, is_live, local_time, say
from asyncgen.cli.plan_lines import usd
from asyncgen.cli.progress import duration
from asyncgen.errors import AsyncgenError, IncompleteError, UsageError
from asyncgen.finetune.api import Event, TuningJob
from asyncgen.finetune.loss_curve import points_of_events, sparkline
from asyncgen.providers.prices_file import load_price_list
from asyncgen.providers.profiles import Profile
from asyncgen.run.directory import output_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from asyncgen.dataset.training_costs import TrainingCost
    from asyncgen.finetune.create import Created
    from asyncgen.finetune.loss_curve import Point


@contextmanager
def upload_bar() -> Iterator[Callable[[int, int], None]]:
    """Something to tell of the bytes sent and the size; it may be told the same twice."""
    last = (0, 0)

    def plain(sent: int, size: int) -> None:
        nonlocal last
        if sent == size and last != (sent, size):
            say(f"uploaded {size / 1000:,.1f} kB")
        last = (sent, size)

    if not is_live():
        yield plain
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn  # noqa: PLC0415 - costs time

    columns = ("upload", BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=error_console(), transient=True) as progress:
        task = progress.add_task("upload", total=None, visible=False)

        def drawn(sent: int, size: int) -> None:
            progress.update(task, completed=sent, total=size, visible=True)
            plain(sent, size)

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
        raise UsageError(
            "a picture needs matplotlib", help_text="pip install 'asyncgen[plot]'", code="no_extra"
        ) from error
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


@dataclass(frozen=True, slots=True)
class Extent:
    """What is going to be trained.

    Attributes:
        counted: how the tokens were.
        cost: None where the provider's model is not known.
    """

    samples: int
    counted: str
    cost: TrainingCost | None


def extent_words(extent: Extent) -> str:
    """Samples, epochs and tokens."""
    if extent.cost is None:
        return f"{extent.samples:,} samples"
    cost = extent.cost
    tokens = f"{cost.billed_tokens:,} tokens to be billed ({extent.counted})"
    return f"{extent.samples:,} samples, {cost.epochs} epochs, {tokens}"


def price_words(cost: TrainingCost | None) -> str:
    """What the job will cost."""
    if cost is None or cost.usd is None:
        return "not known"
    low, high = cost.usd
    span = f"about {usd(low)}" if low == high else f"about {usd(low)} to {usd(high)}"
    return f"{span} (an estimate, prices of {cost.as_of})" if cost.as_of else f"{span} (an estimate)"


def only_known(profile: Profile) -> str:
    """Who may tune there, where not everybody may."""
    assert profile.finetuning is not None, "the choice of a provider sees to it"
    return "" if profile.finetuning.new_customers else ", and only for those who tuned there before"


def days_left(days: int) -> str:
    """How long something lasts yet."""
    return "it is gone already" if days <= 0 else f"{days} more day{'s' if days > 1 else ''}"


def how_created(created: Created) -> str:
    """How the job came to be."""
    job = created.job
    if created.how == "new":
        return f"created {job.id}"
    if created.how == "recovered":
        return f"found {job.id}, which an earlier command created and did not live to note"
    return (
        f"the same job was created {local_time(job.created)}: {job.id}, {job.status}; "
        "none is created now (--another creates one)"
    )


def trained_cost(profile: Profile, job: TuningJob) -> str:
    """What the job cost, by the tokens that the provider counted; "" where that is free or not known."""
    if profile.finetuning and profile.finetuning.free:
        return ""
    price = load_price_list(None, os.environ).training(profile.name, job.model)
    if price is None or job.trained_tokens is None:
        return ""
    low, high = price.cost_usd(job.trained_tokens)
    return f", about {usd(low)}" if low == high else f", about {usd(low)} to {usd(high)}"


def next_step(profile: Profile, job: TuningJob) -> str:
    """What to do with the model of a job that succeeded."""
    model = job.tuned_model or "MODEL"
    step = profile.finetuning.next_step if profile.finetuning else ""
    if step:
        return f"{job.id} succeeded: {model}. Next: {step.format(model=model, job=job.id)}"
    return f"{job.id} succeeded. Ask the model: asyncgen complete {model} 'YOUR PROMPT'"


def job_failure(job: TuningJob) -> IncompleteError:
    """The end of a job that failed or was cancelled, as an error."""
    cause = None
    if job.error is not None:
        code = f"{job.error.code}: " if job.error.code else ""
        param = f" (param: {job.error.param})" if job.error.param else ""
        cause = f"{code}{job.error.message}{param}"
    happened = "was cancelled" if job.outcome == "cancelled" else "failed"
    return IncompleteError(
        f"the fine-tuning job {job.id} {happened}",
        cause=cause,
        help_text=f"asyncgen finetune events {job.id}   (what it told); the command that created it creates another",
        code=f"job_{job.outcome}",
    )


def leave_words(job_id: str, status: str) -> str:
    """What is told to somebody who stops following."""
    return (
        f"left {job_id}, which goes on: {status.replace('_', ' ')}. To follow it again: asyncgen finetune follow "
        f"{job_id}; to cancel it: asyncgen finetune cancel {job_id}"
    )


_LIVE_S = 0.2
_PLAIN_S = 30.0
_SPARK_WIDTH = 30
_LOSS_SEEN = 2000  # points that a sparkline is made of: more are not told apart


class TrainingDisplay:
    """A watcher that shows what it is told.

    Args:
        history: what was told by an earlier command; not shown again, but drawn.
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

    def told(self, event: Event) -> None:
        level = "" if event.level == "info" else f"{event.level}: "
        say(f"{local_time(event.created_at, '%H:%M:%S')}  {level}{event.message}")
        self._learn(event)

    def seen(self, job: TuningJob) -> None:
        if self._is_away:
            say("the provider answers again")
        self._is_away = False
        self._job = job

    def missed(self, error: AsyncgenError) -> None:
        if not self._is_away:
            say(f"{error.what}: {error.cause}; asking again until it works (the job goes on meanwhile)")
        self._is_away = True

    def _learn(self, event: Event) -> None:
        for point in points_of_events([event]):
            self._step = point.step
            if point.train_loss is not None:
                self._losses = [*self._losses[-_LOSS_SEEN:], point.train_loss]
        total = event.data.get("total_steps")
        self._steps = total if isinstance(total, int) else self._steps

    def line(self) -> str:
        """State, step, loss and times in one line; "" before anything is known."""
        if self._job is None:
            return ""
        parts = [f"{self._job.status.replace('_', ' ')}{', provider not reached' if self._is_away else ''}"]
        if self._step:
            parts.append(f"step {self._step}" + (f" of {self._steps}" if self._steps else ""))
        if self._losses:
            parts.append(f"loss {self._losses[-1]:.4g} {sparkline(self._losses, _SPARK_WIDTH)}")
        parts.append(self._times(self._job))
        return "  ".join(filter(None, parts))

    def _times(self, job: TuningJob) -> str:
        now = self._now()
        elapsed = duration(max(now - job.created, 0)) if job.created else ""
        if not job.estimated_finish or job.outcome:
            return elapsed
        left_s = job.estimated_finish - now
        return f"{elapsed}, about {duration(left_s)} left" if left_s > 0 else elapsed


@asynccontextmanager
async def shown(display: TrainingDisplay) -> AsyncIterator[None]:
    """Show the display while the block runs."""
    task = asyncio.create_task(_live(display) if is_live() else _plain(display))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _live(display: TrainingDisplay) -> None:
    from rich.live import Live  # noqa: PLC0415 - costs a tenth of a second
    from rich.text import Text  # noqa: PLC0415 - likewise

    console = error_console()
    with Live(Text(""), console=console, auto_refresh=False, transient=True) as live:
        while True:
            live.update(Text(display.line(), no_wrap=True, overflow="ellipsis"), refresh=True)
            await asyncio.sleep(_LIVE_S)


async def _plain(display: TrainingDisplay) -> None:
    while True:
        await asyncio.sleep(_PLAIN_S)
        if line := display.line():
            say(line)
