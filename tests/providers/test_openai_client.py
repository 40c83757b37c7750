"""asyncgen.providers.openai_client, against a server on loopback."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import TYPE_CHECKING

import httpx2
import openai
import pytest
from aiohttp import web

from asyncgen.errors import AsyncgenError, AuthError, DiskError, QuotaError
from asyncgen.providers.endpoint import Endpoint, Secret
from asyncgen.providers.openai_client import (
    Pacing,
    download,
    id_of_answer,
    open_client,
    retrying,
    translated_sdk_errors,
    upload,
)
from asyncgen.providers.profiles import PROFILES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
    from pathlib import Path
    from typing import Any

    Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]

KEY = Secret("sk-never-shown-anywhere", "OPENAI_API_KEY")


class Server:
    """Answers every request by the next of `answers` (the last one for ever), and keeps what was asked."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.seen: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.waits_s: list[float] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.method, request.path))
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        chosen = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return await chosen(request)

    def pacing(self, attempts: int = 3) -> Pacing:
        async def sleep(seconds: float) -> None:
            self.waits_s.append(seconds)

        return Pacing(attempts=attempts, sleep=sleep, now=lambda: 0.0, rng=Random(1))

    @asynccontextmanager
    async def client(self, provider: str = "openai") -> AsyncIterator[openai.AsyncOpenAI]:
        app = web.Application(client_max_size=10**9)
        app.router.add_route("*", "/{path:.*}", self.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        endpoint = Endpoint(PROFILES[provider], f"http://{host}:{port}/v1", KEY, "m", "")
        try:
            async with open_client(endpoint) as client:
                yield client
        finally:
            await runner.cleanup()


@pytest.fixture
def server() -> Server:
    return Server()


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def says(status: int, code: str | None = None, headers: dict[str, str] | None = None, **body: Any) -> Answer:
    async def answer(request: web.Request) -> web.Response:
        await request.read()
        content = {"error": {"message": "no", "code": code}} if status >= 400 else body
        return web.json_response(content, status=status, headers=headers)

    return answer


async def resets(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


def test_a_call_that_may_be_repeated_outlives_passing_errors(server: Server) -> None:
    async def scenario() -> None:
        server.answers = [says(503), resets, says(200, id="batch_1")]
        async with server.client() as client:
            batch = await retrying(lambda: client.batches.retrieve("batch_1"), server.pacing())
        assert batch.id == "batch_1"
        assert len(server.seen) == 3

    run(scenario())


def test_the_servers_wait_is_kept_and_jitter_comes_on_top(server: Server) -> None:
    async def scenario() -> None:
        server.answers = [says(429, headers={"retry-after-ms": "4000"}), says(200, id="b")]
        async with server.client() as client:
            await retrying(lambda: client.batches.retrieve("b"), server.pacing())
        assert len(server.waits_s) == 1
        assert 4.0 <= server.waits_s[0] <= 4.5

    run(scenario())


def test_attempts_are_bounded(server: Server) -> None:
    async def scenario() -> None:
        server.answers = [says(500)]
        async with server.client() as client:
            with pytest.raises(openai.InternalServerError):
                await retrying(lambda: client.batches.retrieve("b"), server.pacing(attempts=4))
        assert len(server.seen) == 4

    run(scenario())


@pytest.mark.parametrize(("status", "code"), [(400, None), (401, None), (404, None), (429, "credit_balance_exhausted")])
def test_what_will_not_pass_is_not_asked_again(server: Server, status: int, code: str | None) -> None:
    async def scenario() -> None:
        server.answers = [says(status, code)]
        async with server.client() as client:
            with pytest.raises(openai.APIStatusError):
                await retrying(lambda: client.batches.retrieve("b"), server.pacing())
        assert len(server.seen) == 1

    run(scenario())


@pytest.mark.parametrize(("first", "calls"), [(says(429), 2), (says(500), 1), (resets, 1)])
def test_an_unsafe_call_is_repeated_only_when_it_was_surely_not_done(server: Server, first: Answer, calls: int) -> None:
    async def scenario() -> None:
        server.answers = [first, says(200, id="b")]
        async with server.client() as client:
            create = lambda: client.batches.create(  # noqa: E731 - a fresh awaitable a call
                input_file_id="f", endpoint="/v1/chat/completions", completion_window="24h"
            )
            try:
                await retrying(create, server.pacing(), unsafe=True)
            except openai.APIError:
                assert calls == 1
        assert len(server.seen) == calls

    run(scenario())


def test_an_upload_streams_tells_its_progress_and_starts_again(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"x" * 300_000)
    sizes: list[int] = []

    async def stores(request: web.Request) -> web.Response:
        form = await request.post()
        file = form["file"]
        assert isinstance(file, web.FileField)
        assert (file.filename, form["purpose"]) == ("in.jsonl", "batch")
        sizes.append(len(file.file.read()))
        return web.json_response({"id": "file-1"})

    async def scenario() -> None:
        progress: list[tuple[int, int]] = []
        server.answers = [says(502), stores]
        async with server.client() as client:
            file_id = await upload(
                client, path, "batch", server.pacing(), on_progress=lambda *step: progress.append(step)
            )
        assert file_id == "file-1"
        assert sizes == [300_000]
        assert progress[-1] == (300_000, 300_000)
        assert len(progress) >= 10, "read in pieces, twice"

    run(scenario())


def test_an_unreadable_file_is_the_disks_fault(server: Server, tmp_path: Path) -> None:
    async def scenario() -> None:
        server.answers = [says(200, id="f")]
        async with server.client() as client:
            with pytest.raises(DiskError, match="nowhere"):
                await upload(client, tmp_path / "nowhere", "batch", server.pacing())

    run(scenario())


def test_a_download_that_breaks_off_is_fetched_again_and_never_left_half(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"

    async def breaks_off(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-length": "1000"})
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.close()
        return response

    async def whole(request: web.Request) -> web.Response:
        assert not path.exists()
        return web.Response(body=b"line\n" * 100)

    async def scenario() -> None:
        server.answers = [breaks_off, whole]
        async with server.client() as client:
            await download(client, "file-1", path, server.pacing())

    run(scenario())
    assert path.read_bytes() == b"line\n" * 100
    assert list(tmp_path.iterdir()) == [path]


def test_a_download_into_nowhere_is_the_disks_fault(server: Server, tmp_path: Path) -> None:
    async def scenario() -> None:
        server.answers = [says(200)]
        async with server.client() as client:
            with pytest.raises(DiskError):
                await download(client, "file-1", tmp_path / "no" / "out.jsonl", server.pacing())

    run(scenario())


def test_a_redirect_is_not_followed(server: Server) -> None:
    async def redirects(request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"location": "/v1/elsewhere"})

    async def scenario() -> None:
        server.answers = [redirects]
        async with server.client() as client:
            with pytest.raises(openai.APIStatusError):
                await retrying(lambda: client.batches.retrieve("b"), server.pacing())
        assert server.seen == [("GET", "/v1/batches/b")]

    run(scenario())


def test_nothing_that_the_sdk_reads_from_the_environment_is_sent(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_API_KEY", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, "of-another-provider")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "x-tenant: of-another-provider\nAuthorization: of-another-provider")

    async def scenario() -> None:
        server.answers = [says(200, id="b")]
        async with server.client() as client:
            await client.batches.retrieve("b")
        assert not [value for value in server.headers[0].values() if "of-another-provider" in value]
        assert server.headers[0]["authorization"] == f"Bearer {KEY.reveal()}"

    run(scenario())


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "invalid_api_key", AuthError),
        (403, "training_not_available", AuthError),
        (429, "insufficient_quota", QuotaError),
        (429, "rate_limit_exceeded", AsyncgenError),
        (500, None, AsyncgenError),
        (404, "not_found", AsyncgenError),
        (400, "invalid_value", AsyncgenError),
    ],
)
def test_errors_are_reported_in_our_words(
    server: Server, status: int, code: str | None, kind: type[AsyncgenError]
) -> None:
    async def scenario() -> None:
        server.answers = [says(status, code)]
        async with server.client() as client:
            with pytest.raises(AsyncgenError) as caught, translated_sdk_errors("read batch b"):
                await client.batches.retrieve("b")
        assert type(caught.value) is kind
        assert caught.value.what == "could not read batch b"
        assert str(status) in (caught.value.cause or "")
        assert caught.value.code == (code or f"http_{status}")

    run(scenario())


def test_no_answer_at_all_is_reported_as_unreachable(server: Server) -> None:
    async def scenario() -> None:
        server.answers = [resets]
        async with server.client() as client:
            with pytest.raises(AsyncgenError) as caught, translated_sdk_errors("read batch b"):
                await client.batches.retrieve("b")
        assert caught.value.code == "unreachable"
        assert caught.value.cause

    run(scenario())


def test_html_from_a_proxy_is_no_object(server: Server) -> None:
    async def html(request: web.Request) -> web.Response:
        return web.Response(text="<html>\x1b[31mwelcome</html>", content_type="text/html")

    async def scenario() -> None:
        server.answers = [html]
        async with server.client() as client:
            answer = await client.batches.retrieve("b")
            with pytest.raises(AsyncgenError, match="not a batch") as caught:
                id_of_answer(answer, "a batch")
        assert "\x1b" not in (caught.value.cause or "")

    run(scenario())


def refuses(status: int, body: Any) -> Answer:
    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.json_response(body, status=status)

    return answer


def told(server: Server, answer: Answer) -> AsyncgenError:
    found: list[AsyncgenError] = []

    async def scenario() -> None:
        server.answers = [answer]
        async with server.client() as client:
            with pytest.raises(AsyncgenError) as raised, translated_sdk_errors("look at a batch"):
                await retrying(lambda: client.batches.retrieve("b"), server.pacing())
        found.append(raised.value)

    run(scenario())
    return found[0]


@pytest.mark.parametrize(
    "body",
    [
        [{"error": {"message": "no such thing"}}],
        {"errors": [{"message": "no such thing"}]},
        {"msg": "no such thing"},
        {"Message": "no such thing"},
        {"error": "x", "error_description": "no such thing"},
        {"base_resp": {"status_msg": "no such thing"}},
        {"detail": {"error": {"msg": "no such thing"}}},
        {"error": {"message": '{"error": {"message": "no such thing"}}'}},
        {"reason": {"why": "no such thing"}},
    ],
)
def test_the_servers_words_are_shown_whatever_shape_they_have(server: Server, body: Any) -> None:
    assert "no such thing" in str(told(server, refuses(400, body)).cause)


def test_an_error_within_another_one_counts_as_the_status_that_it_names(server: Server) -> None:
    inner = '{"error": {"message": "API key expired", "code": 401}}'
    assert isinstance(told(server, refuses(400, {"error": {"message": inner}})), AuthError)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (429, {"error": {"message": "no", "type": "exceeded_current_quota_error"}}),
        (429, {"error": {"message": "no", "code": 1113}}),
        (400, {"error": {"message": "Your credit balance is too low.", "type": "invalid_request_error"}}),
    ],
)
def test_an_empty_account_is_told_at_once_in_any_makers_words(server: Server, status: int, body: Any) -> None:
    assert isinstance(told(server, refuses(status, body)), QuotaError)
    assert len(server.seen) == 1


def test_where_nothing_listens_on_this_machine_it_is_told_at_once(server: Server) -> None:
    async def scenario() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # and does not listen
            endpoint = Endpoint(PROFILES["custom"], f"http://127.0.0.1:{taken.getsockname()[1]}/v1", None, "m", "")
            async with open_client(endpoint) as client:
                with (
                    pytest.raises(AsyncgenError, match="look at a batch") as raised,
                    translated_sdk_errors("look at a batch"),
                ):
                    await retrying(lambda: client.batches.retrieve("b"), server.pacing())
        assert "connection refused" in str(raised.value.cause)
        assert server.waits_s == []

    run(scenario())


async def asked_of(serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> None:
    """Send one request to a server that handles its connections so."""
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        endpoint = Endpoint(PROFILES["custom"], f"http://127.0.0.1:{port}/v1", None, "m", "")
        async with open_client(endpoint) as client:
            await client.get("/models", cast_to=httpx2.Response)


@pytest.mark.parametrize(
    "reply",
    [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n{}",
     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n", b"HTTP/1.1 999999 \0\r\n\r\n", b""],
)  # fmt: skip
def test_what_is_not_http_is_an_error_of_the_connection(reply: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        await writer.drain()
        writer.close()

    with pytest.raises(openai.APIConnectionError):
        asyncio.run(asked_of(serve))


def test_a_reply_without_end_is_given_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncgen.providers.openai_client._LARGEST_REPLY", 1_000_000)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        with suppress(ConnectionError):
            while True:
                writer.write(b"10000\r\n" + b" " * 65536 + b"\r\n")
                await writer.drain()
        writer.close()

    with pytest.raises(openai.APIConnectionError):
        asyncio.run(asked_of(serve))
