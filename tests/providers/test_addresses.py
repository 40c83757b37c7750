"""asyncgen.providers.endpoint: what is an address, what is taken off it, and where a key may go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from asyncgen.errors import UsageError
from asyncgen.providers.endpoint import is_loopback, provider_or_host, read_address, refuse_clear_key
from asyncgen.providers.profiles import PROFILES

CANARY = "canary-31415926"


@pytest.mark.parametrize(
    ("given", "base_url"),
    [
        ("https://api.example.com/v1", "https://api.example.com/v1"),
        ("  http://127.0.0.1:8080/v1/ ", "http://127.0.0.1:8080/v1"),
        ("http://[::1]:8080/v1", "http://[::1]:8080/v1"),
        ("https://gateway.example/llm//gw/v1", "https://gateway.example/llm/gw/v1"),
        ("http://host_with_underscore:1/v1", "http://host_with_underscore:1/v1"),
    ],
)
def test_an_address_is_taken_without_blanks_and_slashes(given: str, base_url: str) -> None:
    assert read_address(given).base_url == base_url
    assert not read_address(given).remarks


@pytest.mark.parametrize("endpoint", ["chat/completions", "completions", "models", "models/", "embeddings", "files"])
def test_a_pasted_endpoint_is_taken_off_with_a_remark(endpoint: str) -> None:
    address = read_address(f"https://api.example.com/v1/{endpoint}")
    assert address.base_url == "https://api.example.com/v1"
    assert len(address.remarks) == 1


@pytest.mark.parametrize(
    "path", ["", "/", "/openai", "/openai/", "/openai/v1", "/openai/deployments/gpt/chat/completions"]
)
def test_every_form_of_an_azure_address_comes_to_the_one_that_works(path: str) -> None:
    assert read_address(f"https://mine.openai.azure.com{path}").base_url == "https://mine.openai.azure.com/openai/v1"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "http://",
        "http:/127.0.0.1/v1",
        "http://localhost:${PORT}/v1",
        "http://localhost:99999/v1",
        "http://localhost:0/v1",
        "http://localhost:80a0/v1",
        "http://[::1/v1",
        "http://exa mple/v1",
        "http://example\n.com/v1",
        "http://example.com/v 1",
        "http://example.com\\v1",
        "http://-example.com/v1",
        "http://exa..mple/v1",
        "http://b\u00fccher.example/v1",
        "ftp://127.0.0.1/v1",
        "unix:///run/api.sock",
        f"//user:{CANARY}@host/v1",
        f"http:/user:{CANARY}@host/v1",
        f"ftp://user:{CANARY}@host/v1",
        f"http://user:{CANARY}@[::1/v1",
        f"http://user:{CANARY}@host/v1",
        f"http://user:{CANARY}?x@host/v1",
        f"http://host:{CANARY}/v1",
        f"https://host/v1?key={CANARY}",
        f"https://host/v1#{CANARY}",
        f"user:{CANARY}@host/v1",
        f"host/v1?key={CANARY}",
        CANARY,
    ],
)
def test_what_is_no_address_is_refused_and_shows_no_secret(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_address(text)
    shown = f"{caught.value.what} {caught.value.cause} {caught.value.help_text}"
    assert CANARY not in shown


@pytest.mark.parametrize(
    "text", ["127.0.0.1:9777/v1", "api.example.com/v1", "localhost:8080", "[::1]:80/v1", "box:1/v1"]
)
def test_an_address_without_a_scheme_is_told_with_one(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_address(text)
    assert f"http://{text}" in (caught.value.help_text or "")


@given(st.text())
def test_any_text_is_an_address_or_a_usage_error(text: str) -> None:
    for address in (text, f"http://{text}", f"https://host{text}"):
        try:
            found = read_address(address).base_url
        except UsageError:
            continue
        assert read_address(found).base_url == found


def test_an_api_version_in_the_query_is_told_apart_from_a_key() -> None:
    with pytest.raises(UsageError) as caught:
        read_address("https://mine.openai.azure.com/openai?api-version=2024-10-21")
    assert "needs none" in (caught.value.help_text or "")


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:1/v1", True),
        ("http://127.9.9.9/v1", True),
        ("http://LOCALHOST:1/v1", True),
        ("http://0.0.0.0:1/v1", True),
        ("http://[::1]/v1", True),
        ("http://127.0.0.1.evil.example/v1", False),
        ("http://2130706433/v1", False),
        ("http://192.168.1.2/v1", False),
        ("http://[::1/v1", False),
    ],
)
def test_this_machine_is_known_by_its_literal_names(url: str, here: bool) -> None:
    assert is_loopback(url) is here


def test_a_key_goes_unencrypted_only_where_the_owner_wrote_it_down() -> None:
    lan = "http://192.168.1.20:8000/v1"
    with pytest.raises(UsageError) as caught:
        refuse_clear_key(lan, PROFILES["custom"])
    assert "allow_http = true" in (caught.value.help_text or "")
    own = replace(PROFILES["custom"], base_url=lan, allow_http=True)
    refuse_clear_key(lan, own)
    with pytest.raises(UsageError):
        refuse_clear_key("http://192.168.1.21:8000/v1", own)
    refuse_clear_key("https://elsewhere.example/v1", PROFILES["openai"])
    refuse_clear_key("http://127.0.0.1:1/v1", PROFILES["openai"])


def test_who_is_asked_is_named_by_the_host_that_is_asked() -> None:
    assert provider_or_host(PROFILES["openai"], "https://api.openai.com/v1") == "OpenAI"
    assert provider_or_host(PROFILES["openai"], "http://127.0.0.1:9777/v1") == "127.0.0.1:9777"
    assert provider_or_host(PROFILES["custom"], "https://gateway.example/v1") == "gateway.example"
    assert provider_or_host(PROFILES["local"], "http://127.0.0.1:1/v1") == PROFILES["local"].title
