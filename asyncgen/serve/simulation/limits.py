"""Simulated rate limits in requests and tokens per minute, enforced as the real API does.

Two token buckets, the 429 answer, and the `x-ratelimit-*` headers. A bucket holds a minute's allowance, may be spent in
a burst, and refills steadily.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from asyncgen.serve.wire import ApiError

if TYPE_CHECKING:
    from collections.abc import Callable

_MINUTE_S = 60.0


class Bucket:
    """An allowance that refills steadily.

    Args:
        noun: "requests" or "tokens", for headers and messages.
        per_minute: the limit.
        clock: monotonic seconds.
    """

    def __init__(self, noun: str, per_minute: float, clock: Callable[[], float]) -> None:
        self.noun = noun
        self.per_minute = per_minute
        self._rate = per_minute / _MINUTE_S
        self._capacity = max(1.0, per_minute)
        self._level = self._capacity
        self._clock = clock
        self._filled_at = clock()

    def wait_for(self, amount: float) -> float:
        """Seconds until the amount can be taken, 0 for now; what is larger than the bucket needs it full."""
        now = self._clock()
        self._level = min(self._capacity, self._level + (now - self._filled_at) * self._rate)
        self._filled_at = now
        missing = min(amount, self._capacity) - self._level
        return max(0.0, missing / self._rate)

    def take(self, amount: float) -> None:
        """Take it; the level goes below zero where the amount is larger than the bucket."""
        self._level -= amount

    def headers(self) -> dict[str, str]:
        """Limit, what remains of it, and the time until all of it is back."""
        missing = self._capacity - self._level
        return {
            f"x-ratelimit-limit-{self.noun}": str(round(self.per_minute)),
            f"x-ratelimit-remaining-{self.noun}": str(max(0, int(self._level))),
            f"x-ratelimit-reset-{self.noun}": go_duration(missing / self._rate),
        }


class SimulatedLimits:
    """The limits of a server, over all models together.

    Args:
        requests_per_minute, tokens_per_minute: None for no such limit.
        clock: monotonic seconds.
    """

    def __init__(
        self, requests_per_minute: float | None, tokens_per_minute: float | None, clock: Callable[[], float]
    ) -> None:
        self._requests = Bucket("requests", requests_per_minute, clock) if requests_per_minute else None
        self._tokens = Bucket("tokens", tokens_per_minute, clock) if tokens_per_minute else None

    def admit(self, model: str, tokens: int) -> dict[str, str]:
        """Take one request and its tokens (prompt and the largest answer) out of the limits.

        Returns:
            The headers for the answer.

        Raises:
            ApiError: 429, with the time to wait.
        """
        costs = [(bucket, cost) for bucket, cost in ((self._requests, 1), (self._tokens, tokens)) if bucket]
        headers = {name: text for bucket, _ in costs for name, text in bucket.headers().items()}
        for bucket, cost in costs:
            wait_s = bucket.wait_for(cost)
            if cost > bucket.per_minute or wait_s:
                raise _refusal(model, bucket, cost, wait_s, headers)
        for bucket, cost in costs:
            bucket.take(cost)
        return {name: text for bucket, _ in costs for name, text in bucket.headers().items()}


def go_duration(seconds: float) -> str:
    """As the API writes durations: `12ms`, `1.5s`, `6m0s`."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    minutes, rest = divmod(seconds, _MINUTE_S)
    text = f"{rest:.3f}".rstrip("0").rstrip(".") + "s"
    return f"{int(minutes)}m{text}" if minutes else text


def _refusal(model: str, bucket: Bucket, cost: float, wait_s: float, headers: dict[str, str]) -> ApiError:
    limit = f"Limit {round(bucket.per_minute)}, Requested {round(cost)}"
    if cost > bucket.per_minute:
        message = f"Request too large for {model} (simulated) on {bucket.noun} per min: {limit}."
        return ApiError(429, message, kind=bucket.noun, code="rate_limit_exceeded", headers=headers)
    milliseconds = math.ceil(wait_s * 1000)
    message = (
        f"Rate limit reached for {model} (simulated) on {bucket.noun} per min: {limit}. "
        f"Please try again in {go_duration(milliseconds / 1000)}."
    )
    waiting = {"retry-after-ms": str(milliseconds), "retry-after": str(math.ceil(milliseconds / 1000))}
    return ApiError(429, message, kind=bucket.noun, code="rate_limit_exceeded", headers={**headers, **waiting})
