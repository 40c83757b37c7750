"""asyncgen.finetune.complete: prompts as the dataset taught them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from asyncgen.errors import AsyncgenError
from asyncgen.finetune.complete import (
    Completion,
    PromptForm,
    PromptSettings,
    Unanswered,
    ask_all,
    form_of,
    request_body,
)
from asyncgen.run.records import Usage
from asyncgen.run.state import DatasetState

CHAT = {"model": "m-1", "choices": [{"message": {"content": "Come in."}, "finish_reason": "stop"}]}


class Calls:
    """Answers by a function of the body."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[tuple[str, Mapping[str, Any]]] = []
        self.in_flight = self.most_in_flight = 0

    async def post_for_content(self, path: str, doing: str, body: Mapping[str, Any]) -> bytes:
        self.asked.append((path, body))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0)
        self.in_flight -= 1
        answer = self.answer(body) if callable(self.answer) else self.answer
        if isinstance(answer, Exception):
            raise answer
        return orjson.dumps(answer)


def answers(calls: Calls, asking: PromptSettings, *prompts: str) -> list[Completion | Unanswered]:
    async def scenario() -> list[Completion | Unanswered]:
        return [answer async for answer in ask_all(calls, asking, prompts)]

    return asyncio.run(scenario())


def test_a_chat_carries_the_datasets_system_message() -> None:
    form = form_of(DatasetState(files=[], format="chat", system="Write adverts.", separator=" -->", ending="\n"))
    body = request_body(PromptSettings("m", form, {"temperature": 0}), "Hotel, New York, small")
    assert body == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Write adverts."},
            {"role": "user", "content": "Hotel, New York, small"},
        ],
        "temperature": 0,
    }


def test_a_completion_ends_its_prompt_and_its_answer_as_the_dataset_does() -> None:
    form = form_of(DatasetState(files=[], format="completion", separator=" -->", ending="\n"))
    body = request_body(PromptSettings("m", form, {"max_tokens": 100}), "Hotel, New York, small")
    assert body == {"model": "m", "prompt": "Hotel, New York, small -->", "max_tokens": 100, "stop": ["\n"]}


def test_a_completion_loses_the_blank_that_it_was_taught_to_begin_with() -> None:
    calls = Calls({"choices": [{"text": " Come in.", "finish_reason": "stop"}], "usage": {"prompt_tokens": 8}})
    (answer,) = answers(calls, PromptSettings("m", PromptForm(format="completion")), "Hotel")
    assert answer == Completion("Hotel", "m", "Come in.", "stop", Usage(prompt_tokens=8))
    assert calls.asked[0][0] == "/completions"


def test_answers_come_in_the_order_of_the_prompts_and_few_are_asked_at_once() -> None:
    calls = Calls(lambda body: {**CHAT, "model": body["messages"][-1]["content"]})
    prompts = [f"p{number}" for number in range(40)]
    found = answers(calls, PromptSettings("m", PromptForm()), *prompts)
    assert [answer.model for answer in found] == prompts
    assert calls.most_in_flight == 8


def test_a_prompt_that_fails_does_not_take_the_others_with_it() -> None:
    error = AsyncgenError("no")
    calls = Calls(lambda body: error if body["messages"][-1]["content"] == "bad" else CHAT)
    first, second, third = answers(calls, PromptSettings("m", PromptForm()), "good", "bad", "good")
    assert isinstance(first, Completion)
    assert isinstance(third, Completion)
    assert second == Unanswered("bad", "m", error)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ({"choices": []}, "bad_json"),
        ({}, "bad_json"),
        ({"choices": [{"message": {"refusal": "I will not."}}]}, "refusal"),
        ({"choices": [{"message": {"content": None}, "finish_reason": "length"}]}, "empty"),
        ({"choices": [{"message": {"content": ""}, "finish_reason": "stop"}]}, "empty"),
        ({"choices": [{"message": {"tool_calls": [{"id": "c"}]}, "finish_reason": "tool_calls"}]}, "tool_calls"),
        ({"choices": [{"text": "", "finish_reason": "stop"}]}, "empty"),
    ],
)
def test_what_is_no_answer_is_an_error(answer: dict[str, Any], code: str) -> None:
    (found,) = answers(Calls(answer), PromptSettings("m", PromptForm()), "p")
    assert isinstance(found, Unanswered)
    assert found.error.code == code


def test_an_error_within_a_reply_of_status_200_is_told_in_the_servers_words() -> None:
    (found,) = answers(
        Calls({"error": {"message": "model is asleep", "code": 503}}), PromptSettings("m", PromptForm()), "p"
    )
    assert isinstance(found, Unanswered)
    assert found.error.cause == "model is asleep"


def test_an_answer_in_parts_is_read_as_generate_reads_it() -> None:
    parts = [
        {"type": "thinking", "thinking": "Hm."},
        {"type": "text", "text": "Come "},
        {"type": "text", "text": "in."},
    ]
    reply = {"choices": [{"message": {"content": parts}, "finish_reason": "STOP"}]}
    (found,) = answers(Calls(reply), PromptSettings("m", PromptForm()), "p")
    assert isinstance(found, Completion)
    assert (found.text, found.finish_reason) == ("Come in.", "stop")
