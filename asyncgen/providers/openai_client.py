"""The official SDK, configured for an endpoint, with its errors translated into ours.

For files, batches and fine-tuning jobs: a client over aiohttp without redirects and retries, one retry policy for
idempotent calls, streamed uploads and downloads, and the translation of errors. What is uploaded, and why, is left to
the callers. Importing this module imports the SDK, which takes a second: import it inside the command that needs it.
"""

from __future__ import annotations

import asyncio
import io
import os
import re
import ssl
import time
from collections.abc import Callable
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeVar

import aiohttp
import httpx2
import openai
from msgspec.structs import replace
from openai import AsyncOpenAI, DefaultAioHttpClient

from asyncgen.backoff import full_jitter_s, server_wait_s
from asyncgen.errors import AsyncgenError, AuthError, DiskError, QuotaError
from asyncgen.providers.endpoint import Secret, is_loopback, redacted
from asyncgen.providers.network import (
    CERTIFICATES_HELP,
    Proxy,
    certificate_failure_reason,
    connection_failure_reason,
    encrypted_address,
    headers_for,
    proxy_for,
    route_to,
    shown_target,
    speaks_no_tls,
)
from asyncgen.providers.reply_body import ReportedError, UnreadableBodyError, read_body, read_reported_error
from asyncgen.run.whole_file import replacing
from asyncgen.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterator
    from pathlib import Path

    from asyncgen.providers.endpoint import Endpoint


T = TypeVar("T")

# Long, because a large upload is answered only after the server has stored it; there are few calls.
_TIMEOUT = httpx2.Timeout(600.0, connect=10.0)
_LONGEST_WAIT_S = 120.0
_MESSAGE_WIDTH = 300
_REPEATED_STATUSES = frozenset({408, 409, 429})
_NO_KEY = "none"  # the SDK requires one; it is not sent
_HEADERS_OF_A_REQUEST = frozenset(
    {
        *("host", "accept", "accept-encoding", "connection", "content-type", "content-length", "transfer-encoding"),
        *("range", "if-range"),
    }
)
_LARGEST_REPLY = 64 * 1024 * 1024  # bytes after decompression; files are streamed
_OF_ENCODING = frozenset({"content-encoding", "content-length", "transfer-encoding"})
_LOST = (openai.APIConnectionError, httpx2.TransportError)


@asynccontextmanager
async def open_client(endpoint: Endpoint) -> AsyncIterator[AsyncOpenAI]:
    """Open the official SDK's client, closed at the end of the block.

    The SDK's own retries are off (`retrying` owns them), and what it reads from the environment (keys, organization) is
    not sent.

    Args:
        endpoint: address, key and headers.

    Yields:
        The client.

    Raises:
        UsageError: a variable names a proxy or certificates that cannot be used.
    """
    async with AsyncOpenAI(
        api_key=endpoint.key.reveal() if endpoint.key else _NO_KEY,
        base_url=endpoint.base_url,
        max_retries=0,
        timeout=_TIMEOUT,
        http_client=open_http(endpoint),
    ) as client:
        yield client


def open_http(endpoint: Endpoint) -> httpx2.AsyncClient:
    """Open connections with the headers, proxy and certificates of `network`, as every other client has them.

    Redirects are not followed, because they could send the data elsewhere.

    Args:
        endpoint: address, key and headers.

    Returns:
        The connections, to be closed by the caller.

    Raises:
        UsageError: a variable names a proxy or certificates that cannot be used.
    """
    route, headers = route_to(endpoint), headers_for(endpoint)

    async def with_our_headers(request: httpx2.Request) -> None:
        for name in set(request.headers) - _HEADERS_OF_A_REQUEST:
            del request.headers[name]
        request.headers.update(headers)

    return _Connections(
        timeout=_TIMEOUT,
        follow_redirects=False,
        trust_env=False,
        verify=route.certificates or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        proxy=route.proxy.url if route.proxy else None,
        event_hooks={"request": [with_our_headers]},
    )


class _Connections(DefaultAioHttpClient):
    """Connections whose every error is one of the transport, and whose replies are bounded unless they are streamed.

    aiohttp raises an error of its own for what is not HTTP.
    """

    async def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        try:
            response = await super().send(request, stream=True, **options)
            return response if stream else await _read_bounded(response, request)
        except aiohttp.ClientError as error:
            raise httpx2.RemoteProtocolError("the reply is not HTTP", request=request) from error


async def _read_bounded(response: httpx2.Response, request: httpx2.Request) -> httpx2.Response:
    """The reply with its body decoded."""
    body = bytearray()
    try:
        async for part in response.aiter_bytes():
            body += part
            if len(body) > _LARGEST_REPLY:
                raise httpx2.RemoteProtocolError("the reply is too large", request=request)
    finally:
        await response.aclose()
    headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in _OF_ENCODING]
    return httpx2.Response(
        response.status_code, headers=headers, content=bytes(body), request=request, extensions=response.extensions
    )


@dataclass(frozen=True, slots=True)
class Pacing:
    """Retry settings.

    Attributes:
        attempts: maximum number of calls.
        sleep: waits for a number of seconds.
        now: Unix seconds.
        rng: randomness of the jitter.
    """

    attempts: int = 5
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    now: Callable[[], float] = time.time
    rng: Random = field(default_factory=Random)


async def retrying(call: Callable[[], Awaitable[T]], pacing: Pacing, *, unsafe: bool = False) -> T:
    """Await a call, and retry it after transient errors.

    Waits as long as the server says, else backs off exponentially with full jitter.

    Args:
        call: makes a new awaitable for each attempt.
        pacing: retry settings.
        unsafe: the call is not idempotent (a POST): retry only what surely was not processed.

    Returns:
        The result of the call.

    Raises:
        openai.APIError: the last error, when attempts are used up or a retry is useless.
        httpx2.TransportError: the same, during a streamed download.
    """
    for attempt in range(pacing.attempts - 1):
        try:
            return await call()
        except (openai.APIError, httpx2.TransportError) as error:
            if not is_transient(error, unsafe=unsafe) or _is_absent(error):
                raise
            wait_s = _wait_s(error, attempt, pacing)
        await pacing.sleep(wait_s)
    return await call()


def is_transient(error: Exception, *, unsafe: bool = False) -> bool:
    """Decide whether an error is transient.

    Args:
        error: of the SDK or its transport.
        unsafe: the call is not idempotent: only errors of requests that surely were not processed count.

    Returns:
        Whether a retry may help.
    """
    if isinstance(error, _LOST):
        return not unsafe
    if not isinstance(error, openai.APIStatusError) or _reported_error(error).is_billing:
        return False
    if unsafe:
        return error.status_code == 429  # noqa: PLR2004 - refused before it was done; a 5xx may come after
    return error.status_code in _REPEATED_STATUSES or error.status_code >= 500  # noqa: PLR2004 - the server's side


def _is_absent(error: Exception) -> bool:
    """Does nothing listen there, on this machine? Waiting a few seconds would not start a server."""
    return isinstance(error, _LOST) and _is_refused(error) and is_loopback(str(error.request.url))


def _is_refused(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, ConnectionRefusedError):
        error = error.__cause__ or error.__context__
    return error is not None


def _wait_s(error: Exception, attempt: int, pacing: Pacing) -> float:
    jitter_s = full_jitter_s(attempt, pacing.rng)
    if not isinstance(error, openai.APIStatusError):
        return jitter_s
    asked_s = server_wait_s(error.response.headers, now=pacing.now())
    return jitter_s if asked_s is None else min(asked_s, _LONGEST_WAIT_S) + jitter_s


class _CountedFile(io.FileIO):
    """A file that reports how much of it was read. The SDK streams real files only."""

    def __init__(self, path: Path, on_progress: Callable[[int, int], None]) -> None:
        super().__init__(path, "rb")
        self._on_progress = on_progress
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        chunk = super().read(-1 if size is None else size)
        self._on_progress(self.tell(), self._size)
        return chunk


OnProgress = Callable[[int, int], None]
"""Called with the bytes of a file read so far and its size; begins again at 0 with each attempt."""


async def upload(
    client: AsyncOpenAI,
    path: Path,
    purpose: Literal["fine-tune", "batch"],
    pacing: Pacing,
    *,
    filename: str | None = None,
    on_progress: OnProgress = lambda _sent, _size: None,
) -> str:
    """Upload a file as a stream.

    Args:
        client: of the provider.
        path: the file.
        purpose: as in the API.
        pacing: retry settings.
        filename: its name at the provider; None for that of `path`.
        on_progress: called with bytes sent and bytes in total.

    Returns:
        The provider's id of the file.

    Raises:
        openai.APIError: as `retrying`.
        AsyncgenError: the answer is not a file object.
        DiskError: the file cannot be read.
    """

    async def send(file: BinaryIO) -> object:
        return await client.files.create(file=(filename or path.name, file), purpose=purpose)

    return id_of_answer(await sending(path, send, pacing, on_progress), "a file", secret_of(client))


async def sending(path: Path, send: Callable[[BinaryIO], Awaitable[T]], pacing: Pacing, on_progress: OnProgress) -> T:
    """Send a file, from its beginning again after a broken connection.

    A second copy on the server costs nothing.

    Args:
        path: the file.
        send: gets the open file, and sends it.
        pacing: retry settings.
        on_progress: called with bytes sent and bytes in total.

    Returns:
        The result of `send`.

    Raises:
        openai.APIError: as `retrying`.
        DiskError: the file cannot be read.
    """

    async def once() -> T:
        with _disk(path), _CountedFile(path, on_progress) as file:
            return await send(file)

    return await retrying(once, pacing)


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a DiskError: the SDK and its transport raise none."""
    try:
        yield
    except OSError as error:
        raise DiskError(f"{path} cannot be read or written", cause=error.strerror) from error


async def download(client: AsyncOpenAI, file_id: str, path: Path, pacing: Pacing) -> None:
    """Download a stored file as a stream. It appears at `path` complete and synced, or not at all.

    Args:
        client: of the provider.
        file_id: the provider's id of the file.
        path: where to save it.
        pacing: retry settings.

    Raises:
        openai.APIError: as `retrying`.
        httpx2.TransportError: as `retrying`.
        DiskError: `path` cannot be written.
    """

    async def once() -> None:
        async with client.files.with_streaming_response.content(file_id) as response:
            with replacing(path) as file:
                async for chunk in response.iter_bytes():
                    file.write(chunk)

    await retrying(once, pacing)


def id_of_answer(answer: object, what: str, secret: Secret | None = None) -> str:
    """Read the `id` of an object that the SDK returned.

    The SDK validates nothing, and returns a proxy's HTML as a string.

    Args:
        answer: as the SDK returned it.
        what: what it should be, such as "a file".
        secret: the key that was sent, which the answer may quote; None if none was.

    Returns:
        The id.

    Raises:
        AsyncgenError: there is no such id.
    """
    identifier = getattr(answer, "id", None)
    if isinstance(identifier, str) and identifier:
        return identifier
    raise AsyncgenError(
        f"the server's answer is not {what}",
        cause=one_line(redacted(str(answer), secret), _MESSAGE_WIDTH),
        help_text="check the address (--base-url), and whether this server has this API",
        code="bad_answer",
    )


@contextmanager
def translated_sdk_errors(doing: str) -> Iterator[None]:
    """Turn the SDK's errors in the block into ours.

    Args:
        doing: what failed, such as "upload train.jsonl".

    Raises:
        AuthError: status 401 or 403.
        QuotaError: the account is empty or a spending limit is reached.
        AsyncgenError: any other status, or no answer.
    """
    try:
        yield
    except (openai.APIError, httpx2.TransportError) as error:
        raise api_error(error, doing) from error


def api_error(error: openai.APIError | httpx2.TransportError, doing: str) -> AsyncgenError:
    """Turn an error of the SDK into ours.

    Args:
        error: of the SDK or its transport.
        doing: what failed, such as "upload train.jsonl".

    Returns:
        The error, to be raised. Its `code` is the API's own if it sent one.
    """
    what, secret = f"could not {doing}", _secret_sent(error)
    if not isinstance(error, openai.APIStatusError):
        silence, remedy = _silence(error)
        silence = one_line(redacted(silence, secret), _MESSAGE_WIDTH)
        return AsyncgenError(what, cause=silence, help_text=remedy, code="unreachable")
    words = _reported_error(error)
    status = _status(error, words)
    said = one_line(redacted(_message(error, words), secret), _MESSAGE_WIDTH)
    cause = f"the server answered {status}" + (f": {said}" if said else "")
    code = one_line(redacted(next(iter(words.names), f"http_{status}"), secret), _MESSAGE_WIDTH)
    kind, help_text = _remedy(error, words)
    return kind(what, cause=cause, help_text=help_text, code=code)


def secret_of(client: AsyncOpenAI) -> Secret | None:
    """Return the key that a client of `open_client` sends; None if it sends none.

    Args:
        client: of `open_client`.
    """
    return Secret(client.api_key, "the client") if client.api_key != _NO_KEY else None


def _secret_sent(error: openai.APIError | httpx2.TransportError) -> Secret | None:
    """The key that the request carried, which the reply may quote."""
    with suppress(RuntimeError):  # an error without a request
        value = error.request.headers.get("Authorization", "").removeprefix("Bearer ")
        return Secret(value, "the request") if value else None
    return None


def _silence(error: Exception) -> tuple[str, str]:
    """Why there is no answer, and what to do."""
    if speaks_no_tls(error):
        return "the server speaks http, not https", "use the address with http://"
    if _is_refused(error):
        if proxy := _proxy_of(error):
            return (
                f"no connection to the proxy {proxy}: {connection_failure_reason(error)}",
                f"check or unset {proxy.variable}",
            )
        return connection_failure_reason(error), "start the server, or check the address"
    root = error.__cause__ or error
    if any("certificate" in type(each).__name__.lower() or "CERTIFICATE" in str(each) for each in (error, root)):
        return f"no trusted connection: {certificate_failure_reason(error)}", CERTIFICATES_HELP
    encrypted = encrypted_address(_url_of(error), error)
    remedy = encrypted or "check the network, the address and the proxy; `asyncgen doctor` tests them"
    return connection_failure_reason(error), remedy


def _proxy_of(error: Exception) -> Proxy | None:
    """The proxy by which the request of an error went."""
    url = _url_of(error)
    return proxy_for(url) if url.startswith("https:") else None


def _url_of(error: Exception) -> str:
    """The URL of the request of an error; "" for one without a request."""
    with suppress(RuntimeError, AttributeError):
        return str(error.request.url)  # type: ignore[attr-defined]
    return ""


def _reported_error(error: openai.APIStatusError) -> ReportedError:
    """What the server says of an error, in whatever shape."""
    content = error.response.content
    text = content.decode("utf-8", "replace")
    try:
        words = read_reported_error(read_body(content, error.response.headers.get("content-type", "")))
    except UnreadableBodyError:
        return ReportedError(message="a web page" if text.lstrip()[:1] == "<" else text)
    return words if words.message else replace(words, message=text)


def _status(error: openai.APIStatusError, words: ReportedError) -> int:
    """The status that an error stands for: its own account counts where the reply's status says little."""
    return words.status if words.status is not None and error.status_code in {400, 500} else error.status_code


def _message(error: openai.APIStatusError, words: ReportedError) -> str:
    if target := error.response.headers.get("Location"):
        return f"the address redirects to {shown_target(target)}; use that address with --base-url"
    return words.message


def _remedy(error: openai.APIStatusError, words: ReportedError) -> tuple[type[AsyncgenError], str | None]:
    if words.is_billing:
        return QuotaError, "add credit or raise the limit at the provider, then run the same command again"
    match _status(error, words):
        case 401:
            return AuthError, "check the key in the provider's environment variable"
        case 403:
            return AuthError, "the key is valid, but lacks a permission: check its permissions at the provider"
        case 404:
            has_version = re.search(r"/v\d", str(error.request.url))
            hint = "" if has_version else ": it should end in /v1, like almost all addresses"
            return AsyncgenError, f"check the ID and the address{hint}, and whether this provider has this API"
        case status if status == 429 or status >= 500:  # noqa: PLR2004 - the server's side, or too fast
            return AsyncgenError, "run the same command again in a few minutes"
        case _:
            return AsyncgenError, None
