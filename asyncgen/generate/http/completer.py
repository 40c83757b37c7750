"""The `Completer` protocol: a request body in, an `Answer` or an `AttemptError` out.

This is all that the pool knows of a server. How the outcome is obtained is left to the implementations (HTTP client, a
user's function, a fake in tests); retries are left to the pool.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

import msgspec

from asyncgen.run.records import Usage


class ErrorClass(Enum):
    """What to do after an error."""

    RETRY = "retry"  # this attempt failed; a retry may succeed
    WAIT = "wait"  # overload or rate limit: the whole pool backs off
    ROW = "row"  # this row cannot succeed
    STOP = "stop"  # no row can succeed


class StopReason(Enum):
    """Why a run stopped early; the values are those of `generate --json`."""

    INTERRUPTED = "interrupted"
    LIMIT = "limit"
    BUDGET = "budget"
    QUOTA = "quota"
    AUTH = "auth"
    IO = "io"


class RateLimits(msgspec.Struct, frozen=True, gc=False):
    """Rate limits from a server's headers; None for one that it does not tell.

    Attributes:
        requests_per_minute: requests allowed a minute.
        tokens_per_minute: tokens allowed a minute.
    """

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None


NO_LIMITS = RateLimits()


class Answer(msgspec.Struct, frozen=True, gc=False):  # for every request: a quarter of a dataclass's time
    """A usable answer.

    Attributes:
        text: the completion; empty only if the model called tools instead.
        finish_reason: in OpenAI's terms, such as "stop" or "length".
        model: as the server names it.
        usage: token counts.
        request_id: the server's, for support; None if it gives none.
        latency_s: seconds from sending to the whole answer.
        limits: rate limits from the headers.
        reasoning: the model's reasoning, if the server returns it apart from the text.
        tool_calls: as in the API; None if there are none.
        simulated: the server says that it made the answer up.
    """

    text: str
    finish_reason: str
    model: str
    usage: Usage
    request_id: str | None = None
    latency_s: float = 0.0
    limits: RateLimits = NO_LIMITS
    reasoning: str | None = None
    tool_calls: list[Any] | None = None
    simulated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptError:
    """Why an attempt gave no usable answer. Contains no headers and no key.

    Attributes:
        kind: what to do about it.
        type: our name for the error, as in `records.FailureError`.
        code: the API's `error.code`.
        status: HTTP status, or the one that an error within a reply of status 200 stands for; None without a reply.
        message: the server's, for people; whitespace normalised, and cut.
        param: the request parameter that the API rejects.
        retry_after_s: seconds that the server asks to wait; None if it names no time.
        maybe_paid: the provider may have charged for the attempt.
        usage: tokens charged for certain.
        request_id: the server's, for support; None if it gives none.
        stop: with `ErrorClass.STOP`, the reason for the summary; None for one without a name.
        remedy: what the user can do, if known.
        limits: rate limits from the headers.
    """

    kind: ErrorClass
    type: str
    code: str | None = None
    status: int | None = None
    message: str = ""
    param: str | None = None
    retry_after_s: float | None = None
    maybe_paid: bool = False
    usage: Usage = field(default_factory=Usage)
    request_id: str | None = None
    stop: StopReason | None = None
    remedy: str | None = None
    limits: RateLimits = NO_LIMITS


class Completer(Protocol):
    """Sends requests, one attempt each."""

    async def complete(self, body: bytes) -> Answer | AttemptError:
        """Make one attempt.

        Args:
            body: JSON of the request.

        Returns:
            The answer, or the error of this attempt. An exception is a bug.
        """
        ...
