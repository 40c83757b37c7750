"""Validate the JSON of a request and convert it to a `ModelCall`.

Parameters of `/chat/completions` and `/completions`: types, ranges, which are known and which are refused. Sampling
parameters are passed on to the engine unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from asyncgen.serve.engine import ChatTurn, ModelCall
from asyncgen.serve.wire import ApiError, parsed

Resolve = Callable[[str], Path | None]
"""From a model's name to its adapter, None for a base model; raises ApiError for an unknown one."""

_MOST_STOPS = 4
_LEGACY_MAX_TOKENS = 16  # the default of `/completions` in the API's reference

Count = Annotated[int, Meta(ge=1, le=128)]
Tokens = Annotated[int, Meta(ge=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]


class _Part(msgspec.Struct):
    """A part of a message's content; other kinds than text are refused by name."""

    type: str
    text: str | None = None
    refusal: str | None = None


class _Function(msgspec.Struct, kw_only=True):
    name: Annotated[str, Meta(min_length=1, max_length=128)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Tool(msgspec.Struct, kw_only=True):
    type: Literal["function"]
    function: _Function


class _Called(msgspec.Struct, kw_only=True):
    name: str
    arguments: str


class _MessageToolCall(msgspec.Struct, kw_only=True):
    id: str
    function: _Called
    type: Literal["function"] = "function"


class _Named(msgspec.Struct, kw_only=True):
    name: str


class _NamedTool(msgspec.Struct, kw_only=True):
    type: Literal["function"]
    function: _Named


class _ResponseFormat(msgspec.Struct, kw_only=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: dict[str, Any] | None = None


class _Message(msgspec.Struct, kw_only=True):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[_Part] | None = None
    name: str | None = None
    tool_calls: list[_MessageToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _Body(msgspec.Struct, kw_only=True):
    """The parameters of both routes that the server itself reads."""

    model: str
    n: Count | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    seed: int | None = None


class _ChatBody(_Body, kw_only=True):
    messages: Annotated[list[_Message], Meta(min_length=1)]
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: list[_Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | _NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: _ResponseFormat | None = None
    reasoning_effort: str | None = None
    modalities: list[Literal["text"]] | None = None


class _TextBody(_Body, kw_only=True):
    prompt: str | Annotated[list[str], Meta(min_length=1, max_length=128)]
    max_tokens: Annotated[int, Meta(ge=0)] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    echo: bool | None = None
    best_of: Literal[1] | None = None
    suffix: None = None


# Parameters of the API's reference without effect on a local model's answer.
_WITHOUT_EFFECT = frozenset(
    {
        "metadata",
        "modalities",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
        "verbosity",
    }
)
# Sampling as OpenAI and llama.cpp's server name it.
_SAMPLING = frozenset(
    {
        "logit_bias",
        "response_format",
        "cache_prompt",
        "chat_template_kwargs",
        "dry_allowed_length",
        "dry_base",
        "dry_multiplier",
        "dry_penalty_last_n",
        "dry_sequence_breakers",
        "dynatemp_exponent",
        "dynatemp_range",
        "grammar",
        "id_slot",
        "ignore_eos",
        "json_schema",
        "min_keep",
        "min_p",
        "mirostat",
        "mirostat_eta",
        "mirostat_tau",
        "n_keep",
        "repeat_last_n",
        "repeat_penalty",
        "repetition_penalty",
        "samplers",
        "top_k",
        "top_n_sigma",
        "typical_p",
        "xtc_probability",
        "xtc_threshold",
    }
)
_OWN = frozenset(
    {
        "echo",
        "best_of",
        "suffix",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "model",
        "n",
        "prompt",
        "reasoning_effort",
        "stop",
        "stream",
        "stream_options",
        "tool_choice",
        "tools",
    }
)
_PASSED_ON = _SAMPLING | frozenset(
    {
        "temperature",
        "top_p",
        "frequency_penalty",
        "parallel_tool_calls",
        "presence_penalty",
        "seed",
        "logprobs",
        "top_logprobs",
    }
)
_INSTEAD = {
    "functions": "; use 'tools'",
    "function_call": "; use 'tool_choice'",
    "audio": "; it only reads and writes text",
    "prediction": "",
    "web_search_options": "; its models cannot search",
}  # what is refused, and the alternative


def chat_call(body: Mapping[str, Any], resolve: Resolve, *, strict: bool) -> ModelCall:
    """Validate a body of `/chat/completions`.

    Args:
        body: the request's JSON.
        resolve: finds the model.
        strict: refuse parameters that neither the API nor llama.cpp knows.

    Returns:
        The call.

    Raises:
        ApiError: 400 for an invalid parameter, 404 for an unknown model.
    """
    _check_names(body, strict=strict)
    given = parsed(body, _ChatBody)
    _check_tools(given)
    _check_format(given.response_format)
    return ModelCall(
        model=given.model,
        adapter=resolve(given.model),
        messages=tuple(_turn(message, place) for place, message in enumerate(given.messages)),
        max_tokens=given.max_completion_tokens or given.max_tokens,
        stop=_stops(given.stop),
        count=given.n or 1,
        tools=tuple(body.get("tools") or ()),
        tool_choice=body.get("tool_choice") or "auto",
        reasoning_effort=given.reasoning_effort,
        sampling=_sampling(body),
    )


def text_calls(body: Mapping[str, Any], resolve: Resolve, *, strict: bool) -> list[ModelCall]:
    """Check a body of `/completions`: a call for each of its prompts; args and errors as for `chat_call`."""
    _check_names(body, strict=strict)
    given = parsed(body, _TextBody)
    adapter = resolve(given.model)
    sampling = _sampling(body)
    return [
        ModelCall(
            model=given.model,
            adapter=adapter,
            prompt=prompt,
            echo=bool(given.echo),
            max_tokens=_LEGACY_MAX_TOKENS if given.max_tokens is None else given.max_tokens,
            stop=_stops(given.stop),
            count=given.n or 1,
            sampling=sampling,
        )
        for prompt in ([given.prompt] if isinstance(given.prompt, str) else given.prompt)
    ]


def wants_stream(body: Mapping[str, Any]) -> bool:
    """Whether a checked body asks for a stream."""
    return bool(body.get("stream"))


def wants_stream_usage(body: Mapping[str, Any]) -> bool:
    """Whether a checked body asks for the usage at the end of the stream."""
    return bool((body.get("stream_options") or {}).get("include_usage"))


def _check_names(body: Mapping[str, Any], *, strict: bool) -> None:
    for name, instead in _INSTEAD.items():
        if body.get(name) is not None:
            message = f"'{name}' is not supported by this server{instead}."
            raise ApiError(400, message, param=name, code="unsupported_parameter")
    if strict:
        for name in sorted(body.keys() - _OWN - _PASSED_ON - _WITHOUT_EFFECT - _INSTEAD.keys()):
            raise ApiError(400, f"Unrecognized request argument supplied: {name}", param=name, code="unknown_parameter")


def _check_tools(given: _ChatBody) -> None:
    names = [tool.function.name for tool in given.tools or ()]
    if isinstance(given.tool_choice, _NamedTool) and given.tool_choice.function.name not in names:
        message = f"'tool_choice' is the function {given.tool_choice.function.name!r}, which is not in 'tools'."
        raise ApiError(400, message, param="tool_choice", code="invalid_value")
    if given.tool_choice == "required" and not names:
        message = "'tool_choice' is 'required', but there are no 'tools'."
        raise ApiError(400, message, param="tool_choice", code="invalid_value")


def _check_format(wanted: _ResponseFormat | None) -> None:
    if wanted and wanted.type == "json_schema" and not isinstance((wanted.json_schema or {}).get("schema"), dict):
        param = "response_format.json_schema.schema"
        raise ApiError(400, f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")


def _sampling(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: body[name] for name in _PASSED_ON & body.keys() if body[name] is not None}


def _turn(message: _Message, place: int) -> ChatTurn:
    rest: dict[str, Any] = {}
    if message.tool_calls:
        rest["tool_calls"] = [msgspec.to_builtins(call) for call in message.tool_calls]
    for name in ("tool_call_id", "name", "reasoning_content"):
        if (value := getattr(message, name)) is not None:
            rest[name] = value
    if message.content is None and message.role != "assistant":
        param = f"messages[{place}].content"
        raise ApiError(400, f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")
    return ChatTurn(message.role, _text(message, place), rest)


def _text(message: _Message, place: int) -> str:
    if message.content is None:
        return message.refusal or ""
    if isinstance(message.content, str):
        return message.content
    for number, part in enumerate(message.content):
        if part.type not in {"text", "refusal"}:
            param = f"messages[{place}].content[{number}].type"
            text = f"Invalid '{param}': this server's models read text, not {part.type!r}."
            raise ApiError(400, text, param=param, code="invalid_value")
    return "".join(part.text or part.refusal or "" for part in message.content)


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > _MOST_STOPS:
        raise ApiError(
            400,
            f"Invalid 'stop': at most {_MOST_STOPS} sequences.",
            param="stop",
            code="array_above_max_length",
        )
    return tuple(text for text in stops if text)
