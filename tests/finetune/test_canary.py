"""A server that quotes the key in whatever it says: no client lets it through."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from asyncgen.errors import AsyncgenError
from asyncgen.finetune.api import RemoteFile
from asyncgen.finetune.fetch import Downloader
from asyncgen.finetune.target import open_calls
from asyncgen.generate.http.client import open_completer
from asyncgen.providers.endpoint import Endpoint, Secret
from asyncgen.providers.openai_client import Pacing, open_client, retrying, translated_sdk_errors
from asyncgen.providers.profiles import PROFILES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

KEY = "sk-canary-3141592653589793238462643383279"
ANSWER = {
    "id": KEY, "model": KEY, "system_fingerprint": KEY,
    "choices": [{"message": {"content": f"it is {KEY}"}, "finish_reason": KEY}], "usage": {},
}  # fmt: skip
ERROR = {"message": f"no key like {KEY}", "code": KEY, "type": KEY, "param": KEY}

SHAPES: dict[str, Callable[[], web.Response]] = {
    "401": lambda: web.json_response({"error": ERROR}, status=401),
    "400": lambda: web.json_response({"error": ERROR}, status=400),
    "404 detail": lambda: web.json_response({"detail": [{"msg": KEY}]}, status=404),
    "500 text": lambda: web.Response(text=f"Authorization: Bearer {KEY}", status=500),
    "page": lambda: web.Response(text=f"<html>{KEY}</html>", content_type="text/html", status=403),
    "page 200": lambda: web.Response(text=f"<html>{KEY}</html>", content_type="text/html"),
    "redirect": lambda: web.Response(status=307, headers={"Location": f"https://{KEY}.example/v1/{KEY}?k={KEY}"}),
    "across the cut": lambda: web.json_response({"error": {"message": "x" * 285 + KEY + "x" * 400}}, status=400),
    "across the other cut": lambda: web.Response(text="y" * 480 + KEY + "y" * 400, status=400),
    "answer": lambda: web.json_response(ANSWER),
    "error within 200": lambda: web.json_response({"error": ERROR}),
    "no JSON": lambda: web.Response(text=f"{{{KEY}"),
}


async def serving(shape: str, work: Callable[[Endpoint], Awaitable[str]]) -> str:
    async def handle(request: web.Request) -> web.Response:
        await request.read()
        response = SHAPES[shape]()
        response.headers["x-request-id"] = f"req-{KEY}"
        return response

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        return await work(Endpoint(PROFILES["custom"], url, Secret(KEY, "ASYNCGEN_API_KEY"), "m", "test"))
    finally:
        await runner.cleanup()


async def _no_sleep(_: float) -> None:
    pass


PACING = Pacing(attempts=1, sleep=_no_sleep, now=lambda: 0.0, rng=Random(1))


def told(error: AsyncgenError) -> str:
    return f"{error.what} {error.cause} {error.help_text} {error.code}"


async def generating(endpoint: Endpoint) -> str:
    async with open_completer(endpoint, concurrency=1) as completer:
        return repr(await completer.complete(b"{}"))


async def asking_json(endpoint: Endpoint) -> str:
    async with open_calls(endpoint, pacing=PACING) as calls:
        try:
            return json.dumps(await calls.post("/fine_tuning/jobs", dict[str, Any], "create a job", {}))
        except AsyncgenError as error:
            return told(error)


async def asking_for_content(endpoint: Endpoint) -> str:
    async with open_calls(endpoint, pacing=PACING) as calls:
        try:
            return repr(await calls.post_for_content("/chat/completions", "ask m", {}))
        except AsyncgenError as error:
            return told(error)


async def asking_the_sdk(endpoint: Endpoint) -> str:
    async with open_client(endpoint) as client:
        try:
            with translated_sdk_errors("look at a batch"):
                await retrying(lambda: client.batches.retrieve("b"), PACING)
        except AsyncgenError as error:
            return told(error)
    return ""


async def downloading(endpoint: Endpoint) -> str:
    with TemporaryDirectory() as folder:
        try:
            file = RemoteFile(name="weights", url="models/m/adapter", bytes=1)  # so that no answer will do
            await Downloader(endpoint, PACING).fetch(file, Path(folder) / "w", lambda _there, _size: None)
        except AsyncgenError as error:
            return told(error)
        return ""


@pytest.mark.parametrize("work", [generating, asking_json, asking_for_content, asking_the_sdk, downloading])
@pytest.mark.parametrize("shape", SHAPES)
def test_no_client_lets_a_quoted_key_through(shape: str, work: Callable[[Endpoint], Awaitable[str]]) -> None:
    shown = asyncio.run(asyncio.wait_for(serving(shape, work), 30))
    assert "canary" not in shown
    assert "31415" not in shown
