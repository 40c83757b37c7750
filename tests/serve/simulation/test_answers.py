"""JSON, tool calls and reasoning out of the simulation, as the official SDK sees them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import openai
import pytest
from pydantic import BaseModel

from asyncgen.providers.tokens import estimate_text
from asyncgen.serve.engine import ChatTurn, ModelCall
from asyncgen.serve.simulation.engine import simulated_choice, wanted_tools

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncgen.providers.local_server import ServerInfo


class Pair(BaseModel):
    question: str
    answer: str


class Pairs(BaseModel):
    pairs: list[Pair]


HELLO: list[Any] = [{"role": "user", "content": "Write three pairs."}]
WEATHER: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]


def tool(name: str, **properties: Any) -> Any:
    parameters = {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [tool("get_weather", city={"type": "string"}), tool("book_table", people={"type": "integer"})]


def format_of(schema: Any) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema, "strict": True}}


def test_json_is_valid_by_the_schema_that_was_sent(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(model="m", messages=HELLO, response_format=Pairs)
    parsed = answer.choices[0].message.parsed
    assert parsed is not None
    assert parsed.pairs[0].question.startswith("Simulated question")


def test_json_without_a_schema_has_the_fields_that_the_prompt_names(client: openai.OpenAI) -> None:
    named: list[Any] = [{"role": "user", "content": 'Reply with {"title": ..., "body": ...} only.'}]
    for messages, fields in ((named, {"title", "body"}), (HELLO, {"answer"})):
        answer = client.chat.completions.create(model="m", messages=messages, response_format={"type": "json_object"})
        assert json.loads(answer.choices[0].message.content or "").keys() == fields


def test_json_comes_in_a_stream_too(client: openai.OpenAI) -> None:
    schema = Pairs.model_json_schema()
    stream = client.chat.completions.create(
        model="m", messages=HELLO, response_format=format_of(schema), stream=True, seed=1
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    jsonschema_rs.validate(schema, json.loads(text))


def test_json_is_cut_by_the_token_limit_as_a_models_is(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="m", messages=HELLO, response_format=format_of(Pairs.model_json_schema()), max_tokens=5
    )
    assert answer.choices[0].finish_reason == "length"
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.choices[0].message.content or "")


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"$ref": "#/nowhere"}, {"type": "string", "pattern": "("}])
def test_schema_that_is_none_is_refused(client: openai.OpenAI, schema: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="m", messages=HELLO, response_format=format_of(schema))
    assert (caught.value.param, caught.value.code) == ("response_format", "invalid_json_schema")


def test_tool_is_called_when_the_prompt_wants_it(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="m", messages=WEATHER, tools=TOOLS)
    assert answer.choices[0].finish_reason == "tool_calls"
    message = answer.choices[0].message
    assert message.content is None
    assert message.tool_calls is not None
    [called] = message.tool_calls
    assert called.type == "function"
    assert called.function.name == "get_weather"
    assert json.loads(called.function.arguments)["city"].startswith("Simulated city")
    assert called.id.startswith("call_")


def test_tool_results_are_answered_in_words(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(model="m", messages=WEATHER, tools=TOOLS).choices[0].message
    assert first.tool_calls is not None
    done: list[Any] = [
        *WEATHER,
        first.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "21 degrees"},
    ]
    second = client.chat.completions.create(model="m", messages=done, tools=TOOLS).choices[0]
    assert second.finish_reason == "stop"
    assert second.message.content


@pytest.mark.parametrize(
    ("choice", "asked", "called"),
    [
        ("auto", "What is the weather?", ["get_weather"]),
        ("auto", "Weathers and tables, please", ["get_weather", "book_table"]),
        ("auto", "Get me a poem", []),
        ("auto", "call book_table", ["book_table"]),
        ("none", "What is the weather?", []),
        ("required", "A poem", ["get_weather"]),
        ("required", "A table for two", ["book_table"]),
        ({"type": "function", "function": {"name": "book_table"}}, "What is the weather?", ["book_table"]),
    ],
)
def test_tool_choice_is_kept(choice: Any, asked: str, called: list[str]) -> None:
    call = ModelCall(model="m", messages=(ChatTurn("user", asked),), tools=tuple(TOOLS), tool_choice=choice)
    assert [function["name"] for function in wanted_tools(call)] == called


def test_one_tool_at_a_time_where_that_is_asked() -> None:
    call = ModelCall(
        model="m",
        messages=(ChatTurn("user", "weather, table"),),
        tools=tuple(TOOLS),
        sampling={"parallel_tool_calls": False},
    )
    assert len(wanted_tools(call)) == 1


def test_tool_calls_are_streamed_in_parts(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="m", messages=WEATHER, tools=TOOLS) as stream:
        final = stream.get_final_completion()
    whole = client.chat.completions.create(model="m", messages=WEATHER, tools=TOOLS)
    assert final.choices[0].finish_reason == "tool_calls"
    assert final.choices[0].message.tool_calls is not None
    assert whole.choices[0].message.tool_calls is not None
    streamed, sent = final.choices[0].message.tool_calls[0], whole.choices[0].message.tool_calls[0]
    assert (streamed.function.name, json.loads(streamed.function.arguments).keys()) == ("get_weather", {"city"})
    assert sent.type == "function"
    assert sent.function.name == streamed.function.name


@pytest.mark.parametrize(("effort", "sentences"), [("low", 1), ("medium", 2), ("high", 4), ("none", 0)])
def test_reasoning_comes_as_it_is_asked_for(client: openai.OpenAI, effort: Any, sentences: int) -> None:
    answer = client.chat.completions.create(model="m", messages=HELLO, reasoning_effort=effort)
    reasoning = answer.choices[0].message.model_dump().get("reasoning_content", "")
    assert reasoning.count("Simulated thought") == sentences
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens == estimate_text(reasoning)
    text = answer.choices[0].message.content or ""
    assert answer.usage.completion_tokens == estimate_text(reasoning) + estimate_text(text)


def test_server_that_reasons_does_so_unasked_but_not_against_a_word(
    simulated_server: Callable[..., ServerInfo], sdk: Callable[[ServerInfo], openai.OpenAI]
) -> None:
    client = sdk(simulated_server(reasons=True))
    unasked = client.chat.completions.create(model="m", messages=HELLO).choices[0].message
    assert unasked.model_dump()["reasoning_content"]
    declined = client.chat.completions.create(model="m", messages=HELLO, reasoning_effort="none").choices[0].message
    assert "reasoning_content" not in declined.model_dump()


def test_reasoning_is_streamed_before_the_answer(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model="m", messages=HELLO, reasoning_effort="low", stream=True)
    deltas = [chunk.choices[0].delta for chunk in stream]
    thoughts = [place for place, delta in enumerate(deltas) if delta.model_dump().get("reasoning_content")]
    words = [place for place, delta in enumerate(deltas) if delta.content]
    assert thoughts
    assert max(thoughts) < min(words)


def test_reasoning_uses_up_the_token_limit() -> None:
    call = ModelCall(model="m", messages=(ChatTurn("user", "Hello"),), max_tokens=10, reasoning_effort="high")
    choice = simulated_choice(call, b"x" * 16, 0, 0, reasons=False)
    assert (choice.text, choice.finish_reason, estimate_text(choice.reasoning)) == ("", "length", 10)


@pytest.mark.parametrize("fixed", [{"seed": 7}, {"temperature": 0}])
def test_seed_and_temperature_zero_repeat_the_answer(client: openai.OpenAI, fixed: dict[str, Any]) -> None:
    answers = [client.chat.completions.create(model="m", messages=HELLO, **fixed).choices[0] for _ in range(2)]
    assert answers[0].message.content == answers[1].message.content


def test_every_answer_says_that_it_is_made_up(client: openai.OpenAI) -> None:
    chat = client.chat.completions.with_raw_response.create(model="m", messages=HELLO)
    text = client.completions.with_raw_response.create(model="m", prompt="x")
    for raw in (chat, text):
        assert raw.headers["x-asyncgen-simulated"] == "true"
        assert raw.parse().system_fingerprint == "simulated"
    stream = client.chat.completions.with_raw_response.create(model="m", messages=HELLO, stream=True)
    assert stream.headers["x-asyncgen-simulated"] == "true"
    assert all(chunk.system_fingerprint == "simulated" for chunk in stream.parse())


def test_probabilities_are_in_each_routes_own_form(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(model="m", messages=HELLO, logprobs=True, top_logprobs=2).choices[0]
    assert chat.logprobs is not None
    assert chat.logprobs.content is not None
    assert "".join(token.token for token in chat.logprobs.content) == chat.message.content
    assert all(len(token.top_logprobs) == 2 for token in chat.logprobs.content)
    text = client.completions.create(model="m", prompt="x y", logprobs=2, max_tokens=50, echo=True).choices[0]
    assert text.text.startswith("x y Simulated text")
    assert text.logprobs is not None
    assert text.logprobs.tokens is not None
    assert text.logprobs.text_offset is not None
    for token, offset in zip(text.logprobs.tokens, text.logprobs.text_offset, strict=True):
        assert text.text[offset:].startswith(token)
    assert text.logprobs.token_logprobs is not None
    assert text.logprobs.top_logprobs is not None
    lengths = {len(text.logprobs.tokens), len(text.logprobs.token_logprobs), len(text.logprobs.top_logprobs)}
    assert len(lengths) == 1


def test_streamed_probabilities_have_offsets_of_the_whole_text(client: openai.OpenAI) -> None:
    stream = client.completions.create(model="m", prompt="x", logprobs=1, max_tokens=50, stream=True)
    text = ""
    for chunk in stream:
        logprobs = chunk.choices[0].logprobs
        text += chunk.choices[0].text
        if logprobs and logprobs.tokens and logprobs.text_offset:
            assert text[logprobs.text_offset[0] :] == logprobs.tokens[0]
    assert text.startswith("Simulated")


def test_prompt_is_echoed_without_an_answer_where_none_is_wanted(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="m", prompt="x y", max_tokens=0, echo=True, logprobs=1).choices[0]
    assert answer.text == "x y"
    assert answer.finish_reason == "length"
    assert answer.logprobs is not None
    assert answer.logprobs.tokens == ["x", " y"]
