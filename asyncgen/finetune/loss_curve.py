"""A training's metrics, read from events or a table, drawn as a sparkline or a chart in text.

Knows the names under which providers give a loss. Pure.
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from asyncgen.finetune.api import Event

_BARS = "▁▂▃▄▅▆▇█"
_TRAIN = ("train_loss", "train/loss", "training_loss", "loss")
_VALID = ("full_valid_loss", "valid_loss", "eval/loss", "eval_loss", "validation_loss")
_STEP = ("step", "global_step", "train/global_step")


@dataclass(frozen=True, slots=True)
class Point:
    """The metrics of a step; None for one that was not measured."""

    step: int
    train_loss: float | None = None
    valid_loss: float | None = None


def points_of_events(events: Iterable[Event]) -> list[Point]:
    """Read the steps from "metrics" events.

    Args:
        events: of a job.

    Returns:
        The steps, in the events' order.
    """
    found = (_point(event.data) for event in events)
    return [point for point in found if point is not None]


def points_of_table(content: bytes) -> list[Point]:
    """Read the steps from a CSV table of metrics.

    Args:
        content: the table; lines without a step are skipped.

    Returns:
        The steps; empty if it is not a table.
    """
    rows = csv.DictReader(io.StringIO(content.decode("utf-8-sig", "replace"), newline=""))
    try:
        found = [_point(row) for row in rows]
    except csv.Error:  # not a table
        return []
    return [point for point in found if point is not None]


def _point(figures: dict[str, object] | dict[str, str]) -> Point | None:
    step = _figure(figures, _STEP)
    point = None if step is None else Point(int(step), _figure(figures, _TRAIN), _figure(figures, _VALID))
    return point if point and (point.train_loss, point.valid_loss) != (None, None) else None


def _figure(figures: dict[str, object] | dict[str, str], names: Sequence[str]) -> float | None:
    for name in names:
        try:
            value = float(figures[name])  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError):
            continue
        if math.isfinite(value):
            return value
    return None


def sparkline(values: Sequence[float], width: int) -> str:
    """Draw values as one line of bars.

    Args:
        values: in order.
        width: maximum characters; with more values each bar is the mean of its share.

    Returns:
        The line; "" for no values.
    """
    means = _means(values, width)
    if not means:
        return ""
    low, high = min(means), max(means)
    span = high - low
    top = len(_BARS) - 1
    return "".join(_BARS[round((mean - low) / span * top) if span else 0] for mean in means)


def chart(values: Sequence[float], width: int, height: int) -> list[str]:
    """Draw values as bars from zero up, with a scale on the left.

    Args:
        values: 0 or more; others are drawn as 0.
        width: characters for the bars, without the scale.
        height: number of lines.

    Returns:
        The lines; empty for no values.
    """
    means = _means(values, width)
    if not means:
        return []
    high = max(*means, 0.0, 1e-9)
    eighths = [round(max(mean, 0.0) / high * height * len(_BARS)) for mean in means]
    scale = [f"{high * level / height:.3g}" for level in range(height, 0, -1)]
    margin = max(map(len, scale))
    return [
        f"{label:>{margin}} │" + "".join(_cell(count - len(_BARS) * (height - 1 - row)) for count in eighths)
        for row, label in enumerate(scale)
    ]


def _cell(eighths: int) -> str:
    return " " if eighths <= 0 else _BARS[min(eighths, len(_BARS)) - 1]


def _means(values: Sequence[float], width: int) -> list[float]:
    """The values in at most `width` shares of nearly equal size, each as its mean."""
    count = min(len(values), width)
    edges = [len(values) * share // count for share in range(count + 1)] if count > 0 else []
    return [fmean(values[start:end]) for start, end in pairwise(edges)]
