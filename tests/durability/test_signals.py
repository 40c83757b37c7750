"""Signals and closed ends: what is in flight is finished or dropped as was asked, and nothing that was served is lost.

Run: pytest tests/durability/test_signals.py; with `-m slow` two hundred interruptions at random moments.
"""

from __future__ import annotations

import json
import os
import pty
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncgen.run.directory import RunDirectory
from asyncgen.run.jsonl import read_rows
from asyncgen.run.records import decode_record

CONCURRENCY = 8
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def job(tmp_path: Path) -> Callable[[int], RunDirectory]:
    """Write `job.toml` with so many rows; returns where its run will be."""

    def write(rows: int) -> RunDirectory:
        values = ", ".join(f'"row {number}"' for number in range(rows))
        text = f'name = "job"\n[grid]\nrow = [{values}]\n[prompt]\nuser = "Write about {{row}}."\n'
        (tmp_path / "job.toml").write_text(text, encoding="utf-8")
        return RunDirectory(tmp_path / "runs" / "job")

    return write


def command(server: Any, *more: str) -> tuple[str, ...]:
    return ("generate", "job.toml", "--base-url", server.base_url, "--model", "m",
            "--concurrency", str(CONCURRENCY), *more)  # fmt: skip


def settled(run: RunDirectory) -> int:
    return sum(1 for _ in read_rows(run.records, decode_record))


def received(server: Any, number: int) -> bool:
    return bool(server.wait_for(lambda server: server.received.total() >= number))


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_finishes_what_is_in_flight_and_the_same_command_goes_on(
    number: signal.Signals, start: Callable[..., Any], counting_server: Callable[..., Any], job: Callable[..., Any]
) -> None:
    server, run = counting_server(latency_s=0.3), job(40)
    child = start(*command(server, "--json"))
    assert received(server, CONCURRENCY + 1)
    child.signal(number)
    assert child.wait() == 128 + number
    answer = json.loads(child.stdout.splitlines()[-1])
    assert answer["stopped"] == "interrupted"
    assert answer["done"] == settled(run) == server.answered == server.received.total()
    assert "in flight; Ctrl-C again drops them" in child.stderr
    resume = next(line for line in child.stderr.splitlines() if "To continue: " in line).partition("To continue: ")[2]
    words = shlex.split(resume)
    assert words[0] == "asyncgen"
    again = start(*words[1:])
    assert again.wait() == 0
    assert settled(run) == server.received.total() == 40


@pytest.mark.parametrize("number", SIGNALS)
def test_the_second_signal_ends_in_under_a_second_and_keeps_what_was_settled(
    number: signal.Signals, start: Callable[..., Any], counting_server: Callable[..., Any], job: Callable[..., Any]
) -> None:
    server, run = counting_server(answers=20), job(40)
    child = start(*command(server))
    assert received(server, 20 + CONCURRENCY)
    child.signal(number)
    time.sleep(0.05)  # two signals of one kind at the same moment are one to the kernel
    child.signal(number)
    began = time.monotonic()
    assert child.wait() == 128 + number
    assert time.monotonic() - began < 1.0
    assert settled(run) == server.answered == 20
    assert "in flight were dropped" in child.stderr


def test_interruptions_at_random_moments_buy_nothing_twice(
    start: Callable[..., Any], counting_server: Callable[..., Any], job: Callable[..., Any]
) -> None:
    interrupt_and_resume(20, start, counting_server, job)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_hundred_interruptions_at_random_moments_buy_nothing_twice(
    start: Callable[..., Any], counting_server: Callable[..., Any], job: Callable[..., Any]
) -> None:
    interrupt_and_resume(200, start, counting_server, job)


def interrupt_and_resume(
    interruptions: int, start: Callable[..., Any], counting_server: Callable[..., Any], job: Callable[..., Any]
) -> None:
    rng = random.Random(interruptions)
    rows = interruptions * 20
    server, run = counting_server(latency_s=0.005), job(rows)
    for _ in range(interruptions):
        child = start(*command(server))
        time.sleep(rng.uniform(0.0, 0.2))
        child.signal(rng.choice(SIGNALS))
        code = child.wait()
        # Before the run's own handlers stand and after they are gone, a signal ends the process as it ends any.
        assert code in {0, 129, 130, 143, -signal.SIGINT, -signal.SIGTERM, -signal.SIGHUP}, child.stderr
        assert "Traceback" not in child.stderr
        assert settled(run) == server.received.total() if run.records.exists() else True
    assert start(*command(server)).wait() == 0
    assert settled(run) == server.received.total() == rows


def real_process(*arguments: str, folder: Path, **streams: Any) -> subprocess.Popen[bytes]:
    environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    environment |= {"HOME": str(folder), "TERM": "xterm", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen([sys.executable, "-m", "asyncgen", *arguments], cwd=folder, env=environment, **streams)


def test_when_nobody_reads_stdout_any_more_the_run_is_finished_all_the_same(
    counting_server: Callable[..., Any], job: Callable[..., Any], tmp_path: Path
) -> None:
    server, run = counting_server(latency_s=0.01), job(40)
    child = real_process(*command(server, "--json"), folder=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.close()
    assert child.stderr is not None
    messages = child.stderr.read().decode()
    child.stderr.close()
    assert child.wait() == 1, "the result could not be told"
    assert "Traceback" not in messages
    assert "Exception ignored" not in messages
    assert settled(run) == server.received.total() == 40


def test_when_nobody_reads_stderr_any_more_the_run_is_finished_all_the_same(
    counting_server: Callable[..., Any], job: Callable[..., Any], tmp_path: Path
) -> None:
    server, run = counting_server(latency_s=0.01), job(40)
    child = real_process(*command(server, "--json"), folder=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stderr is not None
    child.stderr.close()
    assert child.stdout is not None
    answer = json.loads(child.stdout.read())
    child.stdout.close()
    assert child.wait() == 0
    assert answer["done"] == settled(run) == server.received.total() == 40


def test_a_terminal_that_is_closed_lets_what_is_in_flight_be_kept(
    counting_server: Callable[..., Any], job: Callable[..., Any], tmp_path: Path
) -> None:
    server, run = counting_server(latency_s=0.3), job(40)
    terminal, other_end = pty.openpty()
    child = real_process(
        *command(server), folder=tmp_path, stdin=other_end, stdout=other_end, stderr=other_end, start_new_session=True,
        preexec_fn=take_terminal,
    )  # fmt: skip
    os.close(other_end)
    assert received(server, CONCURRENCY + 1)
    os.close(terminal)
    assert child.wait(timeout=30) == 128 + signal.SIGHUP
    assert settled(run) == server.received.total() == server.answered


def take_terminal() -> None:
    """Make standard input the controlling terminal, so that closing it is a hang-up."""
    import fcntl  # noqa: PLC0415 - runs in the child
    import termios  # noqa: PLC0415 - as above

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
