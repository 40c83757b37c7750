"""Answers over HTTP, as the official SDK sees them."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import openai
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncgen.providers.local_server import ServerInfo

HELLO: list[Any] = [{"role": "user", "content": "Say hello."}]
OPENED: list[Any] = [*HELLO, {"role": "assistant", "content": "Well, hello"}]


def ask(server: ServerInfo, path: str, body: bytes, **headers: str) -> tuple[int, dict[str, str], Any]:
    """A request by hand, for what the SDK would not send."""
    request = urllib.request.Request(server.base_url.removesuffix("/v1") + path, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, dict(response.headers), json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), json.load(error)


def test_chat_answer_has_text_usage_and_names_a_simulation(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="any-name", messages=HELLO)
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "any-name"
    assert answer.system_fingerprint == "simulated"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0


def test_answer_has_a_request_id_and_its_time(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="m", messages=HELLO)
    assert raw.headers["x-request-id"].startswith("req_")
    assert int(raw.headers["openai-processing-ms"]) >= 0


def test_same_question_gives_the_same_text_on_every_server(
    simulated_server: Callable[..., ServerInfo], sdk: Callable[[ServerInfo], openai.OpenAI]
) -> None:
    first, second = (
        sdk(simulated_server()).chat.completions.create(model="m", messages=HELLO).choices[0].message.content
        for _ in range(2)
    )
    assert first == second


def test_question_asked_again_gets_another_text(client: openai.OpenAI) -> None:
    texts = {client.chat.completions.create(model="m", messages=HELLO).choices[0].message.content for _ in range(3)}
    assert len(texts) == 3


def test_opening_is_continued_and_is_in_the_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="m", messages=OPENED)
    text = answer.choices[0].message.content
    assert text is not None
    assert text.startswith("Well, hello")
    assert len(text) > len("Well, hello")


def test_opening_comes_first_in_a_stream_too(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="m", messages=OPENED).choices[0].message.content
    again = client.chat.completions.create(model="m", messages=OPENED, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in again)
    assert text.startswith("Well, hello")
    assert whole != text


def test_stream_ends_with_a_finish_reason_and_the_usage(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="m", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    *parts, last, answer_tokens = list(stream)
    assert parts[0].choices[0].delta.role == "assistant"
    assert last.choices[0].finish_reason == "stop"
    assert answer_tokens.choices == []
    assert answer_tokens.usage is not None
    assert answer_tokens.usage.completion_tokens > 0


def test_usage_is_not_streamed_unasked(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model="m", messages=HELLO, stream=True)
    assert all(chunk.usage is None for chunk in stream)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_token_limit_cuts_the_answer(client: openai.OpenAI, name: str) -> None:
    answer = client.chat.completions.create(model="m", messages=HELLO, **{name: 3})  # type: ignore[call-overload]
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 3


def test_stop_ends_the_answer_before_itself(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="m", messages=HELLO, stop=[" text"])
    assert answer.choices[0].message.content == "Simulated"
    assert answer.choices[0].finish_reason == "stop"


def test_n_choices_differ(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="m", messages=HELLO, n=3)
    assert len({choice.message.content for choice in answer.choices}) == 3
    assert [choice.index for choice in answer.choices] == [0, 1, 2]


def test_completions_answer_each_prompt(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="m", prompt=["one", "two"], max_tokens=50, n=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert len({choice.text for choice in answer.choices}) == 4


def test_completions_stream(client: openai.OpenAI) -> None:
    stream = client.completions.create(model="m", prompt="one", max_tokens=50, stream=True)
    chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks).startswith("Simulated text")
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_stream_of_two_prompts_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="m", prompt=["one", "two"], stream=True)
    assert caught.value.param == "prompt"


def test_unknown_tuned_model_is_404(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="ft:gpt:org::1234", messages=HELLO)
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"


def test_error_has_the_apis_shape_and_a_request_id(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="m", messages=HELLO, temperature=3)
    assert caught.value.param == "temperature"
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id is not None
    assert set(caught.value.body) == {"message", "type", "param", "code"}  # type: ignore[call-overload]


@pytest.mark.parametrize("body", [b"{", b"[]", b"", b'"text"', b"\xff", b'{"a": NaN}'])
def test_body_that_is_no_json_object_is_refused(simulated_server: Callable[..., ServerInfo], body: bytes) -> None:
    status, headers, answer = ask(simulated_server(), "/v1/chat/completions", body)
    assert status == 400
    assert answer["error"]["type"] == "invalid_request_error"
    assert headers["x-request-id"]


def test_body_larger_than_the_cap_is_refused(simulated_server: Callable[..., ServerInfo]) -> None:
    status, _, answer = ask(simulated_server(), "/v1/chat/completions", b" " * (17 * 1024 * 1024))
    assert status == 413
    assert "error" in answer


def test_latency_is_kept(
    simulated_server: Callable[..., ServerInfo], sdk: Callable[[ServerInfo], openai.OpenAI]
) -> None:
    client = sdk(simulated_server(latency_s=0.2))
    raw = client.chat.completions.with_raw_response.create(model="m", messages=HELLO)
    assert int(raw.headers["openai-processing-ms"]) >= 200


def test_limits_are_told_and_enforced(
    simulated_server: Callable[..., ServerInfo], sdk: Callable[[ServerInfo], openai.OpenAI]
) -> None:
    client = sdk(simulated_server(requests_per_minute=60, tokens_per_minute=6000))
    raw = client.chat.completions.with_raw_response.create(model="m", messages=HELLO)
    assert raw.headers["x-ratelimit-limit-requests"] == "60"
    assert raw.headers["x-ratelimit-remaining-requests"] == "59"
    assert raw.headers["x-ratelimit-limit-tokens"] == "6000"

    def use_up() -> None:
        for _ in range(100):  # an allowance comes back each second
            client.chat.completions.create(model="m", messages=HELLO)

    with pytest.raises(openai.RateLimitError) as caught:
        use_up()
    assert caught.value.code == "rate_limit_exceeded"
    assert caught.value.response.headers["x-ratelimit-remaining-requests"] == "0"
    assert 0 < int(caught.value.response.headers["retry-after-ms"]) <= 1000
    assert caught.value.response.headers["retry-after"] == "1"


def test_fair_weather_has_no_limit_headers(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="m", messages=HELLO)
    assert not [name for name in raw.headers if name.startswith("x-ratelimit")]
