"""From JSON to a checked call."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.serve.calls import chat_call, text_calls
from asyncgen.serve.engine import ChatTurn
from asyncgen.serve.wire import ApiError

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}


def chat(strict: bool = True, **more: Any) -> Any:
    return chat_call({**CHAT, **more}, lambda _: None, strict=strict)


def refused(strict: bool = True, **more: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        chat(strict, **more)
    assert caught.value.status == 400
    return caught.value


def test_messages_become_roles_and_texts() -> None:
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
        {"role": "user", "content": "Hello", "name": "Ann"},
    ]
    assert chat(messages=messages).messages == (
        ChatTurn("developer", "Be brief."),
        ChatTurn("user", "Hello", {"name": "Ann"}),
    )


def test_last_assistant_message_is_the_opening() -> None:
    opened = [*CHAT["messages"], {"role": "assistant", "content": "Well"}]
    assert chat(messages=opened).opening == "Well"
    assert chat(messages=[*opened, *CHAT["messages"]]).opening == ""


def test_newer_name_of_the_token_limit_wins() -> None:
    assert chat(max_tokens=5).max_tokens == 5
    assert chat(max_tokens=5, max_completion_tokens=7).max_tokens == 7


def test_bare_completions_have_the_apis_default_limit() -> None:
    [call] = text_calls({"model": "m", "prompt": "Hello"}, lambda _: None, strict=True)
    assert (call.max_tokens, call.prompt, call.messages) == (16, "Hello", None)


def test_each_prompt_is_a_call_of_its_own() -> None:
    calls = text_calls({"model": "m", "prompt": ["a", "b"]}, lambda _: None, strict=True)
    assert [call.prompt for call in calls] == ["a", "b"]


def test_sampling_parameters_go_through_and_nulls_do_not() -> None:
    call = chat(temperature=0.5, min_p=0.1, grammar="root ::= x", top_p=None, user="Ann", reasoning_effort="none")
    assert call.sampling == {"temperature": 0.5, "min_p": 0.1, "grammar": "root ::= x"}


def test_adapter_is_found_by_the_models_name() -> None:
    call = chat_call({**CHAT, "model": "ft:x"}, {"ft:x": Path("a.gguf")}.__getitem__, strict=True)
    assert call.adapter == Path("a.gguf")


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"messages": None}, "messages", "invalid_type"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "missing_required_parameter"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
         "messages[0].content[0].type", "invalid_value"),
        ({"model": 3}, "model", "invalid_type"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_completion_tokens": "many"}, "max_completion_tokens", "invalid_type"),
        ({"n": 129}, "n", "invalid_value"),
        ({"temperature": 2.1}, "temperature", "invalid_value"),
        ({"top_p": -0.1}, "top_p", "invalid_value"),
        ({"presence_penalty": 3}, "presence_penalty", "invalid_value"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "array_above_max_length"),
        ({"tools": [{}]}, "tools[0].type", "missing_required_parameter"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice", "invalid_value"),
        ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
        ({"functions": [{"name": "f"}], "function_call": "auto"}, "functions", "unsupported_parameter"),
        ({"modalities": ["audio"]}, "modalities[0]", "invalid_value"),
        ({"response_format": {"type": "bogus"}}, "response_format.type", "invalid_value"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema",
         "missing_required_parameter"),
        ({"temprature": 1}, "temprature", "unknown_parameter"),
    ],
)  # fmt: skip
def test_bad_parameter_is_named(more: dict[str, Any], param: str, code: str) -> None:
    error = refused(**more)
    assert (error.param, error.code) == (param, code)


def test_missing_parameter_is_named() -> None:
    with pytest.raises(ApiError) as caught:
        chat_call({"messages": CHAT["messages"]}, lambda _: None, strict=True)
    assert (caught.value.param, caught.value.code) == ("model", "missing_required_parameter")


def test_simulation_takes_parameters_that_nobody_knows() -> None:
    assert chat(strict=False, temprature=1).sampling == {}


def test_null_is_as_good_as_nothing() -> None:
    call = chat(stop=None, n=None, max_tokens=None, temperature=None, tools=None, stream=None)
    assert (call.stop, call.count, call.max_tokens, call.sampling) == ((), 1, None, {})


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    ),
    st.sampled_from(["model", "messages", "stop", "n", "temperature", "stream_options", "seed", "logprobs"]),
)
def test_no_value_of_a_parameter_breaks_the_check(value: Any, name: str) -> None:
    with suppress(ApiError):  # anything else is a bug
        chat(**{name: value})


def test_tools_and_their_results_are_part_of_a_chat() -> None:
    called = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        *CHAT["messages"],
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "call_1", "content": "3"},
    ]
    tools = [{"type": "function", "function": {"name": "f"}}]
    call = chat(messages=messages, tools=tools, tool_choice="auto", parallel_tool_calls=False, modalities=["text"])
    assert call.messages == (
        ChatTurn("user", "Hello"),
        ChatTurn("assistant", "", {"tool_calls": [called]}),
        ChatTurn("tool", "3", {"tool_call_id": "call_1"}),
    )
    assert (call.tools, call.tool_choice) == (tuple(tools), "auto")
    assert call.opening == ""


def test_no_tools_are_as_good_as_none_asked_for() -> None:
    assert chat(tools=[], tool_choice="none").tools == ()
