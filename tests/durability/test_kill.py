"""`kill -9` at random moments: nothing settled is lost, nothing is bought twice beyond what was in flight.

Kills prove safety from the death of the process; the page cache outlives it. The offsets in `tests/test_jsonl.py`
and the power losses in `test_run_machine.py` stand for the rest.

Run: pytest tests/durability/test_kill.py (100 kills); pytest -m slow tests/durability/test_kill.py (1,000).
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncgen.run.directory import RunDirectory
from asyncgen.run.jsonl import read_rows
from asyncgen.run.records import decode_record

CONCURRENCY = 8
SIZES = {"200 B": (200, 400), "5 KB": (5_000, 400), "200 KB": (200_000, 60)}  # of an answer; rows of the job
KILLS = {"200 B": 40, "5 KB": 40, "200 KB": 20}


@pytest.mark.parametrize("size", SIZES)
def test_a_hundred_kills_lose_nothing_and_double_nothing(
    size: str, start: Callable[..., Any], counting_server: Callable[..., Any], tmp_path: Path
) -> None:
    kill_and_resume(KILLS[size], *SIZES[size], start, counting_server, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("size", SIZES)
def test_a_thousand_kills_lose_nothing_and_double_nothing(
    size: str, start: Callable[..., Any], counting_server: Callable[..., Any], tmp_path: Path
) -> None:
    kill_and_resume(10 * KILLS[size], *SIZES[size], start, counting_server, tmp_path)


def kill_and_resume(
    kills: int, size: int, rows: int, start: Callable[..., Any], counting_server: Callable[..., Any], folder: Path
) -> None:
    """Run one job after the other, each killed and resumed until it is done, until so many kills were made."""
    rng = random.Random(size * kills)
    server = counting_server(completion="x" * size, latency_s=0.004)
    job_number = 0
    while kills > 0:
        job_number += 1
        kills -= one_job(f"job-{job_number}", rows, kills, rng, start, server, folder)


def one_job(
    name: str, rows: int, kills: int, rng: random.Random, start: Callable[..., Any], server: Any, folder: Path
) -> int:
    """Run a job to its end with at most `kills` kills on the way; returns how many there were."""
    write_job(folder, name, rows)
    directory = RunDirectory(folder / "runs" / name)
    server.received.clear()
    lines: list[bytes] = []
    bought: dict[bytes, int] = {}
    killed = 0
    while True:
        child = start("generate", f"{name}.toml", "--base-url", server.base_url, "--model", "m",
                      "--concurrency", str(CONCURRENCY), "--json")  # fmt: skip
        if killed < kills:
            strike(child, server, rng)
        code = child.wait()
        assert code in {0, -signal.SIGKILL}, child.stderr
        settled = whole_lines(directory.records)
        assert settled[: len(lines)] == lines, "a settled row is gone or changed"
        again = {body for body, count in bought.items() if server.received[body] != count}
        assert not again, "a settled row was asked for again"
        bought |= bodies_of(settled[len(lines) :], server)
        lines = settled
        if code == 0:
            break
        killed += 1
    records = [record for _, record in read_rows(directory.records, decode_record)]
    assert len({record.key for record in records}) == len(records) == rows
    assert sum(server.received.values()) <= rows + killed * CONCURRENCY
    again_done = start("generate", f"{name}.toml", "--base-url", server.base_url, "--model", "m")
    before = server.received.total()
    assert again_done.wait() == 0
    assert server.received.total() == before, "a finished job sends nothing"
    return killed


def write_job(folder: Path, name: str, rows: int) -> None:
    values = ", ".join(f'"row {number}"' for number in range(rows))
    text = f'name = "{name}"\n[grid]\nrow = [{values}]\n[prompt]\nuser = "Write about {{row}}."\n'
    (folder / f"{name}.toml").write_text(text, encoding="utf-8")


def strike(child: Any, server: Any, rng: random.Random) -> None:
    """Kill at a moment of which half lie in the start, half among the answers."""
    if rng.random() < 0.3:
        time.sleep(rng.uniform(0, 0.1))
    else:
        goal = server.answered + rng.randrange(1, 60)
        server.wait_for(lambda server: server.answered >= goal, timeout_s=0.5)
        time.sleep(rng.uniform(0, 0.003))
    child.signal(signal.SIGKILL)


def whole_lines(path: Path) -> list[bytes]:
    if not path.exists():
        return []
    *whole, _torn = path.read_bytes().split(b"\n")
    return whole


def bodies_of(lines: list[bytes], server: Any) -> dict[bytes, int]:
    """The requests of settled rows, and how often each was received."""
    prompts = {f"Write about {decode_record(line).variables['row']}.".encode() for line in lines}
    return {
        body: count
        for body, count in list(server.received.items())
        if body.partition(b'"content":"')[2].partition(b'"')[0] in prompts
    }
