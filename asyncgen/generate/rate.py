"""Requests and tokens a minute: reached, and never passed.

Owns the two budgets, over aiolimiter's leaky buckets. A bucket of a whole minute lets twice the rate through in its
first period, and one that holds a single request loses the loop's delay at every turn. So ours hold a moment's worth:
enough to make up for late wake-ups, too little to burst. Does not know why a rate was chosen.
"""

from __future__ import annotations

from aiolimiter import AsyncLimiter

from asyncgen.errors import UsageError
from asyncgen.generate.completer import RateLimits
from asyncgen.records import Usage
from asyncgen.tokens import TokenEstimate

_BURST_REQUESTS = 9.0  # servers that refill every second hold at least ten at 600 a minute
_BURST_S = 0.02
_BURST_TOKENS_S = 2.0
_BYTES_PER_TOKEN = 4
_MINUTE_S = 60.0


class RequestRate:
    """Starts of requests, at most so many a minute; without a limit until one is set."""

    def __init__(self, per_minute: float | None) -> None:
        self.per_minute: float | None = None
        self._bucket: AsyncLimiter | None = None
        if per_minute is not None:
            self.set(per_minute)

    @property
    def burst(self) -> float:
        """How many may start at once."""
        return self._bucket.max_rate if self._bucket else float("inf")

    def set(self, per_minute: float) -> None:
        """Change the limit; who waits already does so at the old one."""
        if per_minute != self.per_minute:
            per_second = per_minute / _MINUTE_S
            burst = max(1.0, min(_BURST_REQUESTS, 0.9 * per_second), _BURST_S * per_second)
            self.per_minute = per_minute
            self._bucket = AsyncLimiter(burst, burst / per_second)

    async def acquire(self) -> None:
        """Wait for the turn of one request."""
        if self._bucket is not None:
            await self._bucket.acquire()


class TokenRate:
    """Tokens a minute: reserved before a request, corrected after its answer.

    Args:
        per_minute: the limit; None for none until one is set.
        max_output_tokens: what a request may be answered with, as far as its parameters say.
    """

    def __init__(self, per_minute: float | None, max_output_tokens: int | None) -> None:
        self.per_minute: float | None = None
        self._max_output_tokens = max_output_tokens or 0
        self._bucket: AsyncLimiter | None = None
        self._estimate = TokenEstimate()
        self._owed = 0.0  # reserved too little (positive) or too much; the next reservation makes up for it
        if per_minute is not None:
            self.set(per_minute)

    def set(self, per_minute: float) -> None:
        """Change the limit; who waits already does so at the old one."""
        if per_minute != self.per_minute:
            per_second = per_minute / _MINUTE_S
            burst = max(1.0, _BURST_TOKENS_S * per_second)
            self.per_minute = per_minute
            self._bucket = AsyncLimiter(burst, burst / per_second)

    def reservation(self, body: bytes) -> int:
        """Tokens that the request may take: its estimate, corrected by what was counted so far, and its answer."""
        return self._estimate.corrected(len(body) // _BYTES_PER_TOKEN) + self._max_output_tokens

    def refuse_too_large(self, body: bytes) -> None:
        """See that the request fits into a minute at all.

        Raises:
            UsageError: it does not, so it would wait for ever.
        """
        tokens = self.reservation(body)
        if self.per_minute is not None and tokens > self.per_minute:
            raise UsageError(
                f"a single request may take {tokens:,} tokens, more than {self.per_minute:,.0f} a minute",
                help_text="lower max_completion_tokens, shorten the prompt, or raise tokens_per_minute",
            )

    async def acquire(self, body: bytes) -> int:
        """Wait until the request's tokens are free; returns how many were reserved."""
        if self._bucket is None:
            return 0
        reserved = self.reservation(body)
        wanted = reserved + self._owed
        self._owed = min(wanted, 0.0)
        while wanted > 0:
            part = min(wanted, self._bucket.max_rate)
            await self._bucket.acquire(part)
            wanted -= part
        return reserved

    def settle(self, body: bytes, reserved: int, usage: Usage) -> None:
        """Give back what was reserved too much, or note what was too little, and learn from the count."""
        if usage.prompt_tokens:
            self._estimate.observe(len(body) // _BYTES_PER_TOKEN, usage.prompt_tokens)
        if reserved:
            self._owed += usage.prompt_tokens + usage.completion_tokens - reserved


class Rates:
    """Both budgets, and what servers say of them.

    Args:
        requests_per_minute: as the user set it; None to learn it.
        tokens_per_minute: likewise.
        max_output_tokens: for the reservation of tokens.
    """

    def __init__(
        self, requests_per_minute: float | None, tokens_per_minute: float | None, max_output_tokens: int | None
    ) -> None:
        self.requests = RequestRate(requests_per_minute)
        self.tokens = TokenRate(tokens_per_minute, max_output_tokens)
        self._learns_requests = requests_per_minute is None
        self._learns_tokens = tokens_per_minute is None

    def learn(self, limits: RateLimits) -> None:
        """Take the server's limits where the user set none."""
        if limits.requests_per_minute and self._learns_requests:
            self.requests.set(limits.requests_per_minute)
        if limits.tokens_per_minute and self._learns_tokens:
            self.tokens.set(limits.tokens_per_minute)

    async def acquire(self, body: bytes) -> int:
        """Wait for both; returns the tokens reserved."""
        reserved = await self.tokens.acquire(body)
        await self.requests.acquire()
        return reserved
