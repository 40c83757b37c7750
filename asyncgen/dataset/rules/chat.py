"""Check chat examples: roles and their order, contents, weights, and tools (definitions, calls, results).

Also small checks that the other formats share. Facts: the supervised fine-tuning guide of OpenAI, the checks of its
data preparation notebook, and the stricter order that Together requires.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence


class Fault(NamedTuple):
    """One problem.

    Attributes:
        rule: stable identifier of it.
        text: what was found and what was expected, for the user.
        fatal: whether a provider refuses the file for it; otherwise it is accepted, but hardly intended.
    """

    rule: str
    text: str
    fatal: bool = True


def kind(value: Any) -> str:
    """The JSON type of a value."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def unknown_keys(example: Mapping[str, Any], known: Collection[str], where: str, *, fatal: bool) -> Iterator[Fault]:
    """A fault for every key that is not `known`."""
    for key in example:
        if key not in known:
            yield Fault(
                "unknown_key", f"{where} has the key {str(key)[:40]!r}; expected one of {', '.join(known)}", fatal
            )


def check_tools(tools: Any) -> Iterator[Fault]:
    """Problems of the definitions at the top level of an example; None if there are none."""
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
    """The function of a definition or a call, if it is well-formed."""
    function = tool.get("function") if isinstance(tool, dict) else None
    good = isinstance(function, dict) and isinstance(function.get("name"), str) and tool.get("type") == "function"
    return function if good else None


def check_tool_calls(messages: Sequence[Mapping[str, Any]], tools: frozenset[str]) -> Iterator[Fault]:
    """Check that each call is to a defined tool and answered, and that each answer belongs to a call."""
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
        yield Fault("tool_call_id", f"a tool message answers {call[:40]!r}, which was not called before")
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
    except (TypeError, ValueError, RecursionError):
        yield Fault("tool_arguments", f"the arguments for {function['name'][:40]!r} must be JSON in a string")


_EXAMPLE_KEYS = ("messages", "tools", "parallel_tool_calls", "functions")
_MESSAGE_KEYS = ("role", "content", "name", "weight", "tool_calls", "tool_call_id", "function_call", "refusal")
REASONING_FIELDS = ("reasoning_content", "thinking")  # what open-weight models' chat templates read
_SYSTEM = frozenset({"system", "developer"})
_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def check_chat(
    example: Mapping[str, Any], *, strict_turns: bool, message_fields: Sequence[str] = ()
) -> Iterator[Fault]:
    """Check one line of a chat file.

    Args:
        example: the line's object.
        strict_turns: after an optional system message, user and assistant must alternate.
        message_fields: further fields of an assistant message that the provider accepts.
    """
    yield from unknown_keys(example, _EXAMPLE_KEYS, "the example", fatal=False)
    yield from check_tools(example.get("tools"))
    if "functions" in example:
        yield Fault("deprecated", "`functions` is deprecated; use `tools`", fatal=False)
    messages = example.get("messages")
    if not isinstance(messages, list) or not messages:
        yield Fault("messages", f"`messages` must be an array of at least one message, not {_found(messages)}")
        return
    faults = list(check_messages(messages, defined_tools(example), message_fields))
    yield from faults
    if not any(fault.fatal for fault in faults):
        yield from _ending(messages)
        yield from _turns([str(message["role"]) for message in messages], strict=strict_turns)


def _found(messages: Any) -> str:
    return "an empty one" if isinstance(messages, list) else kind(messages)


def check_messages(
    messages: Sequence[Any], tools: frozenset[str], message_fields: Sequence[str] = ()
) -> Iterator[Fault]:
    """Check each message by itself, and the answers to tool calls."""
    for number, message in enumerate(messages, 1):
        if isinstance(message, dict):
            yield from _message(message, f"message {number}", message_fields)
        else:
            yield Fault("message", f"message {number} must be an object, not {kind(message)}")
    yield from check_tool_calls([message for message in messages if isinstance(message, dict)], tools)


def _message(message: Mapping[str, Any], where: str, further: Sequence[str]) -> Iterator[Fault]:
    yield from unknown_keys(message, (*_MESSAGE_KEYS, *further), where, fatal=True)
    for field in further:
        if message.get(field) is not None and not isinstance(message[field], str):
            yield Fault("reasoning", f"{where}: `{field}` must be a string, not {kind(message[field])}")
    role = message.get("role")
    if role not in _ROLES:
        found = "has no role" if role is None else f"has the role {str(role)[:40]!r}"
        yield Fault("role", f"{where} {found}; expected one of {', '.join(_ROLES)}")
        return
    if role == "function" or "function_call" in message:
        yield Fault("deprecated", f"{where}: functions are deprecated; use tools", fatal=False)
    calls = role == "assistant" and (message.get("tool_calls") or message.get("function_call"))
    yield from _content(message.get("content"), where, optional=bool(calls))
    yield from _weight(message, where)
    name = message.get("name")
    if name is not None and not (isinstance(name, str) and _NAME.fullmatch(name)):
        yield Fault("name", f"{where}: `name` must be 1 to 64 letters, digits, '_' or '-'")


def _content(content: Any, where: str, *, optional: bool) -> Iterator[Fault]:
    if content is None and optional:
        return
    if isinstance(content, list):
        for part in content:
            if not isinstance(part, dict) or not isinstance(part.get("type"), str):
                yield Fault("content", f"{where}: each part of `content` must be an object with a `type`")
            elif part["type"] == "text" and not isinstance(part.get("text"), str):
                yield Fault("content", f"{where}: a part of the type text must have a `text`")
    elif not isinstance(content, str):
        yield Fault("content", f"{where}: `content` must be a string, not {kind(content)}")
        return
    empty = not content if isinstance(content, list) else not content.strip()
    if empty and not optional:
        yield Fault("empty_content", f"{where}: `content` is empty")


def _weight(message: Mapping[str, Any], where: str) -> Iterator[Fault]:
    if "weight" not in message:
        return
    weight = message["weight"]
    if message["role"] != "assistant":
        yield Fault("weight", f"{where}: only an assistant message can have a `weight`")
    elif isinstance(weight, bool) or weight not in (0, 1):
        yield Fault("weight", f"{where}: `weight` must be 0 or 1")


def _ending(messages: Sequence[Mapping[str, Any]]) -> Iterator[Fault]:
    if messages[-1]["role"] != "assistant":
        yield Fault("last_role", f"the last message must be from the assistant, not from the {messages[-1]['role']}")
    if not any(message["role"] == "assistant" and message.get("weight", 1) for message in messages):
        yield Fault("no_assistant", "there is no assistant message to learn (there is none, or each has weight 0)")


def _turns(roles: Sequence[str], *, strict: bool) -> Iterator[Fault]:
    turns = [role for role in roles if role not in _SYSTEM]
    if any(role in _SYSTEM for role in roles[1:]):
        yield Fault("system_first", "a system message follows another message", fatal=strict)
    if "user" not in turns:
        yield Fault("no_user", "there is no user message", fatal=strict)
    if strict and any(role != ("user", "assistant")[place % 2] for place, role in enumerate(turns)):
        yield Fault("turns", "after the system message, user and assistant must take turns, the user first")
