"""Faults: their draw, and what a client sees of each."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp
import openai
import pytest

from asyncgen.errors import UsageError
from asyncgen.serve.simulation.faults import FAULT_NAMES, FaultDraw, parse_faults

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncgen.providers.local_server import ServerInfo

BODY = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}


def post(server: ServerInfo, timeout_s: float = 10) -> tuple[int, str, bytes]:
    async def ask() -> tuple[int, str, bytes]:
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        url = f"{server.base_url}/chat/completions"
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(url, json=BODY) as response,
        ):
            return response.status, response.content_type, await response.read()

    return asyncio.run(ask())


def ask(client: openai.OpenAI) -> Any:
    return client.chat.completions.create(**BODY)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("400", 400, "invalid_value"),
        ("401", 401, "invalid_api_key"),
        ("403", 403, "training_not_available"),
        ("404", 404, "model_not_found"),
        ("408", 408, None),
        ("409", 409, None),
        ("429", 429, "rate_limit_exceeded"),
        ("500", 500, None),
        ("502", 502, None),
        ("503", 503, "server_is_overloaded"),
        ("504", 504, None),
        ("529", 529, None),
        ("quota", 429, "credit_balance_exhausted"),
        ("slow-down", 429, "slow_down"),
    ],
)
def test_status_fault_answers_as_the_api_does(
    simulated_server: Callable[..., ServerInfo], sdk: Any, name: str, status: int, code: str | None
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        ask(sdk(simulated_server(faults={name: 1})))
    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert "Simulated fault" in caught.value.message


def test_status_fault_meets_every_route_of_the_api(simulated_server: Callable[..., ServerInfo], sdk: Any) -> None:
    client = sdk(simulated_server(faults={"500": 1}))
    for call in (client.models.list, client.files.list, client.fine_tuning.jobs.list, client.batches.list):
        with pytest.raises(openai.InternalServerError):
            call()


def test_rate_limit_fault_says_when_to_come_back(simulated_server: Callable[..., ServerInfo], sdk: Any) -> None:
    with pytest.raises(openai.RateLimitError) as caught:
        ask(sdk(simulated_server(faults={"429": 1})))
    assert caught.value.response.headers["retry-after-ms"] == "50"


@pytest.mark.parametrize("name", ["reset", "reset-after"])
def test_reset_breaks_the_connection(simulated_server: Callable[..., ServerInfo], name: str) -> None:
    with pytest.raises(aiohttp.ClientConnectionError):
        post(simulated_server(faults={name: 1}))


def test_reset_after_has_done_the_work(simulated_server: Callable[..., ServerInfo], tmp_path: Any, sdk: Any) -> None:
    client = sdk(simulated_server(faults={"reset-after": 1}, data_dir=tmp_path))
    with pytest.raises(openai.APIConnectionError):
        client.files.create(file=("a.jsonl", b"x"), purpose="batch")
    assert len(list((tmp_path / "files").glob("*.json"))) == 1


def test_reset_has_done_nothing(simulated_server: Callable[..., ServerInfo], tmp_path: Any, sdk: Any) -> None:
    client = sdk(simulated_server(faults={"reset": 1}, data_dir=tmp_path))
    with pytest.raises(openai.APIConnectionError):
        client.files.create(file=("a.jsonl", b"x"), purpose="batch")
    assert list((tmp_path / "files").iterdir()) == []


@pytest.mark.parametrize("name", ["hang", "slow"])
def test_hang_and_drip_outlast_the_client(simulated_server: Callable[..., ServerInfo], name: str) -> None:
    with pytest.raises(TimeoutError):
        post(simulated_server(faults={name: 1}), timeout_s=0.7)


def test_malformed_answer_is_whole_http_and_half_json(simulated_server: Callable[..., ServerInfo]) -> None:
    status, kind, body = post(simulated_server(faults={"malformed": 1}))
    assert (status, kind) == (200, "application/json")
    assert body.startswith(b'{"id"')
    assert not body.endswith(b"}")


def test_truncated_answer_breaks_in_its_body(simulated_server: Callable[..., ServerInfo]) -> None:
    with pytest.raises(aiohttp.ClientPayloadError):
        post(simulated_server(faults={"truncated": 1}))


def test_html_answer_is_a_page_with_status_200(simulated_server: Callable[..., ServerInfo]) -> None:
    status, kind, body = post(simulated_server(faults={"html": 1}))
    assert (status, kind) == (200, "text/html")
    assert b"Simulated" in body


def test_refusal_has_no_text(simulated_server: Callable[..., ServerInfo], sdk: Any) -> None:
    message = ask(sdk(simulated_server(faults={"refusal": 1}))).choices[0].message
    assert (message.content, message.refusal) == (None, "Simulated refusal.")


def test_empty_answer_was_paid_for(simulated_server: Callable[..., ServerInfo], sdk: Any) -> None:
    answer = ask(sdk(simulated_server(faults={"empty": 1})))
    assert answer.choices[0].message.content == ""
    assert answer.usage.prompt_tokens > 0


@pytest.mark.parametrize(("name", "reason"), [("content-filter", "content_filter"), ("length", "length")])
def test_bad_finish_is_told(simulated_server: Callable[..., ServerInfo], sdk: Any, name: str, reason: str) -> None:
    client = sdk(simulated_server(faults={name: 1}))
    assert ask(client).choices[0].finish_reason == reason
    streamed = list(client.chat.completions.create(**BODY, stream=True))
    assert streamed[-1].choices[0].finish_reason == reason


def test_same_seed_meets_the_same_faults_in_any_order() -> None:
    questions = [str(number).encode() for number in range(1000)]
    forward, backward = FaultDraw({"500": 0.2, "reset": 0.1}, 7), FaultDraw({"500": 0.2, "reset": 0.1}, 7)
    first = {question: forward.fault(question) for question in questions}
    second = {question: backward.fault(question) for question in reversed(questions)}
    assert first == second
    other = FaultDraw({"500": 0.2, "reset": 0.1}, 8)
    assert first != {question: other.fault(question) for question in questions}


def test_faults_come_as_often_as_asked() -> None:
    draw = FaultDraw({"500": 0.2, "reset": 0.1}, 0)
    drawn = [draw.fault(str(number).encode()) for number in range(20_000)]
    assert drawn.count("500") / len(drawn) == pytest.approx(0.2, abs=0.01)
    assert drawn.count("reset") / len(drawn) == pytest.approx(0.1, abs=0.01)


def test_question_asked_again_is_drawn_anew() -> None:
    draw = FaultDraw({"500": 0.5}, 0)
    assert {draw.fault(b"the same") for _ in range(50)} == {None, "500"}


def test_every_fault_can_be_asked_for() -> None:
    assert parse_faults([f"{name}=0.01" for name in FAULT_NAMES]) == dict.fromkeys(FAULT_NAMES, 0.01)


@pytest.mark.parametrize("texts", [["nonsense=1"], ["500"], ["500=x"], ["500=-1"], ["500=2"], ["500=0.6", "429=0.6"]])
def test_bad_fault_is_refused(texts: list[str]) -> None:
    with pytest.raises(UsageError):
        parse_faults(texts)


def streamed(server: ServerInfo) -> bytes:
    """As much of a stream as comes."""

    async def ask() -> bytes:
        got = b""
        async with aiohttp.ClientSession() as session:
            try:
                url = f"{server.base_url}/chat/completions"
                async with session.post(url, json={**BODY, "stream": True}) as response:
                    async for data in response.content.iter_any():
                        got += data
            except aiohttp.ClientError:
                pass
        return got

    return asyncio.run(ask())


@pytest.mark.parametrize(("fault", "events"), [("truncated", 3), ("malformed", 3), ("reset-after", 0)])
def test_stream_breaks_off_too(simulated_server: Callable[..., ServerInfo], fault: str, events: int) -> None:
    got = streamed(simulated_server(faults={fault: 1.0}))
    assert b"[DONE]" not in got
    assert got.count(b"\n\n") == events


def test_stream_in_fair_weather_is_whole(simulated_server: Callable[..., ServerInfo]) -> None:
    assert streamed(simulated_server()).endswith(b"data: [DONE]\n\n")
