"""The `Completer` protocol: a request body in, an `Answer` or an `AttemptError` out; and errors explained to the user.

This is all that the pool knows of a server. How the outcome is obtained is left to the implementations (HTTP client, a
user's function, a fake in tests); retries are left to the pool. An explanation has the error that stopped a run, its
exit code and the next step, and shows at most the last characters of a key.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Any, Protocol

import msgspec

from asyncgen.errors import AsyncgenError, AuthError, DiskError, QuotaError
from asyncgen.providers.endpoint import Endpoint, near_address
from asyncgen.run.records import Usage
from asyncgen.terminal import counted


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
    """Rate limits from a server's headers; None for a limit that it does not report.

    Attributes:
        requests_per_minute: allowed requests per minute.
        tokens_per_minute: allowed tokens per minute.
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


class AttemptError(msgspec.Struct, frozen=True, kw_only=True):
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
    usage: Usage = msgspec.field(default_factory=Usage)
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


RAISE_LIMIT = "raise max_tokens under [generate], or the parameter in its place"
_DOCTOR = "asyncgen doctor   (checks key, address and model)"
_ADDRESSES = "--base-url expects the address without the endpoint, usually https://HOST/v1"
_OF_THE_PROMPT = ("prompt", "messages", "input")
_GOES_ON = "run the same command to continue"


def disk_error(disk: DiskError, unsaved: int) -> DiskError:
    """The disk's error, with the number of paid answers that could not be saved."""
    if not unsaved:
        return disk
    answers = counted(unsaved, "paid answer")
    said = DiskError(
        f"{disk.what}; {answers} could not be saved", cause=disk.cause, help_text=disk.help_text, code=disk.code
    )
    said.exit_code = disk.exit_code
    return said


def provider_error(error: AttemptError, reason: StopReason | None, endpoint: Endpoint | None = None) -> AsyncgenError:
    """The error that ends a run, from an attempt's error that every other row would have, too.

    Args:
        error: of the attempt.
        reason: the kind of stop.
        endpoint: named in the message; None to leave it out.
    """
    if reason is StopReason.QUOTA:
        return _quota_error(error)
    if reason is StopReason.AUTH:
        return _auth_error(error, endpoint)
    if error.type == "parameter":
        name, model = error.param or "a parameter", endpoint.model if endpoint else "the model"
        return AsyncgenError(
            f"{model} refuses {name}{_status(error)}", cause=error.message or None,
            help_text=f"change or remove {name} under [generate.parameters] in the job file", code="parameter",
        )  # fmt: skip
    if error.kind is ErrorClass.ROW:
        return AsyncgenError(
            f"every request is refused for the same reason{_status(error)}", cause=error.message or None,
            help_text=error.remedy or _remedy_for_refusal(error, endpoint), code=error.type,
        )  # fmt: skip
    to = f" to {endpoint.base_url}" if endpoint else ""
    return AsyncgenError(
        f"every request{to} fails: {error.type}{_status(error)}", cause=error.message or None,
        help_text=error.remedy or f"{_DOCTOR}; {_GOES_ON}", code=error.type,
    )  # fmt: skip


def _quota_error(error: AttemptError) -> QuotaError:
    if error.kind is ErrorClass.WAIT:
        return QuotaError(
            f"the provider's rate limit does not clear{_status(error)}", cause=error.message or None,
            help_text=f"try again later, or use a lower --rpm; {_GOES_ON}",
        )  # fmt: skip
    if error.type == "daily_limit":
        return QuotaError(
            f"the provider's daily limit is used up{_status(error)}", cause=error.message or None,
            help_text=f"wait until tomorrow, or choose another model or plan; {_GOES_ON}",
        )  # fmt: skip
    return QuotaError(
        f"the account's credit or spending limit is used up{_status(error)}", cause=error.message or None,
        help_text=f"raise it at the provider; {_GOES_ON}",
    )  # fmt: skip


def _auth_error(error: AttemptError, endpoint: Endpoint | None) -> AuthError:
    provider = endpoint.profile.name if endpoint else "the provider"
    cause, status = error.message or None, _status(error)
    if error.type == "not_found" and endpoint:
        return absence_error(endpoint, endpoint.model, f"{error.code} {error.message}", cause=cause, status=status)
    if error.type == "not_found":
        remedy = f"choose another one with --model; {_DOCTOR}"
        return AuthError(
            f"{provider} has no such model or address{status}", cause=cause, help_text=remedy, code="model"
        )
    which = _which_key(endpoint)
    if error.type == "permission":
        return AuthError(f"{provider} does not allow {which} to do this{status}", cause=cause, help_text=_DOCTOR)
    variable = endpoint.profile.key_variable if endpoint else None
    remedy = f"export {variable}=... with a valid key" if variable else "use a valid key with --api-key-file"
    return AuthError(f"{provider} does not accept {which}{status}", cause=cause, help_text=f"{remedy}; {_DOCTOR}")


def absence_error(endpoint: Endpoint, model: str, said: str, *, cause: str | None, status: str = "") -> AuthError:
    """The error for a 404: an unknown model, or an unknown path, which is a wrong address.

    Args:
        endpoint: that answered.
        model: that was asked.
        said: the server's code and words; they tell the two apart.
        cause: for the user.
        status: in words for the end of the sentence; "" to leave it out.

    Returns:
        The error, with the code "model" or "address".
    """
    words = said.lower()
    if model.lower() in words or "model" in words or "deployment" in words:
        what = f"{endpoint.profile.name} has no model {model} at {endpoint.base_url}{status}"
        return AuthError(what, cause=cause, help_text=f"choose another one with --model; {_DOCTOR}", code="model")
    remedy = f"{near_address(endpoint.base_url) or _ADDRESSES}; {_DOCTOR}"
    what = f"{endpoint.base_url} is not the address of an API{status}"
    return AuthError(what, cause=cause, help_text=remedy, code="address")


def _which_key(endpoint: Endpoint | None) -> str:
    if endpoint is None:
        return "the key"
    return f"the key from {endpoint.key.source} ({endpoint.key.hint()})" if endpoint.key else "a request without a key"


def _remedy_for_refusal(error: AttemptError, endpoint: Endpoint | None) -> str:
    if error.param == "model":
        return f"choose another model with --model; {_DOCTOR}"
    if error.param and not error.param.startswith(_OF_THE_PROMPT):
        return f"check {error.param} under [generate.parameters] in the job file"
    remedy = "check [prompt] and [generate.parameters] in the job file; `asyncgen plan` shows what is sent"
    # A gateway refuses a model that it does not know as it refuses a parameter: only its words name the model.
    model = endpoint.model if endpoint is not None and error.param is None else ""
    if model and re.search(rf"(?<!\w){re.escape(model)}(?!\w)", error.message):
        return f"if the model is what it refuses, choose another one with --model; else {remedy}"
    return remedy


def _status(error: AttemptError) -> str:
    if error.status is None:
        return ""
    code = f", {error.code}" if error.code and error.code != str(error.status) else ""
    within = " with an error" if error.status < 300 else ""  # noqa: PLR2004 - a success, by its status
    return f" (status {error.status}{within}{code})"
