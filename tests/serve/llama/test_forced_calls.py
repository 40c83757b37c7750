"""Calls that a request insists on, from models whose chat template knows no tools: a random one, and the small one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import openai
import pytest

from asyncgen.serve.server import ServeSettings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from asyncgen.providers.local_server import ServerInfo

HELLO: list[Any] = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Is the shop open?"}]


def function(name: str, **properties: Any) -> Any:
    schema = {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "description": f"To {name}.", "parameters": schema}}


BOOK = function("book", sure={"type": "boolean"})
CLOSE = function("close", when={"enum": ["now", "later"]})
TOOLS = [BOOK, CLOSE]
VALUES: dict[str, Any] = {"book": [{"sure": True}, {"sure": False}], "close": [{"when": "now"}, {"when": "later"}]}


@pytest.fixture
def client(
    tiny_model: Path,
    tmp_path: Path,
    start_server: Callable[[ServeSettings], ServerInfo],
    sdk: Callable[[ServerInfo], openai.OpenAI],
) -> openai.OpenAI:
    return sdk(start_server(ServeSettings(data_dir=tmp_path, model_path=tiny_model, slots=2, threads=1)))


def ask(client: openai.OpenAI, **more: Any) -> Any:
    wanted: dict[str, Any] = {"model": "tiny-llama", "messages": HELLO, "tools": TOOLS}
    wanted |= {"max_tokens": 200, "temperature": 0}
    return client.chat.completions.create(**wanted | more)


def test_the_named_function_is_called_with_arguments_of_its_schema(client: openai.OpenAI) -> None:
    for name, values in VALUES.items():
        [choice] = ask(client, tool_choice={"type": "function", "function": {"name": name}}).choices
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
        [call] = choice.message.tool_calls
        assert (call.type, call.function.name) == ("function", name)
        assert json.loads(call.function.arguments) in values


def test_of_several_functions_the_model_chooses_and_the_choice_is_paid(client: openai.OpenAI) -> None:
    answer = ask(client, tool_choice="required", n=2)
    first, second = (choice.message.tool_calls[0] for choice in answer.choices)
    assert first.id != second.id
    assert first.function.name == second.function.name
    for call in (first, second):
        assert json.loads(call.function.arguments) in VALUES[call.function.name]
    named = ask(client, tool_choice={"type": "function", "function": {"name": first.function.name}}, n=2)
    assert answer.usage.completion_tokens > named.usage.completion_tokens


def test_a_stream_brings_the_call_in_parts(client: openai.OpenAI) -> None:
    choice = {"type": "function", "function": {"name": "close"}}
    usage = {"include_usage": True}
    chunks = list(ask(client, tool_choice=choice, stream=True, stream_options=usage))
    parts = [part for chunk in chunks if chunk.choices for part in chunk.choices[0].delta.tool_calls or ()]
    assert parts[0].id
    assert parts[0].function.name == "close"
    assert not any(part.id or part.function.name for part in parts[1:])
    assert json.loads("".join(part.function.arguments for part in parts)) in VALUES["close"]
    assert not any(chunk.choices[0].delta.content for chunk in chunks if chunk.choices)
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "tool_calls"
    assert chunks[-1].usage.completion_tokens > 0


def test_arguments_that_are_cut_say_so(client: openai.OpenAI) -> None:
    [choice] = ask(client, tools=[BOOK], tool_choice="required", max_tokens=3).choices
    assert choice.finish_reason == "length"
    assert len(choice.message.tool_calls[0].function.arguments) > 0


def test_a_function_without_parameters_is_called_with_an_object(client: openai.OpenAI) -> None:
    bare: Any = {"type": "function", "function": {"name": "stop", "parameters": {"type": "object", "properties": {}}}}
    [choice] = ask(client, tools=[bare], tool_choice="required").choices
    assert json.loads(choice.message.tool_calls[0].function.arguments) == {}


def test_responses_hold_the_call_too(client: openai.OpenAI) -> None:
    tool: Any = {"type": "function", "strict": True, **BOOK["function"]}
    answer = client.responses.create(model="tiny-llama", input="Book.", tools=[tool], tool_choice="required")
    [item] = answer.output
    assert item.type == "function_call"
    assert json.loads(item.arguments) in VALUES["book"]


def test_whoever_leaves_it_to_the_model_gets_text(client: openai.OpenAI) -> None:
    for choice in ("auto", "none"):
        message = ask(client, tool_choice=choice, max_tokens=8).choices[0].message
        assert message.tool_calls is None
        assert message.content


@pytest.mark.model
def test_the_small_model_calls_a_function_of_the_question(
    small_model: Path,
    tmp_path: Path,
    start_server: Callable[[ServeSettings], ServerInfo],
    sdk: Callable[[ServerInfo], openai.OpenAI],
) -> None:
    client = sdk(start_server(ServeSettings(data_dir=tmp_path, model_path=small_model, slots=1)))
    weather = function("get_weather", city={"type": "string"}, unit={"enum": ["C", "F"]})
    asked: Any = [{"role": "user", "content": "What is the weather in Paris in C?"}]
    answer = client.chat.completions.create(
        model="smollm2-135m-instruct",
        messages=asked,
        tools=[weather, BOOK],
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
        temperature=0,
        max_tokens=80,
    )
    called: Any = answer.choices[0].message.tool_calls
    assert json.loads(called[0].function.arguments) == {"city": "Paris", "unit": "C"}
    told = [
        *asked,
        answer.choices[0].message,
        {"role": "tool", "tool_call_id": called[0].id, "content": "18 degrees"},
    ]
    after = client.chat.completions.create(
        model="smollm2-135m-instruct", messages=told, tools=[weather], temperature=0, max_tokens=40
    )
    assert "18" in (after.choices[0].message.content or "")
