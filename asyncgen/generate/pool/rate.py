"""Rate limits: requests and tokens per minute, used in full and never exceeded.

Two leaky buckets over aiolimiter. A bucket of a whole minute would let twice the rate through in its first minute; a
bucket of one request would lose the event loop's delay at every turn. Ours hold a fraction of a second: enough to catch
up after a late wake-up, too little for a burst. Where a limit comes from is left to the caller.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from asyncgen.errors import UsageError
from asyncgen.providers.tokens import TokenEstimate
from asyncgen.terminal import counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiolimiter import AsyncLimiter

    from asyncgen.generate.http.completer import RateLimits
    from asyncgen.run.records import Usage

_MINUTE_S = 60.0
_BURST_S = 0.1  # an event loop is seldom this late
# Slow rates need a larger burst, or the first requests trickle; servers that refill steadily allow about a second's.
_SLOW_BURST_S = 0.9
_SLOW_BURST = 9.0
_BURST_TOKENS_S = 0.9
_BYTES_PER_TOKEN = 4
_GUESSED_OUTPUT = 1000
_SHARE_CUT, _SHARE_GROWTH = 0.25, 0.001


class RatePace:
    """A rate limit for any unit, shared by all waiters, first come, first served.

    A window of one second holds at most the rate plus the burst. Waiters are in a queue of our own, and only the first
    one waits at the bucket: so a new rate applies to all at once, and small amounts do not overtake a large one for
    ever.

    Args:
        per_minute: the limit; None for none until one is learnt.
        burst_of: maximum burst for a rate per second.

    Attributes:
        per_minute: the present limit.
    """

    def __init__(self, per_minute: float | None, burst_of: Callable[[float], float]) -> None:
        self.per_minute = per_minute
        self._burst_of = burst_of
        self._bucket = None if per_minute is None else self._fresh_bucket(per_minute)
        self._taken_before = 0.0
        self._queue = asyncio.Lock()

    @property
    def burst(self) -> float:
        """The maximum burst."""
        return self._bucket.max_rate if self._bucket else float("inf")

    def use_up(self) -> None:
        """Count the whole burst as used."""
        if self._bucket is not None:
            self._taken_before = self._bucket.max_rate

    def learn(self, per_minute: float, sent: float, seconds: float) -> None:
        """Set a limit that became known during the run.

        Args:
            per_minute: the limit.
            sent: amount sent so far without a limit.
            seconds: since the first of it. What a bucket of this rate would still hold counts as used; if there was
                another limit before, the whole burst counts as used.
        """
        if per_minute == self.per_minute:
            return
        held = sent - seconds * per_minute / _MINUTE_S if self.per_minute is None else float("inf")
        self.per_minute = per_minute
        self._bucket = self._fresh_bucket(per_minute)
        self._taken_before = min(max(held, 0.0), self._bucket.max_rate)

    async def acquire(self, amount: float) -> None:
        """Wait until `amount` may be sent; an amount above the burst is acquired in parts."""
        if self._bucket is None:
            return
        async with self._queue:
            if self._taken_before:
                taken, self._taken_before = self._taken_before, 0.0
                await self._bucket.acquire(taken)  # it is empty, so this fills it without waiting
            while amount > 0:
                part = min(amount, self._bucket.max_rate)
                await self._bucket.acquire(part)
                amount -= part

    def _fresh_bucket(self, per_minute: float) -> AsyncLimiter:
        from aiolimiter import AsyncLimiter  # noqa: PLC0415 - slow to import; many servers have no limits

        per_second = per_minute / _MINUTE_S
        burst = self._burst_of(per_second)
        return AsyncLimiter(burst, burst / per_second)


class TokenRate:
    """Tokens per minute: reserved before a request, corrected after its answer.

    Args:
        per_minute: the limit; None for none until one is learnt.
        max_output_tokens: maximum length of an answer, if the parameters limit it.
    """

    def __init__(self, per_minute: float | None, max_output_tokens: int | None) -> None:
        self.pace = RatePace(per_minute, _token_burst)
        self._max_output_tokens = max_output_tokens
        self._estimate = TokenEstimate()
        self._outputs = TokenEstimate()  # of answers, if no parameter limits them
        self._share_given_back = 1.0  # of unused reservations
        self._owed = 0.0  # tokens still to take from the bucket; negative if too many were taken
        self._turn = asyncio.Lock()

    def reservation(self, body_bytes: int) -> int:
        """Tokens to reserve for a request of `body_bytes`: prompt estimate, corrected by counts so far, plus answer."""
        output = self._max_output_tokens
        output = self._outputs.corrected(_GUESSED_OUTPUT) if output is None else output
        return self._estimate.corrected(body_bytes // _BYTES_PER_TOKEN) + output

    def at_least(self, body_bytes: int) -> int:
        """Tokens that a request takes for certain, as far as is known; without a guess about the answer."""
        return self._estimate.corrected(body_bytes // _BYTES_PER_TOKEN) + (self._max_output_tokens or 0)

    def exceeds_a_minute(self, body_bytes: Callable[[], int]) -> bool:
        """Whether the request is larger than the limit, and would wait forever.

        Args:
            body_bytes: the request's size; only called if there is a limit, since the longest of many rows takes long
                to find.
        """
        return self.pace.per_minute is not None and self.at_least(body_bytes()) > self.pace.per_minute

    async def acquire(self, body: bytes) -> int:
        """Wait for the request's tokens; returns the number reserved."""
        if self.pace.per_minute is None:
            return 0
        async with self._turn:
            reserved = self.reservation(len(body))
            self._owed += reserved
            try:
                while self._owed > 0:  # in parts, since answers that arrive meanwhile change it
                    part = min(self._owed, self.pace.burst)
                    self._owed -= part
                    try:
                        await self.pace.acquire(part)
                    except BaseException:
                        self._owed += part  # the wait was cancelled before these were taken
                        raise
            except BaseException:
                self.release(reserved)
                raise
        return reserved

    def release(self, reserved: int) -> None:
        """Return the tokens of a request that was not sent. Credit is capped at one burst."""
        self._owed = max(self._owed - reserved, -self.pace.burst)

    def refused(self) -> None:
        """The server refused a request although its tokens were free by our count.

        It may count the maximum length of an answer, as many servers do. So less of each reservation is returned from
        now on, and gradually more again as answers arrive.
        """
        self._share_given_back *= _SHARE_CUT

    def settle(self, body: bytes, reserved: int, usage: Usage) -> None:
        """Correct a reservation by the counted tokens, and learn from them."""
        if not usage.prompt_tokens:
            return  # the server counts nothing
        self._estimate.observe(len(body) // _BYTES_PER_TOKEN, usage.prompt_tokens)
        self._outputs.observe(_GUESSED_OUTPUT, usage.completion_tokens)
        more = usage.prompt_tokens + usage.completion_tokens - reserved
        self._owed += more if more > 0 else more * self._share_given_back
        self._share_given_back = min(self._share_given_back + _SHARE_GROWTH, 1.0)


class RequestRates:
    """Both rate limits, set by the user or learnt from the server.

    Args:
        requests_per_minute: None to learn it.
        tokens_per_minute: None to learn it.
        max_output_tokens: for the reservation of tokens.
        share: of what servers tell, which is for all processes that work on the run together.
    """

    def __init__(
        self,
        requests_per_minute: float | None,
        tokens_per_minute: float | None,
        max_output_tokens: int | None,
        *,
        share: float = 1.0,
    ) -> None:
        self._share = share
        self.requests = RatePace(requests_per_minute, _request_burst)
        self.tokens = TokenRate(tokens_per_minute, max_output_tokens)
        self._learns_requests = requests_per_minute is None
        self._learns_tokens = tokens_per_minute is None
        self._doubted: float | None = None  # tokens per minute, reported by a server that answered a larger request

    @property
    def are_known(self) -> bool:
        """True if there is any limit."""
        return self.requests.per_minute is not None or self.tokens.pace.per_minute is not None

    def learn(self, limits: RateLimits, body: bytes, sent: int, seconds: float) -> None:
        """Use the server's limits if the user set none.

        A limit below one request, or one request a minute, is ignored: the server answers more.

        Args:
            limits: from the server's headers.
            body: a typical request.
            sent: number of requests sent so far.
            seconds: since the first one.
        """
        if self._learns_requests and (limits.requests_per_minute or 0.0) >= 1.0:
            self.requests.learn((limits.requests_per_minute or 1.0) * self._share, sent, seconds)
        if limits.tokens_per_minute and self._learns_tokens:
            self._doubted = None
            if limits.tokens_per_minute < self.tokens.at_least(len(body)):
                self._doubted = limits.tokens_per_minute
                return
            per_minute = limits.tokens_per_minute * self._share
            self.tokens.pace.learn(per_minute, sent * self.tokens.reservation(len(body)), seconds)

    def refusal(self, body: bytes) -> UsageError | None:
        """The error for a request that exceeds the limit by itself; None if it fits.

        A limit from the server's headers counts only once the server has refused the request.
        """
        limit = self._most_of_one
        if limit is None or self.tokens.at_least(len(body)) <= limit:
            return None
        whose = "the server's" if self._learns_tokens else "the"
        return UsageError(
            f"a single request may take {counted(self.tokens.at_least(len(body)), 'token')}, more than "
            f"{whose} limit of "
            f"{limit:,.0f} per minute",
            help_text="lower max_tokens under [generate] or shorten the prompt"
            + ("" if self._learns_tokens else ", or raise tokens_per_minute"),
        )

    @property
    def _most_of_one(self) -> float | None:
        """Tokens a minute that no single request may exceed."""
        return self.tokens.pace.per_minute if self._doubted is None else self._doubted

    @property
    def as_text(self) -> str:
        """The limits as a text, shown while requests wait for them."""
        figures = (
            (self.requests.per_minute, self._learns_requests, "requests"),
            (self.tokens.pace.per_minute, self._learns_tokens, "tokens"),
        )
        known = [
            f"{limit:,.0f} {what} per minute{' (set by the server)' if is_learnt else ''}"
            for limit, is_learnt, what in figures
            if limit is not None
        ]
        return " and ".join(known)

    async def acquire(self, body: bytes) -> int:
        """Wait for both limits; returns the number of tokens reserved."""
        reserved = await self.tokens.acquire(body)
        try:
            await self.requests.acquire(1.0)
        except BaseException:
            self.tokens.release(reserved)
            raise
        return reserved


def _request_burst(per_second: float) -> float:
    return max(1.0, min(_SLOW_BURST, _SLOW_BURST_S * per_second), _BURST_S * per_second)


def _token_burst(per_second: float) -> float:
    return max(1.0, _BURST_TOKENS_S * per_second)
