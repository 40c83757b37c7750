"""Access control of the local page: only the browser that was opened with the launch link.

A one-time link, a cookie, a token for every write, and the headers of every answer. Host, Origin and Sec-Fetch-Site are
checked by `local_http.RequestGuard` before. Other users of the machine can reach the port, and other pages can make
this browser send requests to it: neither has the cookie and the token.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import web

from asyncgen.errors import UsageError
from asyncgen.local_http import ForeignRequestError, RequestGuard, checked_origin, json_response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp.typedefs import Handler, Middleware

HOST = "127.0.0.1"
LAUNCH = "/launch"
TOKEN_HEADER = "X-Asyncgen"  # noqa: S105 - the name of a header
_HTTP_PORT = 80
_COOKIE_S = 7 * 24 * 3600
_OPEN_PREFIXES = ("/static/",)
_WRITES = frozenset({"POST"})
_SAFE = frozenset({"GET", "HEAD"})

CONTENT_SECURITY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_LAUNCHED = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="0;url=/">
<title>asyncgen</title><link rel="icon" href="/static/icon.svg"><link rel="stylesheet" href="/static/view.css">
<body class="message"><main><h1>asyncgen</h1><p><a href="/">Continue to the page</a></p></main></body></html>
"""
_CLOSED = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>asyncgen: closed</title><link rel="icon" href="/static/icon.svg"><link rel="stylesheet" href="/static/view.css">
<body class="message"><main><h1>This page is closed to this browser</h1><p>{why}</p>
<p>Open the link that <code>asyncgen view</code> printed. It works once. For a new link, stop the command and run it
again.</p></main></body></html>
"""


@dataclass(frozen=True, slots=True)
class BrowserAddress:
    """The address of the page in the browser, which differs behind a tunnel or a forwarded port.

    Attributes:
        origin: such as `http://localhost:8080`.
        authority: host and port, in the form of the guard; a browser omits the scheme's default port.
    """

    origin: str
    authority: str

    @classmethod
    def of(cls, text: str) -> BrowserAddress:
        """Parse `http://localhost:8080`, or `localhost:8080`.

        Args:
            text: as the user typed it.

        Returns:
            The address.

        Raises:
            UsageError: it is not an address.
        """
        origin = checked_origin(text if "://" in text else f"http://{text}")
        parts = urlsplit(origin)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise UsageError(f"{text!r} is not an address", help_text="--as-seen-at http://localhost:8080")
        return cls(origin, f"{parts.hostname}:{parts.port or _HTTP_PORT}")


@dataclass(slots=True)
class PageAccess:
    """Access control of one server: its one-time link, cookie and token.

    Attributes:
        seen_at: address in the browser, if it differs from the one that the server listens on.
        port: port that the server listens on; set before the first request.
    """

    seen_at: BrowserAddress | None = None
    port: int = 0
    _session: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    _writing: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    _launch: str | None = field(default_factory=lambda: secrets.token_urlsafe(32))

    @property
    def launch_url(self) -> str:
        """The URL that opens the page, once."""
        base = self.seen_at.origin if self.seen_at else f"http://{HOST}:{self.port}"
        return f"{base}{LAUNCH}?t={self._launch}"

    @property
    def writing_token(self) -> str:
        """Token for requests that change something; given to pages that have the cookie."""
        return self._writing

    @property
    def cookie(self) -> str:
        """Name of the cookie."""
        # Cookies of one host are shared by all its ports: without the port in the name two pages would log each
        # other out.
        return f"asyncgen_{self.port}"

    def middleware(self) -> Middleware:
        """Middleware that passes a request on to its route, or refuses it."""
        guard = RequestGuard(
            host=HOST,
            allowed_hosts=frozenset({self.seen_at.authority}) if self.seen_at else frozenset(),
            allowed_origins=frozenset({self.seen_at.origin}) if self.seen_at else frozenset(),
            linked_paths=frozenset({LAUNCH}),
            option="--as-seen-at",
        )

        @web.middleware
        async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
            try:
                guard.check(request)
            except ForeignRequestError as error:
                return _refused(error.status, error.code, str(error))
            if request.path == LAUNCH:
                return self._launched(request)
            if request.path.startswith(_OPEN_PREFIXES):
                return await handler(request)
            if not self._has_cookie(request):
                return _closed(request, "It has not been opened with the launch link.")
            if request.method not in _SAFE and (refusal := self._refuse_write(request)) is not None:
                return refusal
            return await handler(request)

        return guarded

    def _launched(self, request: web.Request) -> web.StreamResponse:
        if request.method != "GET":
            return _refused(405, "method", "A launch link can only be opened by GET.")
        if request.headers.get("Sec-Purpose", "").startswith("prefetch"):
            return _refused(503, "prefetch", "A launch link works once, and a prefetch does not use it.")
        given = request.query.get("t", "")
        if self._launch is None or not _same(given, self._launch):
            if self._has_cookie(request):
                return web.Response(text=_LAUNCHED, content_type="text/html")
            return _closed(request, "The link was already used, or it is incomplete.")
        self._launch = None
        # Not a redirect: a link in a web terminal is opened from a foreign page, and after a redirect a Strict
        # cookie would not be sent. A page of this server that loads the next one has the cookie sent.
        response = web.Response(text=_LAUNCHED, content_type="text/html")
        response.set_cookie(self.cookie, self._session, max_age=_COOKIE_S, path="/", httponly=True, samesite="Strict")
        return response

    def _has_cookie(self, request: web.Request) -> bool:
        return _same(request.cookies.get(self.cookie, ""), self._session)

    def _refuse_write(self, request: web.Request) -> web.StreamResponse | None:
        if request.method not in _WRITES:
            return _refused(405, "method", "Changes need POST.")
        if request.content_type != "application/json":
            return _refused(415, "content_type", "Changes must be sent as JSON.")
        if not _same(request.headers.get(TOKEN_HEADER, ""), self._writing):
            return _refused(403, "token", "The token of the page is missing.")
        return None


def signed() -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """Make the hook that adds security headers to every response."""

    async def sign(request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(_HEADERS)
        if not request.path.startswith(_OPEN_PREFIXES):
            response.headers["Cache-Control"] = "no-store"

    return sign


def _same(given: str, wanted: str) -> bool:
    return secrets.compare_digest(given.encode(), wanted.encode())


def _refused(status: int, code: str, message: str) -> web.Response:
    return json_response({"error": {"code": code, "what": message, "cause": None, "help": None}}, status=status)


def _closed(request: web.Request, why: str) -> web.Response:
    if request.path.startswith("/api/"):
        return _refused(401, "closed", why)
    return web.Response(text=_CLOSED.format(why=why), content_type="text/html", status=401)
