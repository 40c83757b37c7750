"""Who may look at the page, and who may not. Every request is a real one, on loopback."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

from asyncgen.errors import UsageError
from asyncgen.view.access import BrowserAddress

MakeRun = Callable[..., Any]
ServePage = Callable[..., Any]


class Client:
    """One browser, or a program that says that it is one."""

    def __init__(self, served: Any) -> None:
        parts = urlsplit(served.link)
        self.link = f"{parts.path}?{parts.query}"
        self.port = served.port
        self.host = parts.netloc
        self.cookie = ""
        self.token = ""

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        sent = {"Host": self.host, **({"Cookie": self.cookie} if self.cookie else {})}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        content = json.dumps(body) if body is not None else None
        if content is not None:
            sent.setdefault("Content-Type", "application/json")
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in sent.items():
            connection.putheader(name, value)
        if content is not None:
            connection.putheader("Content-Length", str(len(content)))
        connection.endheaders(content.encode() if content is not None else None)
        response = connection.getresponse()
        response.text = response.read().decode()  # type: ignore[attr-defined]
        connection.close()
        return response

    def launch(self) -> Client:
        response = self.ask("GET", self.link)
        assert response.status == 200
        self.cookie = str(response.headers["Set-Cookie"]).partition(";")[0]
        self.token = json.loads(self.ask("GET", "/api/session").text)["token"]  # type: ignore[attr-defined]
        return self


@pytest.fixture
def served(make_run: MakeRun, serve_page: ServePage) -> Any:
    return serve_page(make_run(rows=3))


@pytest.fixture
def client(served: Any) -> Client:
    return Client(served).launch()


PATHS = [
    "/",
    "/launch",
    "/static/view.css",
    "/api/session",
    "/api/runs/adverts/records",
    "/nothing",
    "/static/../api/runs",
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "localhost:1", ""])
def test_another_host_is_refused_on_every_path_before_anything_else(served: Any, path: str, host: str) -> None:
    client = Client(served)
    assert client.ask("GET", path, Host=host.format(port=client.port)).status == 403


def test_a_request_with_two_hosts_is_refused(served: Any) -> None:
    client = Client(served)
    with socket.create_connection(("127.0.0.1", client.port), timeout=20) as connection:
        connection.sendall(f"GET / HTTP/1.1\r\nHost: {client.host}\r\nHost: {client.host}\r\n\r\n".encode())
        assert connection.recv(100).split()[1] == b"400"


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize("path", ["/", "/api/runs/adverts/records", "/static/view.css"])
def test_a_request_of_a_foreign_page_is_refused_although_it_has_the_cookie(
    client: Client, path: str, site: str
) -> None:
    assert client.ask("GET", path, Sec_Fetch_Site=site).status == 403
    assert client.ask("GET", path, Sec_Fetch_Site=site, Sec_Fetch_Mode="navigate").status == 403
    assert client.ask("GET", path, Sec_Fetch_Site="same-origin").status == 200
    assert client.ask("GET", path, Sec_Fetch_Site="none").status == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "http://127.0.0.1:1", "null", "http://localhost:3000"])
def test_a_foreign_origin_is_refused(client: Client, origin: str) -> None:
    assert client.ask("GET", "/api/runs", Origin=origin).status == 403
    assert client.ask("GET", "/api/runs", Origin=f"http://{client.host}").status == 200


def test_the_launch_link_works_once(served: Any) -> None:
    first, second = Client(served), Client(served)
    first.launch()
    assert second.ask("GET", second.link).status == 401
    assert "Set-Cookie" not in second.ask("GET", second.link).headers
    assert first.ask("GET", first.link).status == 200  # who has the cookie may go back to it


@pytest.mark.parametrize("token", ["", "?t=", "?t=wrong", "?t=%00", "?t=é"])
def test_a_wrong_launch_link_opens_nothing_and_uses_nothing_up(served: Any, token: str) -> None:
    client = Client(served)
    assert client.ask("GET", "/launch" + token.replace("é", "%C3%A9")).status == 401
    client.launch()


def test_a_launch_link_is_not_used_up_by_a_browser_that_looks_ahead_or_by_a_program_that_asks_for_the_head(
    served: Any,
) -> None:
    client = Client(served)
    assert client.ask("GET", client.link, Sec_Purpose="prefetch;prerender").status == 503
    assert client.ask("HEAD", client.link).status == 405
    assert client.ask("POST", client.link, {}).status == 405
    client.launch()


def test_a_launch_link_in_a_web_terminal_is_a_link_on_a_foreign_page_and_opens_the_page(served: Any) -> None:
    client = Client(served)
    response = client.ask("GET", client.link, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")
    assert response.status == 200
    assert 'http-equiv="refresh"' in response.text  # type: ignore[attr-defined]
    client = Client(served)
    assert client.ask("GET", client.link, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="cors").status == 403


def test_the_cookie_is_strict_hidden_from_scripts_and_named_after_the_port(served: Any) -> None:
    client = Client(served)
    cookie = str(client.ask("GET", client.link).headers["Set-Cookie"])
    assert cookie.startswith(f"asyncgen_{client.port}=")
    assert {"HttpOnly", "Path=/", "SameSite=Strict"} <= set(cookie.split("; "))


def test_without_the_cookie_there_is_nothing_but_the_look_of_the_page(served: Any) -> None:
    client = Client(served)
    assert client.ask("GET", "/").status == 401
    assert client.ask("GET", "/static/view.css").status == 200
    for path in ("/api/session", "/api/runs", "/api/runs/adverts/stream", "/api/nothing"):
        assert client.ask("GET", path).status == 401
    client.cookie = f"asyncgen_{client.port}=guessed"
    assert client.ask("GET", "/api/runs").status == 401
    assert client.ask("POST", "/api/runs/adverts/undo", {}).status == 401


WRITES = ["review", "undo", "playground", "evaluations/x/votes"]


@pytest.mark.parametrize("path", WRITES)
def test_nothing_is_written_or_sent_without_the_token(client: Client, path: str) -> None:
    url = f"/api/runs/adverts/{path}"
    assert client.ask("POST", url, {}).status == 403
    assert client.ask("POST", url, {}, X_Asyncgen="wrong").status == 403
    assert client.ask("POST", url, {}, X_Asyncgen=client.token, Content_Type="text/plain").status == 415
    assert client.ask("GET", url, X_Asyncgen=client.token).status in {405, 404, 200}
    assert client.ask("PUT", url, {}, X_Asyncgen=client.token).status == 405
    assert client.ask("DELETE", url, X_Asyncgen=client.token).status == 405


def test_a_write_with_the_token_is_done(client: Client) -> None:
    body = {"action": "reject", "query": {}, "expected": 3}
    response = client.ask("POST", "/api/runs/adverts/review", body, X_Asyncgen=client.token)
    assert json.loads(response.text)["count"] == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", ["/", "/static/view.css", "/api/session", "/nothing", "/launch"])
def test_every_answer_forbids_code_that_is_not_ours_and_frames(client: Client, path: str) -> None:
    headers = client.ask("GET", path).headers
    policy = str(headers["Content-Security-Policy"])
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_data_is_kept_by_no_cache(client: Client) -> None:
    assert client.ask("GET", "/api/runs").headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("name", ["..", "%2e%2e", "..%2f..%2fetc", "adverts%2f..%2f..", "/etc", "adverts\\.."])
def test_a_run_is_looked_up_by_name_and_never_by_a_path(client: Client, name: str) -> None:
    assert client.ask("GET", f"/api/runs/{name}/overview").status in {400, 404}
    assert client.ask("GET", f"/api/runs/adverts/evaluations/{name}").status in {400, 404}
    assert client.ask("GET", f"/static/{name}").status in {403, 404}


def test_the_page_is_reachable_from_this_machine_only(served: Any) -> None:
    port = Client(served).port
    for family, address in ((socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.2")):
        with socket.socket(family) as connection:
            assert connection.connect_ex((address, port)) != 0


@pytest.mark.parametrize("seen_at", ["http://localhost:8080", "localhost:8080", "http://LOCALHOST:8080/"])
def test_a_forwarded_port_is_refused_unless_it_is_named(make_run: MakeRun, serve_page: ServePage, seen_at: str) -> None:
    run = make_run(rows=1)
    refused = Client(serve_page(run)).ask("GET", "/", Host="localhost:8080")
    assert refused.status == 403
    assert "--as-seen-at localhost:8080" in refused.text  # type: ignore[attr-defined]
    served = serve_page(run, seen_at=seen_at)
    assert served.link.startswith("http://localhost:8080/launch?t=")


@pytest.mark.parametrize("seen_at", ["http://localhost:8080", "https://box-7575.example.dev"])
def test_a_forwarded_page_works_whole_where_it_is_seen(make_run: MakeRun, serve_page: ServePage, seen_at: str) -> None:
    client = Client(serve_page(make_run(rows=1), seen_at=seen_at)).launch()
    sent = {"X_Asyncgen": client.token, "Origin": seen_at, "Sec_Fetch_Site": "same-origin"}
    assert client.ask("POST", "/api/runs/adverts/review", {"action": "reject", "query": {}}, **sent).status == 200
    assert client.ask("GET", "/api/runs", Origin="http://localhost:8081").status == 403


def test_an_address_that_is_none_is_told() -> None:
    for text in ("", "http://", "ftp://x:1", "a b", "http://host:port"):
        with pytest.raises(UsageError):
            BrowserAddress.of(text)
