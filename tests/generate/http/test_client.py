"""asyncgen.generate.http.client: every way in which a connection or a reply can go wrong, against a real server.

Run: pytest tests/generate/test_client.py
"""

from __future__ import annotations

import asyncio
import gzip
import resource
import socket
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import perf_counter

import orjson
import pytest

from asyncgen.generate.http import client
from asyncgen.generate.http.client import open_completer, starts_within_s
from asyncgen.generate.http.completer import Answer, AttemptError, Completer, ErrorClass
from asyncgen.providers.endpoint import Endpoint, Secret
from asyncgen.providers.profiles import PROFILES

KEY = "sk-canary-0123456789abcdef"
BODY = b'{"model":"m","messages":[]}'
GOOD = orjson.dumps(
    {"model": "m-1", "choices": [{"message": {"content": "Buy it."}, "finish_reason": "stop"}], "usage": {}}
)
Handler = Callable[["Exchange"], Awaitable[None]]


class Exchange:
    """One request on the server's side."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.head = ""
        self.body = b""

    async def read(self) -> bool:
        """The whole request; False when the client is gone."""
        try:
            self.head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
        except (asyncio.IncompleteReadError, ConnectionError):
            return False
        length = int(self.head.split("content-length: ")[1].split("\r\n")[0])
        self.body = await self.reader.readexactly(length)
        return True

    def send(self, body: bytes = GOOD, status: str = "200 OK", *headers: str, length: int | None = None) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
        self.writer.write(("\r\n".join(lines) + "\r\n\r\n").encode() + body)

    def reset(self) -> None:
        """Close with RST, as a crashed server does."""
        connection = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.close()


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """A server that hands every request, read whole, to `handler`; yields its base URL."""
    tasks: set[asyncio.Task[None]] = set()

    async def live(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            exchange = Exchange(reader, writer)
            while not writer.is_closing() and await exchange.read():
                await handler(exchange)
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client went away, or the test is over
        finally:
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(live, "127.0.0.1", 0, backlog=4096)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def completing(base_url: str, *, concurrency: int = 4) -> AsyncIterator[Completer]:
    endpoint = Endpoint(PROFILES["openai"], base_url, Secret(KEY, "OPENAI_API_KEY"), "m", "test")
    async with open_completer(endpoint, concurrency=concurrency) as completer:
        yield completer


def ask(handler: Handler, *, after_an_answer: bool = False) -> Answer | AttemptError:
    """What one request comes to; with `after_an_answer`, on a client that had a good answer before."""

    async def first_good(exchange: Exchange) -> None:
        nonlocal after_an_answer
        if after_an_answer:
            after_an_answer = False
            exchange.send()
        else:
            await handler(exchange)

    async def scenario() -> Answer | AttemptError:
        async with serving(first_good) as base_url, completing(base_url) as completer:
            if after_an_answer:
                assert isinstance(await completer.complete(BODY), Answer)
            return await completer.complete(BODY)

    return asyncio.run(asyncio.wait_for(scenario(), timeout=30))


def failure(handler: Handler, *, after_an_answer: bool = False) -> AttemptError:
    outcome = ask(handler, after_an_answer=after_an_answer)
    assert isinstance(outcome, AttemptError)
    assert KEY not in repr(outcome)
    return outcome


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that gives up after a fifth of a second."""

    class Impatience:
        limit_s = 0.2

        def __init__(self, fixed_s: float | None) -> None: ...

        def observe(self, answers: int, slowest_s: float) -> None: ...

        def timed_out(self) -> None: ...

    monkeypatch.setattr(client, "_SWEEP_S", 0.02)
    monkeypatch.setattr(client, "AdaptiveTimeout", Impatience)


def test_the_body_goes_out_as_it_is_with_the_key_and_the_answer_comes_back() -> None:
    seen: list[Exchange] = []

    async def handler(exchange: Exchange) -> None:
        seen.append(exchange)
        exchange.send(GOOD, "200 OK", "x-request-id: req_7")

    reply = ask(handler)
    assert isinstance(reply, Answer)
    assert (reply.text, reply.model, reply.request_id) == ("Buy it.", "m-1", "req_7")
    assert reply.latency_s > 0
    assert seen[0].body == BODY
    assert "post /v1/chat/completions http/1.1" in seen[0].head
    assert f"authorization: bearer {KEY}" in seen[0].head


def test_a_chunked_and_a_compressed_answer_are_read() -> None:
    packed = gzip.compress(GOOD)

    async def chunked(exchange: Exchange) -> None:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n\r\n"
        middle = len(packed) // 2
        for chunk in (packed[:middle], packed[middle:], b""):
            head += b"%x\r\n%b\r\n" % (len(chunk), chunk)
        exchange.writer.write(head)

    assert isinstance(ask(chunked), Answer)


def test_a_closed_port_was_not_paid_for_and_names_the_host() -> None:
    async def scenario() -> Answer | AttemptError:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            base_url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
            async with completing(base_url) as completer:
                return await completer.complete(BODY)

    error = asyncio.run(scenario())
    assert isinstance(error, AttemptError)
    assert (error.kind, error.type, error.maybe_paid) == (ErrorClass.RETRY, "connection", False)
    assert "127.0.0.1" in error.message


def own(base_url: str) -> Endpoint:
    return Endpoint(PROFILES["custom"], base_url, None, "m", "test")


@pytest.mark.parametrize(
    ("base_url", "waits"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://localhost:8000/v1", True),
        ("http://192.168.1.20:8000/v1", True),
        ("http://vllm:8000/v1", True),
        ("http://[fd00::1]:8000/v1", True),
        ("https://gateway.example.com/v1", False),
        ("http://93.184.216.34/v1", False),
    ],
)
def test_only_ones_own_servers_are_waited_for(base_url: str, *, waits: bool) -> None:
    assert (starts_within_s(own(base_url)) > 0) == waits
    assert starts_within_s(Endpoint(PROFILES["openai"], base_url, None, "m", "test")) == 0


def test_a_server_of_ones_own_that_is_not_there_yet_or_loads_its_model_is_waited_for() -> None:
    loading = orjson.dumps({"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}})

    async def load(exchange: Exchange) -> None:
        replies.append(None)
        if len(replies) == 1:
            exchange.send(loading, "503 Service Unavailable")
        elif len(replies) == 2:
            exchange.send()
        else:
            exchange.send(loading, "503 Service Unavailable")

    async def scenario() -> list[Answer | AttemptError]:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            closed = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
            async with open_completer(own(closed), concurrency=1) as completer:
                first = await completer.complete(BODY)
        async with serving(load) as base_url, open_completer(own(base_url), concurrency=1) as completer:
            return [first, *[await completer.complete(BODY) for _ in range(3)]]

    replies: list[None] = []
    outcomes = asyncio.run(asyncio.wait_for(scenario(), timeout=30))
    refused, early, answered, late = outcomes
    for outcome in (refused, early):
        assert isinstance(outcome, AttemptError)
        assert (outcome.kind, outcome.type, outcome.maybe_paid) == (ErrorClass.WAIT, "starting", False)
    assert isinstance(answered, Answer)
    assert isinstance(late, AttemptError), "it was there before, and is overloaded now"
    assert (late.kind, late.type) == (ErrorClass.RETRY, "loading")


def test_time_asleep_is_not_time_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after Ctrl-Z and `fg`: the clock jumped, and the answer comes some looks at the clock later."""
    looks = 0

    def clock() -> float:
        nonlocal looks
        looks += bool(jumped)
        if looks == 10:
            answers.set()
        return perf_counter() + (3600.0 if jumped else 0.0)

    async def slow(exchange: Exchange) -> None:
        jumped.append(True)
        await answers.wait()
        exchange.send()

    async def scenario() -> Answer | AttemptError:
        async with serving(slow) as base_url, completing(base_url) as completer:
            return await completer.complete(BODY)

    jumped: list[bool] = []
    answers = asyncio.Event()
    monkeypatch.setattr(client, "perf_counter", clock)
    monkeypatch.setattr(client, "_SWEEP_S", 0.02)
    assert isinstance(asyncio.run(asyncio.wait_for(scenario(), timeout=30)), Answer)


@pytest.mark.parametrize("place", ["x-request-id", "Location", "message", "model"])
def test_a_key_is_taken_out_wherever_a_reply_quotes_it(place: str) -> None:
    async def quoting(exchange: Exchange) -> None:
        text = "x" * 190 + KEY
        status = {"Location": "307 Temporary Redirect", "message": "400 Bad Request"}.get(place, "200 OK")
        body = {"error": {"message": text}} if place == "message" else {**orjson.loads(GOOD), "model": text}
        headers = (f"{place}: {text}",) if place in {"x-request-id", "Location"} else ()
        exchange.send(orjson.dumps(body), status, *headers)

    assert "sk-canary" not in repr(ask(quoting))


def test_a_name_that_leads_nowhere_was_not_paid_for() -> None:
    async def scenario() -> Answer | AttemptError:
        async with completing("https://no-such-host.invalid/v1") as completer:
            return await completer.complete(BODY)

    error = asyncio.run(asyncio.wait_for(scenario(), timeout=30))
    assert isinstance(error, AttemptError)
    assert (error.kind, error.type, error.maybe_paid) == (ErrorClass.RETRY, "connection", False)
    assert "no-such-host.invalid" in error.message


def test_no_trusted_connection_stops_the_run_at_first_contact() -> None:
    async def speak_plainly(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def scenario() -> Answer | AttemptError:
        server = await asyncio.start_server(speak_plainly, "127.0.0.1", 0)
        async with server, completing(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1") as completer:
            return await completer.complete(BODY)

    error = asyncio.run(asyncio.wait_for(scenario(), timeout=30))
    assert isinstance(error, AttemptError)
    assert (error.kind, error.type, error.maybe_paid) == (ErrorClass.STOP, "tls", False)
    assert "try http://127.0.0.1:" in (error.remedy or "")


def test_a_connection_that_breaks_after_the_request_may_have_been_paid() -> None:
    async def close(exchange: Exchange) -> None:
        exchange.writer.close()

    async def reset(exchange: Exchange) -> None:
        exchange.reset()

    for handler in (close, reset):
        error = failure(handler)
        assert (error.kind, error.type, error.maybe_paid) == (ErrorClass.RETRY, "disconnected", True)


def test_a_truncated_body_may_have_been_paid() -> None:
    async def truncated(exchange: Exchange) -> None:
        exchange.send(GOOD[:20], length=len(GOOD))
        exchange.writer.close()

    error = failure(truncated)
    assert (error.kind, error.type, error.maybe_paid) == (ErrorClass.RETRY, "disconnected", True)


def test_what_is_not_http_may_have_been_paid() -> None:
    async def noise(exchange: Exchange) -> None:
        exchange.writer.write(b"\x00\x01 hello\r\n\r\n")

    error = failure(noise)
    assert (error.kind, error.type, error.maybe_paid) == (ErrorClass.RETRY, "disconnected", True)


def test_a_body_that_is_not_what_its_encoding_says_is_an_error() -> None:
    async def broken(exchange: Exchange) -> None:
        exchange.send(b"not gzip at all", "200 OK", "Content-Encoding: gzip")

    error = failure(broken)
    assert (error.kind, error.type, error.maybe_paid) == (ErrorClass.RETRY, "disconnected", True)


@pytest.mark.usefixtures("impatient")
def test_a_server_that_never_answers_is_given_up_on() -> None:
    async def hang(_: Exchange) -> None:
        await asyncio.Event().wait()

    error = failure(hang)
    assert (error.kind, error.type, error.maybe_paid) == (ErrorClass.RETRY, "timeout", True)


@pytest.mark.usefixtures("impatient")
def test_a_server_that_drips_is_given_up_on() -> None:
    async def drip(exchange: Exchange) -> None:
        exchange.send(b"", length=10_000)
        while True:
            exchange.writer.write(b" ")
            await asyncio.sleep(0.02)

    error = failure(drip)
    assert (error.kind, error.type, error.maybe_paid) == (ErrorClass.RETRY, "timeout", True)


@pytest.mark.usefixtures("impatient")
def test_requests_given_up_on_leave_room_for_others() -> None:
    """A pool whose connections all timed out must not be stuck (aio-libs/aiohttp#9670)."""
    hangs = 4

    async def hang_at_first(exchange: Exchange) -> None:
        nonlocal hangs
        hangs -= 1
        if hangs >= 0:
            await asyncio.Event().wait()
        exchange.send()

    async def scenario() -> list[Answer | AttemptError]:
        async with serving(hang_at_first) as base_url, completing(base_url) as completer:
            first = await asyncio.gather(*(completer.complete(BODY) for _ in range(4)))
            return [*first, *await asyncio.gather(*(completer.complete(BODY) for _ in range(4)))]

    outcomes = asyncio.run(asyncio.wait_for(scenario(), timeout=30))
    assert [isinstance(outcome, Answer) for outcome in outcomes] == [False] * 4 + [True] * 4


def test_a_request_that_is_dropped_is_cancelled_and_not_taken_for_a_timeout() -> None:
    async def hang(_: Exchange) -> None:
        await asyncio.Event().wait()

    async def scenario() -> None:
        async with serving(hang) as base_url, completing(base_url) as completer:
            request = asyncio.create_task(completer.complete(BODY))
            await asyncio.sleep(0.05)
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request

    asyncio.run(asyncio.wait_for(scenario(), timeout=30))


def test_a_redirect_is_never_followed_and_its_target_is_named() -> None:
    elsewhere: list[Exchange] = []

    async def other(exchange: Exchange) -> None:
        elsewhere.append(exchange)
        exchange.send()

    async def scenario() -> list[Answer | AttemptError]:
        async with serving(other) as other_url:

            async def redirecting(exchange: Exchange) -> None:
                exchange.send(b"", f"{statuses.pop()} Moved", f"Location: {other_url}/chat?secret=1")

            async with serving(redirecting) as base_url, completing(base_url) as completer:
                return [await completer.complete(BODY) for _ in range(5)]

    statuses = [301, 302, 303, 307, 308]
    outcomes = asyncio.run(asyncio.wait_for(scenario(), timeout=30))
    for outcome in outcomes:
        assert isinstance(outcome, AttemptError)
        assert (outcome.kind, outcome.type) == (ErrorClass.STOP, "redirect")
        assert "http://127.0.0.1" in outcome.message
        assert "secret" not in outcome.message
    assert not elsewhere


def test_a_reply_that_unpacks_to_more_than_the_cap_fails_the_row_and_takes_no_memory() -> None:
    bomb = gzip.compress(b" " * 300_000_000, compresslevel=1)

    async def explode(exchange: Exchange) -> None:
        exchange.send(bomb, "200 OK", "Content-Encoding: gzip")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    error = failure(explode)
    grown_kb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / (1024 if sys.platform == "darwin" else 1)
    assert (error.kind, error.type, error.maybe_paid) == (ErrorClass.ROW, "too_large", True)
    assert grown_kb < 100_000


def test_a_body_longer_than_the_cap_is_not_read() -> None:
    async def endless(exchange: Exchange) -> None:
        exchange.send(b"", length=10**12)
        while True:
            exchange.writer.write(b" " * 1_000_000)
            await exchange.writer.drain()

    assert failure(endless).type == "too_large"


def test_a_web_page_stops_the_run_at_first_contact_and_is_tried_again_later() -> None:
    async def page(exchange: Exchange) -> None:
        exchange.send(b"<html>Log in</html>", "200 OK", "Content-Type: text/html")

    assert (failure(page).type, failure(page).kind) == ("not_an_api", ErrorClass.STOP)
    assert failure(page, after_an_answer=True).kind is ErrorClass.RETRY


def test_a_key_that_the_server_quotes_is_taken_out() -> None:
    async def quoting(exchange: Exchange) -> None:
        body = {"error": {"message": f"Incorrect key {KEY}.", "code": f"bad {KEY}", "param": KEY}}
        exchange.send(orjson.dumps(body), "400 Bad Request")

    assert failure(quoting).message == "Incorrect key ***."


def test_as_many_requests_are_in_flight_as_were_asked_for() -> None:
    """aiohttp's own limit is 100 connections, and says nothing when it holds requests back."""
    many = 1000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * many + 200
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"this machine lets a process open {hard} files only")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    here, everybody = 0, asyncio.Event()

    async def gather_all(exchange: Exchange) -> None:
        nonlocal here
        here += 1
        if here == many:
            everybody.set()
        await everybody.wait()
        exchange.send()

    async def scenario() -> list[Answer | AttemptError]:
        async with serving(gather_all) as base_url, completing(base_url, concurrency=many) as completer:
            return await asyncio.gather(*(completer.complete(BODY) for _ in range(many)))

    outcomes = asyncio.run(asyncio.wait_for(scenario(), timeout=60))
    assert all(isinstance(outcome, Answer) for outcome in outcomes)
