"""Parse JSON with one error for everything that is not the expected JSON.

Libraries fail in many ways: syntax, types, numbers out of range, lone surrogates, bytes that are not UTF-8, and nesting
that is too deep, each with an exception of its own. Every reader of JSON in asyncgen uses this module, so that an odd
byte of a file or a server is never mistaken for a bug. What the JSON means is left to the callers.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar, overload

import msgspec
import orjson

if TYPE_CHECKING:
    from collections.abc import Callable

Kind = TypeVar("Kind")
_AT = re.compile(r" - at `\$\.?(?P<place>.*)`$")
_EXPECTED = re.compile(r"^Expected `(?P<expected>.+?)`, got `(?P<found>.+?)`$")
_MISSING = re.compile(r"^Object missing required field `(?P<field>.+)`$")
_LONE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_WORDS = {
    "object": "an object",
    "array": "a list",
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "null": "null",
}


class NotJsonError(ValueError):
    """A text is not the JSON that was expected; the message says what is wrong, and where if that is known."""


@overload
def decoder(kind: type[Kind]) -> Callable[[bytes | str], Kind]: ...


@overload
def decoder(kind: Any) -> Callable[[bytes | str], Any]: ...


def decoder(kind: Any) -> Callable[[bytes | str], Any]:
    """Return a function that decodes JSON of a type; faster than `decode_json` for many texts.

    Args:
        kind: a `msgspec.Struct` or any type that msgspec knows.

    Returns:
        A function of the text, which raises `NotJsonError` and nothing else.
    """
    decode = msgspec.json.Decoder(kind).decode

    def read(text: bytes | str) -> Any:
        try:
            return decode(text)
        except (ValueError, RecursionError) as error:
            raise NotJsonError(what_is_wrong(error, text)) from error

    return read


@overload
def decode_json(text: bytes | str) -> Any: ...


@overload
def decode_json(text: bytes | str, kind: type[Kind]) -> Kind: ...


def decode_json(text: bytes | str, kind: Any = Any) -> Any:
    """Decode one JSON text; see `decoder` for many of one type.

    Args:
        text: JSON in UTF-8.
        kind: type of the value; anything by default.

    Returns:
        The value.

    Raises:
        NotJsonError: it is not JSON, or not of that type.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except (ValueError, RecursionError) as error:
        raise NotJsonError(what_is_wrong(error, text)) from error


def decode_loosely(text: bytes | str) -> Any:
    """Decode a JSON text of any type. Integers beyond 64 bits become floats.

    Args:
        text: JSON in UTF-8.

    Returns:
        The value.

    Raises:
        NotJsonError: it is not JSON, or a number is too large for a float.
    """
    try:
        return orjson.loads(text)
    except (ValueError, RecursionError) as error:
        raise NotJsonError(what_is_wrong(error, text)) from error


def what_is_wrong(error: Exception, text: bytes | str) -> str:
    """Say in plain words what a library found wrong.

    Args:
        error: raised by msgspec or orjson.
        text: that it was given.

    Returns:
        The fault, and where it is if that is known.
    """
    said = str(error)
    if isinstance(error, RecursionError) or "depth limit" in said:
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError) or "UTF-8 encoded" in said or "not valid UTF-8" in said:
        return "it is not valid UTF-8"
    if "truncated" in said or "surrogate" in said:
        whole = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        if _LONE_SURROGATE.search(whole):
            return "it ends early, or contains half of a surrogate pair (\\ud83d, such as a cut emoji)"
        return "it ends early" if whole.strip() else "it is empty"
    return _plain_message(error, said)


def _plain_message(error: Exception, said: str) -> str:
    place = _AT.search(said)
    fault = _AT.sub("", said)
    where = f"{place['place']}: " if place and place["place"] else ""
    if "out of range" in fault or "is infinity" in fault:
        return f"{where}a number is too large"
    if expected := _EXPECTED.match(fault):
        return f"{where}expected {_named(expected['expected'])}, found {_named(expected['found'])}"
    if missing := _MISSING.match(fault):
        return f"{where}the field {missing['field']!r} is missing"
    if isinstance(error, msgspec.ValidationError):
        return where + fault[:1].lower() + fault[1:]
    return f"it is not JSON ({fault.removeprefix('JSON is malformed: ')})"


def _named(kinds: str) -> str:
    return " or ".join(_WORDS.get(kind, kind) for kind in kinds.split(" | "))
