"""Who may ask a server on this machine."""

from __future__ import annotations

import asyncio
import socket

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.errors import AsyncgenError, UsageError
from asyncgen.local_http import ForeignRequestError, RequestGuard, checked_host, checked_origin, json_response, listen

PORT = "{port}"


def asked(guard: RequestGuard, *headers: tuple[str, str], method: str = "GET", path: str = "/") -> tuple[int, str]:
    """Status and code of the answer to a request with these headers; `{port}` stands for the server's."""

    async def answer(request: web.Request) -> web.Response:
        try:
            guard.check(request)
        except ForeignRequestError as error:
            return json_response({"code": error.code}, status=error.status)
        return json_response({"code": ""})

    async def ask() -> tuple[int, str]:
        app = web.Application()
        app.router.add_route("*", "/{any:.*}", answer)
        async with TestClient(TestServer(app)) as client:
            sent = [(name, value.replace(PORT, str(client.port))) for name, value in headers]
            if not any(name == "Host" for name, _ in sent):
                sent.append(("Host", f"127.0.0.1:{client.port}"))
            lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in sent), "Connection: close"]
            reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
            writer.write("\r\n".join([*lines, "", ""]).encode())
            status = int((await reader.readline()).split()[1])
            body = await reader.read()
            writer.close()
            return status, body.rpartition(b'"code":"')[2].partition(b'"')[0].decode()

    return asyncio.run(ask())


LOCAL = RequestGuard(host="127.0.0.1")
OPEN = RequestGuard(host="0.0.0.0")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]", "127.0.0.2"])
def test_names_of_this_machine_are_let_in_on_the_servers_port_alone(host: str) -> None:
    assert asked(LOCAL, ("Host", f"{host}:{PORT}"))[0] == 200
    assert asked(LOCAL, ("Host", f"{host}:1")) == (403, "invalid_host")
    assert asked(LOCAL, ("Host", host)) == (403, "invalid_host")


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "192.168.1.7", "[::2]", "0x7f.1", "a@127.0.0.1", "127.0.0.1:80", "[::1"],
)
def test_foreign_names_are_refused_on_any_port(host: str) -> None:
    assert asked(LOCAL, ("Host", f"{host}:{PORT}")) == (403, "invalid_host")


def test_a_request_has_one_host() -> None:
    assert asked(LOCAL, ("Host", f"127.0.0.1:{PORT}"), ("Host", f"127.0.0.1:{PORT}"))[0] == 400


def test_a_server_for_others_is_asked_by_any_address_and_by_its_own_name() -> None:
    assert asked(OPEN, ("Host", f"192.168.1.7:{PORT}"))[0] == 200
    assert asked(OPEN, ("Host", f"localhost:{PORT}"))[0] == 200
    assert asked(OPEN, ("Host", f"evil.example:{PORT}"))[0] == 403
    assert asked(RequestGuard(host="My-Box.local"), ("Host", f"my-box.LOCAL:{PORT}"))[0] == 200


def test_further_names_are_let_in_with_their_port_or_on_any() -> None:
    guard = RequestGuard(host="0.0.0.0", allowed_hosts=frozenset({"box", "localhost:8080"}))
    assert asked(guard, ("Host", "BOX"))[0] == 200
    assert asked(guard, ("Host", "box:99"))[0] == 200
    assert asked(guard, ("Host", "localhost:8080"))[0] == 200
    assert asked(guard, ("Host", "localhost:8081"))[0] == 403


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (f"http://127.0.0.1:{PORT}", 200),
        (f"HTTP://127.0.0.1:{PORT}", 200),
        (f"http://localhost:{PORT}", 403),  # exact: another origin, whoever may be behind it
        (f"https://127.0.0.1:{PORT}", 403),
        ("http://127.0.0.1:3000", 403),
        ("http://localhost", 403),
        ("null", 403),
        ("", 403),
        ("http://[::1", 403),
    ],
)
def test_only_pages_of_the_server_itself_may_use_it(origin: str, status: int) -> None:
    assert asked(LOCAL, ("Origin", origin), method="POST")[0] == status


@pytest.mark.parametrize(
    ("site", "status"), [("none", 200), ("same-origin", 200), ("same-site", 403), ("cross-site", 403), ("x", 403)]
)
def test_a_browser_says_from_where_it_asks(site: str, status: int) -> None:
    assert asked(LOCAL, ("Sec-Fetch-Site", site))[0] == status


def test_pages_of_allowed_origins_may_use_it() -> None:
    guard = RequestGuard(host="127.0.0.1", allowed_origins=frozenset({"http://localhost:3000"}))
    assert asked(guard, ("Origin", "http://localhost:3000"), ("Sec-Fetch-Site", "same-site"))[0] == 200
    assert asked(guard, ("Origin", "http://localhost:3001"), ("Sec-Fetch-Site", "same-site"))[0] == 403
    assert asked(guard, ("Host", "evil.example"), ("Origin", "http://localhost:3000"))[0] == 403


def test_a_link_leads_to_the_paths_that_are_meant_for_links() -> None:
    guard = RequestGuard(host="127.0.0.1", linked_paths=frozenset({"/start"}))
    link = (("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate"))
    assert asked(guard, *link, path="/start")[0] == 200
    assert asked(guard, *link, path="/start", method="POST")[0] == 403
    assert asked(guard, *link, path="/other")[0] == 403
    assert asked(guard, link[0], ("Sec-Fetch-Mode", "cors"), path="/start")[0] == 403


@given(st.text())
def test_any_text_is_a_host_and_an_origin_or_refused(text: str) -> None:
    for check in (checked_host, checked_origin):
        try:
            checked = check(text)
        except UsageError:
            continue
        assert check(checked) == checked


def test_port_that_is_taken_is_told_as_such() -> None:
    async def listen_twice() -> None:
        runner = web.AppRunner(web.Application())
        await runner.setup()
        try:
            with socket.create_server(("127.0.0.1", 0)) as first:
                await listen(runner, "127.0.0.1", first.getsockname()[1])
        finally:
            await runner.cleanup()

    with pytest.raises(AsyncgenError) as caught:
        asyncio.run(listen_twice())
    assert caught.value.code == "port_taken"


def test_the_address_that_was_taken_is_told() -> None:
    async def address() -> str:
        runner = web.AppRunner(web.Application())
        await runner.setup()
        try:
            return await listen(runner, "127.0.0.1", 0)
        finally:
            await runner.cleanup()

    scheme, _, port = asyncio.run(address()).rpartition(":")
    assert scheme == "http://127.0.0.1"
    assert int(port) > 0
