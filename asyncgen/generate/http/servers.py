"""Load balancing over several servers of one provider.

A request goes to the server with the fewest requests in flight, among those that are healthy and below their rate
limits. A server that fails repeatedly is taken out for a while and comes back with a single probe. A failed request
goes to another server next: at once if the first one surely did nothing, otherwise when the pool retries it. HTTP is
left to the completers of the servers.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from asyncgen.generate.http.completer import NO_LIMITS, Answer, AttemptError, Completer, ErrorClass, RateLimits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

_MOST_FAILURES = 3
_FIRST_ABSENCE_S, _LONGEST_ABSENCE_S = 5.0, 60.0
_REST_S = 1.0  # if a server asks to back off and names no time
_LONGEST_SLEEP_S = 5.0
_REMEMBERED = 10_000
_MOMENT_S = 0.001  # margin for rounding
_BURST_S = 6.0  # seconds of a limit per minute that may be sent at once


@dataclass
class _Bucket:
    """The remaining allowance under a limit per minute, refilled over time."""

    a_minute: float
    left: float
    at_s: float

    def fill(self, now_s: float) -> None:
        most = max(self.a_minute * _BURST_S / 60, 1.0)
        self.left = min(self.left + (now_s - self.at_s) * self.a_minute / 60, most)
        self.at_s = now_s

    def wait_s(self) -> float:
        return 0.0 if self.left >= 1 else (1 - self.left) * 60 / self.a_minute + _MOMENT_S


@dataclass(eq=False)
class _Server:
    """One server: its health, and its rate limits.

    Attributes:
        failures: failures since its last answer.
        absences: how often in sequence it was taken out.
        absent_until_s: end of the time for which it is taken out; then it gets one probe.
        resting_until_s: end of the time for which it asked to back off.
    """

    name: str
    completer: Completer
    in_flight: int = 0
    asked: int = 0
    failures: int = 0
    absences: int = 0
    absent_until_s: float = 0.0
    resting_until_s: float = 0.0
    requests: _Bucket | None = None
    tokens: _Bucket | None = None

    def wait_s(self, now_s: float) -> float:
        """Seconds until it may be asked; 0 for now."""
        for bucket in filter(None, (self.requests, self.tokens)):
            bucket.fill(now_s)
        waits = [bucket.wait_s() for bucket in (self.requests, self.tokens) if bucket is not None]
        return max(self.absent_until_s - now_s, self.resting_until_s - now_s, *waits, 0.0)

    @property
    def is_tried(self) -> bool:
        """True while a probe is in flight."""
        return self.absences > 0 and self.in_flight > 0

    def learn(self, limits: RateLimits, share: float, now_s: float) -> None:
        self.requests = _learnt(self.requests, limits.requests_per_minute, share, now_s)
        self.tokens = _learnt(self.tokens, limits.tokens_per_minute, share, now_s)


def _learnt(known: _Bucket | None, a_minute: float | None, share: float, now_s: float) -> _Bucket | None:
    if a_minute is None:
        return known
    a_minute *= share
    if known is None:
        return _Bucket(a_minute, max(a_minute * _BURST_S / 60, 1.0), now_s)
    known.a_minute = a_minute
    return known


@dataclass
class ServerSpread:
    """A completer over several servers.

    Args:
        servers: completers, each with a name for messages.
        clock: monotonic seconds.
        sleep: waits for a number of seconds.
        say: called when a server is taken out, or is back.
        share: this process's part of the limits that servers tell.
    """

    servers: Sequence[tuple[str, Completer]]
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    say: Callable[[str], None] = lambda _: None
    share: float = 1.0
    _failed_at: dict[int, _Server] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._all = [_Server(name, completer) for name, completer in self.servers]

    async def complete(self, body: bytes) -> Answer | AttemptError:
        """Make one attempt; at another server too, if the first one surely did nothing."""
        row = hash(body)
        tried: list[_Server] = []
        error: AttemptError | None = None
        while (server := await self._next(tried, self._failed_at.get(row))) is not None:
            if isinstance(server, AttemptError):
                return server
            outcome = await self._ask(server, body)
            if isinstance(outcome, Answer):
                self._failed_at.pop(row, None)
                return outcome
            if outcome.kind is ErrorClass.ROW:
                return outcome
            self._remember(row, server)
            tried.append(server)
            if outcome.maybe_paid:
                return outcome
            error = outcome
        assert error is not None, "the first choice always finds a server"
        if error.kind is not ErrorClass.WAIT:
            return error
        now_s = self.clock()
        return msgspec.structs.replace(error, retry_after_s=min(server.wait_s(now_s) for server in self._all))

    async def _next(self, tried: Sequence[_Server], failed_at: _Server | None) -> _Server | AttemptError | None:
        """The next server to try; None if all available ones were tried; an error if the wait is long."""
        while True:
            now_s = self.clock()
            waits = {index: server.wait_s(now_s) for index, server in enumerate(self._all)}
            ready = [
                server
                for index, server in enumerate(self._all)
                if not waits[index] and server not in tried and not server.is_tried
            ]
            if ready:
                return min(ready, key=lambda server: (server is failed_at, server.in_flight, server.asked))
            if tried:
                return None
            present = [waits[index] for index, server in enumerate(self._all) if server.absent_until_s <= now_s]
            if not any(present):  # all are taken out or probed: ask the one that is back first
                return min(self._all, key=lambda server: (server.absent_until_s, server.in_flight))
            wait_s = min(filter(None, present))
            if wait_s > _LONGEST_SLEEP_S:
                text = "every server asks to wait"
                return AttemptError(kind=ErrorClass.WAIT, type="rate_limit", message=text, retry_after_s=wait_s)
            await self.sleep(wait_s)

    async def _ask(self, server: _Server, body: bytes) -> Answer | AttemptError:
        server.in_flight += 1
        server.asked += 1
        if server.requests is not None:
            server.requests.left -= 1
        try:
            outcome = await server.completer.complete(body)
        finally:
            server.in_flight -= 1
        server.learn(outcome.limits, self.share, self.clock())
        if server.tokens is not None:
            server.tokens.left -= outcome.usage.prompt_tokens + outcome.usage.completion_tokens
        self._judge(server, outcome)
        return msgspec.structs.replace(outcome, limits=NO_LIMITS)  # one server's limits are not those of all

    def _judge(self, server: _Server, outcome: Answer | AttemptError) -> None:
        """Update a server's health by an outcome."""
        now_s = self.clock()
        if isinstance(outcome, Answer) or outcome.kind is ErrorClass.ROW:
            if server.absences:
                self.say(f"{server.name} responds again")
            server.failures = server.absences = 0
        elif outcome.kind is ErrorClass.WAIT:
            server.resting_until_s = now_s + (outcome.retry_after_s or _REST_S)
        else:
            server.failures += 1
            if server.failures >= _MOST_FAILURES or server.absences or outcome.kind is ErrorClass.STOP:
                self._leave_out(server, outcome, now_s)

    def _leave_out(self, server: _Server, error: AttemptError, now_s: float) -> None:
        if not server.absences:
            self.say(f"{server.name} is not used for now: {error.message or error.type}")
        absence_s = min(_FIRST_ABSENCE_S * 2.0 ** min(server.absences, 10), _LONGEST_ABSENCE_S)
        server.absences += 1
        server.absent_until_s = now_s + absence_s

    def _remember(self, row: int, server: _Server) -> None:
        """Note that the row's next attempt goes to another server; of too many rows the oldest is forgotten."""
        self._failed_at.pop(row, None)
        self._failed_at[row] = server
        if len(self._failed_at) > _REMEMBERED:
            del self._failed_at[next(iter(self._failed_at))]
