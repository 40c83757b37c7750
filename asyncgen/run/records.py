"""Records and failures: the lines of a run's JSON Lines files.

Fields, their order, and the conversion to and from JSON. Reading and writing files is left to `jsonl` and the journal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, UnsetType

from asyncgen.json_text import decoder

if TYPE_CHECKING:
    from collections.abc import Iterable


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens as the provider counted them.

    Attributes:
        prompt_tokens: tokens of the prompt, cached ones included.
        cached_tokens: part of the prompt tokens.
        completion_tokens: tokens of the answer, reasoning included.
        reasoning_tokens: part of the completion tokens.
        cost_usd: what the provider says it charged; unset, and not in the line, if it says nothing.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: float | UnsetType = UNSET

    def __add__(self, other: Usage) -> Usage:
        if self is NO_USAGE:
            return other
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
            self.completion_tokens + other.completion_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            _sum_of_costs(self.cost_usd, other.cost_usd),
        )

    def __sub__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens - other.prompt_tokens,
            self.cached_tokens - other.cached_tokens,
            self.completion_tokens - other.completion_tokens,
            self.reasoning_tokens - other.reasoning_tokens,
            self.cost_usd if self.cost_usd is UNSET or other.cost_usd is UNSET else self.cost_usd - other.cost_usd,
        )


NO_USAGE = Usage()


def _sum_of_costs(one: float | UnsetType, other: float | UnsetType) -> float | UnsetType:
    if one is UNSET:
        return other
    return one if other is UNSET else one + other


def sum_of(usages: Iterable[Usage]) -> Usage:
    """Add up usages, much faster than with `+` one by one.

    Args:
        usages: any number of them.

    Returns:
        Their sum. Its cost is unset if every cost is.
    """
    prompt = cached = completion = reasoning = 0
    cost_usd: float | UnsetType = UNSET
    for usage in usages:
        prompt += usage.prompt_tokens
        cached += usage.cached_tokens
        completion += usage.completion_tokens
        reasoning += usage.reasoning_tokens
        if usage.cost_usd is not UNSET:
            cost_usd = _sum_of_costs(cost_usd, usage.cost_usd)
    return Usage(prompt, cached, completion, reasoning, cost_usd)


# Names that providers have for the reasons of the API's reference (Gemini, Anthropic, Mistral, TGI and others).
_FINISH_REASONS = {
    **dict.fromkeys(("stop", "end_turn", "eos", "eos_token", "stop_sequence", "complete", "completed"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "max_output_tokens", "model_length", "max_length"), "length"),
    **dict.fromkeys(("tool_calls", "tool_use", "function_call", "tool_call"), "tool_calls"),
    **dict.fromkeys(
        ("content_filter", "safety", "recitation", "blocklist", "prohibited_content", "spii", "sensitive"),
        "content_filter",
    ),
    **dict.fromkeys(
        ("error", "abort", "aborted", "insufficient_system_resource", "network_error", "malformed_function_call"),
        "error",
    ),
    "refusal": "refusal",
}


def finish_reason_of(given: str) -> str:
    """Translate a provider's finish reason to its name in OpenAI's API.

    Args:
        given: as the provider sent it.

    Returns:
        The name in OpenAI's API; an unknown reason unchanged.
    """
    return _FINISH_REASONS.get(given.strip().casefold().replace("-", "_"), given)


def _none() -> None:
    """A default that is written to the line, unlike a plain None."""


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A settled answer: one line of `records.jsonl`.

    Attributes:
        key: 32 hexadecimal digits that identify the request.
        index: the request's place in the grid, repeats included.
        repeat: 0 for the first repeat of a combination.
        variables: axis name to value, in the order of the axes.
        prompt: the short prompt that the tuned model will get.
        completion: the answer, including the opening that was sent with the request.
        model: the model as the server named it.
        finish_reason: by its name in OpenAI's API; "" if the server sent none.
        usage: tokens of all answers that were paid for this row.
        attempts: HTTP calls for this row, over all invocations.
        check_failures: names of the job's checks that the completion does not pass.
        latency_s: seconds from sending to the whole answer, of the last attempt.
        created: Unix seconds at which the answer was settled.
        request_id: the server's id of the last attempt; None if it sent none.
        reasoning: the model's reasoning, if the server sends it apart from the answer; else None, and not in the line.
        tool_calls: tool calls as in the API, arguments unparsed; None, and not in the line, if there were none.
        asked: answers that were paid for, the last of which is `completion`; not in the line if it is 1.
        simulated: a simulation made the answer up. The row counts as settled for a simulation only, and is not a
            training sample; not in the line if it is false.

    Example:
        >>> record = next(open_run("runs/campaign").records())
        >>> record.variables, record.completion, record.finish_reason
        ({'sector': 'bakery', 'city': 'Bonn'}, 'An advert.', 'stop')
    """

    key: str
    index: int
    repeat: int
    variables: dict[str, str]
    prompt: str
    completion: str
    model: str
    finish_reason: str
    usage: Usage
    attempts: int
    check_failures: list[str]
    latency_s: float
    created: int
    request_id: str | None = msgspec.field(default_factory=_none)
    reasoning: str | None = None
    tool_calls: list[Any] | None = None
    asked: int = 1
    simulated: bool = False  # the last one: see `SIMULATED_MARK`


class FailureError(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request was given up on.

    Attributes:
        type: asyncgen's class of the failure, such as "bad_request", "refusal" or "timeout".
        code: the API's `error.code`; None if it sent none.
        status: the HTTP status; None if there was no response.
        message: the API's message, without control characters and shortened; ours if it sent none.
    """

    type: str
    code: str | None = None
    status: int | None = None
    message: str = ""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A request given up on: one line of `failures.jsonl`.

    Attributes:
        key: 32 hexadecimal digits that identify the request.
        index: the request's place in the grid, repeats included.
        repeat: 0 for the first repeat of a combination.
        variables: axis name to value, in the order of the axes.
        error: why it was given up on.
        attempts: HTTP calls for this row, over all invocations.
        maybe_paid: attempts that the provider may have charged for, though no usable answer arrived.
        created: Unix seconds at which it was given up on.
        request_id: the server's id of the last attempt; None if it sent none.

    Example:
        >>> async def refuse(request):
        ...     return {"error": {"message": "no adverts today", "code": 400}}
        >>> run = generate("campaign.toml", completer=refuse, limit=1)
        >>> failure = next(run.failures())
        >>> failure.error.message, failure.attempts
        ('no adverts today', 1)
    """

    key: str
    index: int
    repeat: int
    variables: dict[str, str]
    error: FailureError
    attempts: int
    maybe_paid: int
    created: int
    request_id: str | None = None


# What the simulation of `asyncgen serve` says in `system_fingerprint`, online and in the lines of a batch.
SIMULATED_FINGERPRINT = "simulated"
SIMULATED_MARK = b',"simulated":true}\n'  # how the line of such a record ends, and no other

_encode = msgspec.json.Encoder().encode
_decode_record = decoder(Record)
_decode_failure = decoder(Failure)


def encode_line(row: Record | Failure) -> bytes:
    """Encode a row as one JSON line, newline included.

    Args:
        row: a record or failure.

    Returns:
        The line in UTF-8.

    Raises:
        ValueError: a text has a lone surrogate, which UTF-8 cannot encode.
    """
    return _encode(row) + b"\n"


def decode_record(line: bytes) -> Record:
    """Parse a line of `records.jsonl`.

    Args:
        line: one line, with or without its newline.

    Returns:
        The record. Unknown fields are ignored.

    Raises:
        NotJsonError: the line is not JSON, or not a record.
    """
    return _decode_record(line)


def decode_failure(line: bytes) -> Failure:
    """Parse a line of `failures.jsonl`.

    Args:
        line: one line, with or without its newline.

    Returns:
        The failure. Unknown fields are ignored.

    Raises:
        NotJsonError: the line is not JSON, or not a failure.
    """
    return _decode_failure(line)
