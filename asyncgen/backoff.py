"""Back off: how long to wait before a retry, and which errors no retry mends.

Reads the headers in which servers name a wait, computes the exponential delay with full jitter if they name none, and
lists the error codes that are final. Sleeping and counting attempts is left to the callers.
"""

from __future__ import annotations

import math
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random

# Codes and types that mean an empty account or a spending limit, in lower case; many come with status 429. From the
# error guides of OpenAI, Anthropic (billing_error), Moonshot (exceeded_current_quota_error), Zhipu (number 1113),
# MiniMax (number 1008), SiliconFlow (number 30001), Alibaba (arrearage, allocationquota.freetieronly), Volcengine
# (accountoverdueerror), and of one-api, a gateway (insufficient_user_quota).
BILLING_CODES = frozenset(
    {
        "1008",
        "1113",
        "30001",
        "accountoverdueerror",
        "allocationquota.freetieronly",
        "arrearage",
        "billing_error",
        "billing_hard_limit_reached",
        "billing_not_active",
        "credit_balance_exhausted",
        "exceeded_current_quota_error",
        "insufficient_balance",
        "insufficient_credits",
        "insufficient_funds",
        "insufficient_quota",
        "insufficient_user_quota",
        "organization_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "payment_required",
        "project_spend_limit_exceeded",
    }
)


def is_billing_code(code: object) -> bool:
    """Check whether an error means that a retry is useless until somebody pays.

    Args:
        code: code or type of the error, in any letter case.

    Returns:
        Whether it is one of `BILLING_CODES`.
    """
    return isinstance(code, str) and code.casefold() in BILLING_CODES


def server_wait_s(headers: Mapping[str, str], *, now: float) -> float | None:
    """Read how long the server asks to wait, from `retry-after-ms` or `retry-after`.

    Args:
        headers: with lower-case names, or a case-insensitive mapping.
        now: Unix seconds, to compare with a date.

    Returns:
        Seconds; None if neither header is usable.
    """
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after", "")
    seconds = _number(value)
    return seconds if seconds is not None else _until(value, now)


def _number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _until(value: str, now: float) -> float | None:
    try:
        return max(parsedate_to_datetime(value).timestamp() - now, 0.0)
    except (ValueError, OverflowError):
        return None


def full_jitter_s(attempt: int, rng: Random, *, base_s: float = 0.5, cap_s: float = 60.0) -> float:
    """Draw a wait from zero to the exponentially growing limit, so that clients do not retry in step.

    Args:
        attempt: 0 after the first failed attempt.
        rng: randomness.
        base_s: limit of the first wait in seconds.
        cap_s: largest limit in seconds.

    Returns:
        Seconds.
    """
    return rng.uniform(0.0, min(base_s * 2.0 ** min(attempt, 30), cap_s))
