"""Limits that servers tell in `x-ratelimit-*` headers.

Owns the names and the forms in use. Absent, negative and zero values mean that the server does not tell.
Does not use the remaining and reset figures: they count for all clients of an account and say when the whole limit is
back, not when the next request may go.
"""

from __future__ import annotations

from collections.abc import Mapping

from asyncgen.generate.completer import NO_LIMITS, RateLimits

_REQUESTS = "x-ratelimit-limit-requests"
# Some accounts have a limit a project beside the account's own; the smaller one counts.
_TOKENS = ("x-ratelimit-limit-tokens", "x-ratelimit-limit-project-tokens")


def read_limits(headers: Mapping[str, str]) -> RateLimits:
    """The limits a minute that the headers tell.

    Args:
        headers: with lower-case names, or a mapping that does not care.
    """
    requests = _positive(headers.get(_REQUESTS))
    tokens = [found for name in _TOKENS if (found := _positive(headers.get(name))) is not None]
    if requests is None and not tokens:
        return NO_LIMITS
    return RateLimits(requests, min(tokens, default=None))


def _positive(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if 0 < number < float("inf") else None
