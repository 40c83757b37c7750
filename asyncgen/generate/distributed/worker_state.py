"""What the driver of a run knows of one worker: its rows, its last report, its speed, and how many rows it should have.

How a worker is reached is a `WorkerPort`, given by who starts it. What follows from a report is left to `dispatch`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from asyncgen.generate.distributed.messages import WorkerReport

if TYPE_CHECKING:
    from asyncgen.generate.distributed.messages import WorkSpec
    from asyncgen.generate.pool.settle import RowInWork

_BLOCK_S = 0.25
_BLOCKS = 2
_FIRST_BLOCK, _LARGEST_BLOCK = 8, 1024


class WorkerLostError(Exception):
    """A worker cannot be reached: its process, its machine or the network is gone, perhaps for a moment."""


class WorkerPort(Protocol):
    """A worker, as the driver sees it; every call may raise `WorkerLostError`."""

    async def open(self, spec: WorkSpec) -> bytes:
        """Begin to work; returns the first report."""

    async def exchange(self, order: bytes) -> bytes:
        """Send an order; returns the report that follows it."""

    async def drain(self, drops: bool) -> None:
        """Let it finish what is in flight, or drop that too."""


@dataclass(eq=False)
class WorkerState:
    """What the driver knows of a worker.

    Attributes:
        port: how it is reached.
        spec: what it is opened with.
        number: among the workers, from 0.
        starts: how often it was opened, or found again.
        session: as the worker names it; "" before it is open.
        rows: that it has, by key.
        orders: number of the last one.
        report: the last one.
        heard_at: when that came, in seconds of the driver's clock.
        is_lost: its lease ended before it was heard again, or it was never open.
        finished: rows that ended since it was measured, with their `tokens`.
        measured_at: when its speed was last measured.
        per_second: rows that it ends a second, lately; `tokens_per_second` likewise.
        paused_until: it sends nothing before, in seconds of the event loop's clock.
        told_pause_until: end of the last pause of others that it was told.
        lost_in_flight: of its requests, when it was lost.
    """

    port: WorkerPort
    spec: WorkSpec
    number: int
    starts: int = 0
    session: str = ""
    rows: dict[bytes, RowInWork] = field(default_factory=dict)
    orders: int = 0
    report: WorkerReport = WorkerReport(session="")  # noqa: RUF009 - it is frozen
    heard_at: float = 0.0
    is_lost: bool = True
    finished: int = 0
    tokens: int = 0
    measured_at: float = 0.0
    per_second: float = 0.0
    tokens_per_second: float = 0.0
    paused_until: float = 0.0
    told_pause_until: float = 0.0
    lost_in_flight: int = 0

    @property
    def place(self) -> str:
        """Its number and its machine, for people."""
        return f"worker {self.number + 1} on {self.report.place}"

    @property
    def name(self) -> str:
        return f"{self.number}.{self.starts}"

    @property
    def most_in_flight(self) -> int:
        """No more of its rows can have been sent without an answer that is written."""
        return min(len(self.rows), self.spec.concurrency)

    def room(self, most_per_second: float | None) -> int:
        """How many more rows it should have.

        Args:
            most_per_second: requests by its share of the rate; None for no limit.
        """
        report = self.report
        in_flight = report.counts.sent - report.counts.ended
        if most_per_second is not None:
            block = max(math.ceil(min(most_per_second * _BLOCK_S, self.spec.concurrency)), 1)
            return in_flight + _BLOCKS * block - len(self.rows)
        block = min(max(math.ceil(self.per_second * _BLOCK_S), _FIRST_BLOCK), _LARGEST_BLOCK)
        return max(in_flight, report.slots) + _BLOCKS * block - len(self.rows)

    def measure(self, now: float) -> None:
        """Follow how much it answers, a few times a second."""
        span_s = now - self.measured_at
        if span_s < _BLOCK_S:
            return
        if self.measured_at:
            self.per_second += (self.finished / span_s - self.per_second) / 2
            self.tokens_per_second += (self.tokens / span_s - self.tokens_per_second) / 2
        self.measured_at, self.finished, self.tokens = now, 0, 0
