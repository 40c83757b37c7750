"""An example for direct preference optimization: a conversation, a better answer to it and a worse one.

Facts: OpenAI's guide on DPO; Together, Fireworks and Azure take the same shape.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asyncgen.dataset.rules.chat import check_messages
from asyncgen.dataset.rules.fault import Fault, kind, unknown_keys
from asyncgen.dataset.rules.tools import check_tools, defined_tools

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PREFERRED = "preferred_output"
NON_PREFERRED = "non_preferred_output"
_KEYS = ("input", PREFERRED, NON_PREFERRED)
_INPUT_KEYS = ("messages", "tools", "parallel_tool_calls")


def check_preference(example: Mapping[str, Any]) -> Iterator[Fault]:
    """What is wrong with one line of a DPO file."""
    yield from unknown_keys(example, _KEYS, "the example", fatal=False)
    yield from _input(example.get("input"))
    for key in (PREFERRED, NON_PREFERRED):
        yield from _output(example.get(key), key)
    if PREFERRED in example and example.get(PREFERRED) == example.get(NON_PREFERRED):
        yield Fault("same_outputs", "the preferred and the non-preferred output are the same")


def _input(conversation: Any) -> Iterator[Fault]:
    if not isinstance(conversation, dict):
        yield Fault("input", f"`input` must be an object with `messages`, not {kind(conversation)}")
        return
    yield from unknown_keys(conversation, _INPUT_KEYS, "`input`", fatal=False)
    yield from check_tools(conversation.get("tools"))
    messages = conversation.get("messages")
    if not isinstance(messages, list) or not messages:
        yield Fault("messages", "`input.messages` must be an array of at least one message")
        return
    yield from check_messages(messages, defined_tools(conversation))
    last = messages[-1]
    if isinstance(last, dict) and last.get("role") == "assistant":
        yield Fault("last_role", "the last message of `input` must not be the assistant's: its answer is the output")


def _output(output: Any, key: str) -> Iterator[Fault]:
    if not isinstance(output, list) or len(output) != 1:
        yield Fault(key, f"`{key}` must be an array of exactly one message")
        return
    yield from check_messages(output, frozenset())
    if isinstance(output[0], dict) and output[0].get("role") != "assistant":
        yield Fault(key, f"the message of `{key}` must be the assistant's")
