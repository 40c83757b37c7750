"""What follows from an error that a server names: the failure matrix, as two tables.

Owns them, and that the code goes before the status. The text of a message never decides: it changes, and it may quote
the prompt. Pure, and knows nothing of replies.
"""

from __future__ import annotations

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

# Codes, and types where the API gives no code, of OpenAI and of those who copied its errors. The billing codes come
# with status 429 as a passing rate limit does; a refused parameter is in every request of the job.
_BY_CODE = {
    **dict.fromkeys(BILLING_CODES, _QUOTA),
    "invalid_api_key": _AUTH,
    "account_deactivated": _AUTH,
    "unsupported_country_region_territory": Verdict(ErrorClass.STOP, "permission", StopReason.AUTH),
    "model_not_found": _MODEL,
    "model_not_available": _MODEL,
    "deployment_not_found": _MODEL,
    "DeploymentNotFound": _MODEL,
    "unsupported_parameter": _PARAMETER,
    "unsupported_value": _PARAMETER,
    "unknown_parameter": _PARAMETER,
    "rate_limit_exceeded": _RATE,
    "slow_down": _RATE,
    "server_is_overloaded": _OVERLOADED,
    "overloaded_error": _OVERLOADED,
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


def verdict_on(status: int, code: str | None, error_type: str, *, is_moderated: bool = False) -> Verdict:
    """What follows.

    Args:
        status: HTTP's, or the one that an error within a reply of status 200 stands for.
        code: `error.code`.
        error_type: `error.type`.
        is_moderated: the error says that this very prompt was flagged.
    """
    named = _BY_CODE.get(code or "") or _BY_CODE.get(error_type)
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
