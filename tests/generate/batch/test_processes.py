"""The real command against a provider: killed by the server at the worst moments, interrupted, and with many rows.

Run: pytest tests/generate/batch/test_processes.py
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from asyncgen.run.directory import RunDirectory
from asyncgen.run.jsonl import read_lines

if TYPE_CHECKING:
    from .conftest import Desk, Provider

JOB = """
name = "c"
[grid]
a = {tens}
b = {rest}
[prompt]
user = "Say something about {{a}} and {{b}}."
[generate]
provider = "openai"
model = "m"
[generate.parameters]
max_completion_tokens = 20
"""


class Office:
    """The command line in a folder, and the provider that it is pointed to."""

    def __init__(self, folder: Path, provider: Provider, base_url: str) -> None:
        self.folder = folder
        self.provider = provider
        self.base_url = base_url
        self.process: subprocess.Popen[str] | None = None

    def write_job(self, rows: int) -> None:
        tens = json.dumps([f"place {number}" for number in range(max(rows // 10, 1))])
        rest = json.dumps([str(number) for number in range(min(rows, 10))])
        (self.folder / "job.toml").write_text(JOB.format(tens=tens, rest=rest), encoding="utf-8")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "ASYNCGEN_BASE_URL": self.base_url}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "asyncgen", *arguments],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return self.process

    def run(self, *arguments: str) -> tuple[int, str, str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=100)
        return process.returncode, out, err

    def kill_at(self, route: str) -> None:
        """Let the server kill the command when it has done what it was called for, and before it answers."""

        def kill(called: str) -> None:
            if called == route and self.process is not None:
                self.provider.called = lambda _route: None
                self.process.kill()

        self.provider.called = kill

    @property
    def keys(self) -> list[str]:
        records = RunDirectory(self.folder / "runs" / "c").records
        return [json.loads(line)["key"] for _, line in read_lines(records)]


@pytest.fixture
def office(tmp_path: Path, desk: Desk) -> Iterator[Office]:
    provider = desk.provider
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(provider.app())

    async def begin() -> str:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        return f"http://{host}:{port}/v1"

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        base_url = asyncio.run_coroutine_threadsafe(begin(), loop).result(timeout=30)
        yield Office(tmp_path, provider, base_url)
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(timeout=30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


BATCH = ("generate", "job.toml", "--batch", "--json")


def answer(out: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


@pytest.mark.parametrize("route", ["upload", "create", "retrieve", "content"])
def test_killed_by_the_server_the_same_command_goes_on(office: Office, route: str) -> None:
    office.write_job(30)
    office.kill_at(route)
    code, _, _ = office.run(*BATCH)
    assert code == -signal.SIGKILL
    code, out, err = office.run(*BATCH)
    assert code == 0, err
    assert answer(out)["done"] == 30
    assert len(office.keys) == len(set(office.keys)) == 30
    assert set(office.provider.sold.values()) == {1}
    assert office.provider.calls.count("create") == 1


def test_killed_while_answers_are_written(office: Office) -> None:
    office.write_job(2000)
    process = office.start(*BATCH)
    records = RunDirectory(office.folder / "runs" / "c").records
    while not records.exists() or records.stat().st_size < 1000:
        assert process.poll() is None, process.communicate()
    process.kill()
    process.communicate(timeout=30)
    code, out, err = office.run(*BATCH)
    assert code == 0, err
    assert answer(out)["done"] == 2000
    assert len(office.keys) == len(set(office.keys)) == 2000
    assert set(office.provider.sold.values()) == {1}


def test_left_with_ctrl_c_and_collected_another_day(office: Office) -> None:
    office.write_job(30)
    office.provider.script = ["in_progress"] * 10_000
    office.provider.called = lambda route: (
        office.process.send_signal(signal.SIGINT) if route == "retrieve" and office.process else None
    )
    code, out, err = office.run(*BATCH)
    assert code == 130
    assert "To collect the answers later: asyncgen generate job.toml --batch" in err
    assert (answer(out)["stopped"], answer(out)["left"]) == ("interrupted", 30)

    office.provider.called = lambda _route: None
    code, out, err = office.run("generate", "job.toml", "--json")
    assert code == 0
    assert "30 of them in open batches" in err
    assert answer(out)["left"] == 30, "nothing of it is sent online"

    office.provider.end_all("completed")
    code, out, err = office.run(*BATCH)
    assert code == 0, err
    assert answer(out)["done"] == 30
    assert office.provider.calls.count("create") == 1


def test_a_batch_is_listed_shown_and_cancelled_while_another_process_waits(office: Office) -> None:
    office.write_job(30)
    office.provider.script = ["in_progress"] * 10_000
    waiting = office.start(*BATCH)
    assert waiting.stderr is not None
    while "in_progress" not in waiting.stderr.readline():
        assert waiting.poll() is None
    (batch_id,) = office.provider.batches
    assert batch_id in office.run("batch", "list")[1]
    assert "in_progress" in office.run("batch", "show", batch_id)[1]
    code, out, _ = office.run("batch", "cancel", batch_id, "--json")
    assert (code, answer(out)) == (0, {"batch": batch_id, "status": "cancelling"})
    out, err = waiting.communicate(timeout=60)
    assert waiting.returncode == 3, err
    assert answer(out)["error"]["code"] == "cancelled"


def test_a_batch_that_is_gone_is_given_up_with_consent_only(office: Office) -> None:
    office.write_job(30)
    office.provider.script = ["in_progress"] * 10_000
    office.provider.called = lambda route: (
        office.process.send_signal(signal.SIGINT) if route == "retrieve" and office.process else None
    )
    office.run(*BATCH)
    office.provider.called = lambda _route: None
    office.provider.batches.clear()
    code, out, err = office.run(*BATCH)
    assert (code, answer(out)["error"]["code"]) == (1, "gone")
    code, _, err = office.run("batch", "cancel")
    assert code == 2
    assert "--yes" in err
    code, out, _ = office.run("batch", "cancel", "--yes")
    assert (code, "given up" in out) == (0, True)
    office.provider.script = ["completed"]
    code, out, err = office.run(*BATCH)
    assert (code, answer(out)["done"]) == (0, 30), err


def high_water_mb(pid: int) -> float:
    """The most memory that a process has had; what its parent had at the fork does not count."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    return int(found[0]) / 1024 if found else 0.0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
@pytest.mark.parametrize(
    ("rows", "batches"), [(10_000, 1), pytest.param(100_000, 2, marks=pytest.mark.slow, id="100000")]
)
def test_many_rows_take_hardly_more_memory_than_few(office: Office, tmp_path: Path, rows: int, batches: int) -> None:
    def peak_mb(rows: int) -> float:
        office.write_job(rows)
        office.provider.files.clear()
        process = office.start(*BATCH, "--out", str(tmp_path / f"run-{rows}"))
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, high_water_mb(process.pid))
            time.sleep(0.02)
        out, err = process.communicate()
        assert answer(out)["done"] == rows, err
        return peak

    few, many = peak_mb(1000), peak_mb(rows)
    assert len(office.provider.batches) == 1 + batches
    print(f"peak: {few:.0f} MB for 1,000 rows, {many:.0f} MB for {rows:,}")  # noqa: T201 - seen with -s
    assert many - few < 40
