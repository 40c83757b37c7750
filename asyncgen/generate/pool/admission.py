"""Admission control: budget, concurrency slot, pause, rate limits, in that order.

Every outcome is reported back here and adjusts what may be sent next. What happens to the row itself is left to the
pool.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from asyncgen.generate.http.completer import NO_LIMITS, Answer, AttemptError, ErrorClass, RateLimits
from asyncgen.generate.pool.backpressure import Breaker, ConcurrencyLimit, ConcurrencySlots, Pause

if TYPE_CHECKING:
    from random import Random

    from asyncgen.generate.pool.budget import BudgetGate
    from asyncgen.generate.pool.progress import Progress
    from asyncgen.generate.pool.rate import RequestRates

_BROKEN = frozenset({"connection", "disconnected"})
_FIRST = 5  # requests to wait for before deciding that all will fail


class Ticket(msgspec.Struct, frozen=True, gc=False):
    """Permission to send one request; must be given to one of `release`, `release_answered` and `withdraw`.

    Attributes:
        body: the request body.
        number: the request's number in the order of sending, from 1.
        tokens: tokens reserved from the rate limit.
        held_usd: USD reserved from the budget.
    """

    body: bytes
    number: int
    tokens: int
    held_usd: float


class Admission:
    """Admission control for all requests of a pool.

    Args:
        rates: requests and tokens per minute.
        concurrency: maximum number of requests in flight.
        progress: its counts of requests sent and ended are raised here.
        budget: None for no budget.
        rng: randomness for jitter.
    """

    def __init__(
        self, rates: RequestRates, concurrency: int, progress: Progress, budget: BudgetGate | None, rng: Random
    ) -> None:
        self._rates = rates
        self._progress = progress
        self._budget = budget
        self._limit = ConcurrencyLimit(concurrency)
        self._is_guarded = budget is not None or rates.are_known
        if rates.are_known:
            self._limit.skip_slow_start()
        self._pause = Pause(rng)
        self._breaker = Breaker(rng)
        # While the breaker is open, one probe at a time.
        self._slots = ConcurrencySlots(lambda: 1 if self._breaker.is_open else self._limit.limit)
        self._waiting_for_rates = 0
        self._began = 0.0  # when the first request was sent
        self._first_in_flight: set[int] = set()
        self._broken: set[int] = set()  # hashes of bodies whose connection broke, to be sent again
        self._sent_again: set[int] = set()
        self._is_in_doubt = True  # no answer yet, or the last outcome was an error, or a pause is on

    @property
    def ever_succeeded(self) -> bool:
        return self._breaker.ever_succeeded

    @property
    def slots(self) -> int:
        """How many requests may be in flight now."""
        return self._limit.limit

    def pause(self, seconds: float, cause: str) -> None:
        """Send nothing for so long, as the server asked another process."""
        self._is_in_doubt = True
        self._pause_for(cause, asyncio.get_running_loop().time(), seconds)

    def acquire_at_once(self, body: bytes) -> Ticket | None:
        """A ticket without waiting, at a fraction of the cost of `acquire`; None if waiting may be necessary.

        Never used before the first answer.
        """
        if self._is_guarded or self._is_in_doubt or not self._slots.acquire_at_once():
            return None
        progress = self._progress
        progress.sent = number = progress.sent + 1
        if self._broken:
            self._note_resent(body)
        return Ticket(body, number, 0, 0.0)

    def withdraw(self, ticket: Ticket) -> None:
        """Return a ticket for which nothing was sent."""
        self._progress.sent -= 1
        self._first_in_flight.discard(ticket.number)
        self._rates.tokens.release(ticket.tokens)
        self._slots.release()
        if self._budget is not None:
            self._budget.release(ticket.held_usd)

    async def acquire(self, body: bytes) -> Ticket | None:
        """Wait for admission; None if the budget is used up. The request counts as sent when this returns."""
        held_usd = await self._budget.acquire(body) if self._budget is not None else 0.0
        if held_usd is None:
            return None
        try:
            tokens = await self._slot_and_rate(body)
        except BaseException:
            if self._budget is not None:
                self._budget.release(held_usd)
            raise
        return self._ticket(body, tokens, held_usd)

    @property
    def are_first_in_flight(self) -> bool:
        """True while one of the first `_FIRST` requests is in flight."""
        return bool(self._first_in_flight)

    def release_answered(self, ticket: Ticket, answer: Answer, among: int) -> None:
        """Release the slot of a request that was answered, and learn from the answer.

        Args:
            ticket: from `acquire`.
            answer: its outcome.
            among: requests that were in flight when the answer arrived, itself included.
        """
        self._limit.succeeded(among)
        if self._is_in_doubt:
            self._reset_backoff()
        if ticket.tokens:
            self._rates.tokens.settle(ticket.body, ticket.tokens, answer.usage)
        if answer.limits is not NO_LIMITS:
            self._learn(ticket, answer.limits, asyncio.get_running_loop().time())
        self._release_slot(ticket, answer)

    def release(self, ticket: Ticket, error: AttemptError | None) -> bool:
        """Release the slot of a request that was not answered, and learn from its error.

        Args:
            ticket: from `acquire`.
            error: its outcome; None for a request that was cancelled in flight.

        Returns:
            True if no other request can succeed either.
        """
        is_hopeless = error is not None and self._erred(ticket, error)
        self._release_slot(ticket, error)
        return is_hopeless

    def _release_slot(self, ticket: Ticket, outcome: Answer | AttemptError | None) -> None:
        self._progress.ended += 1
        self._slots.release()
        if self._first_in_flight:
            self._first_in_flight.discard(ticket.number)
        if self._budget is not None:
            self._budget.settle(ticket.body, ticket.held_usd, outcome)

    def _reset_backoff(self) -> None:
        """Reset pause and breaker: the first answer ever, or the first after errors, arrived."""
        self._pause.succeeded()
        self._breaker.succeeded()
        self._progress.trouble = ""
        self._is_in_doubt = self._pause.left_s(asyncio.get_running_loop().time()) > 0

    def _erred(self, ticket: Ticket, error: AttemptError) -> bool:
        """Learn from an error; returns True if no other request can succeed either."""
        self._is_in_doubt = True
        now = asyncio.get_running_loop().time()
        self._learn(ticket, error.limits, now)
        if error.type == "starting":  # no refusal: the server is still starting
            self._progress.note_trouble(error.message, now)
            self._pause_for(error.message, now, error.retry_after_s or 0.0)
            return False
        if error.kind is ErrorClass.WAIT:
            self._progress.rate_limited += 1
            is_new = self._limit.congested(ticket.number, self._progress.sent)
            self._pause.congested(now, error.retry_after_s, error.message, is_new=is_new)
            self._note_pause()
            if ticket.tokens and is_new:
                self._rates.tokens.refused()
            return self._pause.is_hopeless(now)
        if error.kind is ErrorClass.RETRY and error.type != "empty":
            self._progress.note_trouble(error.message or error.type, now)
            if error.type == "timeout":
                self._limit.congested(ticket.number, self._progress.sent)
            elif error.type in _BROKEN:
                self._limit.broke(ticket.number, self._progress.sent)
                self._note_broken(ticket, error)
            wait_s = self._breaker.failed(ticket.number, self._progress.sent)
            self._pause_for(error.message or error.type, now, max(wait_s, error.retry_after_s or 0.0))
            return self._breaker.is_hopeless or self._pause.is_hopeless(now)
        return False

    def _note_broken(self, ticket: Ticket, error: AttemptError) -> None:
        """Remember a row that has one more attempt only, which others shall not endanger."""
        broken = hash(ticket.body)
        if error.maybe_paid and broken not in self._sent_again:
            self._broken.add(broken)
            self._limit.hold(len(self._broken))

    def _note_resent(self, body: bytes) -> None:
        sent = hash(body)
        if sent in self._broken:
            self._broken.remove(sent)
            self._sent_again.add(sent)
            self._limit.hold(len(self._broken))

    def _pause_for(self, cause: str, now: float, wait_s: float) -> None:
        if wait_s > 0:
            self._pause.ask(now, wait_s, cause)
            self._note_pause()

    def _note_pause(self) -> None:
        self._progress.paused_until, self._progress.pause_cause = self._pause.until, self._pause.cause

    def _ticket(self, body: bytes, tokens: int, held_usd: float) -> Ticket:
        progress = self._progress
        progress.sent = number = progress.sent + 1
        progress.sent_at = asyncio.get_running_loop().time()
        if self._broken:
            self._note_resent(body)
        if number <= _FIRST:
            self._first_in_flight.add(number)
            self._began = progress.sent_at if number == 1 else self._began
        return Ticket(body, number, tokens, held_usd)

    def _learn(self, ticket: Ticket, limits: RateLimits, now: float) -> None:
        self._rates.learn(limits, ticket.body, self._progress.sent, now - self._began)
        if self._rates.are_known:
            self._is_guarded = True
            self._limit.skip_slow_start()

    async def _slot_and_rate(self, body: bytes) -> int:
        """Acquire a slot, then wait for pause and rate limits; returns the number of tokens reserved."""
        while True:
            await self._slots.acquire(is_urgent=bool(self._broken) and hash(body) in self._broken)
            try:
                tokens = await self._wait_for_rates(body)
            except BaseException:
                self._slots.release()
                raise
            if tokens is not None:
                return tokens
            self._slots.release()

    async def _wait_for_rates(self, body: bytes) -> int | None:
        """Wait for pause and rate limits; None if the slot has to be released for a new pause or a lower limit."""
        now = asyncio.get_running_loop().time
        while (left_s := self._pause.left_s(now())) > 0:  # noqa: ASYNC110 - it may have grown meanwhile
            await asyncio.sleep(left_s)
        self._waiting_for_rates += 1
        self._progress.waits_for = self._rates.as_text
        try:
            tokens = await self._rates.acquire(body)
        finally:
            self._waiting_for_rates -= 1
            if not self._waiting_for_rates:
                self._progress.waits_for = ""
        if self._pause.left_s(now()) > 0 or self._slots.are_too_many:
            self._rates.tokens.release(tokens)
            return None
        return tokens
