"""From what a server sent to an answer or an error: the one place where replies are judged.

Owns the shapes of replies, good and bad; what follows from an error that the server names stands in `verdict`. Pure: it
is given a status, headers and bytes, and knows neither connections nor retries.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
import orjson
from multidict import istr

from asyncgen.backoff import server_wait_s
from asyncgen.generate.completer import Answer, AttemptError, ErrorClass
from asyncgen.generate.ratelimit_headers import read_limits
from asyncgen.generate.verdict import is_maybe_paid, verdict_on
from asyncgen.records import NO_USAGE, Usage
from asyncgen.terminal import one_line

_MESSAGE_WIDTH = 500
_OK, _NO_LONGER_OK = 200, 300
_REQUEST_ID = istr("x-request-id")  # looked up in half the time that a string takes
_SERVER_ERROR = 500
_MOST_TOKENS = 100_000_000  # a count beyond it is nonsense, and must not upset the accounts
_Tokens = Annotated[int, msgspec.Meta(ge=0, le=_MOST_TOKENS)]
_WITHHELD = frozenset({"content_filter", "error", "refusal"})  # finish reasons of what is no answer, text or not


class _Details(msgspec.Struct, gc=False):
    cached_tokens: _Tokens = 0
    reasoning_tokens: _Tokens = 0


_NO_DETAILS = _Details()


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: _Tokens = 0
    completion_tokens: _Tokens = 0
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


class _PlainMessage(msgspec.Struct, gc=False):
    content: Annotated[str, msgspec.Meta(min_length=1)]
    refusal: None = None


class _PlainChoice(msgspec.Struct, gc=False):
    message: _PlainMessage
    finish_reason: Literal["stop", "length"]
    error: None = None


class _PlainReply(msgspec.Struct, gc=False):
    """An answer without anything odd, as nearly all are: read in one step."""

    choices: Annotated[list[_PlainChoice], msgspec.Meta(min_length=1)]
    model: str
    usage: _Usage
    error: None = None


class _Message(msgspec.Struct):
    content: Any = None
    refusal: Any = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: Any = None
    error: Any = None


class _Reply(msgspec.Struct):
    """Of a reply, what is needed; only its outline has to be right for an answer to count."""

    choices: list[_Choice] = []
    usage: msgspec.Raw = msgspec.Raw(b"null")
    model: Any = None
    error: Any = None


_decode_plain = msgspec.json.Decoder(_PlainReply).decode
_decode = msgspec.json.Decoder(_Reply).decode
_decode_usage = msgspec.json.Decoder(_Usage | None).decode


def read_reply(
    status: int, headers: Mapping[str, str], content: bytes, *, latency_s: float = 0.0
) -> Answer | AttemptError:
    """Judge a whole reply of `/chat/completions`.

    Args:
        status: HTTP's.
        headers: with lower-case names, or a mapping that does not care.
        content: the body, decompressed.
        latency_s: seconds that the reply took, for the answer.
    """
    if not _OK <= status < _NO_LONGER_OK:
        return _read_no_answer(status, headers, content)
    try:
        reply = _decode_plain(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _read_closely(status, headers, content, latency_s)
    choice = reply.choices[0]
    text = choice.message.content
    if text.isspace():
        return _read_closely(status, headers, content, latency_s)
    usage, request_id = _usage_of(reply.usage), headers.get(_REQUEST_ID)
    return Answer(text, choice.finish_reason, reply.model, usage, request_id, latency_s, read_limits(headers))


def _read_closely(status: int, headers: Mapping[str, str], content: bytes, latency_s: float) -> Answer | AttemptError:
    """A reply that should hold an answer, and has something odd about it."""
    try:
        reply = _decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _read_no_answer(status, headers, content)
    if reply.choices and not reply.error:
        return _read_answer(reply, headers, latency_s)
    return _read_no_answer(status, headers, content)


def _read_answer(reply: _Reply, headers: Mapping[str, str], latency_s: float) -> Answer | AttemptError:
    choice = reply.choices[0]
    text, refusal = choice.message.content, choice.message.refusal
    finish = choice.finish_reason if isinstance(choice.finish_reason, str) else ""
    request_id = headers.get(_REQUEST_ID)
    if choice.error:
        status = _status_within(choice.error) or _SERVER_ERROR
        return _read_error(status, headers, choice.error, request_id, maybe_paid=True)
    usage = _read_counts(reply.usage)
    if isinstance(text, list):  # some servers answer in parts
        text = "".join(str(part.get("text") or "") for part in text if isinstance(part, dict))
    if refusal or finish in _WITHHELD or not isinstance(text, str) or not text or text.isspace():
        return _unusable(refusal, finish, usage, request_id)
    answered_by = reply.model if isinstance(reply.model, str) else ""
    return Answer(text, finish, answered_by, usage, request_id, latency_s, read_limits(headers))


def _read_no_answer(status: int, headers: Mapping[str, str], content: bytes) -> AttemptError:
    request_id = headers.get(_REQUEST_ID)
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        return _not_json(status, headers, content, request_id)
    error = (body.get("error") or body) if isinstance(body, dict) else body
    if not _OK <= status < _NO_LONGER_OK:
        return _read_error(status, headers, error, request_id)
    inner = _status_within(error)
    if inner is None:
        return _malformed("the reply is neither an answer nor an error", content, request_id)
    return _read_error(inner, headers, error, request_id, maybe_paid=True)


def _unusable(refusal: Any, finish: str, usage: Usage, request_id: str | None) -> AttemptError:
    """What was paid for and is no answer; the same prompt would be refused or filtered again."""
    remedy = None
    if refusal or finish == "refusal":
        kind, name, message = ErrorClass.ROW, "refusal", str(refusal or "the model refused")
    elif finish == "content_filter":
        kind, name, message = ErrorClass.ROW, "content_filter", "the provider's filter withheld the answer"
    elif finish == "error":
        kind, name, message = ErrorClass.RETRY, "server_error", "the server broke off its answer"
    elif finish == "length":
        kind, name, message = ErrorClass.ROW, "empty", "the tokens were used up before the first word"
        remedy = "raise max_completion_tokens under [generate.parameters]: hidden reasoning counts too"
    else:
        kind, name, message = ErrorClass.RETRY, "empty", "the answer is empty"
    return AttemptError(
        kind=kind,
        type=name,
        status=_OK,
        message=one_line(message, _MESSAGE_WIDTH),
        maybe_paid=True,
        usage=usage,
        request_id=request_id,
        remedy=remedy,
    )


def _read_counts(raw: msgspec.Raw) -> Usage:
    try:
        counts = _decode_usage(raw)
    except msgspec.DecodeError:  # one odd figure does not make the others worthless
        return read_usage(msgspec.json.decode(raw))
    return NO_USAGE if counts is None else _usage_of(counts)


def _usage_of(counts: _Usage) -> Usage:
    return Usage(
        counts.prompt_tokens,
        (counts.prompt_tokens_details or _NO_DETAILS).cached_tokens,
        counts.completion_tokens,
        (counts.completion_tokens_details or _NO_DETAILS).reasoning_tokens,
    )


def read_usage(raw: Any) -> Usage:
    """Token counts of an answer; what is missing, negative or absurd counts as nothing."""
    if not isinstance(raw, dict):
        return NO_USAGE
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
    status: int, headers: Mapping[str, str], error: Any, request_id: str | None, *, maybe_paid: bool = False
) -> AttemptError:
    fields = error if isinstance(error, dict) else {"message": error}
    code = str(fields["code"]) if fields.get("code") is not None else None
    kind, name, stop = verdict_on(status, code, str(fields.get("type") or ""), is_moderated=_is_moderated(fields))
    if kind is ErrorClass.RETRY and headers.get("x-should-retry") == "false":
        kind = ErrorClass.ROW
    return AttemptError(
        kind=kind,
        type=name,
        code=code,
        status=status,
        message=one_line(str(fields.get("message") or fields.get("detail") or ""), _MESSAGE_WIDTH),
        param=one_line(str(fields["param"]), _MESSAGE_WIDTH) if fields.get("param") else None,
        retry_after_s=server_wait_s(headers, now=time.time()),
        maybe_paid=maybe_paid or is_maybe_paid(status),
        request_id=request_id,
        stop=stop,
        limits=read_limits(headers),
    )


def _is_moderated(error: Mapping[str, Any]) -> bool:
    """Some gateways answer 403 for a prompt that they flag, with the reasons beside the message."""
    metadata = error.get("metadata")
    return isinstance(metadata, dict) and bool(metadata.get("reasons") or metadata.get("flagged_input"))


def _status_within(error: Any) -> int | None:
    """The status that an error in a reply of status 200 stands for; None when it is no error."""
    if isinstance(error, str):
        return _SERVER_ERROR
    if not isinstance(error, dict) or not ({"code", "message", "type"} & error.keys()):
        return None
    code = str(error.get("code"))
    return int(code) if code.isdecimal() and 300 <= int(code) < 600 else _SERVER_ERROR  # noqa: PLR2004


def _not_json(status: int, headers: Mapping[str, str], content: bytes, request_id: str | None) -> AttemptError:
    """A proxy's page, a broken body, or an address that is no API."""
    is_page = "html" in headers.get("content-type", "").lower() or content.lstrip()[:1] == b"<"
    if not _OK <= status < _NO_LONGER_OK:
        text = "a web page" if is_page else content[:_MESSAGE_WIDTH].decode("utf-8", "replace")
        return _read_error(status, headers, text, request_id)
    if not is_page:
        return _malformed("the reply is not JSON", content, request_id)
    return AttemptError(
        kind=ErrorClass.STOP,
        type="not_an_api",
        status=status,
        message="a web page came, not an answer",
        request_id=request_id,
        remedy="the address is not an API's: it should end in /v1, as --base-url takes it",
    )


def _malformed(what: str, content: bytes, request_id: str | None) -> AttemptError:
    shown = content[:_MESSAGE_WIDTH].decode("utf-8", "replace")
    return AttemptError(
        kind=ErrorClass.RETRY,
        type="bad_json",
        status=_OK,
        message=one_line(f"{what}: {shown}", _MESSAGE_WIDTH),
        maybe_paid=True,
        request_id=request_id,
    )
