"""Every rule on chat examples: one example that breaks it, and none that is good breaks any."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.dataset.rules.chat import check_chat

USER = {"role": "user", "content": "Hotel, New York, small"}
ANSWER = {"role": "assistant", "content": "Stay here."}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
CALLS = {"role": "assistant", "content": None, "tool_calls": [CALL]}
REPLY = {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}


def chat(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"messages": list(messages), **more}


def rules(example: dict[str, Any], *, strict: bool = False, fatal: bool = True) -> set[str]:
    return {fault.rule for fault in check_chat(example, strict_turns=strict) if fault.fatal == fatal}


GOOD = {
    "two messages": chat(USER, ANSWER),
    "system": chat({"role": "system", "content": "You sell."}, USER, ANSWER),
    "developer": chat({"role": "developer", "content": "You sell."}, USER, ANSWER),
    "several turns": chat(USER, {**ANSWER, "weight": 0}, USER, {**ANSWER, "weight": 1}),
    "parts": chat({"role": "user", "content": [{"type": "text", "text": "hello"}]}, ANSWER),
    "picture": chat({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a/b"}}]}, ANSWER),
    "name": chat({**USER, "name": "shop_1"}, ANSWER),
    "a call at the end": chat(USER, CALLS, tools=[TOOL], parallel_tool_calls=False),
    "a call and its answer": chat(USER, CALLS, REPLY, ANSWER, tools=[TOOL]),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_example_breaks_no_rule(name: str) -> None:
    assert not list(check_chat(GOOD[name], strict_turns=False))


FATAL: dict[str, tuple[str, dict[str, Any]]] = {
    "no messages": ("messages", {}),
    "messages no array": ("messages", {"messages": "hello"}),
    "messages empty": ("messages", chat()),
    "a message no object": ("message", chat(USER, "hello")),
    "no role": ("role", chat({"content": "a"}, ANSWER)),
    "unknown role": ("role", chat({"role": "bot", "content": "a"}, ANSWER)),
    "role no string": ("role", chat({"role": ["user"], "content": "a"}, ANSWER)),
    "unknown key": ("unknown_key", chat({**USER, "text": "a"}, ANSWER)),
    "no content": ("content", chat({"role": "user"}, ANSWER)),
    "content a number": ("content", chat({"role": "user", "content": 5}, ANSWER)),
    "content null without a call": ("content", chat(USER, {"role": "assistant", "content": None})),
    "a part no object": ("content", chat({"role": "user", "content": ["a"]}, ANSWER)),
    "a part without text": ("content", chat({"role": "user", "content": [{"type": "text"}]}, ANSWER)),
    "empty content": ("empty_content", chat({"role": "user", "content": " \n"}, ANSWER)),
    "no parts": ("empty_content", chat({"role": "user", "content": []}, ANSWER)),
    "user last": ("last_role", chat(USER, ANSWER, USER)),
    "no assistant": ("no_assistant", chat(USER)),
    "only weight 0": ("no_assistant", chat(USER, {**ANSWER, "weight": 0})),
    "weight of a user": ("weight", chat({**USER, "weight": 1}, ANSWER)),
    "weight 2": ("weight", chat(USER, {**ANSWER, "weight": 2})),
    "weight true": ("weight", chat(USER, {**ANSWER, "weight": True})),
    "bad name": ("name", chat({**USER, "name": "my shop"}, ANSWER)),
    "tools no array": ("tools", chat(USER, ANSWER, tools={})),
    "a tool without a function": ("tools", chat(USER, ANSWER, tools=[{"type": "function"}])),
    "a call to an undefined tool": ("tool_undefined", chat(USER, CALLS)),
    "calls no array": ("tool_calls", chat(USER, {**CALLS, "tool_calls": 5}, tools=[TOOL])),
    "a call without id": ("tool_calls", chat(USER, {**CALLS, "tool_calls": [{**CALL, "id": None}]}, tools=[TOOL])),
    "arguments no JSON": (
        "tool_arguments",
        chat(
            USER,
            {**CALLS, "tool_calls": [{**CALL, "function": {"name": "weather", "arguments": "{city"}}]},
            tools=[TOOL],
        ),
    ),
    "a call without an answer": ("tool_call_unanswered", chat(USER, CALLS, USER, ANSWER, tools=[TOOL])),
    "an answer without a call": ("tool_call_id", chat(USER, REPLY, ANSWER, tools=[TOOL])),
}


@pytest.mark.parametrize("name", FATAL)
def test_each_rule_finds_the_example_that_breaks_it(name: str) -> None:
    rule, example = FATAL[name]
    assert rule in rules(example)


@pytest.mark.parametrize(
    ("rule", "example"),
    [
        ("turns", chat(USER, USER, ANSWER)),
        ("turns", chat(ANSWER)),
        ("system_first", chat(USER, {"role": "system", "content": "You sell."}, ANSWER)),
        ("no_user", chat({"role": "system", "content": "You sell."}, ANSWER)),
    ],
)
def test_strict_turns_are_a_rule_of_some_providers_only(rule: str, example: dict[str, Any]) -> None:
    assert rule in rules(example, strict=True)
    assert not rules(example, strict=False)


def test_what_is_odd_but_taken_is_a_remark() -> None:
    assert rules(chat({"role": "system", "content": "a"}, ANSWER), fatal=False) == {"no_user"}
    assert rules(chat(USER, ANSWER, note="mine"), fatal=False) == {"unknown_key"}
    assert rules(chat(USER, ANSWER, functions=[]), fatal=False) == {"deprecated"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["messages", "role", "content", "tools", "function", "tool_calls", "type", "id", "name", "x"]),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool", "system"])},
    optional={
        "content": json_values,
        "weight": json_values,
        "name": json_values,
        "tool_calls": json_values,
        "tool_call_id": json_values,
        "function_call": json_values,
    },
)


@given(
    st.fixed_dictionaries({"messages": st.lists(messages | json_values, max_size=4)}, optional={"tools": json_values})
)
def test_no_json_whatever_makes_a_rule_stumble(example: dict[str, Any]) -> None:
    for strict in (False, True):
        for fault in check_chat(example, strict_turns=strict):
            assert fault.text
