"""A key is in nothing that a command shows or writes, however it was given and whatever a server quotes of it."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import click
import pytest
from aiohttp import web

from asyncgen.cli.main import cli

KEY = "sk-canary+3141592/6535897=9323846"
PATIENCE_S = 20.0  # what a command says and writes in this time is looked at
FRAGMENT = 12  # characters of the key in a row that may be nowhere
JOB = """name = "canary"
[grid]
city = ["Bonn", "Oslo", "Rome", "Lima", "Bern", "Kyiv", "Cork", "Lyon", "Nice", "Riga", "Turin", "York"]
[prompt]
user = "Write one advert for a hotel in {city}."
"""
PROFILE = """[mine]
base_url = "{base_url}"
key_variable = "MINE_API_KEY"
default_model = "m"
"""
LASTING = {"serve", "view"}  # run until they are stopped
GIVEN = {
    "complete": ["hello", "--model", "m"],
    "export": ["--output", "out.csv"],
    "completion": ["bash"],
    "help": ["job"],
    "init": ["new.toml"],
    "serve": ["--engine", "simulated", "--port", "0"],
    "view": ["--no-browser", "--port", "0"],
    "run": ["job.toml"],
}


def _shape(name: str, said: str, number: int) -> web.Response:
    """A reply that quotes what was sent: an answer, or a failure in one of the shapes that servers give it."""
    if name == "answer":
        message = {"role": "assistant", "content": f"Advert {number}: come and stay with us in room {number}."}
        whole = {"id": said, "model": said, "system_fingerprint": said, "usage": {"prompt_tokens": 9}}
        return web.json_response({**whole, "choices": [{"message": message, "finish_reason": "stop"}]})
    error = {"message": f"no: {said}", "code": said, "type": said, "param": said}
    shapes = {
        "401": lambda: web.json_response({"error": error}, status=401),
        "400": lambda: web.json_response({"error": error}, status=400),
        "detail": lambda: web.json_response({"detail": [{"msg": said, "loc": ["header", said]}]}, status=422),
        "text": lambda: web.Response(text="y" * 470 + said, status=403),
        "page": lambda: web.Response(text=f"<html>{said}</html>", content_type="text/html", status=404),
        "redirect": lambda: web.Response(status=308, headers={"Location": f"https://h.example/v1?k={quote(said, '')}"}),
        "within": lambda: web.json_response({"error": error}),
        "torn": lambda: web.Response(text=f'{{"id": "{said}", "data": [', content_type="application/json"),
    }
    return shapes[name]()


SHAPES = ["401", "400", "detail", "text", "page", "redirect", "within", "torn"]


@contextmanager
def _echoing() -> Iterator[str]:
    """A server that answers `/SHAPE/v1/...`; gives its address, and ends with the block."""
    started, numbers = threading.Event(), itertools.count()
    port, stops = [0], []

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        said = " ".join(value for name, value in request.headers.items() if name in {"Authorization", "X-Tenant"})
        response = _shape(request.match_info["shape"], said or "nothing", next(numbers))
        response.headers["x-request-id"] = said or "nothing"
        return response

    async def serve() -> None:
        app = web.Application()
        app.router.add_route("*", "/{shape}/{path:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port[0] = runner.addresses[0][1]
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        stops.append(lambda: loop.call_soon_threadsafe(stop.set))
        started.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    started.wait()
    try:
        yield f"http://127.0.0.1:{port[0]}"
    finally:
        stops[0]()
        thread.join()


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    with _echoing() as address:
        yield address


def _run(folder: Path, arguments: list[str], variables: dict[str, str], *, lasts: bool = False) -> str:
    """All that a command says, run as a process of its own."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    with subprocess.Popen(
        [sys.executable, "-m", "asyncgen", *arguments],
        cwd=folder / "work",
        env={**kept, "HOME": str(folder / "home"), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "4000", **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline() if lasts else ""
        try:
            return said + process.communicate(timeout=0.01 if lasts else PATIENCE_S)[0]
        except subprocess.TimeoutExpired:  # it serves, or waits for a server to come back
            process.terminate()
            return said + process.communicate(timeout=120)[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, echo: str) -> Path:
    """A folder with a job and its run, with a dataset, made with the key by a server that quotes it in every answer."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "home").mkdir()
    (folder / "work").mkdir()
    (folder / "work" / "job.toml").write_text(JOB)
    way = ["--provider", "custom", "--base-url", f"{echo}/answer/v1", "--model", "m", "--yes"]
    said = _run(folder, ["generate", "job.toml", *way], {"ASYNCGEN_API_KEY": KEY}) + _run(folder, ["prepare"], {})
    run = folder / "work" / "runs" / "canary"
    assert [len((run / name).read_text().splitlines()) for name in ("records.jsonl", "train.jsonl")] == [12, 12], said
    assert _leaks(folder, said) == []
    return folder


def _commands() -> Iterator[tuple[str, click.Command]]:
    """Every command, and every one of a group, by the words that call it."""
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from ((f"{name} {each}", inner) for each, inner in command.commands.items())
        else:
            yield name, command


COMMANDS = dict(_commands())


def _arguments(name: str) -> list[str]:
    """A call of the command with everything that makes it say more."""
    command = COMMANDS[name]
    flags = {option for param in command.params for option in param.opts}
    needed = [param for param in command.params if isinstance(param, click.Argument) and param.required]
    given = GIVEN.get(name, ["job-1"] * len(needed))
    return [*name.split(), *given, *(flag for flag in ("--yes", "--verbose", "--debug", "--json") if flag in flags)]


def _is_asking(name: str) -> bool:
    """Can the command be sent to a server of the user's?"""
    return any(param.name == "base_url" for param in COMMANDS[name].params)


def _forms() -> list[str]:
    """The key as it could be written: any part of it, and whole in other encodings."""
    plain = [KEY[at : at + FRAGMENT] for at in range(len(KEY) - FRAGMENT + 1)]
    encoded = [base64.b64encode(b"\0" * before + KEY.encode()).decode()[4:-4] for before in range(3)]
    return [*plain, *encoded, quote(KEY, safe=""), KEY.replace("/", "\\/"), json.dumps(KEY)[1:-1]]


def _leaks(folder: Path, said: str) -> list[str]:
    """Where the key stands; the key file, which is the user's, aside."""
    texts = {"the screen": said}
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "key.txt":
            texts[str(path.relative_to(folder))] = path.read_bytes().decode("utf-8", "replace")
    return [f"{place}: {form}" for place, text in texts.items() for form in _forms() if form in text]


def _ways(folder: Path, base_url: str, secret_url: str) -> dict[str, tuple[list[str], dict[str, str]]]:
    """Each way to give a key: the arguments and the variables."""
    (folder / "key.txt").write_text(KEY)
    profiles = folder / "home" / ".config" / "asyncgen"
    profiles.mkdir(parents=True)
    (profiles / "providers.toml").write_text(PROFILE.format(base_url=base_url))
    custom = ["--provider", "custom", "--base-url", base_url]
    return {
        "variable": (custom, {"ASYNCGEN_API_KEY": KEY}),
        "file": ([*custom, "--api-key-file", str(folder / "key.txt")], {}),
        "profile": (["--provider", "mine"], {"MINE_API_KEY": KEY}),
        "address": (["--provider", "custom", "--base-url", secret_url], {}),
    }


@pytest.mark.parametrize("way", ["variable", "file", "profile", "address"])
@pytest.mark.parametrize("name", [name for name in COMMANDS if _is_asking(name)])
def test_no_command_that_asks_a_server_lets_the_key_out(
    name: str, way: str, echo: str, made: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(made, tmp_path / "copy")
    number = list(COMMANDS).index(name) + ["variable", "file", "profile", "address"].index(way)
    shape = SHAPES[number % len(SHAPES)]
    secret_url = echo.replace("//", f"//user:{KEY}@") + f"/{shape}/v1"
    given, variables = _ways(folder, f"{echo}/{shape}/v1", secret_url)[way]
    lasts = name in LASTING and way != "address"  # which is refused
    said = _run(folder, [*_arguments(name), *given], variables, lasts=lasts)
    assert said
    assert _leaks(folder, said) == []


@pytest.mark.parametrize("name", [name for name in COMMANDS if not _is_asking(name)])
def test_no_other_command_shows_or_writes_a_key_of_the_environment(name: str, made: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(made, tmp_path / "copy")
    keys = {"ASYNCGEN_API_KEY": KEY, "OPENAI_API_KEY": KEY, "TOGETHER_API_KEY": KEY}
    said = _run(folder, _arguments(name), keys, lasts=name in LASTING)
    assert said
    assert _leaks(folder, said) == []
