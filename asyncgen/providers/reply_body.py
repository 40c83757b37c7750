"""Read the JSON of a reply, however a server wraps it, and its error, under whatever names it stands.

Tolerates a byte order mark, broken encodings, lone surrogates, NaN, raw control characters, an event stream that was
not requested, and `data: [DONE]` after a complete object. Each of these was seen from servers that call themselves
OpenAI-compatible, and the answer inside was paid for.

Of an error, reads message, code and type: lists of one, errors within errors, and JSON within a message. Codes, types
and numbers decide; a message is for people, but for the one refusal that has no code of its own. Shapes as found in the
API references of OpenAI, Google (google.rpc.Status and its details), Alibaba, Zhipu, MiniMax and OAuth 2 (RFC 6749,
section 5.2), and in the replies of FastAPI servers, gateways and proxies.

Pure. What the JSON means is left to the callers: `generate.http.reply` for answers, `openai_client` for files and jobs.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from typing import TYPE_CHECKING, Any

import msgspec
import orjson

from asyncgen.backoff import is_billing_code

if TYPE_CHECKING:
    from collections.abc import Iterator

_EVENTS = (b"data:", b"event:", b"id:", b"retry:", b":")
_SURROGATE = re.compile("[\ud800-\udfff]")
_CHARSET = re.compile(r"charset=[\"']?([\w.:-]+)", re.IGNORECASE)
_MOST_DIGITS = 19  # longer whole numbers become floats, as in other JSON readers
_DONE = "[DONE]"


class UnreadableBodyError(ValueError):
    """The body contains no JSON; the message says where parsing failed."""


def read_body(content: bytes, content_type: str = "") -> Any:
    """Decode the body of a reply.

    The chunks of an event stream are joined to the object that it would be without streaming.

    Args:
        content: the decompressed body.
        content_type: the header, for its charset, which is used only if the bytes are not UTF-8.

    Returns:
        The decoded JSON.

    Raises:
        UnreadableBodyError: it contains no JSON, or is nested too deeply.
    """
    content = content.removeprefix(codecs.BOM_UTF8).strip()
    if content.startswith(_EVENTS):
        return _joined(_decoded(content, content_type))
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return _parsed(_decoded(content, content_type))


def without_surrogates(text: str) -> str:
    """Replace halves of surrogate pairs, which UTF-8 cannot encode, with U+FFFD.

    Args:
        text: any text.

    Returns:
        A text that can be encoded.
    """
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def _decoded(content: bytes, content_type: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        named = _CHARSET.search(content_type)
    try:
        return content.decode(named[1] if named else "utf-8", "replace")
    except (LookupError, UnicodeError):  # unknown charset, or not a text encoding
        return content.decode("utf-8", "replace")


def _whole_number(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MOST_DIGITS else float(digits)


def _no_number(_: str) -> None:
    """NaN and the infinities, which JSON does not have, become null."""


_decoder = json.JSONDecoder(strict=False, parse_constant=_no_number, parse_int=_whole_number)


def _parsed(text: str) -> Any:
    try:
        value, end = _decoder.raw_decode(text)
        rest = text[end:].strip()
        if rest and rest.removeprefix("data:").strip() != _DONE:
            raise UnreadableBodyError(f"there is text after the JSON at character {end}")
        return _mended(value)
    except json.JSONDecodeError as error:
        raise UnreadableBodyError(
            f"it is not valid JSON at character {error.pos}" if text else "it is empty"
        ) from error
    except RecursionError as error:
        raise UnreadableBodyError("it is nested too deeply") from error


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return without_surrogates(value)
    if isinstance(value, list):
        return [_mended(item) for item in value]
    if isinstance(value, dict):
        return {without_surrogates(key): _mended(item) for key, item in value.items()}
    return value


def _joined(text: str) -> Any:
    """Join an event stream of `chat.completion.chunk`s, or of one whole object.

    The API's reference describes streaming: parts of the message are in `choices[0].delta`, usage is in the last chunk.
    """
    chunks, is_complete = [], False
    for line in text.split("\n"):  # not `splitlines`: JSON may hold U+2028 as it is
        name, _, data = line.strip().partition(":")
        if name != "data" or not data.strip():
            continue
        if data.strip() == _DONE:
            is_complete = True
        else:
            chunks.append(_parsed(data.strip()))
    objects = [chunk for chunk in chunks if isinstance(chunk, dict)]
    if not objects:
        raise UnreadableBodyError("it is an event stream without an answer")
    return _sum_of_chunks(objects, is_complete=is_complete)


def _sum_of_chunks(chunks: list[dict[str, Any]], *, is_complete: bool) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    message: dict[str, Any] = {}
    finish: Any = None
    for chunk in chunks:
        whole.update({name: value for name, value in chunk.items() if value is not None and name != "choices"})
        choices = chunk.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            continue
        finish = choice.get("finish_reason") or finish
        if isinstance(choice.get("message"), dict):
            message = choice["message"]
        if isinstance(choice.get("delta"), dict):
            _append(message, choice["delta"])
    if not message and finish is None:
        return whole
    if finish is None and not is_complete:
        finish = "error"  # the stream broke off
    return {**whole, "choices": [{"message": message, "finish_reason": finish}]}


def _append(message: dict[str, Any], delta: dict[str, Any]) -> None:
    """Add a chunk's part of the message: texts are joined, calls merged by their `index`, other values replaced."""
    for name, value in delta.items():
        before = message.get(name)
        if name == "tool_calls" and isinstance(value, list):
            calls = message.setdefault(name, [])
            for call in value:
                _append_call(calls, call)
        elif name == "function_call" and isinstance(before, dict) and isinstance(value, dict):
            _append(before, value)
        elif isinstance(value, str | list) and type(before) is type(value) and name != "role":
            message[name] += value
        elif value is not None:
            message[name] = value


def _append_call(calls: list[Any], piece: Any) -> None:
    if not isinstance(piece, dict):
        return
    place = piece.get("index")
    rest = {name: value for name, value in piece.items() if name != "index"}
    if not isinstance(place, int) or not 0 <= place < len(calls):
        calls.append(rest)
        return
    call = calls[place]
    function, more = call.get("function"), rest.pop("function", None)
    call.update({name: value for name, value in rest.items() if value})
    if isinstance(function, dict) and isinstance(more, dict):
        _append(function, more)
    elif more is not None:
        call["function"] = more


_MESSAGE_NAMES = (
    "message", "msg", "Message", "error_msg", "error_message", "errorMessage", "error_description", "status_msg",
    "faultstring", "detail", "description", "reason_phrase", "title", "error",
)  # fmt: skip
_CODE_NAMES = ("code", "error_code", "errorCode", "err_code", "Code", "status_code", "statusCode", "status")
_TYPE_NAMES = ("type", "error_type", "status", "reason", "error", "__type")
# Fields with nested errors: more precise ones come before their surroundings, explanations after.
_WITHIN = ("error", "errors", "Error", "fault", "base_resp", "detail")
_BESIDE = ("details", "metadata", "violations", "innererror", "response")
# Anthropic refuses an empty account as an `invalid_request_error`, the type of a wrong parameter: only the words tell,
# and a message that quotes the prompt does not begin with them.
_EMPTY_ACCOUNT = "your credit balance is too low"
_DEEPEST = 8
_MOST_ITEMS = 8
_NAME = re.compile(r"[\w.:-]{1,80}")
_SECONDS = re.compile(r"(\d+(?:\.\d+)?)s")  # a google.protobuf.Duration in JSON
_LOWEST, _HIGHEST = 300, 600  # statuses other than success


class ReportedError(msgspec.Struct, frozen=True):
    """An error as the server described it, not shortened or cleaned yet.

    Attributes:
        message: for people; "" if there is none.
        code: the first code, as text; None if there is none.
        names: codes and types, in order of precedence.
        param: the rejected parameter; None if none is named.
        status: HTTP status that the error itself names; None if it names none.
        wait_s: seconds that its details ask to wait; None if they name no time.
        is_moderated: this very prompt was flagged.
        is_daily: a daily limit is used up.
        is_billing: the account is empty, or a spending limit is reached.
    """

    message: str = ""
    code: str | None = None
    names: tuple[str, ...] = ()
    param: str | None = None
    status: int | None = None
    wait_s: float | None = None
    is_moderated: bool = False
    is_daily: bool = False
    is_billing: bool = False


def read_reported_error(body: Any) -> ReportedError:
    """Read the error in a decoded body.

    Args:
        body: decoded JSON.

    Returns:
        What it says.
    """
    if isinstance(body, str):
        inner = _within_text(body)
        return ReportedError(message=body) if inner is None else read_reported_error(inner)
    levels = list(_levels(body, 0))
    codes = [code for level in levels for code in _texts(level, _CODE_NAMES)]
    types = [name for level in levels for name in _texts(level, _TYPE_NAMES) if _NAME.fullmatch(name)]
    message, names = _message(levels), tuple(dict.fromkeys((*codes, *types)))
    return ReportedError(
        message=message,
        code=next((code for code in codes if _NAME.fullmatch(code)), None),
        names=names,
        param=next((param for level in levels if (param := _param(level))), None),
        status=next((int(code) for code in codes if _is_status(code)), None),
        wait_s=next((wait_s for level in levels if (wait_s := _wait_s(level)) is not None), None),
        is_moderated=any(level.get("reasons") or level.get("flagged_input") for level in levels),
        is_daily=any("perday" in str(level.get("quotaId", "")).casefold() for level in levels),
        is_billing=any(map(is_billing_code, names)) or message.casefold().startswith(_EMPTY_ACCOUNT),
    )


def is_error(value: Any) -> bool:
    """Check whether the `error` of a reply is one. Some servers send it empty, or with the code 0, next to an answer.

    Args:
        value: of the field.

    Returns:
        Whether it describes an error.
    """
    if isinstance(value, dict):
        code = value.get("code")
        return bool(_message([value])) or bool(code and code != "0")
    return bool(value)


def _levels(value: Any, depth: int) -> Iterator[dict[str, Any]]:
    """The objects nested in a body, the most precise one first."""
    if depth > _DEEPEST:
        return
    if isinstance(value, list):
        for item in value[:_MOST_ITEMS]:
            yield from _levels(item, depth + 1)
    elif isinstance(value, str):
        yield from _levels(_within_text(value), depth + 1)
    elif isinstance(value, dict):
        for name in _WITHIN:
            yield from _levels(value.get(name), depth + 1)
        for name in ("message", "raw"):  # a gateway that quotes its upstream's body
            yield from _levels(value.get(name), depth + 1)
        yield value
        for name in _BESIDE:
            yield from _levels(value.get(name), depth + 1)


def _within_text(text: str) -> Any:
    """The JSON object that a text consists of; None for any other text."""
    if text.lstrip()[:1] not in {"{", "["}:
        return None
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict | list) else None


def _message(levels: list[dict[str, Any]]) -> str:
    for level in levels:
        for name in _MESSAGE_NAMES:
            value = level.get(name)
            if isinstance(value, str) and value.strip() and _within_text(value) is None:
                return value
    return ""


def _texts(level: dict[str, Any], names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        value = level.get(name)
        if isinstance(value, str) and value.strip():
            yield value.strip()
        elif isinstance(value, float) and math.isfinite(value):
            yield f"{value:g}"
        elif isinstance(value, int) and not isinstance(value, bool):
            yield str(value)


def _is_status(code: str) -> bool:
    return code.isascii() and code.isdecimal() and len(code) == 3 and _LOWEST <= int(code) < _HIGHEST  # noqa: PLR2004 - digits


def _param(level: dict[str, Any]) -> str | None:
    param, place = level.get("param"), level.get("loc")
    if isinstance(param, str) and param:
        return param
    if isinstance(place, list):  # pydantic's form: ["body", "temperature"]
        return ".".join(part for part in place if isinstance(part, str) and part != "body") or None
    return None


def _wait_s(level: dict[str, Any]) -> float | None:
    found = _SECONDS.fullmatch(level["retryDelay"]) if isinstance(level.get("retryDelay"), str) else None
    return float(found[1]) if found else None
