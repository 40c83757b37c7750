"""What follows from an error that a server names: the failure matrix, as two tables.

Owns them, and that the code goes before the status. The text of a message never decides: it changes, and it may quote
the prompt. Pure, and knows nothing of replies.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from asyncgen.backoff import BILLING_CODES
from asyncgen.generate.completer import ErrorClass, StopReason


class Verdict(NamedTuple):
    """What follows from an error, why the run stops where it does, and our name for what happened."""

    kind: ErrorClass
    type: str
    stop: StopReason | None = None


_QUOTA = Verdict(ErrorClass.STOP, "quota", StopReason.QUOTA)
_AUTH = Verdict(ErrorClass.STOP, "auth", StopReason.AUTH)
_MODEL = Verdict(ErrorClass.STOP, "not_found", StopReason.AUTH)
_PARAMETER = Verdict(ErrorClass.STOP, "parameter")
_RATE = Verdict(ErrorClass.WAIT, "rate_limit")
_OVERLOADED = Verdict(ErrorClass.WAIT, "overloaded")
_DAILY = Verdict(ErrorClass.STOP, "daily_limit", StopReason.QUOTA)
_LOADING = Verdict(ErrorClass.RETRY, "loading")

# Codes and types, in lower case, of OpenAI and of those who copied its errors, of Google (API_KEY_INVALID), MiniMax
# (2049), and llama.cpp's server (unavailable_error: it loads its model). The billing codes come with status 429 as a
# passing rate limit does; a refused parameter is in every request of the job.
_BY_NAME = {
    **dict.fromkeys(BILLING_CODES, _QUOTA),
    **dict.fromkeys(("invalid_api_key", "api_key_invalid", "account_deactivated", "unauthenticated", "2049"), _AUTH),
    "unsupported_country_region_territory": Verdict(ErrorClass.STOP, "permission", StopReason.AUTH),
    **dict.fromkeys(("model_not_found", "model_not_available", "deployment_not_found", "deploymentnotfound"), _MODEL),
    **dict.fromkeys(("unsupported_parameter", "unsupported_value", "unknown_parameter"), _PARAMETER),
    **dict.fromkeys(("rate_limit_exceeded", "slow_down", "resource_exhausted"), _RATE),
    **dict.fromkeys(("server_is_overloaded", "overloaded_error"), _OVERLOADED),
    "unavailable_error": _LOADING,
    "context_length_exceeded": Verdict(ErrorClass.ROW, "context_length_exceeded"),
    "invalid_prompt": Verdict(ErrorClass.ROW, "invalid_prompt"),
    "content_filter": Verdict(ErrorClass.ROW, "content_filter"),
    "content_policy_violation": Verdict(ErrorClass.ROW, "content_policy_violation"),
}

_BY_STATUS = {
    400: Verdict(ErrorClass.ROW, "bad_request"),
    401: _AUTH,
    402: _QUOTA,
    403: Verdict(ErrorClass.STOP, "permission", StopReason.AUTH),
    404: _MODEL,
    408: Verdict(ErrorClass.RETRY, "timeout"),
    409: Verdict(ErrorClass.RETRY, "conflict"),
    413: Verdict(ErrorClass.ROW, "too_large"),
    425: Verdict(ErrorClass.RETRY, "too_early"),
    429: _RATE,
    529: _OVERLOADED,
}

# The server, or a gateway before it, gave up waiting: whoever did the work may still have finished it.
_MAYBE_PAID = frozenset({408, 504, 524})


def verdict_on(status: int, names: Iterable[str], *, is_moderated: bool = False, is_daily: bool = False) -> Verdict:
    """What follows.

    Args:
        status: HTTP's, or the one that the error stands for by its own account.
        names: codes and types of the error, in the order in which they count.
        is_moderated: the error says that this very prompt was flagged.
        is_daily: the error says that a limit of the day is used up.
    """
    if is_daily:
        return _DAILY
    named = next((verdict for name in names if (verdict := _BY_NAME.get(name.casefold()))), None)
    if named is not None:
        return named
    if is_moderated:
        return Verdict(ErrorClass.ROW, "moderation")
    return _BY_STATUS.get(status) or _by_range(status)


def is_maybe_paid(status: int) -> bool:
    """May the provider have charged for a request that ended in this status?"""
    return status in _MAYBE_PAID


def _by_range(status: int) -> Verdict:
    if 300 <= status < 400:  # noqa: PLR2004 - redirects; they are never followed
        return Verdict(ErrorClass.STOP, "redirect")
    if 500 <= status < 600:  # noqa: PLR2004 - the server's own failures
        return Verdict(ErrorClass.RETRY, "server_error")
    return Verdict(ErrorClass.ROW, "http_error")
