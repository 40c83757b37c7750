"""For the HTTP servers that asyncgen runs on the user's machine: the loopback test, the request guard, listening, JSON.

Whether a host is this machine is decided by literal addresses only, never by resolving a name, whose address may
change.

A page of any site can make its reader's browser send requests to this machine, directly or by a name that it lets
resolve to 127.0.0.1 (DNS rebinding). `RequestGuard` refuses such requests and admits those of programs, which send
neither `Origin` nor `Sec-Fetch-Site`. The rule is that of Go's `net/http.CrossOriginProtection`, with an exact `Host`
before it. Keys, cookies, routes and the form of an error are left to each server. aiohttp is imported where it is
used, because commands that start no server use the loopback test too.
"""

from __future__ import annotations

import errno
import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from asyncgen.errors import AsyncgenError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web


def is_loopback_host(host: str) -> bool:
    """Whether a host is a loopback address or `localhost`.

    Args:
        host: a name or an address, without port and brackets, in any case.
    """
    if not is_address(host):
        return host.lower() == "localhost"
    address = ipaddress.ip_address(host)
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback  # Python 3.11 does not look into mapped ones


def is_address(host: str) -> bool:
    """Return whether a host is a literal IPv4 or IPv6 address, without brackets.

    Args:
        host: a host name or address.
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


_AUTHORITY = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?")
_ORIGIN = re.compile(rf"(?:https?|[a-z][a-z0-9+.-]*)://{_AUTHORITY.pattern}", re.IGNORECASE)
_HTTP_PORT = 80
_BACKLOG = 1024
_encode = msgspec.json.Encoder().encode


class ForeignRequestError(Exception):
    """A request that a foreign page, or a name that is not the server's, may have sent.

    Args:
        status: of the answer: 400 where the request is malformed, else 403.
        code: a stable word: "invalid_host" or "invalid_origin".
        message: what is wrong, for whoever sent it.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestGuard:
    """Admits requests of programs and of the server's own pages, and refuses all others.

    Attributes:
        host: where the server listens, as it was asked to.
        allowed_hosts: further names of the server, `NAME` (on any port) or `NAME:PORT`.
        allowed_origins: pages of other servers that may use this one, such as `http://localhost:3000`.
        linked_paths: paths to which a link on a foreign page may lead (a GET that opens a page).
        option: the option that adds a name, for the message.
    """

    host: str
    allowed_hosts: frozenset[str] = frozenset()
    allowed_origins: frozenset[str] = frozenset()
    linked_paths: frozenset[str] = frozenset()
    option: str = "--allow-host"

    def check(self, request: web.Request) -> None:
        """Check that a request comes from an allowed host and page.

        Args:
            request: the request.

        Raises:
            ForeignRequestError: it does not.
        """
        authority = self._check_host(request)
        origins = request.headers.getall("Origin", [])
        if self.allows_origin(request):
            return
        if len(origins) > 1 or (origins and origins[0].lower() != f"http://{authority}"):
            raise ForeignRequestError(403, "invalid_origin", "Pages of other sites may not use this server.")
        site = request.headers.get("Sec-Fetch-Site", "none").lower()
        if site not in {"none", "same-origin"} and not self._is_navigation(request):
            raise ForeignRequestError(403, "invalid_origin", "Pages of other sites may not use this server.")

    def allows_origin(self, request: web.Request) -> bool:
        """Return whether a request comes from a page of one of the allowed origins.

        Args:
            request: the request.
        """
        origins = request.headers.getall("Origin", [])
        return len(origins) == 1 and origins[0].lower() in self.allowed_origins

    def _check_host(self, request: web.Request) -> str:
        """Check the request's `Host`; returns it in lower case."""
        hosts = request.headers.getall("Host", [])
        if len(hosts) != 1:
            raise ForeignRequestError(400, "invalid_host", "A request must have one Host header.")
        own_port = (request.get_extra_info("sockname") or ("", 0))[1]
        match = _AUTHORITY.fullmatch(hosts[0])
        if match is None or not self._is_own_host(match, own_port):
            shown = hosts[0] if match else "HOST"
            raise ForeignRequestError(
                403,
                "invalid_host",
                f"The Host header does not name this server. To allow this name, start the server with "
                f"{self.option} {shown}.",
            )
        return hosts[0].lower()

    def _is_own_host(self, match: re.Match[str], own_port: int) -> bool:
        name = (match["v6"] or match["name"]).lower()
        port = int(match["port"] or _HTTP_PORT)
        if name in self.allowed_hosts or f"{name}:{port}" in self.allowed_hosts:
            return True
        if port != own_port:
            return False
        if name == self.host.lower() or is_loopback_host(name):
            return True
        # A server that listens for other machines is reached by any of its addresses; DNS rebinding needs a name.
        return is_address(name) and not is_loopback_host(self.host)

    def _is_navigation(self, request: web.Request) -> bool:
        mode = request.headers.get("Sec-Fetch-Mode", "").lower()
        return request.method == "GET" and mode == "navigate" and request.path in self.linked_paths


def checked_host(text: str) -> str:
    """Parse a host for `RequestGuard.allowed_hosts`.

    Args:
        text: `NAME` or `NAME:PORT`.

    Returns:
        The host, normalised for comparison.

    Raises:
        UsageError: it is not a host.
    """
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is not a host name", help_text="use NAME or NAME:PORT, such as mybox.local:8093")
    name = (match["v6"] or match["name"]).lower()
    return f"{name}:{int(match['port'])}" if match["port"] else name


def checked_origin(text: str) -> str:
    """Parse an origin for `RequestGuard.allowed_origins`.

    Args:
        text: `SCHEME://HOST[:PORT]`.

    Returns:
        The origin, normalised for comparison.

    Raises:
        UsageError: it is not an origin.
    """
    if _ORIGIN.fullmatch(text.removesuffix("/")) is None:
        raise UsageError(
            f"{text!r} is not an origin", help_text="use SCHEME://HOST[:PORT], such as http://localhost:3000"
        )
    return text.removesuffix("/").lower()


async def listen(runner: web.AppRunner, host: str, port: int) -> str:
    """Start listening.

    Args:
        runner: of the application, already set up.
        host: an address or a name of this machine.
        port: 0 for a free one.

    Returns:
        The address, such as `http://127.0.0.1:8080`.

    Raises:
        AsyncgenError: the port is taken (code `port_taken`), or the host is not this machine's.
    """
    from aiohttp import web  # noqa: PLC0415 - slow to import; the loopback test needs none of it

    try:
        await web.TCPSite(runner, host, port, backlog=_BACKLOG).start()
    except (OSError, UnicodeError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise AsyncgenError(
                f"port {port} of {host} is already in use", help_text="--port 0 uses a free port", code="port_taken"
            ) from error
        raise AsyncgenError(
            f"cannot listen on {host}:{port}",
            cause=str(error),
            help_text="use an address of this machine, such as 127.0.0.1, or 0.0.0.0 for all addresses",
        ) from error
    address, bound_port = runner.addresses[0][:2]
    return f"http://{f'[{address}]' if ':' in address else address}:{bound_port}"


def json_response(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Build a response with a JSON body.

    Args:
        value: anything that msgspec encodes, structs included.
        status: HTTP status.
        headers: further headers; None for none.

    Returns:
        The response.
    """
    from aiohttp import web  # noqa: PLC0415 - as in listen

    return web.Response(
        body=_encode(value), status=status, headers={"Content-Type": "application/json", **(headers or {})}
    )
