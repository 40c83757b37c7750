"""From the JSON of a request to a checked `Call`.

Owns the parameters of `/chat/completions` and `/completions`: types, ranges, which are known, which are
refused. Knows neither HTTP nor what the engine makes of the sampling parameters, which go through as they
came.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from asyncgen.serve.engine import Call
from asyncgen.serve.wire import ApiError, parsed

Resolve = Callable[[str], Path | None]
"""From a model's name to its adapter, None for a base model; raises ApiError for an unknown one."""

_MOST_STOPS = 4
_LEGACY_MAX_TOKENS = 16  # the default of `/completions` in the API's reference

Count = Annotated[int, Meta(ge=1, le=128)]
Tokens = Annotated[int, Meta(ge=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]


class _TextPart(msgspec.Struct):
    type: Literal["text"]
    text: str


class _Message(msgspec.Struct):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_TextPart]


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _Body(msgspec.Struct, kw_only=True):
    """What both routes take and the server itself looks at."""

    model: str
    max_tokens: Tokens | None = None
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
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None


class _TextBody(_Body, kw_only=True):
    prompt: str | Annotated[list[str], Meta(min_length=1, max_length=128)]
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    suffix: None = None


# Said by the API's reference; they change nothing in what a local model answers.
_WITHOUT_EFFECT = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_retention",
        "reasoning_effort",
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
        "stop",
        "stream",
        "stream_options",
    }
)
_PASSED_ON = _SAMPLING | frozenset(
    {"temperature", "top_p", "frequency_penalty", "presence_penalty", "seed", "logprobs", "top_logprobs"}
)
_REFUSED = frozenset({"tools", "functions", "tool_choice", "function_call", "audio", "modalities", "prediction"})


def chat_call(body: Mapping[str, Any], resolve: Resolve, *, strict: bool) -> Call:
    """Check a body of `/chat/completions`.

    Args:
        body: the request's JSON.
        resolve: finds the model.
        strict: refuse parameters that nobody here knows.

    Raises:
        ApiError: 400 for a parameter that cannot be, 404 for an unknown model.
    """
    _check_names(body, strict=strict)
    given = parsed(body, _ChatBody)
    return Call(
        model=given.model,
        adapter=resolve(given.model),
        messages=tuple((message.role, _text(message.content)) for message in given.messages),
        max_tokens=given.max_completion_tokens or given.max_tokens,
        stop=_stops(given.stop),
        count=given.n or 1,
        sampling=_sampling(body),
    )


def text_calls(body: Mapping[str, Any], resolve: Resolve, *, strict: bool) -> list[Call]:
    """Check a body of `/completions`: a call for each of its prompts; args and errors as for `chat_call`."""
    _check_names(body, strict=strict)
    given = parsed(body, _TextBody)
    adapter = resolve(given.model)
    sampling = _sampling(body)
    return [
        Call(
            model=given.model,
            adapter=adapter,
            prompt=prompt,
            max_tokens=given.max_tokens or _LEGACY_MAX_TOKENS,
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
    for name in _REFUSED & body.keys():
        if body[name] is not None:
            raise ApiError(400, f"'{name}' is not supported by this server.", param=name, code="unsupported_parameter")
    if strict:
        for name in body.keys() - _OWN - _PASSED_ON - _WITHOUT_EFFECT - _REFUSED:
            raise ApiError(400, f"Unrecognized request argument supplied: {name}", param=name, code="unknown_parameter")


def _sampling(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: body[name] for name in _PASSED_ON & body.keys() if body[name] is not None}


def _text(content: str | list[_TextPart]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


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
