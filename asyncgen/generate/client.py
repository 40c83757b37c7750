"""Requests over HTTP: one body out, one reply in, through aiohttp.

Owns the connection pool, deadlines, the cap on what a reply may unpack to, and what a broken connection means. Does
not know retries or rates, and never follows a redirect. The key stands in the session's headers only; errors are made
anew from their type, since aiohttp's own carry the headers.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp

from asyncgen import __version__
from asyncgen.endpoint import Endpoint
from asyncgen.generate.completer import Answer, AttemptError, ErrorClass
from asyncgen.generate.reply import read_reply

MAX_REPLY_BYTES = 16 * 1024 * 1024
_CHUNK_BYTES = 64 * 1024
_CONNECT_S = 10.0
_KEEPALIVE_S = 15.0  # idle connections are closed before servers do, or a request meets one just closed
_SAMPLE = 100  # answers that a deadline is made from
_STALE_S = 0.05  # a "timeout" sooner than this came from the connection's past


class Deadline:
    """How long an answer may take: twice the slowest of the last hundred, within bounds.

    Args:
        least_s: never less.
        most_s: never more, and the start.
    """

    def __init__(self, least_s: float = 60.0, most_s: float = 600.0) -> None:
        self._least_s = least_s
        self._most_s = most_s
        self._latencies: deque[float] = deque(maxlen=_SAMPLE)
        self._until_next = _SAMPLE
        self.timeout = _timeout(most_s)

    def observe(self, latency_s: float) -> None:
        """Learn from an answer; the limit moves at every hundredth one."""
        self._latencies.append(latency_s)
        self._until_next -= 1
        if not self._until_next:
            self._until_next = _SAMPLE
            self.timeout = _timeout(min(max(2 * max(self._latencies), self._least_s), self._most_s))


def _timeout(total_s: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=total_s, sock_connect=_CONNECT_S)


class HttpCompleter:
    """A completer over an open session; made by `open_completer`."""

    def __init__(self, session: aiohttp.ClientSession, url: str, deadline: Deadline) -> None:
        self._session = session
        self._url = url
        self._deadline = deadline
        self._has_worked = False

    async def complete(self, body: bytes) -> Answer | AttemptError:
        """Send `body` once."""
        began = time.perf_counter()
        try:
            async with self._session.post(
                self._url, data=body, allow_redirects=False, timeout=self._deadline.timeout
            ) as response:
                content = await _read(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return self._broken(error, time.perf_counter() - began)
        if content is None:
            text = f"the reply unpacks to more than {MAX_REPLY_BYTES // 2**20} MiB"
            return AttemptError(kind=ErrorClass.ROW, type="too_large", message=text, maybe_paid=True)
        reply = read_reply(response.status, response.headers, content)
        return self._noted(reply, time.perf_counter() - began, response)

    def _noted(
        self, reply: Answer | AttemptError, latency_s: float, response: aiohttp.ClientResponse
    ) -> Answer | AttemptError:
        if isinstance(reply, Answer):
            self._has_worked = True
            self._deadline.observe(latency_s)
            return replace(reply, latency_s=latency_s)
        if 300 <= response.status < 400:  # noqa: PLR2004 - a redirect would take body and key elsewhere
            target = response.headers.get("Location", "nowhere").partition("?")[0]
            return replace(reply, type="redirect", message=f"the address sends on to {target}; give it to --base-url")
        if reply.type == "not_an_api" and self._has_worked:
            return replace(reply, kind=ErrorClass.RETRY)  # a proxy's page in passing
        return reply

    def _broken(self, error: Exception, elapsed_s: float) -> AttemptError:
        """What a connection's end means; the type of the exception says how far the request had come."""
        name = type(error).__name__
        if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
            kind = ErrorClass.RETRY if self._has_worked else ErrorClass.STOP
            remedy = "check this machine's clock, and whether a proxy on the way changes certificates"
            return AttemptError(kind=kind, type="tls", message=f"no trusted connection ({name})", remedy=remedy)
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            return AttemptError(kind=ErrorClass.RETRY, type="connection", message=f"no connection ({name})")
        if isinstance(error, TimeoutError):
            stale = elapsed_s < _STALE_S
            text = f"no whole answer within {elapsed_s:.0f} s"
            return AttemptError(kind=ErrorClass.RETRY, type="timeout", message=text, maybe_paid=not stale)
        if isinstance(error, aiohttp.InvalidURL):
            return AttemptError(kind=ErrorClass.STOP, type="address", message="the address is none")
        text = f"the connection broke off ({name})"
        return AttemptError(kind=ErrorClass.RETRY, type="disconnected", message=text, maybe_paid=True)


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    """The whole body, decompressed; None when it is over the cap, which may be told only while it unpacks."""
    if "Content-Encoding" not in response.headers and (response.content_length or MAX_REPLY_BYTES) < MAX_REPLY_BYTES:
        return await response.read()
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_REPLY_BYTES:
            response.close()
            return None
    return b"".join(chunks)


@asynccontextmanager
async def open_completer(
    endpoint: Endpoint, *, concurrency: int, deadline: Deadline | None = None
) -> AsyncIterator[HttpCompleter]:
    """A completer for an endpoint, its connections closed at the end of the block.

    Args:
        endpoint: where requests go.
        concurrency: the most requests that will be in flight; the connection pool never limits them.
        deadline: how long an answer may take.
    """
    headers = {"Content-Type": "application/json", "User-Agent": f"asyncgen/{__version__}"}
    if endpoint.key is not None:
        headers["Authorization"] = f"Bearer {endpoint.key.reveal()}"
    connector = aiohttp.TCPConnector(limit=concurrency + 1, keepalive_timeout=_KEEPALIVE_S)
    async with aiohttp.ClientSession(
        headers=headers, connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
    ) as session:
        yield HttpCompleter(session, f"{endpoint.base_url}/chat/completions", deadline or Deadline())
        await asyncio.sleep(0)  # lets closing transports leave the loop
