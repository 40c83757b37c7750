"""The limits, with a clock in the test's hands."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.serve.simulation.faults import SimulatedLimits, go_duration
from asyncgen.serve.wire import ApiError

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncgen.providers.local_server import ServerInfo


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def refusal(limits: SimulatedLimits, tokens: int = 1) -> ApiError:
    with pytest.raises(ApiError) as caught:
        limits.admit("m", tokens)
    return caught.value


@given(
    rpm=st.integers(1, 10_000),
    pauses=st.lists(st.floats(0, 2), min_size=1, max_size=200),
)
def test_no_stretch_of_time_lets_more_through_than_its_share_and_a_minutes_burst(rpm: int, pauses: list[float]) -> None:
    clock = Clock()
    limits = SimulatedLimits(rpm, None, clock)
    admitted = 0
    for pause in pauses:
        clock.now += pause
        try:
            limits.admit("m", 1)
        except ApiError:
            continue
        admitted += 1
        assert admitted <= rpm / 60 * clock.now + rpm + 1e-6


@given(rpm=st.integers(1, 1000))
def test_whoever_waits_as_told_is_let_in(rpm: int) -> None:
    clock = Clock()
    limits = SimulatedLimits(rpm, None, clock)
    while True:
        try:
            limits.admit("m", 1)
        except ApiError as error:
            clock.now += int(error.headers["retry-after-ms"]) / 1000
            break
    limits.admit("m", 1)


def test_burst_is_a_minutes_worth_and_the_headers_say_what_is_left() -> None:
    limits = SimulatedLimits(600, None, Clock())
    for left in range(599, -1, -1):
        assert limits.admit("m", 1)["x-ratelimit-remaining-requests"] == str(left)
    error = refusal(limits)
    assert (error.status, error.code, error.kind) == (429, "rate_limit_exceeded", "requests")
    assert error.headers["retry-after-ms"] == "100"
    assert error.headers["retry-after"] == "1"
    assert error.headers["x-ratelimit-remaining-requests"] == "0"
    assert error.headers["x-ratelimit-reset-requests"] == "1m0s"


def test_headers_after_one_request_are_those_that_the_api_documents() -> None:
    """Its guide shows them for 60 requests a minute: 59 are left, and the one that was taken is back after 1 s."""
    headers = SimulatedLimits(60, None, Clock()).admit("m", 1)
    assert headers == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
    }


def test_what_remains_is_let_in_at_once_and_no_more() -> None:
    clock = Clock()
    limits = SimulatedLimits(60, None, clock)
    for _ in range(50):
        limits.admit("m", 1)
    clock.now = 7.5
    headers = limits.admit("m", 1)
    for _ in range(int(headers["x-ratelimit-remaining-requests"])):
        headers = limits.admit("m", 1)
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert refusal(limits).headers["retry-after-ms"] == "500"


@pytest.mark.parametrize("rpm", [0.5, 0.01, 1.5])
def test_a_limit_below_one_request_a_minute_lets_one_in_at_a_time(rpm: float) -> None:
    clock = Clock()
    limits = SimulatedLimits(rpm, None, clock)
    assert limits.admit("m", 1)["x-ratelimit-limit-requests"] == str(rpm)
    for _ in range(3):
        error = refusal(limits)
        assert "too large" not in str(error)
        clock.now += int(error.headers["retry-after-ms"]) / 1000
        limits.admit("m", 1)


def test_calls_at_once_are_let_in_as_their_headers_say(simulated_server: Callable[..., ServerInfo]) -> None:
    url = f"{simulated_server(requests_per_minute=60).base_url}/chat/completions"
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}

    async def remaining(session: aiohttp.ClientSession) -> int:
        async with session.post(url, json=body) as response:
            assert response.status == HTTPStatus.OK
            return int(response.headers["x-ratelimit-remaining-requests"])

    async def ask() -> list[int]:
        async with aiohttp.ClientSession() as session:
            return await asyncio.gather(*(remaining(session) for _ in range(20)))

    counts = sorted(asyncio.run(ask()))
    assert counts[-1] == 59
    assert counts[0] >= 40, "more than that remain where some came back meanwhile"


def test_tokens_are_limited_on_their_own() -> None:
    clock = Clock()
    limits = SimulatedLimits(None, 6000, clock)
    limits.admit("m", 6000)
    assert refusal(limits, 50).kind == "tokens"
    clock.now = 0.5
    limits.admit("m", 50)


def test_request_larger_than_the_limit_is_told_so_and_not_to_wait() -> None:
    error = refusal(SimulatedLimits(None, 6000, Clock()), 6001)
    assert "too large" in str(error)
    assert "retry-after-ms" not in error.headers


def test_refused_request_takes_nothing() -> None:
    clock = Clock()
    limits = SimulatedLimits(60, 6000, clock)
    limits.admit("m", 6000)
    for _ in range(70):
        refusal(limits, 1)
    clock.now = 1.0
    limits.admit("m", 100)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0ms"), (0.0123, "12ms"), (1, "1s"), (1.5, "1.5s"), (360, "6m0s"), (61.25, "1m1.25s")]
)
def test_durations_are_written_as_the_api_does(seconds: float, text: str) -> None:
    assert go_duration(seconds) == text
