from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.generate.pool.backpressure import Breaker, ConcurrencyLimit, Pause


def test_a_pause_is_never_shorter_than_the_server_asks() -> None:
    for seed in range(200):
        pause = Pause(Random(seed))
        pause.congested(100.0, 7.0, is_new=True)
        assert 7.0 <= pause.left_s(100.0) <= 7.7


def test_the_longest_wait_that_was_asked_for_holds() -> None:
    pause = Pause(Random(0))
    pause.congested(0.0, 9.0, is_new=True)
    pause.congested(0.1, 1.0, is_new=False)
    assert pause.left_s(0.1) >= 8.9


def test_pauses_without_a_time_double_for_each_new_sign_only() -> None:
    pause = Pause(Random(0))
    now = 0.0
    waits = []
    for _ in range(9):
        for _ in range(64):  # refused together
            pause.congested(now, None, is_new=False)
        pause.congested(now, None, is_new=True)
        waits.append(pause.left_s(now))
        now += 100.0
    assert all(later <= 2.2 * earlier for earlier, later in pairwise(waits))
    assert waits[0] <= 1.1
    assert 30.0 <= waits[-1] <= 33.0


def test_an_answer_makes_pauses_short_again() -> None:
    pause = Pause(Random(0))
    for _ in range(5):
        pause.congested(0.0, None, is_new=True)
    pause.succeeded()
    pause.congested(100.0, None, is_new=True)
    assert pause.left_s(100.0) <= 0.55


def test_a_limit_of_the_day_is_hopeless() -> None:
    pause = Pause(Random(0))
    pause.congested(0.0, 3600.0, is_new=True)
    assert pause.is_hopeless(0.0)


def test_the_breaker_ignores_what_was_on_its_way_when_it_opened() -> None:
    breaker = Breaker(Random(0))
    breaker.succeeded()
    waits = [breaker.failed(number, 1000) for number in range(1, 1001)]
    assert sum(wait > 0 for wait in waits) == 1
    assert breaker.is_open
    assert not breaker.is_hopeless


@pytest.mark.parametrize(("has_worked", "probes"), [(False, 3), (True, 7)])
def test_probes_that_fail_end_hope_and_come_ever_more_rarely(*, has_worked: bool, probes: int) -> None:
    breaker = Breaker(Random(0))
    if has_worked:
        breaker.succeeded()
    number = 0
    while not breaker.is_open:
        number += 1
        breaker.failed(number, number)
    waits = []
    while not breaker.is_hopeless:
        number += 1
        waits.append(breaker.failed(number, number))
    assert len(waits) == probes
    assert waits[-1] > waits[0] > 0
    assert max(waits) <= 30.0


def test_one_success_closes_the_breaker() -> None:
    breaker = Breaker(Random(0))
    for number in range(50):
        breaker.failed(number, number)
    breaker.succeeded()
    assert not breaker.is_open
    assert breaker.failed(51, 51) == 0.0


def test_places_double_in_a_round_of_answers_until_the_first_cut() -> None:
    limit = ConcurrencyLimit(64)
    assert limit.limit == 10
    for _ in range(10):
        limit.succeeded(in_flight=1)
    assert limit.limit == 20
    assert limit.congested(11, sent=11)
    assert limit.limit == 14


def test_a_known_rate_opens_all_places_but_not_again_after_a_cut() -> None:
    limit = ConcurrencyLimit(64)
    assert limit.limit < 64
    limit.skip_slow_start()
    assert limit.limit == 64
    assert limit.congested(1, sent=1)
    limit.skip_slow_start()
    assert limit.limit == 44
    limit.succeeded(in_flight=43)
    assert limit.limit == 44
    for _ in range(20):
        limit.succeeded(in_flight=64)
    assert limit.limit == 64, "the rate holds requests back, so places may come back quickly"


def test_requests_refused_together_cut_the_places_once() -> None:
    limit = ConcurrencyLimit(64)
    assert [limit.congested(number, sent=10) for number in range(1, 11)] == [True] + [False] * 9
    assert limit.limit == 7
    assert limit.congested(11, sent=11)


def test_after_a_cut_places_grow_only_while_all_are_used() -> None:
    limit = ConcurrencyLimit(64)
    limit.congested(10, sent=10)
    for _ in range(100):
        limit.succeeded(in_flight=3)
    assert limit.limit == 7
    for _ in range(8):
        limit.succeeded(in_flight=64)
    assert limit.limit == 8


@given(st.integers(1, 200), st.lists(st.tuples(st.booleans(), st.integers(1, 200)), max_size=300))
def test_places_stay_between_one_and_the_ceiling(ceiling: int, outcomes: list[tuple[bool, int]]) -> None:
    limit = ConcurrencyLimit(ceiling)
    for number, (is_answer, in_flight) in enumerate(outcomes, 1):
        if is_answer:
            limit.succeeded(in_flight)
        else:
            limit.congested(number, sent=number)
        assert 1 <= limit.limit <= ceiling
