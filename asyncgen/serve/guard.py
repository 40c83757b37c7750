"""What every request passes first, and every answer last.

Owns the check of `Host` and `Origin` (a page in a browser can be made to send requests to a loopback
address), the request's id and the errors' shape. Knows no route.
"""

from __future__ import annotations

import ipaddress
import logging
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import web

from asyncgen.serve.wire import ApiError, new_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp.typedefs import Handler, Middleware

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_ID = web.RequestKey("asyncgen_request_id", str)
_BEGAN = web.RequestKey("asyncgen_request_began", float)
_log = logging.getLogger(__name__)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def guarding(host: str, clock: Callable[[], float]) -> Middleware:
    """The outermost middleware.

    Args:
        host: where the server listens, as it was asked to.
        clock: monotonic seconds.
    """
    is_own = _loopback_only if is_loopback(host) else _address_or(host)

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        request[_ID] = new_id("req_", 32)
        request[_BEGAN] = clock()
        try:
            _check_sender(request, is_own)
            return await handler(request)
        except ApiError as error:
            return error.response()
        except web.HTTPException as error:
            return _in_shape(request, error).response()
        except Exception:  # noqa: BLE001 - the edge: a bug is logged whole, and answered as the API would
            _log.exception("%s: %s %s", request[_ID], request.method, request.path)
            return ApiError(500, "The server had an error; its log tells more.", kind="server_error").response()

    return guarded


def sign(clock: Callable[[], float]) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """What puts the request's id and time on an answer that is about to be sent."""

    async def signed(request: web.Request, response: web.StreamResponse) -> None:
        if identifier := request.get(_ID):
            response.headers["x-request-id"] = identifier
            response.headers["openai-processing-ms"] = str(int((clock() - request[_BEGAN]) * 1000))

    return signed


def _check_sender(request: web.Request, is_own: Callable[[str], bool]) -> None:
    if not is_own(_hostname(request.headers.get("Host", ""))):
        raise ApiError(403, "The Host header names another server than this one.", code="invalid_host")
    origin = request.headers.get("Origin")
    if origin is not None and not is_own(urlsplit(origin).hostname or ""):
        raise ApiError(403, "Pages of other sites may not use this server.", code="invalid_origin")


def _hostname(header: str) -> str:
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


def _loopback_only(name: str) -> bool:
    return name in _LOOPBACK_NAMES


def _address_or(host: str) -> Callable[[str], bool]:
    """For a server that others reach too: a literal address cannot be rebound to it by a foreign name."""

    def is_own(name: str) -> bool:
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in (host, "localhost")
        return True

    return is_own


def _in_shape(request: web.Request, error: web.HTTPException) -> ApiError:
    if error.status == web.HTTPNotFound.status_code:
        return ApiError(404, f"Invalid URL ({request.method} {request.path})", code="unknown_url")
    if error.status == web.HTTPMethodNotAllowed.status_code:
        message = f"Not allowed to {request.method} on {request.path}."
        return ApiError(405, message, code="method_not_supported", headers={"Allow": error.headers["Allow"]})
    return ApiError(error.status, f"{error.reason}: {error.text or ''}".strip(": "))
