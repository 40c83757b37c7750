"""`/v1/responses`, as the official SDK sees it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import openai
import pytest
from pydantic import BaseModel

from asyncgen.serve.server import ServeSettings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from asyncgen.providers.local_server import ServerInfo


class Pair(BaseModel):
    question: str
    answer: str


TOOLS: list[Any] = [
    {
        "type": "function",
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
        "strict": True,
    }
]


def test_text_is_answered_as_a_chat_would_be(client: openai.OpenAI) -> None:
    response = client.responses.create(model="m", input="Say hello.", instructions="Be brief.", extra_body={"seed": 1})
    chat = client.chat.completions.create(
        model="m",
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hello."}],
        seed=1,
    )
    assert response.output_text == chat.choices[0].message.content
    assert response.status == "completed"
    assert chat.usage is not None
    assert response.usage is not None
    assert response.usage.input_tokens == chat.usage.prompt_tokens
    assert response.usage.total_tokens == chat.usage.total_tokens


def test_answer_says_that_it_is_made_up(client: openai.OpenAI) -> None:
    raw = client.responses.with_raw_response.create(model="m", input="x")
    assert raw.headers["x-asyncgen-simulated"] == "true"
    assert raw.parse().model_dump()["system_fingerprint"] == "simulated"


def test_items_of_all_kinds_are_read(client: openai.OpenAI) -> None:
    items: list[Any] = [
        {"role": "developer", "content": "Be brief."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "21 degrees"},
    ]
    response = client.responses.create(model="m", input=items, tools=TOOLS)
    assert response.output_text.startswith("Simulated text")


def test_tool_is_called_and_streamed_in_parts(client: openai.OpenAI) -> None:
    response = client.responses.create(model="m", input="What is the weather?", tools=TOOLS)
    [called] = response.output
    assert called.type == "function_call"
    assert called.name == "get_weather"
    with client.responses.stream(model="m", input="What is the weather?", tools=TOOLS) as stream:
        events = [event.type for event in stream]
        [streamed] = stream.get_final_response().output
    assert streamed.type == "function_call"
    assert json.loads(streamed.arguments).keys() == {"city"}
    assert events.count("response.function_call_arguments.done") == 1


@pytest.mark.parametrize("choice", ["none", "required", {"type": "function", "name": "get_weather"}])
def test_tool_choice_is_kept(client: openai.OpenAI, choice: Any) -> None:
    response = client.responses.create(model="m", input="A poem", tools=TOOLS, tool_choice=choice)
    assert (response.output[0].type == "function_call") == (choice != "none")


def test_json_is_valid_by_the_schema(client: openai.OpenAI) -> None:
    response = client.responses.parse(model="m", input="A pair", text_format=Pair)
    assert response.output_parsed is not None
    assert response.output_parsed.question


def test_reasoning_is_an_item_before_the_answer(client: openai.OpenAI) -> None:
    response = client.responses.create(model="m", input="x", reasoning={"effort": "low"})
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert response.usage is not None
    assert response.usage.output_tokens_details.reasoning_tokens > 0


def test_stream_has_every_event_in_order_and_the_whole_at_its_end(client: openai.OpenAI) -> None:
    events = list(client.responses.create(model="m", input="x", stream=True, reasoning={"effort": "low"}))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:3] == ["response.created", "response.in_progress", "response.output_item.added"]
    assert kinds[-1] == "response.completed"
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    final = events[-1]
    assert final.type == "response.completed"
    assert final.response.output_text == text
    assert {event.response.id for event in events if hasattr(event, "response")} == {final.response.id}


def test_token_limit_makes_it_incomplete(client: openai.OpenAI) -> None:
    response = client.responses.create(model="m", input="x", max_output_tokens=3)
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
         "input[0].content[0].type"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": 3}, "input"),
        ({"temperature": 9}, "temperature"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_named(client: openai.OpenAI, more: dict[str, Any], param: str) -> None:
    asked: dict[str, Any] = {"model": "m", "input": "x", **more}
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**asked)
    assert caught.value.param == param


def test_real_model_answers_too(
    start_server: Callable[..., ServerInfo],
    sdk: Callable[[ServerInfo], openai.OpenAI],
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    client = sdk(start_server(ServeSettings(data_dir=tmp_path, model_path=tiny_model, slots=1, threads=1)))
    opened: Any = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Well, "}]
    asked = {"model": "tiny-llama", "input": opened, "max_output_tokens": 8, "temperature": 0}
    whole = client.responses.create(**asked)
    assert whole.output_text.startswith("Well, ")
    assert whole.status == "incomplete"
    stream = client.responses.create(**asked, stream=True)
    assert "".join(event.delta for event in stream if event.type == "response.output_text.delta") == whole.output_text
