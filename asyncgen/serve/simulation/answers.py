"""A made-up answer to a call: text, JSON by the schema, tool calls, reasoning.

Chosen by the call's digest, so that the same question gets the same answer on every server. Latency and faults are left
to others.
"""

from __future__ import annotations

import json
import re
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from asyncgen.providers.tokens import estimate_text
from asyncgen.serve.engine import EngineChoice, ToolCall
from asyncgen.serve.simulation.values import UnfitSchemaError, cut, made_up_text, made_up_value
from asyncgen.serve.wire import ApiError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asyncgen.serve.engine import ModelCall

_SENTENCES = {"minimal": 1, "low": 1, "medium": 2, "high": 4, "xhigh": 8}
_USUAL_EFFORT = "medium"
_NOT_TELLING = frozenset({"get", "set", "run", "the", "and", "for", "from", "with", "use", "call", "make"})
_SHORTEST_WORD = 3
_WORD = re.compile(r"[^\W\d_]+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_KEY = re.compile(r'["\'`]([A-Za-z_][\w-]*)["\'`]\s*:')


def made_up_choice(call: ModelCall, digest: bytes, repetition: int, index: int, *, reasons: bool) -> EngineChoice:
    """Make one choice of an answer.

    Args:
        call: the call.
        digest: of the call.
        repetition: how often it was asked before.
        index: of the choice.
        reasons: whether the model reasons if the call does not say.

    Returns:
        The choice.

    Raises:
        ApiError: 400 for a schema that no value satisfies.
    """
    seed = digest if not (repetition or index) else blake2b(b"%b %d %d" % (digest, repetition, index)).digest()
    reasoning, cut_short = _reasoning(call, seed, reasons=reasons)
    left = None if call.max_tokens is None else call.max_tokens - estimate_text(reasoning)
    if cut_short or (left is not None and left <= 0 and reasoning):
        return EngineChoice(call.opening, "length", reasoning=reasoning)
    if tools := wanted_tools(call):
        calls, reason = _tool_calls(tools, seed, left)
        return EngineChoice("", reason, reasoning=reasoning, tool_calls=calls)
    text, reason = cut(_text(call, digest, repetition, index, seed), call.stop, left)
    if call.opening:
        text = call.opening + (" " if text and not call.opening[-1].isspace() else "") + text
    return EngineChoice(text, reason, reasoning=reasoning, logprobs=_logprobs(call, text, seed))


def wanted_tools(call: ModelCall) -> list[Mapping[str, Any]]:
    """Choose the tools to call: those of `tool_choice`, or those that the user mentions.

    A user mentions a tool by a word of its name. The results of a tool are answered with text.
    """
    functions = {tool["function"]["name"]: tool["function"] for tool in call.tools}
    if not isinstance(call.tool_choice, str):
        return [functions[call.tool_choice["function"]["name"]]]
    if not functions or call.tool_choice == "none" or not call.messages:
        return []
    asked = call.messages[-1].text if call.messages[-1].role == "user" else ""
    wanted = [function for name, function in functions.items() if _speaks_of(asked, name)]
    if not wanted and call.tool_choice == "required":
        wanted = [next(iter(functions.values()))]
    return wanted if call.sampling.get("parallel_tool_calls", True) else wanted[:1]


def _speaks_of(text: str, name: str) -> bool:
    words = {word.casefold().removesuffix("s") for word in _WORD.findall(text)}
    telling = {word.casefold().removesuffix("s") for word in _WORD.findall(_CAMEL.sub(" ", name).replace("_", " "))}
    return bool({word for word in telling - _NOT_TELLING if len(word) >= _SHORTEST_WORD} & words) or name in text


def _tool_calls(functions: list[Mapping[str, Any]], seed: bytes, left: int | None) -> tuple[tuple[ToolCall, ...], str]:
    calls = []
    for place, function in enumerate(functions):
        own = blake2b(b"%b tool %d" % (seed, place), digest_size=12).digest()
        value = _value(function.get("parameters") or {"type": "object"}, own, "tools")
        arguments, reason = cut(json.dumps(value, ensure_ascii=False), (), left)
        calls.append(ToolCall(f"call_{own.hex()}", function["name"], arguments))
        if reason == "length":
            return tuple(calls), reason
        left = None if left is None else max(1, left - estimate_text(arguments))
    return tuple(calls), "tool_calls"


def _text(call: ModelCall, digest: bytes, repetition: int, index: int, seed: bytes) -> str:
    wanted = call.sampling.get("response_format") or {}
    if call.messages is None or not isinstance(wanted, dict) or wanted.get("type", "text") == "text":
        return made_up_text(digest, repetition, index)
    if wanted["type"] == "json_schema":
        return json.dumps(_value(wanted["json_schema"]["schema"], seed, "response_format"), ensure_ascii=False)
    keys = dict.fromkeys(key for turn in call.messages for key in _KEY.findall(turn.text)) or {"answer": None}
    schema = {"type": "object", "properties": {key: {"type": "string"} for key in keys}}
    return json.dumps(_value(schema, seed, "response_format"), ensure_ascii=False)


def _value(schema: Any, seed: bytes, param: str) -> Any:
    try:
        return made_up_value(schema, seed)
    except UnfitSchemaError as error:
        raise ApiError(400, f"Invalid schema in '{param}': {error}.", param=param, code="invalid_json_schema") from None


def _reasoning(call: ModelCall, seed: bytes, *, reasons: bool) -> tuple[str, bool]:
    """The reasoning, and whether the token limit cut it short."""
    effort = call.reasoning_effort or (_USUAL_EFFORT if reasons else "none")
    if effort == "none" or call.messages is None:
        return "", False
    count = _SENTENCES.get(effort, _SENTENCES[_USUAL_EFFORT])
    sentences = [made_up_text(seed, 1, place).replace("text", "thought", 1) for place in range(count)]
    text, reason = cut(" ".join(sentences), (), call.max_tokens)
    return text, reason == "length"


def _logprobs(call: ModelCall, text: str, seed: bytes) -> dict[str, Any] | None:
    """Made-up probabilities, a token a word, in the form of a chat's."""
    wanted = call.sampling.get("logprobs")
    if wanted is None or wanted is False:
        return None
    top = call.sampling.get("top_logprobs") or (0 if wanted is True else wanted)
    tokens = re.findall(r"\s*\S+|\s+$", text)
    content = []
    for place, token in enumerate(tokens):
        drawn = -seed[place % len(seed)] / 256
        entry = {"token": token, "logprob": drawn, "bytes": list(token.encode("utf-8", "surrogatepass"))}
        others = [{"token": f" other{rank}", "logprob": drawn - rank, "bytes": None} for rank in range(1, top)]
        content.append({**entry, "top_logprobs": [dict(entry), *others][:top]})
    return {"content": content, "refusal": None}
