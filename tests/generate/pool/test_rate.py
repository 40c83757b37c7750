"""asyncgen.generate.pool.rate: rates are reached and never passed. Run: pytest tests/generate/test_rate.py."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from itertools import pairwise
from random import Random
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncgen.generate.http.completer import RateLimits
from asyncgen.generate.pool.rate import RequestRates
from asyncgen.run.records import Usage

Result = TypeVar("Result")
BODY = b"x" * 400  # 100 tokens by the rule of thumb


class LateSelector(selectors.SelectSelector):
    """Time jumps to the next timer and some milliseconds past it, as on a busy machine; a turn takes a microsecond."""

    def __init__(self, rng: Random, most_late_s: float) -> None:
        super().__init__()
        self.now = 0.0
        self._rng, self._most_late_s = rng, most_late_s

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "stuck: nothing is ready, and no timer is set"
        late_s = self._rng.uniform(0.0, self._most_late_s) if timeout > 0 else 0.0
        self.now += timeout + late_s + 1e-6
        return []


class LateLoop(asyncio.SelectorEventLoop):
    def __init__(self, seed: int = 0, most_late_s: float = 0.0) -> None:
        self._late = LateSelector(Random(seed), most_late_s)
        super().__init__(self._late)

    def time(self) -> float:
        return self._late.now


def run(coroutine: Coroutine[Any, Any, Result], *, seed: int = 0, most_late_s: float = 0.0) -> Result:
    with asyncio.Runner(loop_factory=lambda: LateLoop(seed, most_late_s)) as runner:
        return runner.run(coroutine)


async def starts(rates: RequestRates, count: int, workers: int, *, body: bytes = BODY) -> list[float]:
    """The times at which so many requests start, asked for by workers that do nothing else."""
    loop = asyncio.get_running_loop()
    times: list[float] = []
    todo = iter(range(count))

    async def work() -> None:
        for _ in todo:
            await rates.acquire(body)
            times.append(loop.time())

    await asyncio.gather(*(work() for _ in range(workers)))
    return times


def most_in_a_second(times: list[float]) -> int:
    most, first = 0, 0
    for last, time in enumerate(times):
        while times[first] < time - 1.0:
            first += 1
        most = max(most, last - first + 1)
    return most


def passes(times: list[float], per_second: float, burst: float) -> bool:
    """Does a bucket of this depth ever overflow? It tells of every window at once."""
    level = 0.0
    for before, now in pairwise([times[0], *times]):
        level = max(level - (now - before) * per_second, 0.0) + 1.0
        if level > burst + 1e-3:
            return True
    return False


@pytest.mark.parametrize("per_second", [10, 1000, 5000])
@pytest.mark.parametrize("workers", [1, 100])
def test_the_rate_is_reached_though_every_wake_up_is_late_and_never_passed(per_second: int, workers: int) -> None:
    rates = RequestRates(per_second * 60.0, None, None)
    count = 400 if per_second == 10 else per_second * 4
    times = run(starts(rates, count, workers), most_late_s=0.02)
    burst = rates.requests.burst
    assert (count - burst) / (times[-1] - times[0]) >= 0.97 * per_second
    assert most_in_a_second(times) <= per_second + burst
    assert not passes(times, per_second, burst)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.5, 200_000), st.integers(1, 50), st.integers(0, 2**16), st.floats(0, 0.5))
def test_no_rate_is_passed_in_any_window(per_minute: float, workers: int, seed: int, most_late_s: float) -> None:
    rates = RequestRates(per_minute, None, None)
    times = run(starts(rates, 120, workers), seed=seed, most_late_s=most_late_s)
    assert not passes(times, per_minute / 60, rates.requests.burst)


def test_a_burst_is_less_than_what_a_strict_server_holds() -> None:
    for per_minute in (60, 600, 6000, 60_000):
        assert 1 <= RequestRates(per_minute, None, None).requests.burst <= max(per_minute / 60, 1)


def test_without_a_limit_nobody_waits() -> None:
    rates = RequestRates(None, None, None)
    times = run(starts(rates, 1000, 10))
    assert times[-1] < 0.1
    assert rates.requests.burst == float("inf")


@pytest.mark.parametrize(
    ("waited_s", "first", "last"), [(0.0, 0.2, 2.1), (0.5, 0.0, 1.6), (1.0, 0.0, 1.1), (9.0, 0.0, 1.1)]
)
def test_what_went_before_a_limit_was_known_counts_for_as_long_as_it_would(
    waited_s: float, first: float, last: float
) -> None:
    async def scenario() -> tuple[float, float]:
        rates, loop = RequestRates(None, None, None), asyncio.get_running_loop()
        await starts(rates, 10, 10)
        await asyncio.sleep(waited_s)
        rates.learn(RateLimits(600.0, None), BODY, 10, waited_s)
        began = loop.time()
        times = await starts(rates, 20, 10)
        return times[0] - began, times[-1] - began

    assert list(run(scenario())) == pytest.approx([first, last], abs=0.11)


def test_tokens_that_went_before_a_limit_was_known_count_too() -> None:
    async def scenario() -> float:
        rates = RequestRates(None, None, 900)
        rates.learn(RateLimits(None, 60_000.0), BODY, 10, 1.0)
        return (await starts(rates, 1, 1))[0]

    assert run(scenario()) == pytest.approx(1.0, abs=0.15)


def test_a_new_limit_holds_for_those_who_wait_already() -> None:
    async def scenario() -> list[float]:
        rates = RequestRates(600.0, None, None)
        waiting = asyncio.create_task(starts(rates, 100, 50))
        await asyncio.sleep(1.0)
        rates.requests.learn(60.0, 0.0, 0.0)
        return await waiting

    times = run(scenario())
    assert not passes([time for time in times if time > 1.2], 1.0, 1.0)


def test_limits_that_the_user_set_are_not_replaced() -> None:
    rates = RequestRates(600.0, 6000.0, None)
    rates.learn(RateLimits(60.0, 60.0), BODY, 1, 0.0)
    assert (rates.requests.per_minute, rates.tokens.pace.per_minute) == (600.0, 6000.0)


def test_tokens_are_reserved_with_the_largest_answer_and_shared_evenly() -> None:
    rates = RequestRates(None, 60_000.0, 100)  # 1,000 a second; a request reserves 200
    times = run(starts(rates, 104, 20))
    assert times[3] < 0.01  # 900 at once
    assert times[-1] == pytest.approx((104 * 200 - 900) / 1000, rel=0.01)


def test_a_request_larger_than_the_burst_waits_its_turn_and_is_not_passed() -> None:
    async def scenario() -> list[int]:
        rates, order = RequestRates(None, 6000.0, 0), list[int]()  # 100 a second, 90 at once

        async def ask(tokens: int) -> None:
            await rates.acquire(b"x" * 4 * tokens)
            order.append(tokens)

        await asyncio.gather(*(ask(tokens) for tokens in (500, 10, 20)))
        assert 4.0 < asyncio.get_running_loop().time() < 6.0
        return order

    assert run(scenario()) == [500, 10, 20]


def test_what_an_answer_did_not_take_is_given_back() -> None:
    async def scenario(used: Usage) -> float:
        rates = RequestRates(None, 60_000.0, 900)
        for _ in range(21):
            reserved = await rates.acquire(BODY)
            rates.tokens.settle(BODY, reserved, used)
        return asyncio.get_running_loop().time()

    all_used = run(scenario(Usage(prompt_tokens=100, completion_tokens=900)))
    tenth_used = run(scenario(Usage(prompt_tokens=100, completion_tokens=0)))
    assert all_used == pytest.approx(20.0, rel=0.1)
    assert tenth_used == pytest.approx(2.0, rel=0.2)


def test_the_estimate_follows_what_the_server_counts() -> None:
    rates = RequestRates(None, 60_000.0, 0)
    assert rates.tokens.reservation(len(BODY)) == 100
    for _ in range(30):
        rates.tokens.settle(BODY, 100, Usage(prompt_tokens=150))
    assert rates.tokens.reservation(len(BODY)) == 150


def test_an_answer_that_no_parameter_bounds_is_guessed_at_and_then_follows_the_answers() -> None:
    rates = RequestRates(None, 60_000.0, None)
    assert rates.tokens.reservation(len(BODY)) == 1100
    for _ in range(30):
        rates.tokens.settle(BODY, 1100, Usage(prompt_tokens=100, completion_tokens=400))
    assert rates.tokens.reservation(len(BODY)) == 500


def test_what_became_known_of_earlier_requests_counts_at_the_turn_and_not_when_the_wait_for_it_began() -> None:
    async def scenario() -> float:
        rates = RequestRates(None, 60_000.0, 900)
        waiting = [asyncio.create_task(rates.acquire(BODY)) for _ in range(21)]
        for task in waiting:  # they wait from the beginning, and each answer took a tenth
            rates.tokens.settle(BODY, await task, Usage(prompt_tokens=100, completion_tokens=0))
        return asyncio.get_running_loop().time()

    assert run(scenario()) == pytest.approx(3.0, rel=0.1)  # it would be 20, if each reserved by what it knew at first


def test_after_refusals_less_is_given_back_and_in_time_all_of_it_again() -> None:
    async def scenario(refusals: int, before: int) -> float:
        rates = RequestRates(None, 60_000_000.0, 900)
        for _ in range(refusals):
            rates.tokens.refused()
        for _ in range(before):
            rates.tokens.settle(BODY, 1000, Usage(prompt_tokens=100, completion_tokens=900))
        rates.tokens.settle(BODY, 1000, Usage(prompt_tokens=100))
        return -rates.tokens._owed

    assert run(scenario(0, 0)) == 900
    assert run(scenario(1, 0)) == 225
    assert run(scenario(2, 0)) == pytest.approx(900 / 16)
    assert run(scenario(2, 2000)) == 900


def test_a_reservation_for_what_was_not_sent_is_given_back() -> None:
    async def scenario() -> float:
        rates = RequestRates(None, 60_000.0, 0)
        for _ in range(50):
            rates.tokens.release(await rates.acquire(BODY))
        return asyncio.get_running_loop().time()

    assert run(scenario()) < 1.0


def test_no_more_is_given_back_than_a_bucket_holds() -> None:
    async def scenario() -> float:
        rates = RequestRates(None, 60_000.0, 0)
        for _ in range(50):
            rates.tokens.release(100)  # fifty that waited for a pause, and went at none
        for _ in range(38):
            await rates.acquire(BODY)
        return asyncio.get_running_loop().time()

    assert run(scenario()) == pytest.approx(2.0, rel=0.1)


def test_a_request_that_no_minute_can_hold_is_refused_before_anything_is_sent() -> None:
    refused = RequestRates(None, 150.0, 100).refusal(BODY)
    assert refused is not None
    assert "200 tokens, more than the limit of 150 per minute" in refused.what
    assert "max_tokens under [generate]" in (refused.help_text or "")
    assert RequestRates(None, 200.0, 100).refusal(BODY) is None
    assert RequestRates(None, None, 10**9).refusal(BODY) is None
    assert RequestRates(None, 150.0, None).refusal(BODY) is None, "an answer of unknown length is no reason"


def test_whoever_stops_waiting_holds_up_nobody() -> None:
    async def scenario() -> float:
        rates = RequestRates(60.0, None, None)
        await rates.acquire(BODY)
        waiting = [asyncio.create_task(rates.acquire(BODY)) for _ in range(5)]
        await asyncio.sleep(0.5)
        for task in waiting[:4]:
            task.cancel()
        await waiting[4]
        return asyncio.get_running_loop().time()

    assert run(scenario()) < 2.1


def test_the_longest_request_is_looked_for_only_where_a_limit_could_be_too_small_for_it() -> None:
    asked: list[None] = []

    def longest() -> int:
        asked.append(None)
        return len(BODY)

    assert not RequestRates(None, None, 100).tokens.exceeds_a_minute(longest)
    assert not asked
    assert RequestRates(None, 150.0, 100).tokens.exceeds_a_minute(longest)
    assert asked
