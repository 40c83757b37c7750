"""Read an error body: message, code and type, under whatever names and nesting a server uses.

Handles lists of one, errors within errors, and JSON within a message. Only codes, types and numbers are used to decide;
the message is for people. Pure.

Shapes as found in the API references of OpenAI, Google (google.rpc.Status and its details), Alibaba, Zhipu, MiniMax and
OAuth 2 (RFC 6749, section 5.2), and in the replies of FastAPI servers, gateways and proxies.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

_MESSAGE_NAMES = (
    "message", "msg", "Message", "error_msg", "error_message", "errorMessage", "error_description", "status_msg",
    "faultstring", "detail", "description", "reason_phrase", "title", "error",
)  # fmt: skip
_CODE_NAMES = ("code", "error_code", "errorCode", "err_code", "Code", "status_code", "statusCode", "status")
_TYPE_NAMES = ("type", "error_type", "status", "reason", "error", "__type")
# Where an error is nested: what is more precise than its surroundings comes before them, what explains it after.
_WITHIN = ("error", "errors", "Error", "fault", "base_resp", "detail")
_BESIDE = ("details", "metadata", "violations", "innererror", "response")
_DEEPEST = 8
_MOST_ITEMS = 8
_NAME = re.compile(r"[\w.:-]{1,80}")
_SECONDS = re.compile(r"(\d+(?:\.\d+)?)s")  # a google.protobuf.Duration in JSON
_LOWEST, _HIGHEST = 300, 600  # statuses that tell of no success


@dataclass(frozen=True, slots=True)
class ServerWords:
    """An error in the server's words; nothing is cut or cleaned yet.

    Attributes:
        message: for people; "" where there is none.
        code: the first code that is named, as text.
        names: codes and types, in the order in which they count.
        param: the parameter that is complained of.
        status: that the error stands for by its own account.
        wait_s: seconds that its details ask to wait.
        is_moderated: this very prompt was flagged.
        is_daily: a limit of the day is used up.
    """

    message: str = ""
    code: str | None = None
    names: tuple[str, ...] = ()
    param: str | None = None
    status: int | None = None
    wait_s: float | None = None
    is_moderated: bool = False
    is_daily: bool = False


def read_words(body: Any) -> ServerWords:
    """The words of a decoded error body."""
    if isinstance(body, str):
        inner = _within_text(body)
        return ServerWords(message=body) if inner is None else read_words(inner)
    levels = list(_levels(body, 0))
    codes = [code for level in levels for code in _texts(level, _CODE_NAMES)]
    types = [name for level in levels for name in _texts(level, _TYPE_NAMES) if _NAME.fullmatch(name)]
    return ServerWords(
        message=_message(levels),
        code=next((code for code in codes if _NAME.fullmatch(code)), None),
        names=tuple(dict.fromkeys((*codes, *types))),
        param=next((param for level in levels if (param := _param(level))), None),
        status=next((int(code) for code in codes if _is_status(code)), None),
        wait_s=next((wait_s for level in levels if (wait_s := _wait_s(level)) is not None), None),
        is_moderated=any(level.get("reasons") or level.get("flagged_input") for level in levels),
        is_daily=any("perday" in str(level.get("quotaId", "")).casefold() for level in levels),
    )


def is_error(value: Any) -> bool:
    """Does the `error` of a reply tell of one? Some servers send it empty, or with the code 0, beside an answer."""
    if isinstance(value, dict):
        code = value.get("code")
        return bool(_message([value])) or bool(code and code != "0")
    return bool(value)


def _levels(value: Any, depth: int) -> Iterator[dict[str, Any]]:
    """The objects that a body consists of, the most precise one first."""
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
    """The object that a text consists of; None where it is only a text."""
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
    if isinstance(place, list):  # as pydantic names it: ["body", "temperature"]
        return ".".join(part for part in place if isinstance(part, str) and part != "body") or None
    return None


def _wait_s(level: dict[str, Any]) -> float | None:
    found = _SECONDS.fullmatch(level["retryDelay"]) if isinstance(level.get("retryDelay"), str) else None
    return float(found[1]) if found else None
