"""The HTTP client: one request body out, one reply in, through aiohttp.

Manages connections and timeouts, caps the decompressed size of a reply, and classifies connection errors. Never
follows a redirect. The API key is in the session's headers only; errors are made anew from their type, because
aiohttp's errors contain the headers. Retries and rate limits are left to the pool.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import resource
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import ip_address
from time import perf_counter
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.hdrs import CONTENT_ENCODING, CONTENT_LENGTH
from msgspec.structs import replace
from yarl import URL

from asyncgen.errors import UsageError
from asyncgen.generate.http.completer import Answer, AttemptError, Completer, ErrorClass
from asyncgen.generate.http.reply import read_irregular, read_limits, read_regular
from asyncgen.generate.pool.backpressure import AdaptiveTimeout
from asyncgen.providers.endpoint import Endpoint, near_address, redacted
from asyncgen.providers.network import (
    CERTIFICATES_HELP,
    Route,
    certificate_failure_reason,
    connection_failure_reason,
    encrypted_address,
    headers_for,
    route_to,
    shown_target,
    speaks_no_tls,
)
from asyncgen.terminal import counted, one_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

CHATS, COMPLETIONS = "/chat/completions", "/completions"
MAX_REPLY_BYTES = 16 * 1024 * 1024
_OTHERS = 128  # open files besides the connections in use: the run's, the event loop's, closing connections
_CHUNK_BYTES = 64 * 1024
_CONNECT_S = 10.0
_KEEPALIVE_S = 15.0  # shorter than servers keep idle connections, so that no request meets a closed one
_SWEEP_S = 1.0
_ASLEEP_S = 2.0  # a busy event loop is never this late: the process was suspended
_STARTING_S = 1.0  # between two attempts at a server that is starting
_OWN_SERVER_STARTS_WITHIN_S = 60.0
_WIDTH = 300
_OK = 200
_NEVER = b"\x00\xff\x00"  # occurs in no reply
_PAGES = "the reply is a web page from a login, a proxy or another service; `asyncgen doctor` checks the address"
# Keys of the request's JSON; within a string their quotes would be escaped.
_TOOLS, _FUNCTIONS = b'"tools":', b'"functions":'


def allow_connections(count: int) -> None:
    """Raise the limit of open files so that `count` connections fit.

    Raises:
        UsageError: the system does not allow that many.
    """
    needed = count + _OTHERS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    with contextlib.suppress(ValueError, OSError):  # some systems have another limit above this one
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    if soft < needed:
        raise UsageError(
            f"{counted(count, 'request')} in flight need {counted(needed, 'open file')}, but this system allows "
            f"{soft:,}",
            help_text=f"--concurrency {max(soft - _OTHERS, 1)}, or raise the limit first: ulimit -Hn {needed}",
        )


class HttpCompleter:
    """A completer over an open session; made by `open_completer`.

    Args:
        session: its headers contain the key.
        endpoint: where requests go.
        route: proxy and certificates of the session.
        timeout: for a whole answer.
        path: of the API call, below the base URL.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        endpoint: Endpoint,
        route: Route,
        timeout: AdaptiveTimeout,
        path: str = CHATS,
    ) -> None:
        self._session = session
        self._base_url = endpoint.base_url
        self._url = URL(f"{endpoint.base_url}{path}")
        self._key = endpoint.key
        self._key_bytes = endpoint.key.reveal().encode() if endpoint.key else _NEVER
        self._proxy = route.proxy
        self._timeout = timeout
        named = endpoint.profile.request_limit_header, endpoint.profile.token_limit_header
        self._limit_headers = named if any(named) else None
        self._loop = asyncio.get_running_loop()
        self._has_worked = False
        self._starts_until = perf_counter() + starts_within_s(endpoint)
        self._answers, self._slowest_s = 0, 0.0  # since the last sweep
        self._in_flight: dict[asyncio.Task[Any], float] = {}

    async def complete(self, body: bytes) -> Answer | AttemptError:
        """Send `body` once.

        Args:
            body: JSON of the request.

        Returns:
            The answer, or the classified error of this attempt.
        """
        in_flight = self._in_flight
        task = asyncio.current_task(self._loop)  # passing the loop saves a getpid call
        assert task is not None
        in_flight[task] = began = perf_counter()
        try:
            response = await self._session.post(self._url, data=body, allow_redirects=False)
            headers, stream = response.headers, response.content
            if _may_exceed_cap(headers):
                content = await _read_to_cap(response)
            else:  # small bodies come together with the headers
                content = stream.read_nowait() if stream.is_eof() else await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return self._unless_starting(self._connection_error(error, perf_counter() - began))
        except asyncio.CancelledError:
            if task in in_flight or task.uncancel() > 0:
                raise  # cancelled by something other than `sweep`
            return self._connection_error(TimeoutError(), perf_counter() - began)
        finally:
            in_flight.pop(task, None)
        if content is None:
            text = f"the reply unpacks to more than {MAX_REPLY_BYTES // 2**20} MiB"
            return AttemptError(kind=ErrorClass.ROW, type="too_large", message=text, maybe_paid=True)
        latency_s = perf_counter() - began
        if self._key_bytes in content:  # keep the key out of the records
            content = redacted(content.decode("utf-8", "surrogateescape"), self._key).encode("utf-8", "surrogateescape")
        status, key = response.status, self._key
        reply: Answer | AttemptError = read_regular(status, headers, content, latency_s, key) or read_irregular(
            status, headers, content, latency_s, key, sends_tools=_TOOLS in body or _FUNCTIONS in body
        )
        if self._limit_headers is not None:
            reply = _with_limits(reply, headers, *self._limit_headers)
        if not isinstance(reply, Answer):
            return self._with_connection_facts(reply, response)
        self._has_worked = True
        self._answers += 1
        self._slowest_s = max(self._slowest_s, latency_s)
        return reply

    async def sweep(self) -> None:
        """Cancel requests that exceed the timeout, forever.

        One timer for all requests is cheaper than one for each. Time in which this process was suspended does not
        count: the answers may be in the sockets.
        """
        while True:
            before = perf_counter()
            await asyncio.sleep(_SWEEP_S)
            asleep_s = perf_counter() - before - _SWEEP_S
            if asleep_s > _ASLEEP_S:
                self._in_flight.update({task: began + asleep_s for task, began in self._in_flight.items()})
                self._slowest_s = 0.0
            self._timeout.observe(self._answers, self._slowest_s)
            self._answers, self._slowest_s = 0, 0.0
            latest = perf_counter() - self._timeout.limit_s
            late = [task for task, began in self._in_flight.items() if began < latest]
            for task in late:
                del self._in_flight[task]
                task.cancel()
            if late:
                self._timeout.timed_out()

    def _with_connection_facts(self, error: AttemptError, response: aiohttp.ClientResponse) -> AttemptError:
        """Add to an error what is known from the connection, beyond the reply."""
        if error.type == "redirect":
            location = redacted(response.headers.get("Location", "nowhere"), self._key)
            return replace(
                error,
                message=f"the address redirects to {one_line(shown_target(location), _WIDTH)}",
                remedy="use that address with --base-url",
            )
        if error.type == "not_an_api":
            if self._has_worked:
                return replace(error, kind=ErrorClass.RETRY)  # a temporary page of a proxy
            return replace(error, remedy=near_address(self._base_url) or _PAGES)
        if self._is_no_endpoint(error):
            remedy = near_address(self._base_url)
            return replace(error, kind=ErrorClass.STOP, type="not_an_api", remedy=remedy, maybe_paid=False)
        return self._unless_starting(error)

    def _unless_starting(self, error: AttemptError) -> AttemptError:
        """The error, or a wait for a server of the user's own that is still starting or loading its model."""
        if error.type not in {"connection", "loading"} or self._has_worked or perf_counter() > self._starts_until:
            return error
        message = f"waiting for the server: {error.message}"
        return replace(error, kind=ErrorClass.WAIT, type="starting", message=message, retry_after_s=_STARTING_S)

    def _is_no_endpoint(self, error: AttemptError) -> bool:
        """Whether a server that answers 200 to every path says in the body that it has no such endpoint."""
        is_new = error.status == _OK and not self._has_worked and near_address(self._base_url) is not None
        return is_new and "endpoint" in error.message.lower()

    def _connection_error(self, error: Exception, elapsed_s: float) -> AttemptError:
        """Classify a connection error; its type tells whether the request may have been processed."""
        name = type(error).__name__
        if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
            kind = ErrorClass.RETRY if self._has_worked else ErrorClass.STOP
            if speaks_no_tls(error):
                text = f"{self._url.authority} speaks http, not https"
                return AttemptError(
                    kind=kind, type="tls", message=text, remedy=f"try http:{self._base_url.partition(':')[2]}"
                )
            text = f"no trusted connection to {self._url.host}: {certificate_failure_reason(error)}"
            return AttemptError(kind=kind, type="tls", message=one_line(text, _WIDTH), remedy=CERTIFICATES_HELP)
        if isinstance(error, aiohttp.ClientHttpProxyError):
            text = f"the proxy {self._proxy} refuses to connect to {self._url.authority} (status {error.status})"
            return AttemptError(kind=ErrorClass.RETRY, type="connection", message=text)
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            target = f"the proxy {self._proxy}" if self._proxy else self._url.authority
            text = one_line(f"no connection to {target}: {connection_failure_reason(error)}", _WIDTH)
            return AttemptError(kind=ErrorClass.RETRY, type="connection", message=text)
        if isinstance(error, TimeoutError):
            text = f"no complete answer within {elapsed_s:.0f} s"
            return AttemptError(kind=ErrorClass.RETRY, type="timeout", message=text, maybe_paid=True)
        text = f"the connection was closed ({name})"
        remedy = None if self._has_worked else encrypted_address(self._base_url, error)
        return AttemptError(kind=ErrorClass.RETRY, type="disconnected", message=text, maybe_paid=True, remedy=remedy)


def starts_within_s(endpoint: Endpoint) -> float:
    """Seconds to wait for a server that is still starting or loading its model.

    A user's own server takes its time, unless its profile says otherwise; a hosted one is up or has failed.
    """
    if endpoint.profile.starts_within_s is not None:
        return endpoint.profile.starts_within_s
    is_own = endpoint.profile.base_url is None and _is_private(URL(endpoint.base_url).host or "")
    return _OWN_SERVER_STARTS_WITHIN_S if is_own else 0.0


def _is_private(host: str) -> bool:
    """True if the host is this machine or in a private network."""
    if host == "localhost" or host.endswith((".local", ".internal", ".lan")):
        return True
    try:
        return ip_address(host).is_private
    except ValueError:
        return "." not in host  # a bare name, as in a local or container network


def _with_limits(
    reply: Answer | AttemptError, headers: Mapping[str, str], requests: str | None, tokens: str | None
) -> Answer | AttemptError:
    """The reply with rate limits from a provider's own headers."""
    usual = {"x-ratelimit-limit-requests": requests, "x-ratelimit-limit-tokens": tokens}
    limits = read_limits({name: headers[own] for name, own in usual.items() if own is not None and own in headers})
    return replace(reply, limits=limits)


def _may_exceed_cap(headers: Mapping[str, str]) -> bool:
    length = headers.get(CONTENT_LENGTH)
    return length is None or CONTENT_ENCODING in headers or int(length) > MAX_REPLY_BYTES


async def _read_to_cap(response: aiohttp.ClientResponse) -> bytes | None:
    """The whole body, decompressed; None if it exceeds the cap, which is only known while decompressing."""
    chunks: list[bytes] = []
    size = 0
    async with response:
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            chunks.append(chunk)
            size += len(chunk)
            if size > MAX_REPLY_BYTES:
                response.close()
                return None
    return b"".join(chunks)


@asynccontextmanager
async def open_completer(
    endpoint: Endpoint,
    *,
    concurrency: int,
    timeout_s: float | None = None,
    say: Callable[[str], None] = lambda _: None,
    path: str = CHATS,
    share: float = 1.0,
) -> AsyncIterator[Completer]:
    """Open a completer for an endpoint; its connections are closed at the end of the block.

    Requests are balanced over the endpoint's addresses if it has several.

    Args:
        endpoint: where requests go.
        concurrency: maximum number of requests in flight; the connection pool is at least as large.
        timeout_s: seconds for a whole answer; None to adapt to the answers.
        say: called when one of several servers is taken out, or is back.
        path: `CHATS`, or `COMPLETIONS` for bodies with a bare prompt.
        share: this process's part of the limits that each of several servers tells.

    Yields:
        The completer.

    Raises:
        UsageError: the system does not allow as many connections, or an environment variable names an invalid proxy or
            certificate file.
    """
    allow_connections(concurrency)
    async with AsyncExitStack() as stack:
        opened = [
            (
                address,
                await stack.enter_async_context(
                    _open_at_address(dataclasses.replace(endpoint, base_url=address), concurrency, timeout_s, path)
                ),
            )
            for address in (endpoint.base_url, *endpoint.others)
        ]
        if not endpoint.others:
            yield opened[0][1]
            return
        from asyncgen.generate.http.servers import ServerSpread  # noqa: PLC0415 - few users have several

        yield ServerSpread(opened, say=say, share=share)


@asynccontextmanager
async def _open_at_address(
    endpoint: Endpoint, concurrency: int, timeout_s: float | None, path: str
) -> AsyncIterator[HttpCompleter]:
    """A completer for the endpoint's first address."""
    async with open_session(endpoint, concurrency=concurrency) as (session, route):
        completer = HttpCompleter(session, endpoint, route, AdaptiveTimeout(timeout_s), path)
        sweeping = asyncio.create_task(completer.sweep())
        try:
            yield completer
        finally:
            sweeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sweeping


@asynccontextmanager
async def open_session(endpoint: Endpoint, *, concurrency: int) -> AsyncIterator[tuple[aiohttp.ClientSession, Route]]:
    """Open an aiohttp session with the endpoint's headers, proxy and certificates.

    Args:
        endpoint: address, key and headers.
        concurrency: size of the connection pool.

    Yields:
        The session, and its proxy and certificates.

    Raises:
        UsageError: an environment variable names an invalid proxy or certificate file.
    """
    route = route_to(endpoint)
    async with aiohttp.ClientSession(
        headers={"Content-Type": "application/json", **headers_for(endpoint)},
        connector=aiohttp.TCPConnector(
            limit=concurrency + 1, keepalive_timeout=_KEEPALIVE_S, ssl=route.certificates or True
        ),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        proxy=route.proxy.url if route.proxy else None,
        trust_env=False,
    ) as session:
        yield session, route
