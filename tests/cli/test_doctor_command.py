"""asyncgen.cli.doctor_command: what is said of an address, as the commands would meet it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from asyncgen.cli.doctor_command import Finding, api, key, local_model
from asyncgen.providers.endpoint import Endpoint, Secret
from asyncgen.providers.profiles import PROFILES

KEY = "sk-canary-3141592653589793"
LISTED = {"object": "list", "data": [{"id": "gpt-6-luna"}]}


def look(
    answer: Callable[[], web.StreamResponse], *, path: str = "/v1", key: str | None = KEY, **fields: str
) -> list[Finding]:
    """The findings for an address at which everything is answered in one way."""

    async def scenario() -> list[Finding]:
        async def handle(_: web.Request) -> web.StreamResponse:
            return answer()

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}{path}"
        secret = Secret(key, "ASYNCGEN_API_KEY") if key else None
        try:
            return await api(replace(Endpoint(PROFILES["custom"], url, secret, "m", "test"), **fields))  # type: ignore[arg-type]
        finally:
            await runner.cleanup()

    return asyncio.run(asyncio.wait_for(scenario(), 30))


def levels(findings: list[Finding]) -> dict[str, str]:
    shown = " ".join(f"{each.text} {each.next_step}" for each in findings)
    assert "31415" not in shown
    return {each.subject: each.level for each in findings if each.subject != "clock"}


def test_a_model_that_is_listed_is_ok_and_one_that_is_not_may_answer_all_the_same() -> None:
    assert levels(look(lambda: web.json_response(LISTED), model="gpt-6-luna")) == {"address": "ok", "model": "ok"}
    findings = look(lambda: web.json_response(LISTED), model="gpt-6-lunar")
    assert levels(findings) == {"address": "ok", "model": "warn"}
    assert "did you mean gpt-6-luna?" in findings[-1].next_step


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda: web.Response(text="<html>login</html>", content_type="text/html"), "web page"),
        (lambda: web.Response(text="<html>404</html>", content_type="text/html", status=404), "web page"),
        (
            lambda: web.Response(status=308, headers={"Location": f"https://b.example/v1?k={KEY}"}),
            "https://b.example/v1",
        ),
        (lambda: web.Response(status=308), "a redirect without an address"),
        (lambda: web.json_response({"error": {"message": KEY}}, status=500), "status 500"),
        (lambda: web.json_response({"error": KEY}, status=400), "status 400"),
    ],
)
def test_what_is_no_api_or_does_not_work_fails(answer: Callable[[], web.StreamResponse], told: str) -> None:
    findings = look(answer)
    assert levels(findings)["address"] == "fail"
    assert told in findings[0].text


def test_an_address_without_its_version_is_told_with_it() -> None:
    findings = look(lambda: web.json_response({"error": "Not Found"}, status=404), path="/llm")
    assert levels(findings)["address"] == "fail"
    assert "/llm/v1?" in findings[0].next_step
    assert levels(look(lambda: web.json_response({"error": "Not Found"}, status=404)))["address"] == "warn"


def test_a_key_that_is_wanted_and_not_set_is_not_a_wrong_one() -> None:
    refused = lambda: web.json_response({"error": {"message": KEY}}, status=401)  # noqa: E731 - used twice, below
    assert "export ASYNCGEN_API_KEY=" in look(refused, key=None)[-1].next_step
    assert "ASYNCGEN_API_KEY" in look(refused)[-1].text
    assert levels(look(refused))["key"] == "fail"


def test_a_server_that_is_not_there_is_told_in_words() -> None:
    endpoint = Endpoint(PROFILES["custom"], "http://127.0.0.1:9/v1", None, "m", "test")
    (finding,) = asyncio.run(api(endpoint))
    assert (finding.level, "connection refused" in finding.text) == ("fail", True)
    assert "ASYNCGEN_API_KEY is not set" in key(endpoint).text


@pytest.mark.parametrize("listed", [{"data": []}, {"data": None}, {}])
def test_a_server_that_lists_no_model_is_told_as_such(listed: dict[str, Any]) -> None:
    finding = look(lambda: web.json_response(listed))[-1]
    assert (finding.level, finding.subject) == ("warn", "model")
    assert "does not list its models" in finding.text


def test_where_a_hosted_provider_is_not_reached_it_is_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nothing listens there
    profile = PROFILES["openai"]
    (finding,) = asyncio.run(api(Endpoint(profile, str(profile.base_url), None, "m", "test")))
    assert finding.level == "fail"
    assert "check the network" in finding.next_step


def test_https_to_a_server_of_http_is_told_as_such() -> None:
    async def scenario() -> list[Finding]:
        async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(speak, "127.0.0.1", 0)
        async with server:
            url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
            return await api(Endpoint(PROFILES["custom"], url, None, "m", "test"))

    (finding,) = asyncio.run(asyncio.wait_for(scenario(), 30))
    assert "speaks http" in finding.text
    assert "try http://127.0.0.1" in finding.next_step


@pytest.mark.parametrize("variable", ["XDG_DATA_HOME", "XDG_CACHE_HOME"])
def test_a_folder_that_the_local_server_cannot_write_is_named(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "no folder").write_text("")
    monkeypatch.delenv("ASYNCGEN_MODEL_PATH", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert [each.level for each in local_model()] == ["ok"]
    monkeypatch.setenv(variable, str(tmp_path / "no folder"))
    (found,) = local_model()
    assert (found.level, found.next_step) == ("fail", f"set {variable} to a writable folder")
