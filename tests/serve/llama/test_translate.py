"""Between the API's words and llama.cpp's."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from asyncgen.serve.engine import AnswerPiece, AnswerTokens, ChatTurn, EngineChoice, ModelCall, ToolCall, ToolCallPart
from asyncgen.serve.llama.translate import answer_of, path_of, pieces_of, request_of, sum_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CHAT = ModelCall(
    model="m", messages=(ChatTurn("developer", "Be brief."), ChatTurn("user", "Hello"), ChatTurn("assistant", "Well,"))
)
USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}


def whole(content: str | None, **choice: Any) -> dict[str, Any]:
    message = {"message": {"role": "assistant", "content": content}, "finish_reason": "stop", **choice}
    return {"choices": [message], "usage": USAGE}


def test_roles_are_those_that_templates_know() -> None:
    request = request_of(CHAT, [], 0)
    assert [message["role"] for message in request["messages"]] == ["system", "user", "assistant"]


def test_temperature_is_the_apis_default_unless_given() -> None:
    assert request_of(CHAT, [], 0)["temperature"] == 1.0
    assert request_of(ModelCall(model="m", prompt="x", sampling={"temperature": 0}), [], 0)["temperature"] == 0


def test_every_loaded_adapter_is_switched_on_or_off() -> None:
    loaded = [Path("a.gguf"), Path("b.gguf")]
    tuned = ModelCall(model="m", adapter=loaded[1], prompt="x")
    assert request_of(tuned, loaded, 0)["lora"] == [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 1.0}]
    assert request_of(CHAT, loaded, 0)["lora"] == [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 0.0}]
    assert "lora" not in request_of(CHAT, [], 0)


def test_seed_moves_with_the_choice() -> None:
    call = ModelCall(model="m", prompt="x", sampling={"seed": 5})
    assert [request_of(call, [], choice)["seed"] for choice in range(2)] == [5, 6]


def test_bare_prompt_goes_to_its_own_path() -> None:
    call = ModelCall(model="m", prompt="Hello", max_tokens=5, stop=("\n",))
    assert path_of(call) == "/v1/completions"
    assert request_of(call, [], 0) == {"temperature": 1.0, "prompt": "Hello", "max_tokens": 5, "stop": ["\n"]}


@pytest.mark.parametrize("content", ["Well, hello", " hello"])
def test_answer_holds_the_opening_once_whatever_llama_cpp_does(content: str) -> None:
    answer = answer_of(CHAT, [whole(content)])
    assert answer.choices[0].text == "Well, hello"
    assert answer.answer_tokens == AnswerTokens(prompt=9, completion=3, cached=4)


def test_answer_without_content_is_the_opening() -> None:
    assert answer_of(CHAT, [whole(None)]).choices[0].text == "Well,"


def test_completions_of_all_choices_are_counted() -> None:
    assert answer_of(CHAT, [whole("Well, a"), whole("Well, b")]).answer_tokens == AnswerTokens(9, 6, 4)


def test_log_probabilities_lose_token_numbers_only() -> None:
    token = {"id": 7, "token": "a", "bytes": [97], "logprob": -0.5}
    asked = msgspec.structs.replace(CHAT, sampling={"logprobs": True, "top_logprobs": 1})
    answer = whole("Well, a", logprobs={"content": [{**token, "top_logprobs": [token]}]})
    kept = {"token": "a", "bytes": [97], "logprob": -0.5}
    assert answer_of(asked, [answer]).choices[0].logprobs == {
        "content": [{**kept, "top_logprobs": [kept]}],
        "refusal": None,
    }


@pytest.mark.parametrize("named", [{}, {"top_logprobs": 0}, {"top_logprobs": None}])
def test_alternatives_come_only_where_a_number_of_them_is_asked_for(named: dict[str, Any]) -> None:
    asked = msgspec.structs.replace(CHAT, sampling={"logprobs": True, **named})
    assert request_of(asked, [], 0)["top_logprobs"] == 1
    token = {"token": "a", "bytes": [97], "logprob": -0.5}
    answer = whole("Well, a", logprobs={"content": [{**token, "top_logprobs": [token, token]}]})
    logprobs = answer_of(asked, [answer]).choices[0].logprobs
    assert logprobs == {"content": [{**token, "top_logprobs": []}], "refusal": None}


def test_stream_gives_the_opening_first_and_the_tally_last() -> None:
    chunks: list[dict[str, Any]] = [
        {"choices": [{"delta": {"role": "assistant", "content": None}, "finish_reason": None}]},
        {"choices": [{"delta": {"content": " hello"}, "finish_reason": None}]},
        {"choices": [{"delta": {}, "finish_reason": "stop"}]},
        {"choices": [], "usage": USAGE},
    ]

    async def source() -> AsyncIterator[dict[str, Any]]:
        for chunk in chunks:
            yield chunk

    async def collect() -> list[AnswerPiece | AnswerTokens]:
        return [piece async for piece in pieces_of(1, CHAT, source())]

    assert asyncio.run(collect()) == [
        AnswerPiece(1, "Well,"),
        AnswerPiece(1, " hello"),
        AnswerPiece(1, "", finish_reason="stop"),
        AnswerTokens(prompt=9, completion=3, cached=4),
    ]


TOOLS = tuple({"type": "function", "function": {"name": name}} for name in ("f", "g"))
CALLED = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


def test_named_tool_is_the_only_one_and_required() -> None:
    asked = ModelCall(model="m", messages=(ChatTurn("user", "x"),), tools=TOOLS)
    assert request_of(asked, [], 0)["tools"] == list(TOOLS)
    assert request_of(asked, [], 0)["tool_choice"] == "auto"
    named = ModelCall(
        model="m", messages=(ChatTurn("user", "x"),), tools=TOOLS, tool_choice={"function": {"name": "g"}}
    )
    assert request_of(named, [], 0)["tools"] == [TOOLS[1]]
    assert request_of(named, [], 0)["tool_choice"] == "required"
    assert "tools" not in request_of(CHAT, [], 0)


def test_calls_and_results_of_tools_are_passed_on() -> None:
    turns = (ChatTurn("assistant", "", {"tool_calls": [CALLED]}), ChatTurn("tool", "3", {"tool_call_id": "c1"}))
    messages = request_of(ModelCall(model="m", messages=turns), [], 0)["messages"]
    assert messages == [
        {"role": "assistant", "content": "", "tool_calls": [CALLED]},
        {"role": "tool", "content": "3", "tool_call_id": "c1"},
    ]


def test_answer_that_calls_a_tool_keeps_the_call_and_its_thoughts() -> None:
    message = {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [CALLED]}
    answer = {"choices": [{"message": message, "finish_reason": "tool_calls"}], "usage": USAGE}
    [choice] = answer_of(ModelCall(model="m", messages=(ChatTurn("user", "x"),), tools=TOOLS), [answer]).choices
    assert choice == EngineChoice("", "tool_calls", reasoning="hm", tool_calls=(ToolCall("c1", "f", '{"a": 1}'),))


def test_streamed_tool_call_comes_in_its_parts() -> None:
    first = {"index": 0, **CALLED, "function": {"name": "f", "arguments": ""}}
    deltas: list[dict[str, Any]] = [
        {"reasoning_content": "hm"},
        {"tool_calls": [first]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a": 1}'}}]},
    ]
    chunks = [{"choices": [{"delta": delta, "finish_reason": None}]} for delta in deltas]

    async def source() -> AsyncIterator[dict[str, Any]]:
        for chunk in chunks:
            yield chunk

    async def collect() -> list[AnswerPiece | AnswerTokens]:
        return [
            piece async for piece in pieces_of(0, ModelCall(model="m", messages=(ChatTurn("user", "x"),)), source())
        ]

    assert asyncio.run(collect()) == [
        AnswerPiece(0, "", reasoning="hm"),
        AnswerPiece(0, "", tool_calls=(ToolCallPart(0, "", "c1", "f"),)),
        AnswerPiece(0, "", tool_calls=(ToolCallPart(0, '{"a": 1}'),)),
    ]


def test_stream_without_usage_counts_nothing() -> None:
    assert sum_of([]) == AnswerTokens(0, 0)


def test_thinking_is_switched_on_where_it_is_asked_for() -> None:
    def switch(**more: Any) -> Any:
        return request_of(ModelCall(model="m", messages=(ChatTurn("user", "x"),), **more), [], 0)[
            "chat_template_kwargs"
        ]

    assert switch() == switch(reasoning_effort="none") == {"enable_thinking": False}
    assert switch(reasoning_effort="low") == {"enable_thinking": True}
    assert switch(sampling={"chat_template_kwargs": {"enable_thinking": True, "x": 1}})["enable_thinking"]
