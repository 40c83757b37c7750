"""Tools in a chat example: their definitions, calls of them, and the answers to calls."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from asyncgen.dataset.rules.fault import Fault, kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


def check_tools(tools: Any) -> Iterator[Fault]:
    """What is wrong with the definitions at the top of an example; None where there are none."""
    if tools is None:
        return
    if not isinstance(tools, list):
        yield Fault("tools", f"`tools` must be an array, not {kind(tools)}")
        return
    for number, tool in enumerate(tools, 1):
        if _function(tool) is None:
            yield Fault("tools", f'tool {number} must be {{"type": "function", "function": {{"name": ...}}}}')


def defined_tools(example: Mapping[str, Any]) -> frozenset[str]:
    """The names of the functions that an example defines."""
    tools = example.get("tools")
    functions = [_function(tool) for tool in tools] if isinstance(tools, list) else []
    return frozenset(function["name"] for function in functions if function is not None)


def _function(tool: Any) -> Mapping[str, Any] | None:
    """The function of a definition or a call, where it is well formed."""
    function = tool.get("function") if isinstance(tool, dict) else None
    good = isinstance(function, dict) and isinstance(function.get("name"), str) and tool.get("type") == "function"
    return function if good else None


def check_tool_calls(messages: Sequence[Mapping[str, Any]], tools: frozenset[str]) -> Iterator[Fault]:
    """What is wrong with calls and answers: each call is to a defined tool and answered, each answer is to a call."""
    open_calls: set[str] = set()
    for message in messages:
        if message.get("role") == "tool":
            yield from _answer(message, open_calls)
            continue
        if open_calls:
            yield Fault("tool_call_unanswered", f"no tool message answers the call {min(open_calls)[:40]!r}")
            open_calls.clear()
        calls = message.get("tool_calls")
        if isinstance(calls, list):
            for call in calls:
                yield from _call(call, tools, open_calls)
        elif calls is not None:
            yield Fault("tool_calls", f"`tool_calls` must be an array, not {kind(calls)}")


def _answer(message: Mapping[str, Any], open_calls: set[str]) -> Iterator[Fault]:
    call = str(message.get("tool_call_id"))
    if call not in open_calls:
        yield Fault("tool_call_id", f"a tool message answers {call[:40]!r}, which was not called before it")
    open_calls.discard(call)


def _call(call: Any, tools: frozenset[str], open_calls: set[str]) -> Iterator[Fault]:
    function = _function(call)
    if function is None or not isinstance(call.get("id"), str):
        yield Fault("tool_calls", "a tool call must have an `id`, the type function, and a `function` with a `name`")
        return
    open_calls.add(call["id"])
    if function["name"] not in tools:
        yield Fault("tool_undefined", f"the tool {function['name'][:40]!r} is called, but not defined in `tools`")
    try:
        json.loads(function.get("arguments", ""))
    except (TypeError, ValueError):
        yield Fault("tool_arguments", f"the arguments for {function['name'][:40]!r} must be JSON in a string")
