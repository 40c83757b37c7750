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

from asyncgen.errors import DiskError
from asyncgen.local_http import RequestGuard
from asyncgen.providers.endpoint import Secret
from asyncgen.serve.app import ServerAccess, build_app
from asyncgen.serve.server import ServeSettings
from asyncgen.serve.simulation.engine import SimulationSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncgen.providers.local_server import ServerInfo

LOCAL = ServerAccess(guard=RequestGuard(host="127.0.0.1"))
PAGE = "http://localhost:3000"


def get(server: ServerInfo, path: str = "/v1/models", method: str = "GET", **headers: str) -> tuple[int, Any, Any]:
    async def ask() -> tuple[int, Any, Any]:
        url = server.base_url.removesuffix("/v1") + path
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        async with aiohttp.ClientSession() as session, session.request(method, url, headers=sent) as response:
            return response.status, response.headers, await response.json(content_type=None)

    return asyncio.run(ask())


@pytest.fixture
def guarded_server(start_server: Callable[[ServeSettings], ServerInfo]) -> Callable[..., ServerInfo]:
    return lambda **settings: start_server(ServeSettings(simulation=SimulationSettings(), **settings))


@pytest.mark.parametrize("host", ["evil.example", "localhost", "localhost:1", "[::2]"])
def test_foreign_host_name_is_refused(simulated_server: Callable[..., ServerInfo], host: str) -> None:
    status, _, answer = get(simulated_server(), Host=host)
    assert (status, answer["error"]["code"]) == (403, "invalid_host")


@pytest.mark.parametrize("origin", [PAGE, "https://evil.example", "null", "http://[::1"])
def test_pages_of_other_sites_are_refused(simulated_server: Callable[..., ServerInfo], origin: str) -> None:
    status, headers, answer = get(simulated_server(), Origin=origin)
    assert (status, answer["error"]["code"]) == (403, "invalid_origin")
    assert not [name for name in headers if name.lower().startswith("access-control")]


def test_server_is_reached_at_the_address_that_it_names(guarded_server: Callable[..., ServerInfo]) -> None:
    for host in ("127.0.0.2", "localhost", "LOCALHOST"):
        assert get(guarded_server(host=host))[0] == 200


def test_page_of_an_allowed_origin_can_read_the_answers(guarded_server: Callable[..., ServerInfo]) -> None:
    server = guarded_server(allowed_origins=frozenset({PAGE}))
    status, headers, _ = get(server, Origin=PAGE, Sec_Fetch_Site="same-site")
    assert (status, headers["Access-Control-Allow-Origin"], headers["Vary"]) == (200, PAGE, "Origin")
    status, headers, _ = get(
        server, "/v1/chat/completions", "OPTIONS", Origin=PAGE,
        Access_Control_Request_Method="POST", Access_Control_Request_Headers="authorization,content-type",
    )  # fmt: skip
    assert (status, headers["Access-Control-Allow-Origin"]) == (204, PAGE)
    assert headers["Access-Control-Allow-Headers"] == "authorization,content-type"
    assert "POST" in headers["Access-Control-Allow-Methods"]
    status, headers, _ = get(server, Origin="http://localhost:3001")
    assert status == 403
    assert "Access-Control-Allow-Origin" not in headers


def test_page_is_told_of_a_refusal_too(guarded_server: Callable[..., ServerInfo]) -> None:
    status, headers, _ = get(guarded_server(allowed_origins=frozenset({PAGE})), "/v1/nothing", Origin=PAGE)
    assert (status, headers["Access-Control-Allow-Origin"]) == (404, PAGE)


@pytest.mark.parametrize(
    ("authorization", "status"),
    [(None, 401), ("Bearer sk-right", 200), ("bearer sk-right", 200), ("Bearer sk-wrong", 401), ("Basic sk-right", 401),
     ("Bearer", 401), ("sk-right", 401), ("Bearer sk-right\u00e9", 401)],
)  # fmt: skip
def test_key_is_wanted_where_there_is_one(
    guarded_server: Callable[..., ServerInfo], authorization: str | None, status: int
) -> None:
    server = guarded_server(key=Secret("sk-right", "a test"), allowed_origins=frozenset({PAGE}))
    headers = {"Authorization": authorization} if authorization else {}
    found, _, answer = get(server, **headers)
    assert found == status
    if status == 401:
        assert answer["error"]["code"] == "invalid_api_key"
        assert "sk-right" not in json.dumps(answer)
    assert get(server, "/health")[0] == 200
    asking = {"Origin": PAGE, "Access_Control_Request_Method": "POST"}
    assert get(server, "/v1/models", "OPTIONS", **asking)[0] == 204  # a browser asks without the key


def test_unknown_path_is_answered_in_the_apis_shape_and_says_what_there_is(
    simulated_server: Callable[..., ServerInfo],
) -> None:
    status, headers, answer = get(simulated_server(), "/v1/embeddings")
    assert status == 404
    assert answer["error"]["code"] == "unknown_url"
    assert answer["error"]["type"] == "invalid_request_error"
    assert "/v1/chat/completions" in answer["error"]["message"]
    assert headers["x-request-id"].startswith("req_")


def test_wrong_method_is_answered_in_the_apis_shape(simulated_server: Callable[..., ServerInfo]) -> None:
    status, headers, answer = get(simulated_server(), "/v1/chat/completions")
    assert (status, headers["Allow"], answer["error"]["code"]) == (405, "POST", "method_not_supported")


def failing(error: Exception) -> tuple[int, Any]:
    async def broken(_request: web.Request) -> web.Response:
        raise error

    async def ask() -> tuple[int, Any]:
        app = build_app([web.get("/broken", broken)], LOCAL, None, lambda: 0.0)
        async with TestClient(TestServer(app)) as client:
            response = await client.get("/broken")
            return response.status, await response.json()

    return asyncio.run(ask())


def test_bug_is_a_500_and_its_traceback_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        status, answer = failing(ZeroDivisionError("secret detail"))
    assert (status, answer["error"]["type"]) == (500, "server_error")
    assert "secret detail" not in json.dumps(answer)
    assert "ZeroDivisionError: secret detail" in caplog.text


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), DiskError("it", cause="No space left")])
def test_full_disk_is_told_and_is_no_bug(caplog: pytest.LogCaptureFixture, error: Exception) -> None:
    status, answer = failing(error)
    assert (status, answer["error"]["code"]) == (500, "io_error")
    assert "No space left" in answer["error"]["message"]
    assert "Traceback" not in caplog.text
