"""What stands in a run's JSONL files: records, failures, and their JSON form.

Owns the fields and their order in a line. Does not know where a line is kept or who writes it.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec.structs import astuple

from asyncgen.json_text import decoder


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens as the provider counted them; cached and reasoning tokens are parts of prompt and completion."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        if self is NO_USAGE:
            return other
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
            self.completion_tokens + other.completion_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )

    def __sub__(self, other: Usage) -> Usage:
        return Usage(*(mine - theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


NO_USAGE = Usage()


def sum_of(usages: Iterable[Usage]) -> Usage:
    """All of them together; much quicker than adding one by one."""
    prompt = cached = completion = reasoning = 0
    for usage in usages:
        prompt += usage.prompt_tokens
        cached += usage.cached_tokens
        completion += usage.completion_tokens
        reasoning += usage.reasoning_tokens
    return Usage(prompt, cached, completion, reasoning)


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A settled answer: one line of `records.jsonl`.

    Attributes:
        key: 32 hexadecimal digits that identify the request.
        index: the request's place in the grid, repeats counted.
        repeat: 0 for the first repeat of a combination.
        variables: axis name to value, in the order of the axes.
        prompt: the short prompt that the tuned model will be given.
        completion: the answer, an opening that was sent with the request included.
        model: the model as the answer names it.
        finish_reason: as the API gives it; "" where it gives none.
        usage: summed over everything that was asked for this row.
        attempts: HTTP calls made for this row, over all invocations.
        check_failures: names of the job's checks that the completion does not pass.
        latency_s: seconds from sending to the whole answer, of the last attempt.
        created: Unix seconds at which the answer was settled.
        request_id: the server's id of the last attempt.
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
    request_id: str | None = None


class FailureError(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request was given up on.

    Attributes:
        type: our own class of failure, such as "bad_request", "refusal", "timeout".
        code: the API's `error.code`, where there was one.
        status: the HTTP status, where there was one.
        message: the API's message, cleaned and cut; ours where it gave none.
    """

    type: str
    code: str | None = None
    status: int | None = None
    message: str = ""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A request given up on: one line of `failures.jsonl`.

    Attributes:
        maybe_paid: attempts of which the provider may have charged, though no usable answer came.
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


_encode = msgspec.json.Encoder().encode
_decode_record = decoder(Record)
_decode_failure = decoder(Failure)


def encode_line(row: Record | Failure) -> bytes:
    """One JSON line, newline included.

    Raises:
        ValueError: a text holds a lone surrogate, which UTF-8 cannot carry.
    """
    return _encode(row) + b"\n"


def decode_record(line: bytes) -> Record:
    """Read one line of `records.jsonl`.

    Raises:
        NotJsonError: the line is not JSON, or not a record.
    """
    return _decode_record(line)


def decode_failure(line: bytes) -> Failure:
    """Read one line of `failures.jsonl`; raises as `decode_record` does."""
    return _decode_failure(line)
