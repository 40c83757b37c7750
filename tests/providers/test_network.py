"""asyncgen.providers.network: one way to an address for every client."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

import pytest

from asyncgen.errors import UsageError
from asyncgen.providers.endpoint import Endpoint, Secret
from asyncgen.providers.network import (
    connection_failure_reason,
    headers_for,
    proxy_for,
    route_to,
    shown_target,
    trusted_certificates,
)
from asyncgen.providers.profiles import PROFILES

if TYPE_CHECKING:
    from pathlib import Path

PROXY = "http://proxy.example:3128"
ALL = {"HTTP_PROXY": PROXY, "HTTPS_PROXY": PROXY, "ALL_PROXY": PROXY, "http_proxy": PROXY}


def endpoint(base_url: str, key: str | None = None) -> Endpoint:
    return Endpoint(PROFILES["custom"], base_url, Secret(key, "K") if key else None, "m", "test")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.3.2.1", "0.0.0.0:1"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_this_machine_is_never_asked_by_a_proxy(scheme: str, host: str) -> None:
    assert proxy_for(f"{scheme}://{host}/v1", ALL) is None


@pytest.mark.parametrize(
    ("url", "variables", "named"),
    [
        ("https://a.example/v1", {"HTTPS_PROXY": PROXY}, "HTTPS_PROXY"),
        ("https://a.example/v1", {"https_proxy": PROXY, "HTTPS_PROXY": "http://other:1"}, "https_proxy"),
        ("https://a.example/v1", {"HTTP_PROXY": PROXY}, None),
        ("http://a.example/v1", {"HTTP_PROXY": PROXY}, "HTTP_PROXY"),
        ("http://a.example/v1", {"HTTPS_PROXY": PROXY}, None),
        ("https://a.example/v1", {"ALL_PROXY": PROXY}, "ALL_PROXY"),
        ("https://a.example/v1", {"HTTPS_PROXY": "proxy.example:3128"}, "HTTPS_PROXY"),
        ("https://a.example/v1", {"HTTPS_PROXY": " "}, None),
        ("https://a.example/v1", {}, None),
    ],
)
def test_other_machines_are_asked_by_the_proxy_of_their_scheme(
    url: str, variables: dict[str, str], named: str | None
) -> None:
    proxy = proxy_for(url, variables)
    assert (proxy.variable if proxy else None) == named
    if proxy:
        assert proxy.url == PROXY


@pytest.mark.parametrize(
    ("entry", "exempt"),
    [
        ("a.example", True), (".example", True), ("example", True), ("*.example", True), ("*", True),
        ("a.example:443", True), ("a.example:8443", False), ("b.example", False), ("xa.example", False),
        ("ample", False), ("b.example, a.example", True), ("", False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_no_proxy_holds(entry: str, exempt: bool, name: str) -> None:
    assert (proxy_for("https://a.example/v1", {**ALL, name: entry}) is None) is exempt


def test_no_proxy_takes_networks() -> None:
    assert proxy_for("http://10.1.2.3/v1", {**ALL, "NO_PROXY": "10.0.0.0/8"}) is None
    assert proxy_for("http://11.1.2.3/v1", {**ALL, "NO_PROXY": "10.0.0.0/8,fd00::/8"}) is not None
    assert proxy_for("http://[fd00::1]/v1", {**ALL, "NO_PROXY": "fd00::/8"}) is None


@pytest.mark.parametrize("value", ["socks5://127.0.0.1:1080", "socks://p:1", "http://", "http://p:port", "ftp://p"])
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "ALL_PROXY"])
def test_a_proxy_that_cannot_be_used_is_told_with_its_variable(variable: str, value: str) -> None:
    with pytest.raises(UsageError) as caught:
        proxy_for("https://a.example/v1", {variable: value})
    assert variable in caught.value.what
    assert proxy_for("http://127.0.0.1/v1", {variable: value}) is None


def test_a_proxys_password_is_not_shown() -> None:
    proxy = proxy_for("https://a.example/v1", {"HTTPS_PROXY": "http://me:secret@proxy.example:3128"})
    assert str(proxy) == "proxy.example:3128 (HTTPS_PROXY)"


def test_a_key_that_goes_unencrypted_goes_by_no_proxy() -> None:
    assert route_to(endpoint("http://lan.example/v1", "sk-x"), ALL).proxy is None
    assert route_to(endpoint("http://lan.example/v1"), ALL).proxy is not None


def test_certificates_that_are_none_are_told_with_their_variable(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("no certificate", encoding="utf-8")
    for variables in (
        {"SSL_CERT_FILE": str(tmp_path / "nowhere")},
        {"SSL_CERT_FILE": str(tmp_path)},
        {"SSL_CERT_FILE": str(bad)},
        {"SSL_CERT_DIR": str(tmp_path / "nowhere")},
    ):
        with pytest.raises(UsageError) as caught:
            trusted_certificates(variables)
        assert next(iter(variables)) in caught.value.what
        assert route_to(endpoint("http://127.0.0.1/v1"), variables).certificates is None


def test_headers_are_the_keys_and_the_users_and_no_others() -> None:
    assert set(headers_for(endpoint("http://127.0.0.1/v1"))) == {"User-Agent"}
    keyed = headers_for(endpoint("http://127.0.0.1/v1", "sk-x"))
    assert keyed["Authorization"] == "Bearer sk-x"
    own = Endpoint(PROFILES["custom"], "http://h/v1", None, "m", "", headers={"user-agent": "mine", "x-team": "data"})
    assert headers_for(own) == {"user-agent": "mine", "x-team": "data"}


def test_the_target_of_a_redirect_is_shown_without_secrets() -> None:
    assert shown_target("https://me:secret@b.example/v1?key=secret#x") == "https://b.example/v1"


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 1)"), "connection refused"),
        (socket.gaierror(-2, "Name or service not known"), "unknown host"),
        (OSError(errno.ENETUNREACH, "Connect call failed ('10.0.0.1', 1)"), "network is unreachable"),
        (TimeoutError(), "in time"),
        (ValueError("POST https://host/v1?key=secret"), "broke off"),
    ],
)
def test_an_unreachable_server_is_told_in_the_systems_words(cause: Exception, words: str) -> None:
    outer = RuntimeError("Connection error.")
    outer.__cause__ = cause
    told = connection_failure_reason(outer)
    assert words in told
    assert "failed" not in told
    assert "secret" not in told
