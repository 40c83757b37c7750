"""How long rows would take at the job's limits.

Owns the arithmetic of rates. Knows nothing of limits that a server sets and has not told yet.
"""

from __future__ import annotations

from dataclasses import dataclass

from asyncgen.generate.plan.request_tokens import RequestTokens
from asyncgen.generate.plan.rows_there import RowsThere
from asyncgen.job.model import Limits

_GUESSED_LATENCY_S = 3.0
_GUESSED_CONCURRENCY = 64


@dataclass(frozen=True, slots=True)
class Duration:
    """Seconds, and the limit that decides them, in words."""

    seconds: float
    bound_by: str


def duration(rows: int, tokens: RequestTokens, there: RowsThere, limits: Limits) -> Duration:
    """The time that so many rows take at the job's limits, if the server sets no narrower ones."""
    latency_s = there.latency_s.mean if there.latency_s.count else _GUESSED_LATENCY_S
    concurrency = limits.concurrency or _GUESSED_CONCURRENCY
    seen = "as measured" if there.latency_s.count else "a guess"
    bounds = [Duration(rows * latency_s / concurrency, f"{concurrency} in flight at {latency_s:.1f} s each ({seen})")]
    if limits.requests_per_minute:
        bounds.append(
            Duration(rows * 60 / limits.requests_per_minute, f"{limits.requests_per_minute:,.0f} requests a minute")
        )
    if limits.tokens_per_minute:
        # Providers admit a request by its prompt and the most that it may answer.
        held = tokens.prompt.middle + tokens.completion.high
        bounds.append(
            Duration(rows * held * 60 / limits.tokens_per_minute, f"{limits.tokens_per_minute:,.0f} tokens a minute")
        )
    longest = max(bounds, key=lambda each: each.seconds)
    return Duration(max(longest.seconds, latency_s if rows else 0.0), longest.bound_by)
