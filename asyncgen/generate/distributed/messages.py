"""What the driver of a run and the workers on other machines tell each other.

One exchange: the driver's order carries rows, a lease and what it has written; the worker's report carries what ended
since. Both are bytes (MessagePack), so that what carries them need not know them. No message holds a key.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from asyncgen.errors import AsyncgenError, AuthError, QuotaError, UsageError
from asyncgen.generate.http.completer import NO_LIMITS, AttemptError, RateLimits
from asyncgen.job.requests import GridForm
from asyncgen.job.tables import Row
from asyncgen.providers.price import TokenRates
from asyncgen.providers.profiles import ProviderChoice
from asyncgen.run.records import Failure, Usage
from asyncgen.run.state import RowAttempts


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkSpec:
    """What a worker is opened with; pickled on its way to it, and without a key: the worker finds that on its machine.

    Attributes:
        form: makes the requests of rows.
        choice: the provider that answers.
        addresses: of its servers.
        key_file: path of a file that holds the key, on the worker's machine; None for the provider's variable there.
        concurrency: maximum number of requests in flight.
        timeout_s: of one attempt; None to learn it.
        part: of what servers tell of their limits, before the driver has dealt them.
        requests_per_minute: of the whole run, where the user set it.
        tokens_per_minute: likewise.
        has_budget: money is leased.
        rates: prices for the budget; None for an unknown price.
        must_know: without prices, an answer of unknown cost ends the run.
        has_succeeded: an earlier invocation had answers.
    """

    form: GridForm
    choice: ProviderChoice
    addresses: tuple[str, ...]
    key_file: str | None
    concurrency: int
    timeout_s: float | None = None
    part: float = 1.0
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    has_budget: bool = False
    rates: TokenRates | None = None
    must_know: bool = False
    has_succeeded: bool = False


class SentRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A row on its way to a worker; its body and key are made there from the values."""

    index: int
    repeat: int
    values: Row
    tried: RowAttempts | None = None


class WorkOrder(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """From the driver to a worker.

    Attributes:
        session: of the worker, from `WorkerReport.session`; another one means that it was started anew.
        number: counted from 1; an order that comes twice is followed once. It is the number of its lease.
        written: number of the last report that is in the journal.
        share: of the rates.
        usd: that the worker may spend in all; None for no budget.
        until: end of the lease, in seconds of the worker's clock.
        requests_per_minute: of the whole run; None for no limit, or for one that is not known.
        tokens_per_minute: likewise.
        rows: to be answered.
        is_last: there will be no more rows.
        pause_s: the server asked another worker to wait so long.
        pause_cause: in its words.
    """

    session: str
    number: int
    written: int
    share: float
    usd: float | None
    until: float
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    rows: tuple[SentRow, ...] = ()
    is_last: bool = False
    pause_s: float = 0.0
    pause_cause: str = ""


class WorkerCounts(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A worker's counts since it began, by the names of `Progress`."""

    sent: int = 0
    ended: int = 0
    retries: int = 0
    rate_limited: int = 0
    maybe_paid_twice: int = 0
    check_failures: int = 0
    usable: int = 0
    failed_checks: dict[str, int] = {}
    unusable: dict[str, int] = {}
    failures: dict[str, int] = {}
    remedies: dict[str, str] = {}


class Told(msgspec.Struct, frozen=True, array_like=True):
    """An error for the user, on its way home."""

    kind: str
    what: str
    cause: str | None
    help_text: str | None
    code: str

    def error(self, place: str = "") -> AsyncgenError:
        """The error itself; `place` says where it came from."""
        kinds = {each.__name__: each for each in (UsageError, AuthError, QuotaError)}
        what = f"{place}: {self.what}" if place else self.what
        return kinds.get(self.kind, AsyncgenError)(what, cause=self.cause, help_text=self.help_text, code=self.code)


def told(error: AsyncgenError) -> Told:
    """An error in a form that can be sent."""
    return Told(type(error).__name__, error.what, error.cause, error.help_text, error.code)


class WorkerEnd(msgspec.Struct, frozen=True, array_like=True):
    """How a worker ended.

    Attributes:
        reason: the value of a `StopReason`; None for the end of its rows, or a reason without a name.
        error: an error that every other row would have, too.
        refused: a request that can never be sent.
        dropped: requests cancelled in flight.
    """

    reason: str | None = None
    error: AttemptError | None = None
    refused: Told | None = None
    dropped: int = 0


class WorkerReport(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """From a worker to the driver.

    Attributes:
        session: new each time that the worker is started.
        place: the worker's machine, for people.
        number: counted from 1; what it carries comes again until an order says that it is written.
        order: number of the last order that was followed; its lease is in force.
        clock: seconds of the worker's clock.
        lines: records as they are to stand in the journal.
        settled: key and usage of each of them, in their order.
        failed: rows given up on, with what their attempts of this invocation were charged.
        postponed: key, attempts and usage of rows that have to wait for another invocation.
        counts: of the worker.
        slots: how many requests may be in flight now.
        waits: requests wait for the rates.
        limits: that the server told last.
        paused_s: seconds for which nothing is sent.
        pause_cause: why.
        trouble: the error of the last attempts; "" after an answer.
        spent_usd: charged, or likely to be.
        in_flight_usd: held for requests without an outcome.
        unanswered_usd: of `spent_usd`, for attempts without an answer.
        next_usd: the most that the next request may cost.
        is_blind: an answer of unknown cost came, and no price is known.
        said: lines for people.
        end: how it ended; None while it works.
    """

    session: str
    place: str = ""
    number: int = 0
    order: int = 0
    clock: float = 0.0
    lines: bytes = b""
    settled: tuple[tuple[bytes, Usage], ...] = ()
    failed: tuple[tuple[Failure, Usage], ...] = ()
    postponed: tuple[tuple[bytes, RowAttempts, Usage], ...] = ()
    counts: WorkerCounts = WorkerCounts()
    slots: int = 0
    waits: bool = False
    limits: RateLimits = NO_LIMITS
    paused_s: float = 0.0
    pause_cause: str = ""
    trouble: str = ""
    spent_usd: float = 0.0
    in_flight_usd: float = 0.0
    unanswered_usd: float = 0.0
    next_usd: float = 0.0
    is_blind: bool = False
    said: tuple[str, ...] = ()
    end: WorkerEnd | None = None


encode = msgspec.msgpack.Encoder().encode
decode_order = msgspec.msgpack.Decoder(WorkOrder).decode
decode_report = msgspec.msgpack.Decoder(WorkerReport).decode
