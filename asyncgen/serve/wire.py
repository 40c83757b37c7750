"""The JSON that all answers of the API share: errors, list pages, ids.

As OpenAI's reference describes them. Routes are left to `api`.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, Generic, TypeVar, cast

import msgspec
from aiohttp import web
from msgspec import Meta

from asyncgen.json_text import NotJsonError, decode_loosely
from asyncgen.local_http import json_response

Clock = Callable[[], float]
"""Unix seconds."""

Disturb = Callable[[web.StreamResponse, int, bytes], Awaitable[bool]]
"""Meets the event of that number (from 0) of a stream before it is written; False where the stream has broken off."""

DISTURB = web.RequestKey("asyncgen_disturb", cast("type[Disturb]", object))
"""What a rehearsed fault does to the stream that answers this request."""

Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=16)
]

Item = TypeVar("Item")
Body = TypeVar("Body")

_PAGE_LIMIT = 100
_DIGITS = 9  # digits of a number in a query
_PLACE = re.compile(
    r"^(?P<what>.*?)(?: - at (?:`\w+` in )?`\$(?P<path>.*)`)?$", re.DOTALL
)  # how msgspec ends its messages
_MISSING = re.compile(r"missing required field `(\w+)`")


class ApiError(Exception):
    """A request that is answered with an error.

    Args:
        status: of the HTTP answer.
        message: what is wrong, in a sentence that the client's user will read.
        kind: the error's `type`.
        param: the parameter at fault.
        code: a stable word for machines.
        headers: further headers, such as `retry-after`.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param
        self.code = code
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """The JSON of the error: `{"error": {...}}`."""
        return {
            "error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code},
        }

    def response(self) -> web.Response:
        return json_response(self.body(), status=self.status, headers=self.headers)


def no_such(kind: str, identifier: str, *, param: str = "id") -> ApiError:
    """The 404 error for a missing object."""
    return ApiError(404, f"No such {kind}: {identifier}", param=param, code="not_found")


async def read_object(request: web.Request) -> dict[str, Any]:
    """Read the request's body as a JSON object.

    Raises:
        ApiError: it is not JSON, or no object.
    """
    try:
        value = decode_loosely(await request.read())
    except NotJsonError as error:
        raise ApiError(400, f"The body of the request is not valid JSON: {error}.", code="invalid_json") from None
    if not isinstance(value, dict):
        raise ApiError(400, "The body of the request must be a JSON object.", code="invalid_type")
    return value


def parsed(body: Mapping[str, Any], kind: type[Body]) -> Body:
    """Convert a JSON object to a struct.

    Raises:
        ApiError: 400, naming the parameter at fault.
    """
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        raise _refusal(error) from None


def _refusal(error: msgspec.ValidationError) -> ApiError:
    match = _PLACE.match(str(error))
    assert match is not None, "the pattern matches any text"
    path = (match["path"] or "").lstrip(".")
    missing = _MISSING.search(match["what"])
    if missing:
        param = f"{path}.{missing[1]}".lstrip(".")
        return ApiError(400, f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")
    code = "invalid_type" if match["what"].startswith("Expected `") and "got" in match["what"] else "invalid_value"
    return ApiError(400, f"Invalid '{path}': {match['what']}.", param=path or None, code=code)


def new_id(prefix: str, length: int = 24) -> str:
    """An identifier in the API's style: the prefix and random hexadecimal digits."""
    return prefix + secrets.token_hex(length // 2)


class ListPage(msgspec.Struct, Generic[Item], kw_only=True):
    """One page of a list."""

    object: str = "list"
    data: list[Item]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False


def page_of(
    items: Sequence[Item],
    query: Mapping[str, str],
    *,
    default_limit: int,
    identify: Callable[[Item], str],
    most: int = _PAGE_LIMIT,
) -> ListPage[Item]:
    """Return the page of a list that the query's `after` and `limit` select.

    Args:
        items: all of them, in the order of the list.
        query: of the request.
        default_limit: where the query has none.
        identify: an item's id.
        most: the largest limit.

    Raises:
        ApiError: `limit` is not a number in range, or nothing has the id in `after`.
    """
    start, limit = _start(items, query.get("after"), identify), _limit(query, default_limit, most)
    data = list(items[start : start + limit])
    return ListPage(
        data=data,
        first_id=identify(data[0]) if data else None,
        last_id=identify(data[-1]) if data else None,
        has_more=start + limit < len(items),
    )


def _start(items: Sequence[Item], after: str | None, identify: Callable[[Item], str]) -> int:
    if not after:
        return 0
    for place, item in enumerate(items):
        if identify(item) == after:
            return place + 1
    raise ApiError(400, f"Nothing in this list has the id {after!r}.", param="after", code="invalid_value")


def _limit(query: Mapping[str, str], default: int, most: int) -> int:
    text = query.get("limit")
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) <= _DIGITS) or not 1 <= int(text) <= most:
        raise ApiError(
            400,
            f"limit must be a number from 1 to {most}, not {text!r}.",
            param="limit",
            code="invalid_value",
        )
    return int(text)
