"""Real processes to be killed, and a server that counts what they ask of it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from asyncgen.run.directory import RunDirectory

# Imports once what a command imports, then runs each command in a process of its own: a fork takes milliseconds
# where a new interpreter takes most of a second, and a hundred kills are to fit into a minute.
_FOR_EVER_S = 600.0
_FORKER = """
import ctypes, json, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)  # PR_SET_PTRACER: strace may attach
import aiohttp, asyncgen.generate.session, asyncgen.cli.generate_command, asyncgen.cli.loop
from asyncgen.cli.main import main
for line in sys.stdin:
    wanted = json.loads(line)
    pid = os.fork()
    if pid == 0:
        os.chdir(wanted["folder"])
        for number, name in enumerate(("/dev/null", wanted["stdout"], wanted["stderr"])):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), number)
        if wanted["stopped"]:
            os.kill(os.getpid(), signal.SIGSTOP)
        code = 70
        try:
            sys.argv = ["asyncgen", *wanted["arguments"]]
            main()
        except SystemExit as end:
            code = end.code
        finally:
            sys.stdout.flush(); sys.stderr.flush()
            os._exit(code)
    print(pid, flush=True)
    sys.stdin.readline()  # until then a dead child keeps its number, so that a late signal hits nobody else
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@dataclass
class Child:
    """A command running in a process of its own."""

    pid: int
    folder: Path
    _forker: subprocess.Popen[str]
    code: int | None = None

    def signal(self, number: signal.Signals) -> None:
        if self.code is None:
            os.kill(self.pid, number)

    def wait(self) -> int:
        """The exit code; negative for the signal that killed it."""
        if self.code is None:
            assert self._forker.stdin is not None
            assert self._forker.stdout is not None
            print(file=self._forker.stdin, flush=True)
            self.code = int(self._forker.stdout.readline())
        return self.code

    @property
    def stdout(self) -> str:
        return (self.folder / "stdout").read_text(encoding="utf-8")

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text(encoding="utf-8")


TrainingStarted = Callable[..., Child]


@pytest.fixture
def run(tmp_path: Path, request: pytest.FixtureRequest) -> RunDirectory:
    """Where the run of `job.toml` will be, a job of as many rows as the test's module names in `ROWS`."""
    values = ", ".join(f'"row {number}"' for number in range(request.module.ROWS))
    text = f'name = "job"\n[grid]\nrow = [{values}]\n[prompt]\nuser = "Write about {{row}}."\n'
    (tmp_path / "job.toml").write_text(text, encoding="utf-8")
    return RunDirectory(tmp_path / "runs" / "job")


@pytest.fixture(scope="module")
def forker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "PYTHONPATH") if name in os.environ}
    home = tmp_path_factory.mktemp("home")
    with subprocess.Popen(
        [sys.executable, "-c", _FORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**kept, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"},
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def start(forker: subprocess.Popen[str], tmp_path: Path) -> Iterator[TrainingStarted]:
    """Start `asyncgen ARGUMENTS` in `tmp_path`, one at a time; with `stopped`, it waits for SIGCONT first."""
    children: list[Child] = []

    def begin(*arguments: str, stopped: bool = False) -> Child:
        assert forker.stdin is not None
        assert forker.stdout is not None
        names = {name: str(tmp_path / name) for name in ("stdout", "stderr")}
        wanted = {"arguments": arguments, "folder": str(tmp_path), "stopped": stopped, **names}
        print(json.dumps(wanted), file=forker.stdin, flush=True)
        children.append(Child(int(forker.stdout.readline()), tmp_path, forker))
        return children[-1]

    yield begin
    for child in children:  # a test that failed half-way leaves one behind
        child.signal(signal.SIGKILL)
        child.wait()


@dataclass
class CountingServer:
    """Answers chat completions on loopback, and counts the bodies that it was sent.

    Attributes:
        completion: what it answers.
        latency_s: how long that takes.
        answers: requests after so many are left without an answer; None: all are answered.
        received: bodies and how often each came.
        answered: how many answers went out whole.
        per_second: requests beyond this rate, and the requests of one second, are refused; None: none is.
        refused: how many were.
        keys: that came, as the header has them.
        base_url: up to and including `/v1`.
    """

    completion: str = "An answer."
    latency_s: float = 0.0
    answers: int | None = None
    received: Counter[bytes] = field(default_factory=Counter)
    answered: int = 0
    per_second: float | None = None
    refused: int = 0
    keys: set[str] = field(default_factory=set)
    base_url: str = ""
    changed: threading.Condition = field(default_factory=threading.Condition)
    _level: float = 0.0
    _filled_at: float = 0.0

    def wait_for(self, met: Callable[[CountingServer], bool], timeout_s: float = 30) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: met(self), timeout_s)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
                body = await reader.readexactly(length)
                if key := re.search(rb"\r\nauthorization: *([^\r]+)", head, re.IGNORECASE):
                    self.keys.add(key[1].decode())
                if self._may_come():
                    await self._answer(body, writer)
                else:
                    self.refused += 1
                    writer.write(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\n\r\n{}")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client died, as it should
        finally:
            writer.close()

    def _may_come(self) -> bool:
        """A bucket that holds a second's requests, and is refilled all the time."""
        if self.per_second is None:
            return True
        now = time.monotonic()
        level = min(self._level + (now - self._filled_at) * self.per_second, self.per_second)
        may_come = level >= 1
        self._level, self._filled_at = level - may_come, now
        return may_come

    @cached_property
    def _reply(self) -> bytes:
        message = {"role": "assistant", "content": self.completion}
        answer = {
            "id": "chatcmpl-1",
            "model": "model-1",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13},
        }
        content = json.dumps(answer).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        return head.encode() + content

    async def _answer(self, body: bytes, writer: asyncio.StreamWriter) -> None:
        with self.changed:
            self.received[body] += 1
            self.changed.notify_all()
            hangs = self.answers is not None and self.received.total() > self.answers
        if self.latency_s or hangs:
            await asyncio.sleep(_FOR_EVER_S if hangs else self.latency_s)
        writer.write(self._reply)
        await writer.drain()
        with self.changed:
            self.answered += 1
            self.changed.notify_all()


@contextmanager
def _running(server: CountingServer) -> Iterator[None]:
    loop = asyncio.new_event_loop()
    listening = threading.Event()

    async def live() -> None:
        async with await asyncio.start_server(server.serve, "127.0.0.1", 0, limit=2**20) as listener:
            server.base_url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
            listening.set()
            await stopping.wait()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    stopping = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(live(),))
    thread.start()
    assert listening.wait(10)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join()
        loop.close()


@pytest.fixture
def counting_server() -> Iterator[Callable[..., CountingServer]]:
    """Start counting servers; keyword arguments are those of `CountingServer`."""
    with ExitStack() as stack:

        def start(**settings: Any) -> CountingServer:
            server = CountingServer(**settings)
            stack.enter_context(_running(server))
            return server

        yield start
