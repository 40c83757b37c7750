"""Charts as SVG text: stacked bars, plain bars, columns.

Owns geometry. Colours and fonts are the page's, by class; every text is escaped here. Does not know what is shown.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from asyncgen.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_WIDTH = 760
_LABEL_WIDTH = 220
_VALUE_WIDTH = 90
_ROW = 24
_BAR = 16
_LABEL_CHARACTERS = 28
_COLUMNS_HEIGHT = 180
_AXIS = 22


def stacked_bars(title: str, rows: Sequence[tuple[str, Sequence[tuple[str, int]], str]]) -> str:
    """One bar a row, cut into parts.

    Args:
        title: read out instead of the picture.
        rows: label; parts as class and number; a text at the right end.
    """
    most = max((sum(number for _, number in parts) for _, parts, _ in rows), default=0) or 1
    room = _WIDTH - _LABEL_WIDTH - _VALUE_WIDTH
    body = "".join(
        _row_of(place, label, list(_parts(place, parts, room / most)), value)
        for place, (label, parts, value) in enumerate(rows)
    )
    return _svg(title, _WIDTH, len(rows) * _ROW, body)


def bars(title: str, rows: Sequence[tuple[str, int]]) -> str:
    """One bar a row, with its number."""
    return stacked_bars(title, [(label, [("plain", number)], f"{number:,}") for label, number in rows])


def columns(title: str, bins: Sequence[tuple[int, int, int]], unit: str) -> str:
    """A histogram: first and last number of each bin, and how many came."""
    most = max((count for _, _, count in bins), default=0) or 1
    width = (_WIDTH - 2) / max(len(bins), 1)
    body = "".join(
        _column(place * width + 1, width, count / most, f"{_span(first, last)} {unit}: {count:,}")
        for place, (first, last, count) in enumerate(bins)
    )
    if bins:
        foot = _COLUMNS_HEIGHT + 16
        body += _text(1, foot, f"{bins[0][0]:,}", "axis")
        body += _text(_WIDTH - 1, foot, f"{bins[-1][1]:,} {unit}", "axis end")
    return _svg(title, _WIDTH, _COLUMNS_HEIGHT + _AXIS, body)


def _parts(place: int, parts: Sequence[tuple[str, int]], scale: float) -> Iterator[str]:
    left = float(_LABEL_WIDTH)
    for name, number in parts:
        if number:
            width = number * scale
            yield (
                f'<rect class="{name}" x="{left:.1f}" y="{place * _ROW + 4}" width="{max(width, 1):.1f}" '
                f'height="{_BAR}"><title>{escape(name)}: {number:,}</title></rect>'
            )
            left += width


def _row_of(place: int, label: str, parts: Sequence[str], value: str) -> str:
    baseline = place * _ROW + _BAR
    shown = one_line(label, _LABEL_CHARACTERS) or "(empty)"
    return (
        _text(_LABEL_WIDTH - 8, baseline, shown, "label end")
        + "".join(parts)
        + _text(_WIDTH, baseline, value, "value end")
    )


def _column(left: float, width: float, part: float, title: str) -> str:
    height = part * _COLUMNS_HEIGHT
    return (
        f'<rect class="plain" x="{left:.1f}" y="{_COLUMNS_HEIGHT - height:.1f}" width="{max(width - 1, 1):.1f}" '
        f'height="{height:.1f}"><title>{escape(title)}</title></rect>'
    )


def _span(first: int, last: int) -> str:
    return f"{first:,}" if first == last else f"{first:,} to {last:,}"


def _text(x: float, y: float, text: str, classes: str) -> str:
    return f'<text class="{classes}" x="{x:.0f}" y="{y:.0f}">{escape(text)}</text>'


def _svg(title: str, width: int, height: int, body: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}" '
        f'xmlns="http://www.w3.org/2000/svg">{body}</svg>'
    )
