"""May the next request go: money, a place, no pause, and the rates' leave.

Owns the order in which these are asked for, and what the outcomes of requests say about the next ones. Does not know
rows, and decides nothing about them.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import Protocol

import msgspec

from asyncgen.generate.http.completer import NO_LIMITS, Answer, AttemptError, ErrorClass, RateLimits
from asyncgen.generate.pool.backpressure import Breaker, Pause
from asyncgen.generate.pool.concurrency import ConcurrencyLimit, Places
from asyncgen.generate.pool.progress import Progress
from asyncgen.generate.pool.rate import Rates

_FIRST = 5  # requests whose outcomes tell whether all will fail alike


class Budget(Protocol):
    """Money: USD held for an attempt (None when there is not enough), and what it came to."""

    async def take(self, body: bytes) -> float | None: ...

    def settle(self, body: bytes, held_usd: float, outcome: Answer | AttemptError | None) -> None: ...

    def give_back(self, held_usd: float) -> None: ...


class Ticket(msgspec.Struct, frozen=True, gc=False):
    """Leave to send one request; `Admission.leave` takes it back.

    Attributes:
        number: how many requests were sent, this one included.
        tokens: reserved of the rate.
        held_usd: of the budget.
    """

    body: bytes
    number: int
    tokens: int
    held_usd: float


class Admission:
    """The door that every request goes through.

    Args:
        rates: requests and tokens a minute.
        concurrency: the most requests in flight.
        progress: its counts of requests sent and in flight are raised here.
        budget: None where money is no matter.
        rng: for jitter.
    """

    def __init__(self, rates: Rates, concurrency: int, progress: Progress, budget: Budget | None, rng: Random) -> None:
        self._rates = rates
        self._progress = progress
        self._budget = budget
        self._limit = ConcurrencyLimit(concurrency)
        self._is_guarded = budget is not None or rates.are_known
        if rates.are_known:
            self._limit.open_up()
        self._pause = Pause(rng)
        self._breaker = Breaker(rng)
        # A broken service is tried by one request at a time.
        self._places = Places(lambda: 1 if self._breaker.is_open else self._limit.limit)
        self._began = 0.0  # when the first request went
        self._first_in_flight: set[int] = set()
        self._is_in_doubt = True  # nothing came yet, or an error came last, or a pause is not over

    @property
    def ever_succeeded(self) -> bool:
        return self._breaker.ever_succeeded

    def enter_at_once(self, body: bytes) -> Ticket | None:
        """As `enter` where there is nothing to wait for, at a fraction of its cost; None where there may be.

        The first requests of all never go this way: nothing came yet.
        """
        if self._is_guarded or self._is_in_doubt or not self._places.take_at_once():
            return None
        progress = self._progress
        progress.sent = number = progress.sent + 1
        return Ticket(body, number, 0, 0.0)

    def take_back(self) -> None:
        """Nothing was sent for a ticket of `enter_at_once`."""
        self._progress.sent -= 1
        self._places.give_back()

    async def enter(self, body: bytes) -> Ticket | None:
        """Wait until the request may go, which counts as sent from the return on; None when the budget is used up."""
        held_usd = await self._budget.take(body) if self._budget is not None else 0.0
        if held_usd is None:
            return None
        try:
            tokens = await self._turn(body)
        except BaseException:
            if self._budget is not None:
                self._budget.give_back(held_usd)
            raise
        return self._ticket(body, tokens, held_usd)

    @property
    def are_first_in_flight(self) -> bool:
        """Is one of the very first requests still in flight?"""
        return bool(self._first_in_flight)

    def leave(self, ticket: Ticket, outcome: Answer | AttemptError | None, *, among: int = 0) -> bool:
        """The request ended: learn from what it came to, and give its place back.

        Args:
            ticket: what `enter` gave.
            outcome: None for a request that was broken off.
            among: requests that were in flight when it came, itself included.

        Returns:
            Whether there is no hope for any other request either.
        """
        is_hopeless = False
        if isinstance(outcome, Answer):
            self._limit.succeeded(among)
            if self._is_in_doubt:
                self._trust_again()
            if ticket.tokens:
                self._rates.tokens.settle(ticket.body, ticket.tokens, outcome.usage)
            if outcome.limits is not NO_LIMITS:
                self._learn(ticket, outcome.limits, asyncio.get_running_loop().time())
        elif outcome is not None:
            is_hopeless = self._erred(ticket, outcome)
        self._progress.ended += 1
        self._places.give_back()
        if self._first_in_flight:
            self._first_in_flight.discard(ticket.number)
        if self._budget is not None:
            self._budget.settle(ticket.body, ticket.held_usd, outcome)
        return is_hopeless

    def _trust_again(self) -> None:
        """An answer came, after none or after errors."""
        self._pause.succeeded()
        self._breaker.succeeded()
        self._is_in_doubt = self._pause.left_s(asyncio.get_running_loop().time()) > 0

    def _erred(self, ticket: Ticket, error: AttemptError) -> bool:
        """Learn from an error; returns as `leave` does."""
        self._is_in_doubt = True
        now = asyncio.get_running_loop().time()
        self._learn(ticket, error.limits, now)
        if error.kind is ErrorClass.WAIT:
            is_new = self._limit.congested(ticket.number, self._progress.sent)
            self._pause.congested(now, error.retry_after_s, is_new=is_new)
            self._progress.paused_until = self._pause.until
            if ticket.tokens and is_new:
                self._rates.tokens.refused()
            return self._pause.is_hopeless(now)
        if error.kind is ErrorClass.RETRY and error.type != "empty":
            if error.type == "timeout":
                self._limit.congested(ticket.number, self._progress.sent)
            wait_s = self._breaker.failed(ticket.number, self._progress.sent)
            self._pause.ask(now, max(wait_s, error.retry_after_s or 0.0))
            return self._breaker.is_hopeless or self._pause.is_hopeless(now)
        return False

    def _ticket(self, body: bytes, tokens: int, held_usd: float) -> Ticket:
        progress = self._progress
        progress.sent = number = progress.sent + 1
        if number <= _FIRST:
            self._first_in_flight.add(number)
            self._began = asyncio.get_running_loop().time() if number == 1 else self._began
        return Ticket(body, number, tokens, held_usd)

    def _learn(self, ticket: Ticket, limits: RateLimits, now: float) -> None:
        self._rates.learn(limits, ticket.body, self._progress.sent, now - self._began)
        if self._rates.are_known:
            self._is_guarded = True
            self._limit.open_up()

    async def _turn(self, body: bytes) -> int:
        """Take a place and the rates' leave; returns the tokens reserved."""
        while True:
            await self._places.take()
            try:
                tokens = await self._leave_to_send(body)
            except BaseException:
                self._places.give_back()
                raise
            if tokens is not None:
                return tokens
            self._places.give_back()

    async def _leave_to_send(self, body: bytes) -> int | None:
        """Wait for the pause and the rates; None when things changed meanwhile and the place is to be given back."""
        now = asyncio.get_running_loop().time
        while (left_s := self._pause.left_s(now())) > 0:  # noqa: ASYNC110 - it may have grown meanwhile
            await asyncio.sleep(left_s)
        tokens = await self._rates.acquire(body)
        if self._pause.left_s(now()) > 0 or self._places.are_too_many:
            self._rates.tokens.give_back(tokens)
            return None
        return tokens
