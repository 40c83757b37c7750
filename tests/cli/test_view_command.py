"""`asyncgen view` as a process: its one line, its port, its end, and a run that goes on meanwhile."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from asyncgen.generate.live_file import LIVE_NAME, LiveState, read_live

Run = Callable[..., subprocess.CompletedProcess[str]]
JOB = 'name = "small"\n[grid]\nn = ["1", "2", "3"]\n[prompt]\nuser = "Say {n}."\n[generate]\nmodel = "any"\n'


@contextmanager
def started(folder: Path, environment: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command line, left running."""
    with subprocess.Popen(
        [sys.executable, "-m", "asyncgen", *arguments], cwd=folder, env=environment, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def work(tmp_path: Path, asyncgen: Run) -> Path:
    del asyncgen  # makes the folder
    (tmp_path / "work" / "job.toml").write_text(JOB, encoding="utf-8")
    return tmp_path / "work"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_link_is_the_one_line_on_stdout_and_a_signal_ends_the_page(
    work: Path, environment: dict[str, str], number: signal.Signals, code: int
) -> None:
    with started(work, environment, "view", "--no-browser", "--port", "0") as process:
        assert process.stdout is not None
        link = urlsplit(process.stdout.readline().strip())
        assert (link.scheme, link.hostname, link.path) == ("http", "127.0.0.1", "/launch")
        process.send_signal(number)
        assert process.wait(timeout=30) == code
        assert process.stdout.read() == ""


def test_a_taken_port_that_was_named_is_an_error_and_else_the_next_one_is_taken(
    work: Path, environment: dict[str, str], asyncgen: Run
) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused = asyncgen("view", "--no-browser", "--port", port)
        assert refused.returncode == 1
        assert f"port {port} of 127.0.0.1 is already in use" in refused.stderr
    with (
        started(work, environment, "view", "--no-browser") as one,
        started(work, environment, "view", "--no-browser") as two,
    ):
        links = []
        for process in (one, two):
            assert process.stdout is not None
            links.append(urlsplit(process.stdout.readline().strip()).port)
        assert links[0] != links[1]


def test_a_run_that_is_not_there_is_told(asyncgen: Run) -> None:
    for arguments in (["runs/nothing"], ["--export", "out"]):
        done = asyncgen("view", *arguments)
        assert done.returncode == 2
        assert done.stdout == ""
        assert "help:" in done.stderr


def test_an_address_that_is_none_is_told(asyncgen: Run) -> None:
    done = asyncgen("view", "--as-seen-at", "not an address")
    assert (done.returncode, done.stdout) == (2, "")


def test_an_export_tells_the_page_to_open(work: Path, asyncgen: Run, simulated: Callable[..., str]) -> None:
    assert asyncgen("generate", "job.toml", "--base-url", simulated(), "--yes").returncode == 0
    done = asyncgen("view", "--export", "page")
    assert (done.returncode, done.stdout.strip()) == (0, "page/index.html")
    assert (work / "page" / "index.html").exists()
    assert not (work / "runs" / "small" / LIVE_NAME).exists()


def test_a_run_that_goes_on_is_told_in_its_live_file_which_ends_with_it(
    work: Path, environment: dict[str, str], simulated: Callable[..., str]
) -> None:
    address = simulated("--latency-ms", "2500")
    with started(work, environment, "generate", "job.toml", "--base-url", address, "--yes") as process:
        found: LiveState | None = None
        while found is None and process.poll() is None:
            found = read_live(work / "runs" / "small")
            time.sleep(0.02)
        assert found is not None
        assert (found.requests, found.left) == (3, 3)
        assert found.in_flight > 0
        assert process.wait(timeout=60) == 0
    assert not (work / "runs" / "small" / LIVE_NAME).exists()
