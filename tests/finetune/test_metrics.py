"""asyncgen.finetune.follow and cli.finetune_display: metrics read and drawn."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.cli.finetune_display import chart, sparkline
from asyncgen.finetune.api import Event
from asyncgen.finetune.follow import Point, points_of_events, points_of_table

losses = st.lists(st.floats(0, 1e6), max_size=300)


def told(**data: Any) -> Event:
    return Event(job="j", id="e", created_at=1, data=data)


def test_a_falling_loss_falls() -> None:
    assert sparkline([3, 2, 1, 0], 4) == "█▆▃▁"
    assert sparkline([], 10) == ""
    assert sparkline([1.5, 1.5], 10) == "▁▁"


@given(losses, st.integers(1, 60))
def test_a_sparkline_has_a_bar_a_value_up_to_its_width(values: list[float], width: int) -> None:
    bars = sparkline(values, width)
    assert len(bars) == min(len(values), width)
    if len(values) <= width:
        assert all(
            a <= b for (x, a), (y, b) in zip(*[iter(zip(values, bars, strict=True))] * 2, strict=False) if x <= y
        )


@given(losses, st.integers(1, 60), st.integers(1, 12))
def test_a_chart_has_its_size_and_full_bars_below_every_bar(values: list[float], width: int, height: int) -> None:
    lines = chart(values, width, height)
    assert len(lines) == (height if values else 0)
    rows = [line.partition("│")[2] for line in lines]
    for above, below in pairwise(rows):
        assert all(upper == " " or lower == "█" for upper, lower in zip(above, below, strict=True))


def test_a_chart_is_scaled_from_zero() -> None:
    assert chart([4, 2], 10, 2) == ["4 │█ ", "2 │██"]


def test_points_are_read_from_the_events_that_have_figures() -> None:
    events = [
        told(),
        told(step=1, train_loss=2.5),
        told(step=2, train_loss="nan", valid_loss=3),
        told(step=3, lr=0.1),
        told(step="x", train_loss=1),
    ]
    assert points_of_events(events) == [Point(1, 2.5, None), Point(2, None, 3.0)]


@pytest.mark.parametrize(
    "table",
    [
        b"step,train_loss,train_accuracy,valid_loss\n1,2.5,0.1,\n2,1.5,0.2,1.7\n",
        b"\xef\xbb\xbfstep,train_loss,valid_loss\r\n1,2.5,\r\n2,1.5,1.7\r\n",
        b"train/global_step,train/loss,eval/loss\n1.0,2.5,\n2.0,1.5,1.7\n",
    ],
)
def test_points_are_read_from_tables_of_any_provider(table: bytes) -> None:
    assert points_of_table(table) == [Point(1, 2.5, None), Point(2, 1.5, 1.7)]


@given(st.binary())
def test_no_table_is_too_strange(content: bytes) -> None:
    points_of_table(content)
