"""Read the JSON of a reply, however a server wraps it.

Tolerates a byte order mark, broken encodings, lone surrogates, NaN, raw control characters, an event stream that was
not requested, and `data: [DONE]` after a complete object. Each of these was seen from servers that call themselves
OpenAI-compatible, and the answer inside was paid for. Pure. What the JSON means is left to `reply`.
"""

from __future__ import annotations

import codecs
import json
import re
from typing import Any

import orjson

_EVENTS = (b"data:", b"event:", b"id:", b"retry:", b":")
_SURROGATE = re.compile("[\ud800-\udfff]")
_CHARSET = re.compile(r"charset=[\"']?([\w.:-]+)", re.IGNORECASE)
_MOST_DIGITS = 19  # longer whole numbers become floats, as in other JSON readers
_DONE = "[DONE]"


class UnreadableBodyError(ValueError):
    """The body holds no JSON; the text says where it stops being one."""


def read_body(content: bytes, content_type: str = "") -> Any:
    """The value that a body holds; an event stream comes joined, as the object it would have been without streaming.

    Args:
        content: as it came, decompressed.
        content_type: the header, for its charset; looked at only where the bytes are not UTF-8.

    Raises:
        UnreadableBodyError: there is no JSON in it, or it is nested too deeply.
    """
    content = content.removeprefix(codecs.BOM_UTF8).strip()
    if content.startswith(_EVENTS):
        return _joined(_decoded(content, content_type))
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return _parsed(_decoded(content, content_type))


def without_surrogates(text: str) -> str:
    """The text with U+FFFD for halves of a surrogate pair, which UTF-8 cannot carry."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def _decoded(content: bytes, content_type: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        named = _CHARSET.search(content_type)
    try:
        return content.decode(named[1] if named else "utf-8", "replace")
    except (LookupError, UnicodeError):  # no such charset, or one that is no text encoding
        return content.decode("utf-8", "replace")


def _whole_number(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MOST_DIGITS else float(digits)


def _no_number(_: str) -> None:
    """NaN and the infinities, which JSON does not have."""


_decoder = json.JSONDecoder(strict=False, parse_constant=_no_number, parse_int=_whole_number)


def _parsed(text: str) -> Any:
    try:
        value, end = _decoder.raw_decode(text)
        rest = text[end:].strip()
        if rest and rest.removeprefix("data:").strip() != _DONE:
            raise UnreadableBodyError(f"something follows the JSON at character {end}")
        return _mended(value)
    except json.JSONDecodeError as error:
        raise UnreadableBodyError(f"it stops being JSON at character {error.pos}" if text else "it is empty") from error
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
    """The object that an event stream of `chat.completion.chunk`s, or of one whole object, stands for.

    As the API's reference describes streaming: pieces of the message in `choices[0].delta`, usage in the last chunk.
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
    """Add a chunk's piece of the message: texts are joined, calls by their `index`, other values replaced."""
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
