"""What a refused run says, and the code it exits with, through the real command."""

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
KEY = "sk-canary-3141592653589793-WXYZ"
JOB = """
name = "refused"
[grid]
city = ["Paris", "Berlin", "Rome"]
[prompt]
user = "Write to shops in {city}."
[generate]
repeats = 20
"""


@pytest.fixture
def refusing() -> Iterator[Callable[..., str]]:
    """Start servers that answer everything with one error; each call gives the base URL of a new one."""
    with ExitStack() as stack:

        def start(status: int, **error: Any) -> str:
            body = json.dumps({"error": {"message": "as the server puts it", "type": "an_error", **error}}).encode()

            class Refuse(BaseHTTPRequestHandler):
                protocol_version = "HTTP/1.1"

                def do_POST(self) -> None:
                    self.rfile.read(int(self.headers["Content-Length"]))
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

                def log_message(self, *_: Any) -> None:
                    pass

            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Refuse))
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.01,)).start()
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_address[1]}/v1"

        yield start


@pytest.fixture
def generate(asyncgen: Run, tmp_path: Path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Run the job against an address with a key that must not be seen anywhere."""
    (tmp_path / "work" / "job.toml").write_text(JOB, encoding="utf-8")

    def run(base_url: str) -> subprocess.CompletedProcess[str]:
        where = ("--base-url", base_url, "--model", "model-1", "--json")
        done = asyncgen("generate", "job.toml", *where, ASYNCGEN_API_KEY=KEY)
        written = [path.read_text(encoding="utf-8") for path in (tmp_path / "work" / "runs").rglob("*.json*")]
        assert not [text for text in (done.stdout, done.stderr, *written) if "314159" in text]
        return done

    return run


def last_line(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.mark.parametrize(
    ("status", "error", "exit_code", "stopped", "words"),
    [
        (401, {"code": "invalid_api_key"}, 4, "auth", ["ASYNCGEN_API_KEY", "…WXYZ", "doctor"]),
        (403, {"code": None}, 4, "auth", ["ASYNCGEN_API_KEY", "…WXYZ", "doctor"]),
        (404, {"code": "model_not_found"}, 4, "auth", ["model-1", "--model", "doctor"]),
        (429, {"code": "credit_balance_exhausted", "type": "insufficient_quota"}, 5, "quota", ["to continue"]),
        (
            400, {"code": "unsupported_value", "param": "temperature"}, 1, None,
            ["model-1 refuses temperature", "[generate.parameters]", "job file"],
        ),
        (
            400, {"code": "unsupported_parameter", "param": "max_tokens"}, 1, None,
            ["model-1 refuses max_tokens", "[generate.parameters]", "job file"],
        ),
    ],
)  # fmt: skip
def test_a_refusal_stops_at_once_and_names_the_next_step(
    refusing: Callable[..., str], generate: Any, status: int, error: dict[str, Any], exit_code: int,
    stopped: str | None, words: list[str],
) -> None:  # fmt: skip
    done = generate(refusing(status, **error))
    assert done.returncode == exit_code, done.stderr
    answer = last_line(done)
    assert (answer["done"], answer["failed"], answer["left"], answer["stopped"]) == (0, 0, 60, stopped)
    assert not [word for word in words if word not in done.stderr]
    assert "as the server puts it" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_without_a_version_is_asked_about(refusing: Callable[..., str], generate: Any) -> None:
    base_url = refusing(404)
    assert "did you mean" not in generate(base_url).stderr
    bare = base_url.removesuffix("/v1")
    assert f"--base-url {bare}/v1?" in generate(bare).stderr


def test_a_job_that_is_refused_row_by_row_stops_early(refusing: Callable[..., str], generate: Any) -> None:
    done = generate(refusing(400, code="invalid_value", param="top_p"))
    assert done.returncode == 1
    answer = last_line(done)
    assert 5 <= answer["failed"] <= 20
    assert answer["left"] == 60 - answer["failed"]
    assert "top_p" in done.stderr


def test_a_host_that_is_not_there_is_named_within_seconds(generate: Any) -> None:
    began = time.monotonic()
    done = generate("https://no-such-host.invalid/v1")  # one's own server would be waited for
    assert time.monotonic() - began < 30
    assert done.returncode == 1
    assert last_line(done)["left"] == 60
    assert "no-such-host.invalid" in done.stderr
    assert "doctor" in done.stderr


def test_a_server_that_only_fails_ends_the_run_and_no_row(refusing: Callable[..., str], generate: Any) -> None:
    done = generate(refusing(500))
    assert done.returncode == 1
    answer = last_line(done)
    assert (answer["failed"], answer["left"]) == (0, 60)
    assert "status 500" in done.stderr
