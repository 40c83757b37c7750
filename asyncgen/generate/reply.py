"""From what a server sent to an answer or an error: the one place where errors are classified.

Owns the failure matrix. `error.code` decides first, the status second, the text of a message never. Pure: it is
given a status, headers and bytes, and knows neither connections nor retries.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import orjson

from asyncgen.backoff import BILLING_CODES, server_wait_s
from asyncgen.generate.completer import Answer, AttemptError, ErrorClass, StopReason
from asyncgen.generate.ratelimit_headers import read_limits
from asyncgen.records import Usage
from asyncgen.terminal import one_line

_MESSAGE_WIDTH = 500
_OK = 200
_MOST_TOKENS = 100_000_000  # a count beyond it is nonsense, and must not upset the accounts
_AUTH_CODES = frozenset({"invalid_api_key", "account_deactivated", "unsupported_country_region_territory"})
_MODEL_CODES = frozenset({"model_not_found", "model_not_available", "deployment_not_found", "DeploymentNotFound"})
_PARAMETER_CODES = frozenset({"unsupported_parameter", "unsupported_value", "unknown_parameter"})
_ROW_CODES = frozenset({"context_length_exceeded", "invalid_prompt", "content_filter", "content_policy_violation"})
_TRANSIENT = frozenset({408, 409, 425})
_TYPES = {
    400: "bad_request",
    401: "auth",
    402: "quota",
    403: "permission",
    404: "not_found",
    408: "timeout",
    413: "too_large",
    429: "rate_limit",
    529: "overloaded",
}


def read_reply(status: int, headers: Mapping[str, str], content: bytes) -> Answer | AttemptError:
    """Judge a whole reply of `/chat/completions`.

    Args:
        status: HTTP's.
        headers: with lower-case names, or a mapping that does not care.
        content: the body, decompressed.
    """
    request_id = headers.get("x-request-id")
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        return _not_json(status, headers, content, request_id)
    if status == _OK and isinstance(body, dict) and "error" not in body and "choices" in body:
        return _read_answer(body, headers, request_id)
    error = body.get("error", body) if isinstance(body, dict) else body
    inner = _status_within(error) if status == _OK else status
    if inner is None:
        return _malformed("the reply is neither an answer nor an error", content, request_id)
    return _read_error(inner, headers, error, request_id, paid=status == _OK)


def _read_answer(body: dict[str, Any], headers: Mapping[str, str], request_id: str | None) -> Answer | AttemptError:
    try:
        choice = body["choices"][0]
        message = choice["message"]
        text, refusal, finish = message.get("content"), message.get("refusal"), choice.get("finish_reason") or ""
    except (LookupError, TypeError, AttributeError):
        return _malformed("the reply has no choices[0].message", orjson.dumps(body), request_id)
    if isinstance(error := choice.get("error"), dict):
        return _read_error(_status_within(error) or 500, headers, error, request_id, paid=True)
    usage = read_usage(body.get("usage"))
    if isinstance(text, list):  # some servers answer in parts
        text = "".join(part.get("text") or "" for part in text if isinstance(part, dict))
    unusable = _unusable(text, refusal, finish, usage, request_id)
    if unusable is not None:
        return unusable
    model = body.get("model")
    answered_by = model if isinstance(model, str) else ""
    return Answer(text, str(finish), answered_by, usage, request_id, limits=read_limits(headers))


def _unusable(text: Any, refusal: Any, finish: Any, usage: Usage, request_id: str | None) -> AttemptError | None:
    """Answers that were paid for and are none."""

    def failed(kind: ErrorClass, name: str, message: str, remedy: str | None = None) -> AttemptError:
        return AttemptError(
            kind=kind, type=name, message=one_line(message, _MESSAGE_WIDTH), status=_OK, maybe_paid=True,
            usage=usage, request_id=request_id, remedy=remedy,
        )  # fmt: skip

    if refusal or finish == "refusal":
        return failed(ErrorClass.ROW, "refusal", str(refusal or "the model refused"))
    if finish == "content_filter":
        return failed(ErrorClass.ROW, "content_filter", "the provider's filter withheld the answer")
    if finish == "error":
        return failed(ErrorClass.RETRY, "server_error", "the server broke off its answer")
    if isinstance(text, str) and text.strip():
        return None
    if finish == "length":
        remedy = "raise max_completion_tokens under [generate.parameters]: hidden reasoning counts too"
        return failed(ErrorClass.ROW, "empty", "the tokens were used up before the first word", remedy)
    return failed(ErrorClass.RETRY, "empty", "the answer is empty")


def read_usage(raw: Any) -> Usage:
    """Token counts of an answer; what is missing, negative or absurd counts as nothing."""
    if not isinstance(raw, dict):
        return Usage()
    prompt, completion = raw.get("prompt_tokens_details"), raw.get("completion_tokens_details")
    return Usage(
        _count(raw.get("prompt_tokens")),
        _count(prompt.get("cached_tokens")) if isinstance(prompt, dict) else 0,
        _count(raw.get("completion_tokens")),
        _count(completion.get("reasoning_tokens")) if isinstance(completion, dict) else 0,
    )


def _count(value: Any) -> int:
    return value if isinstance(value, int) and 0 <= value <= _MOST_TOKENS else 0


def _read_error(
    status: int, headers: Mapping[str, str], error: Any, request_id: str | None, *, paid: bool
) -> AttemptError:
    fields = error if isinstance(error, dict) else {"message": str(error)}
    code = str(fields["code"]) if fields.get("code") is not None else None
    kind, stop = _classify(status, code, str(fields.get("type") or ""))
    message = one_line(str(fields.get("message") or fields.get("detail") or ""), _MESSAGE_WIDTH)
    return AttemptError(
        kind=kind,
        type=code if code in _ROW_CODES else _type_of(status, stop),
        code=code,
        status=status,
        message=message,
        param=str(fields["param"]) if fields.get("param") else None,
        retry_after_s=server_wait_s(headers, now=time.time()),
        maybe_paid=paid or status == 504,  # noqa: PLR2004 - the gateway gave up, the server may not have
        request_id=request_id,
        stop=stop,
        limits=read_limits(headers),
    )


def _classify(status: int, code: str | None, error_type: str) -> tuple[ErrorClass, StopReason | None]:  # noqa: PLR0911 - a table
    if code in BILLING_CODES or error_type == "insufficient_quota" or status == 402:  # noqa: PLR2004
        return ErrorClass.STOP, StopReason.QUOTA
    if code in _AUTH_CODES or code in _MODEL_CODES:
        return ErrorClass.STOP, StopReason.AUTH
    if code in _PARAMETER_CODES:
        return ErrorClass.STOP, None
    if code in _ROW_CODES:
        return ErrorClass.ROW, None
    if status in {401, 403, 404}:
        return ErrorClass.STOP, StopReason.AUTH
    if 300 <= status < 400:  # noqa: PLR2004
        return ErrorClass.STOP, None
    if status in {429, 529}:
        return ErrorClass.WAIT, None
    if status >= 500 or status in _TRANSIENT:  # noqa: PLR2004
        return ErrorClass.RETRY, None
    return ErrorClass.ROW, None


def _type_of(status: int, stop: StopReason | None) -> str:
    if stop is StopReason.QUOTA:
        return "quota"
    return _TYPES.get(status) or ("server_error" if status >= 500 else "http_error")  # noqa: PLR2004


def _status_within(error: Any) -> int | None:
    """The status that an error in a reply of status 200 stands for; None when it is no error."""
    if not isinstance(error, dict) or not ({"code", "message", "type"} & error.keys()):
        return None
    code = error.get("code")
    return code if isinstance(code, int) and 300 <= code < 600 else 500  # noqa: PLR2004


def _not_json(status: int, headers: Mapping[str, str], content: bytes, request_id: str | None) -> AttemptError:
    """A proxy's page, a broken body, or an address that is no API."""
    is_page = "html" in headers.get("content-type", "").lower() or content.lstrip()[:1] == b"<"
    if status == _OK and is_page:
        return AttemptError(
            kind=ErrorClass.STOP, type="not_an_api", status=status, message="a web page came, not an answer",
            request_id=request_id, remedy="the address is not an API's: it should end in /v1, as --base-url takes it",
        )  # fmt: skip
    if status == _OK:
        return _malformed("the reply is not JSON", content, request_id)
    text = "a web page" if is_page else content[:_MESSAGE_WIDTH].decode("utf-8", "replace")
    return _read_error(status, headers, {"message": text}, request_id, paid=False)


def _malformed(what: str, content: bytes, request_id: str | None) -> AttemptError:
    shown = content[:_MESSAGE_WIDTH].decode("utf-8", "replace")
    return AttemptError(
        kind=ErrorClass.RETRY, type="bad_json", status=_OK, message=one_line(f"{what}: {shown}", _MESSAGE_WIDTH),
        maybe_paid=True, request_id=request_id,
    )  # fmt: skip
