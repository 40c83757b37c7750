"""Limits that servers tell in `x-ratelimit-*` headers.

Owns the names and the forms in use. Absent, negative and zero values mean that the server does not tell.
Does not use the remaining and reset figures: they count for all clients of an account and say when the whole limit is
back, not when the next request may go.
"""

from __future__ import annotations

from collections.abc import Mapping

from multidict import istr

from asyncgen.generate.completer import NO_LIMITS, RateLimits

# Looked up for every answer: these take half the time that plain strings do.
_REQUESTS = istr("x-ratelimit-limit-requests")
_TOKENS = istr("x-ratelimit-limit-tokens")
# Some accounts have a limit a project, or by usage, beside the account's own or in its place; the smallest one counts.
_PROJECT_TOKENS = istr("x-ratelimit-limit-project-tokens")
_TOKENS_BY_USAGE = istr("x-ratelimit-limit-tokens_usage_based")


def read_limits(headers: Mapping[str, str]) -> RateLimits:
    """The limits a minute that the headers tell.

    Args:
        headers: with lower-case names, or a mapping that does not care.
    """
    requests, tokens = headers.get(_REQUESTS), headers.get(_TOKENS)
    if requests is tokens is None and _PROJECT_TOKENS not in headers and _TOKENS_BY_USAGE not in headers:
        return NO_LIMITS  # as of most servers
    limits = map(_positive, (tokens, headers.get(_PROJECT_TOKENS), headers.get(_TOKENS_BY_USAGE)))
    return RateLimits(_positive(requests), min((limit for limit in limits if limit is not None), default=None))


def _positive(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if 0 < number < float("inf") else None
