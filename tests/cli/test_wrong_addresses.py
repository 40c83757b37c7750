"""A wrong address: `doctor`, `generate` and `complete` say the same of it, and lead to the same next step."""

from __future__ import annotations

import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]

JOB = """
name = "small"
[grid]
city = ["Paris", "Berlin"]
[prompt]
user = "Write to shops in {city}."
"""
NOT_FOUND = b'HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 19\r\n\r\n{"error": "absent"}'
PAGE = b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 15\r\n\r\n<h1>absent</h1>"
NOTHING = b""  # as a port of https answers a request of http


@contextmanager
def port_that_answers(reply: bytes) -> Iterator[int]:
    """A port on loopback where every request gets this reply, and the end of its connection."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            self.request.sendall(reply)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


@pytest.mark.parametrize(
    ("reply", "given", "next_step"),
    [
        (NOT_FOUND, "http://127.0.0.1:{port}", "did you mean --base-url http://127.0.0.1:{port}/v1?"),
        (PAGE, "http://127.0.0.1:{port}/llm", "did you mean --base-url http://127.0.0.1:{port}/llm/v1?"),
        (PAGE, "http://127.0.0.1:{port}/llm/v1", "/v1"),
        (NOT_FOUND, "https://127.0.0.1:{port}/v1", "http://"),
        (NOTHING, "http://127.0.0.1:{port}/v1", "https://127.0.0.1:{port}/v1"),
    ],
)
def test_every_command_leads_to_the_right_address(
    asyncgen: Run, tmp_path: Path, reply: bytes, given: str, next_step: str
) -> None:
    (tmp_path / "work" / "job.toml").write_text(JOB, encoding="utf-8")
    with port_that_answers(reply) as port:
        where = ("--base-url", given.format(port=port), "--model", "any")
        for command in (("doctor", "job.toml"), ("generate", "job.toml"), ("complete", "hi")):
            done = asyncgen(*command, *where)
            said = done.stdout + done.stderr
            assert done.returncode != 0, said
            assert next_step.format(port=port) in said, command
            assert "asyncgen prepare" not in said, "there is nothing to prepare"
            assert "has no model" not in said
