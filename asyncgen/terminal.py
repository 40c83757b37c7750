"""Text for people: what came from outside made safe for a terminal, times and money as a person says them.

Does not know where the text is shown, and never changes what is stored.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

# C0 but tab and newline, DEL, C1, and the characters that reorder what stands around them.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)


def clean(text: str) -> str:
    """Take control characters, bidirectional overrides and lone surrogates out of `text`.

    What a model or a server sends could otherwise move the cursor, set the window's title or hide words.
    """
    return _UNSAFE.sub("", text)


def one_line(text: str, width: int) -> str:
    """`text`, cleaned, on one line of at most `width` characters."""
    line = " ".join(clean(text).split())
    return line if len(line) <= width else line[: max(width - 1, 0)] + "…"


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"  # noqa: PLR2004
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def money(usd: float) -> str:
    """USD with as many digits as small sums need."""
    return f"${usd:,.2f}" if usd >= 1 or usd == 0 else f"${usd:.4f}"


def usd(amount: float) -> str:
    """An amount with as many decimals as it takes to see two figures."""
    if amount == 0:
        return "0 USD"
    decimals = max(2, 1 - math.floor(math.log10(abs(amount))))
    return f"{amount:,.{decimals}f} USD"


def local_time(unix_s: int | None, form: str = "%Y-%m-%d %H:%M") -> str:
    """Unix seconds in the user's time zone; "" for none, or for a number that is no time."""
    try:
        return datetime.fromtimestamp(unix_s, UTC).astimezone().strftime(form) if unix_s else ""
    except (OSError, OverflowError, ValueError):  # a server may send any number
        return ""
