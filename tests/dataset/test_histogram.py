"""Counts and what is told from them, against the plain way of computing it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asyncgen.dataset.token_counts import Histogram

numbers = st.lists(st.integers(0, 500), min_size=1, max_size=60)


def of(values: list[int]) -> Histogram:
    histogram = Histogram()
    histogram.add(values)
    return histogram


@given(numbers)
def test_the_summary_is_that_of_the_sorted_numbers(values: list[int]) -> None:
    summary, ordered = of(values).summary(), sorted(values)
    assert (summary.count, summary.total) == (len(values), sum(values))
    assert (summary.smallest, summary.largest) == (ordered[0], ordered[-1])
    assert summary.median == ordered[(len(ordered) - 1) // 2]
    assert summary.smallest <= summary.low <= summary.median <= summary.high <= summary.largest


@given(numbers, st.integers(0, 500))
def test_numbers_beyond_a_limit_are_counted_and_clipped(values: list[int], limit: int) -> None:
    assert of(values).above(limit) == sum(value > limit for value in values)
    assert of(values).clipped_total(limit) == sum(min(value, limit) for value in values)


@given(numbers, st.integers(1, 40))
def test_bins_hold_every_number_once_and_are_no_more_than_asked_for(values: list[int], most: int) -> None:
    bins = of(values).bins(most)
    assert len(bins) <= most
    assert sum(count for _, _, count in bins) == len(values)
    for first, last, count in bins:
        assert count == sum(first <= value <= last for value in values)


def test_nothing_counted_is_all_zero() -> None:
    assert Histogram().summary().count == 0
    assert Histogram().summary().mean == 0.0
    assert Histogram().bins(10) == []
