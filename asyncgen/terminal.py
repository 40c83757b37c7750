"""Text for people: strings from outside made safe for a terminal; times, counts and money formatted.

What is stored is never changed.
"""

from __future__ import annotations

import math
import re
import unicodedata
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# C0 except tab and newline, DEL, C1, and characters that change the direction of text.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)


def clean(text: str) -> str:
    """Remove control characters, bidirectional overrides and lone surrogates.

    The text of a model or server could otherwise move the cursor, set the window's title or hide words.

    Args:
        text: any text.

    Returns:
        A text that is safe to print.
    """
    return _UNSAFE.sub("", text)


def one_line(text: str, width: int) -> str:
    """Clean a text, and shorten it to one line.

    Args:
        text: any text.
        width: maximum characters.

    Returns:
        The line, with an ellipsis if it was shortened.
    """
    line = " ".join(clean(text).split())
    return line if len(line) <= width else line[: max(width - 1, 0)] + "…"


def cells(text: str) -> int:
    """Count the columns of a text on a terminal.

    Args:
        text: any text.

    Returns:
        Columns: 2 for a wide character, 0 for a combining one.
    """
    return sum(_cells_of(character) for character in text)


def _cells_of(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def wrapped(text: str, width: int, hang: int = 2) -> str:
    """Wrap lines at words.

    Args:
        text: lines; their indentation is kept.
        width: maximum columns, at least 20; a longer word is not broken.
        hang: additional indentation of continuation lines, in columns.

    Returns:
        The wrapped text.
    """
    return "\n".join(part for line in text.split("\n") for part in _wrapped_line(line, max(width, 20), hang))


def _wrapped_line(line: str, width: int, hang: int) -> Iterator[str]:
    if cells(line) <= width:
        yield line
        return
    indent = len(line) - len(line.lstrip(" "))
    current, used = line[:indent], indent
    is_empty = True
    for word in re.findall(r"\S+\s*", line[indent:]):
        needed = cells(word.rstrip())
        if used + needed > width and not is_empty:
            yield current.rstrip()
            current, used = " " * min(indent + hang, width // 2), min(indent + hang, width // 2)
        current, used, is_empty = current + word, used + cells(word), False
    yield current.rstrip()


def counted(count: int, noun: str, plural: str = "") -> str:
    """Format a number with its noun: `1 answer`, `2,000 answers`.

    Args:
        count: the number.
        noun: singular.
        plural: plural; "" to append an s.

    Returns:
        The text.
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


_NAMES_SHOWN = 20


def first_of(names: Sequence[str]) -> str:
    """Join names for a message: the first 20, and how many there are beyond them.

    Args:
        names: such as the columns of a table.

    Returns:
        The text; "none" for no names.
    """
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more:,} more" if more > 0 else "") or "none"


def in_units(bytes_: float) -> str:
    """Format a size: `512 bytes`, `1.5 kB`, `20 MB`.

    Args:
        bytes_: the size.

    Returns:
        The text.
    """
    amount, unit = float(bytes_), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 999.5:  # noqa: PLR2004 - else it would be shown as 1,000
            break
        amount, unit = amount / 1000, larger
    if unit == "bytes":
        return counted(round(amount), "byte")
    return f"{amount:.1f} {unit}" if amount < 9.95 else f"{amount:.0f} {unit}"  # noqa: PLR2004 - two figures are enough


def duration(seconds: float) -> str:
    """Format a duration: `3.2 s`, `2 min 05 s`, `1 h 02 min`.

    Args:
        seconds: the duration.

    Returns:
        The text.
    """
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"  # noqa: PLR2004
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def age(seconds: float) -> str:
    """Format how long ago something was, in its largest unit: `2 hours ago`.

    Args:
        seconds: the time since then.

    Returns:
        The text.
    """
    for length, noun in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= length:
            return f"{counted(int(seconds // length), noun)} ago"
    return "just now"


def usd(amount: float) -> str:
    """Format an amount with two significant digits at least: `0.0012 USD`.

    Args:
        amount: USD.

    Returns:
        The text.
    """
    if amount == 0:
        return "0 USD"
    decimals = max(2, 1 - math.floor(math.log10(abs(amount))))
    return f"{amount:,.{decimals}f} USD"


def usd_range(low: float, high: float) -> str:
    """Format a range of amounts: `0.50 to 2.00 USD`; one amount if both ends look alike.

    Args:
        low: USD.
        high: USD.

    Returns:
        The text.
    """
    first, last = usd(low), usd(high)
    return first if first == last else f"{first.removesuffix(' USD')} to {last}"


def local_time(unix_s: int | None, form: str = "%Y-%m-%d %H:%M") -> str:
    """Format a time in the user's time zone.

    Args:
        unix_s: Unix seconds; None for none.
        form: as for `strftime`.

    Returns:
        The text; "" if there is no time, or the number is not one.
    """
    try:
        return datetime.fromtimestamp(unix_s, UTC).astimezone().strftime(form) if unix_s else ""
    except (OSError, OverflowError, ValueError):  # a server may send any number
        return ""
