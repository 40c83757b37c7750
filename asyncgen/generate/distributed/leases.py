"""What the driver of a run deals out: leases of its limits, and rows to each worker. Pure: no I/O, times are arguments.

A lease gives its holder a share of the run's rates and an amount of money, until a time. The book keeps every lease
that may still be in force: one that was sent and has not ended, unless its holder has told that a later one is in its
place. Those of a holder that is gone count too, until they end. A share is given only out of what they all leave free,
so that the holders together never pass a limit, whatever is lost on the way.

Of a worker, the driver knows its rows, its last report, its speed, and how many rows it should have. How a worker is
reached is a `WorkerPort`, given by who starts it. What follows from a report is left to `dispatch`, sending leases and
keeping to one to `dispatch` and `row_worker`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from asyncgen.generate.distributed.messages import WorkerReport

if TYPE_CHECKING:
    from asyncgen.generate.distributed.messages import WorkSpec
    from asyncgen.generate.pool.settle import RowInWork


_STEADY = 0.1  # a share that would change by less stays as it is: a change costs the holder what its bucket has saved
_ROOM = 1.5  # times what a holder uses, where it does not wait for more
_LEAST = 0.02
_LEAST_PER_SECOND = 1.2  # a smaller share of the rate would have a burst beyond its size
_REQUESTS_OF_A_SHARE = 2  # likewise of the tokens of a minute
_SECONDS = 60.0
_NOTHING_USD = 1e-9  # sums of fractions leave some dust
_BLOCK_S = 0.25
_BLOCKS = 2
_FIRST_BLOCK, _LARGEST_BLOCK = 8, 1024


@dataclass(frozen=True, slots=True)
class Lease:
    """What a holder may use until a time.

    Attributes:
        number: later ones of a holder have higher numbers.
        share: of the rates of the run, from 0 to 1.
        usd: that it may spend in all since it began; None for no budget.
        ends: seconds of the dealer's clock; the holder's own end is not later.
    """

    number: int
    share: float
    usd: float | None
    ends: float


@dataclass(frozen=True, slots=True)
class Need:
    """What a holder last told of itself.

    Attributes:
        waits: its requests wait for the rates; true before anything is known.
        is_idle: it has no rows, and there are none for it.
        used: the share of the rates that it used lately.
        spent_usd: charged since it began, or likely to be.
        in_flight_usd: held for requests without an outcome.
        wants_usd: the most that the rest of its rows may cost.
        next_usd: the most that its next request may cost.
    """

    waits: bool = True
    is_idle: bool = False
    used: float = 0.0
    spent_usd: float = 0.0
    in_flight_usd: float = 0.0
    wants_usd: float = 0.0
    next_usd: float = 0.0


@dataclass
class _Holder:
    standing: list[Lease] = field(default_factory=list)  # that it may have kept to since it was heard
    need: Need = Need()
    is_lost: bool = False
    is_stuck: bool = False  # no money is left for its next request
    final_usd: float = 0.0  # the most that a lost one has spent

    def share(self, now: float) -> float:
        return max((lease.share for lease in self.standing if lease.ends > now), default=0.0)

    def usd(self, now: float) -> float:
        """The most that it may have spent, or may still spend.

        The end of a lease ends the spending, and tells nothing of how much was spent: until the holder is heard again,
        or known to be gone, all of the grant may be.
        """
        if self.is_lost and not any(lease.ends > now for lease in self.standing):
            return self.final_usd
        return max(self.granted_usd, self.need.spent_usd + self.need.in_flight_usd, self.final_usd)

    @property
    def granted_usd(self) -> float:
        return max((lease.usd or 0.0 for lease in self.standing), default=0.0)


class LeaseBook:
    """All leases of a run.

    Args:
        lasts_s: seconds that a lease lasts from when its holder was last heard.
        budget_usd: that all holders together may spend; None for no budget.
    """

    def __init__(self, *, lasts_s: float, budget_usd: float | None) -> None:
        self.lasts_s = lasts_s
        self._budget_usd = budget_usd
        self._holders: dict[str, _Holder] = {}

    def enter(self, name: str) -> None:
        """Add a holder, which has no lease yet."""
        self._holders[name] = _Holder()

    def heard(self, name: str, number: int, need: Need) -> None:
        """Note what a holder told.

        Args:
            name: of the holder.
            number: of the lease that it keeps to; those before it are over.
            need: what it told of itself.
        """
        holder = self._holders[name]
        holder.standing = [lease for lease in holder.standing if lease.number >= number]
        holder.need = need

    def lose(self, name: str, most_usd: float = 0.0) -> float:
        """A holder is gone. Its leases stand until they end.

        Args:
            name: of the holder.
            most_usd: that it has spent, by what is known of it.

        Returns:
            The most that it has spent in the end, by its leases too.
        """
        holder = self._holders[name]
        holder.is_lost = True
        holder.final_usd = max(min(most_usd, holder.granted_usd), holder.need.spent_usd)
        return holder.final_usd

    def lease(self, name: str, number: int, heard_at: float, now: float, *, most_holders: int) -> Lease:
        """A new lease for a holder, out of what the others leave free.

        Args:
            name: of the holder.
            number: above those of its earlier leases.
            heard_at: when it was last heard; the lease lasts from then on.
            now: the present time.
            most_holders: so many may have a share; less than one request a second each would be no use to anybody.
        """
        holder = self._holders[name]
        share = self._share(name, holder, now, most_holders)
        lease = Lease(number, share, self._usd(name, holder, now), heard_at + self.lasts_s)
        holder.standing.append(lease)
        return lease

    def share_in_force(self, now: float) -> float:
        """The sum of all shares that may be in use."""
        return sum(holder.share(now) for holder in self._holders.values())

    def most_usd(self, now: float) -> float:
        """The most that all holders together may have spent, or may still spend by their leases."""
        return sum(holder.usd(now) for holder in self._holders.values())

    def is_spent(self, now: float) -> bool:
        """True if no holder can be given the money for another request, now or when leases end."""
        if self._budget_usd is None or any(each.is_lost and each.usd(now) > each.final_usd for each in self._all):
            return False
        present = [each for each in self._all if not each.is_lost]
        return any(each.is_stuck for each in present) and all(each.is_stuck or each.need.is_idle for each in present)

    @property
    def _all(self) -> list[_Holder]:
        return list(self._holders.values())

    def _others(self, name: str) -> list[_Holder]:
        return [holder for other, holder in self._holders.items() if other != name]

    def _share(self, name: str, holder: _Holder, now: float, most_holders: int) -> float:
        wanted = {other: self._demand(each) for other, each in self._holders.items() if not each.is_lost}
        with_share = sorted(wanted, key=lambda other: (not wanted[other], not self._holders[other].share(now)))
        fair = fair_shares({other: wanted[other] for other in with_share[: max(most_holders, 1)]}).get(name, 0.0)
        free = max(1.0 - sum(other.share(now) for other in self._others(name)), 0.0)
        share, current = min(fair, free), holder.standing[-1].share if holder.standing else 0.0
        if share and abs(share - current) <= _STEADY * current:
            return min(current, free)
        return share

    def _demand(self, holder: _Holder) -> float:
        if holder.need.is_idle:
            return 0.0
        return math.inf if holder.need.waits else holder.need.used * _ROOM + _LEAST

    def _usd(self, name: str, holder: _Holder, now: float) -> float | None:
        if self._budget_usd is None:
            return None
        need = holder.need
        spent = need.spent_usd + need.in_flight_usd
        free = self._budget_usd - sum(other.usd(now) for other in self._others(name)) - spent
        lacks = free <= 0 or free < need.next_usd
        holder.is_stuck = lacks and need.in_flight_usd < _NOTHING_USD
        # Who cannot pay for a request with all that is free gives back what it has: it may do for another holder.
        return spent if lacks else spent + min(free, max(need.wants_usd, need.next_usd))


def fair_shares(wanted: Mapping[str, float]) -> dict[str, float]:
    """Divide 1 by need: nobody gets more than it wants while others want more, and what is left goes to all alike.

    Args:
        wanted: holder to the share that it can use; infinite for one that takes what it gets.
    """
    shares: dict[str, float] = dict.fromkeys(wanted, 0.0)
    hungry = [name for name in sorted(wanted, key=wanted.__getitem__) if wanted[name] > 0]
    left = 1.0
    for place, name in enumerate(hungry):
        shares[name] = min(wanted[name], left / (len(hungry) - place))
        left -= shares[name]
    for name in hungry if left > 0 else ():
        shares[name] += left / len(hungry)
    return shares


def most_holders(count: int, requests_a_minute: float | None, tokens_a_minute: float | None, of_one: int) -> int:
    """So many of `count` holders may have a share of the rates; a slow rate is no use to many.

    Args:
        count: how many there are.
        requests_a_minute: of all together; None for no limit.
        tokens_a_minute: likewise.
        of_one: tokens of a request.

    Returns:
        At least 1.
    """
    most = count
    if requests_a_minute is not None:
        most = min(most, int(requests_a_minute / _SECONDS / _LEAST_PER_SECOND))
    if tokens_a_minute is not None:
        most = min(most, int(tokens_a_minute / max(of_one, 1) / _REQUESTS_OF_A_SHARE))
    return max(most, 1)


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
