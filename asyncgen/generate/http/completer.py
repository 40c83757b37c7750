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
    """What an error says about the row and about the run."""

    RETRY = "retry"  # this attempt failed; another one may not
    WAIT = "wait"  # the server wants less, from everybody; not the row's fault
    ROW = "row"  # this row will not succeed
    STOP = "stop"  # no row will succeed


class StopReason(Enum):
    """Why a run stopped before its end; the values are those of `generate --json`."""

    INTERRUPTED = "interrupted"
    LIMIT = "limit"
    BUDGET = "budget"
    QUOTA = "quota"
    AUTH = "auth"
    IO = "io"


class RateLimits(msgspec.Struct, frozen=True, gc=False):
    """What a server's headers say about its limits; None where they say nothing.

    Attributes:
        requests_per_minute: requests allowed a minute.
        tokens_per_minute: tokens allowed a minute.
    """

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None


NO_LIMITS = RateLimits()


class Answer(msgspec.Struct, frozen=True, gc=False):  # made for every request: a quarter of a dataclass's time
    """A usable answer.

    Attributes:
        text: what the model wrote; empty only where it called tools instead.
        finish_reason: by the name that OpenAI's API has for it.
        latency_s: seconds from sending to the whole answer.
        reasoning: the model's thoughts, where the server gives them apart from the text.
        tool_calls: as the API has them; None where there are none.
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
    """Why an attempt gave no usable answer; holds no headers and no key.

    Attributes:
        kind: what follows from it.
        type: our own name for what happened, as in `records.FailureError`.
        code: the API's `error.code`.
        status: HTTP's, or the one that an error within a reply of status 200 stands for; None where no reply came.
        param: the parameter that the API complains of.
        retry_after_s: seconds that the server asks to wait; None where it asks nothing.
        maybe_paid: the provider may have charged for it.
        usage: where it was charged for certain.
        stop: with `ErrorClass.STOP`, why the run stops; None for a reason without a word of its own.
        remedy: what the user can do, where that is known.
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
    """Sends one request body."""

    async def complete(self, body: bytes) -> Answer | AttemptError:
        """One attempt; raises only where asyncgen itself is wrong."""
        ...
