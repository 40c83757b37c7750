"""What every request passes first, and every answer last."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from asyncgen.serve.app import build_app
from asyncgen.serve.guard import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncgen.serve.data_folder import ServerInfo


def get(server: ServerInfo, path: str = "/v1/models", method: str = "GET", **headers: str) -> tuple[int, Any, Any]:
    async def ask() -> tuple[int, Any, Any]:
        url = server.base_url.removesuffix("/v1") + path
        async with aiohttp.ClientSession() as session, session.request(method, url, headers=headers) as response:
            return response.status, response.headers, await response.json(content_type=None)

    return asyncio.run(ask())


@pytest.mark.parametrize("host", ["127.0.0.1:1", "localhost", "localhost:99", "[::1]:8080"])
def test_own_names_are_let_in_on_any_port(simulated_server: Callable[..., ServerInfo], host: str) -> None:
    assert get(simulated_server(), Host=host)[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:80", "", "[::2]", "0x7f.1"])
def test_foreign_host_name_is_refused(simulated_server: Callable[..., ServerInfo], host: str) -> None:
    status, _, answer = get(simulated_server(), Host=host)
    assert (status, answer["error"]["code"]) == (403, "invalid_host")


@pytest.mark.parametrize(
    ("origin", "status"),
    [("http://localhost:3000", 200), ("http://127.0.0.1", 200), ("https://evil.example", 403), ("null", 403)],
)
def test_pages_of_other_sites_are_refused(
    simulated_server: Callable[..., ServerInfo], origin: str, status: int
) -> None:
    assert get(simulated_server(), Origin=origin)[0] == status


def test_no_page_is_told_that_it_may_read_the_answers(simulated_server: Callable[..., ServerInfo]) -> None:
    _, headers, _ = get(simulated_server(), Origin="http://localhost:3000")
    assert not [name for name in headers if name.lower().startswith("access-control")]


def test_unknown_path_is_answered_in_the_apis_shape(simulated_server: Callable[..., ServerInfo]) -> None:
    status, headers, answer = get(simulated_server(), "/v1/nothing")
    assert status == 404
    assert answer["error"] == {
        "message": "Invalid URL (GET /v1/nothing)",
        "type": "invalid_request_error",
        "param": None,
        "code": "unknown_url",
    }
    assert headers["x-request-id"].startswith("req_")


def test_wrong_method_is_answered_in_the_apis_shape(simulated_server: Callable[..., ServerInfo]) -> None:
    status, headers, answer = get(simulated_server(), "/v1/chat/completions")
    assert (status, headers["Allow"], answer["error"]["code"]) == (405, "POST", "method_not_supported")


def test_bug_is_a_500_and_its_traceback_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(_request: web.Request) -> web.Response:
        raise ZeroDivisionError("secret detail")

    async def ask() -> tuple[int, Any]:
        app = build_app([web.get("/broken", broken)], "127.0.0.1", None, lambda: 0.0)
        async with TestClient(TestServer(app)) as client:
            response = await client.get("/broken")
            return response.status, await response.json()

    with caplog.at_level(logging.ERROR):
        status, answer = asyncio.run(ask())
    assert (status, answer["error"]["type"]) == (500, "server_error")
    assert "secret detail" not in json.dumps(answer)
    assert "ZeroDivisionError: secret detail" in caplog.text


@pytest.mark.parametrize(
    ("host", "mine"),
    [("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("a.b", False)],
)
def test_loopback_addresses_are_known(host: str, mine: bool) -> None:
    assert is_loopback(host) == mine


@pytest.mark.parametrize(
    ("name", "status"), [("192.168.1.7", 200), ("my-host", 200), ("localhost", 200), ("evil.example", 403)]
)
def test_server_for_others_takes_addresses_and_its_own_name(name: str, status: int) -> None:
    async def fine(_request: web.Request) -> web.Response:
        return web.Response()

    async def ask() -> int:
        app = build_app([web.get("/", fine)], "my-host", None, lambda: 0.0)
        async with TestClient(TestServer(app)) as client:
            return (await client.get("/", headers={"Host": name})).status

    assert asyncio.run(ask()) == status
