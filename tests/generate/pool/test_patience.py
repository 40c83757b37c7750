"""asyncgen.generate.pool.backpressure: how long an answer may take. Run: pytest tests/generate/test_patience.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.generate.pool.backpressure import AdaptiveTimeout


def patience_after(latencies: list[float]) -> AdaptiveTimeout:
    patience = AdaptiveTimeout()
    for latency_s in latencies:
        patience.observe(1, latency_s)
    return patience


def test_nothing_is_given_up_early_while_nothing_is_known() -> None:
    assert patience_after([]).limit_s == 600
    assert patience_after([0.1] * 19).limit_s == 600


def test_the_limit_follows_the_slowest_answers() -> None:
    assert patience_after([30.0] * 20).limit_s == 120
    assert patience_after([1.0] * 19 + [30.0]).limit_s == 120


def test_quick_answers_leave_a_minute_and_slow_ones_ten() -> None:
    assert patience_after([0.1] * 20).limit_s == 60
    assert patience_after([500.0] * 20).limit_s == 600


def test_one_slow_answer_is_forgotten_in_time() -> None:
    assert patience_after([1.0] * 20 + [100.0] + [1.0] * 2000).limit_s == 60


def test_answers_told_together_count_as_those_told_one_by_one() -> None:
    patience = AdaptiveTimeout()
    patience.observe(19, 30.0)
    assert patience.limit_s == 600
    patience.observe(1, 2.0)
    assert patience.limit_s == pytest.approx(4 * 30 * 0.995)
    patience.observe(0, 0.0)
    assert patience.limit_s == pytest.approx(4 * 30 * 0.995)


def test_where_nothing_ever_came_the_wait_is_long_only_once() -> None:
    patience = AdaptiveTimeout()
    patience.timed_out()
    assert patience.limit_s == 120
    patience.observe(1, 200.0)
    assert patience.limit_s == 600


@given(st.lists(st.floats(0, 1e6), max_size=60))
def test_the_limit_stays_within_its_bounds(latencies: list[float]) -> None:
    assert 60 <= patience_after(latencies).limit_s <= 600


def test_a_timeout_that_the_user_set_holds() -> None:
    timeout = AdaptiveTimeout(7.0)
    timeout.observe(100, 300.0)
    timeout.timed_out()
    assert timeout.limit_s == 7.0


def test_a_request_given_up_on_gets_twice_the_time_at_its_second_try() -> None:
    timeout = patience_after([1.0] * 1000)
    assert timeout.limit_s == 60
    timeout.timed_out()
    assert timeout.limit_s == 120
    for _ in range(9):
        timeout.timed_out()
    assert timeout.limit_s == 600
