"""Rows of texts as aligned lines, for terminals and pipes alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

_GAP = "  "


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A line of headers and one for each row; columns are as wide as their widest text."""
    lines = [headers, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    for line in lines:
        yield _GAP.join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()


def local_time(unix_s: int | None, form: str = "%Y-%m-%d %H:%M") -> str:
    """Unix seconds in the user's time zone; "" for none, or for a number that is no time."""
    try:
        return datetime.fromtimestamp(unix_s, UTC).astimezone().strftime(form) if unix_s else ""
    except (OSError, OverflowError, ValueError):  # a server may send any number
        return ""
