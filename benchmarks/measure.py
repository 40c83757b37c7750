"""What the benchmarks share: a server in its own process, a client's CPU and memory, a job file of any size.

CPU is user and system time of the client's process alone, as the kernel counts it, so that other work on the machine
disturbs it little; wall times are not compared.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tight_loop import axes

HERE = Path(__file__).parent
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


@dataclass(frozen=True)
class Cost:
    """What a process came to, with those that it started; `rss_mb` is the peak of the largest one."""

    cpu_s: float
    wall_s: float
    rss_mb: float


@contextmanager
def fake_server(*options: str) -> Iterator[str]:
    """The base URL of a fresh server, on a core of its own where there are two."""
    core = ["--core", str(CORES[-1])] if len(CORES) > 1 else []
    command = [sys.executable, str(HERE / "fake_server.py"), *core, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        finally:
            server.terminate()


def stats(base_url: str) -> dict[str, Any]:
    """What the server saw so far."""
    with urllib.request.urlopen(base_url.removesuffix("/v1") + "/stats", timeout=10) as answer:
        seen: dict[str, Any] = json.load(answer)
    return seen


def run(command: Sequence[str], log: Path, *, on_all_cores: bool = False) -> Cost:
    """Run a client to its end; its output goes to `log`, and is shown when it fails."""
    place = None if on_all_cores else _on_the_first_core
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, preexec_fn=place)  # noqa: PLW1509 - no threads here
        began = os.times().elapsed
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{log.read_text(encoding='utf-8')[-2000:]}")
    peak_kb = usage.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return Cost(usage.ru_utime + usage.ru_stime, os.times().elapsed - began, peak_kb / 1024)


def instructions(command: Sequence[str], log: Path) -> int:
    """Machine instructions that a client takes outside the kernel: the same each time, whatever else the machine does.

    Fifty times slower than the client alone.
    """
    counting = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", *command]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    with log.open("wb") as out:
        done = subprocess.run(counting, stdout=out, stderr=subprocess.PIPE, env=environment, text=True, check=False)
    counted = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or counted is None:
        sys.exit(f"{' '.join(counting)} failed:\n{done.stderr[-2000:]}{log.read_text(encoding='utf-8')[-2000:]}")
    return int(counted[1])


def _on_the_first_core() -> None:
    if len(CORES) > 1:
        os.sched_setaffinity(0, {CORES[0]})


def write_job(path: Path, count: int, *, repeats: int = 1) -> Path:
    """A job of `count` combinations that asks for what `tight_loop.py` asks for."""
    sectors, cities = axes(count)
    path.write_text(
        f"""name = "benchmark"
[grid]
sector = {json.dumps(sectors)}
city = {json.dumps(cities)}
[prompt]
system = "You write short direct marketing messages."
user = "Write one message for a {{sector}} in {{city}}, at most two sentences."
sample = "{{sector}}, {{city}}"
[generate]
model = "fake-1"
repeats = {repeats}
[generate.parameters]
max_completion_tokens = 200
temperature = 1
""",
        encoding="utf-8",
    )
    return path


def asyncgen_generate(job: Path, out: Path, base_url: str, *options: str) -> list[str]:
    """The command line of the same work by asyncgen."""
    where = ["--out", str(out), "--base-url", base_url, "--provider", "openai"]
    return [sys.executable, "-m", "asyncgen", "generate", str(job), *where, "--yes", "--quiet", "--json", *options]


def last_json(log: Path) -> dict[str, Any]:
    """The object on the last line of a client's output."""
    found: dict[str, Any] = json.loads(log.read_text(encoding="utf-8").splitlines()[-1])
    return found
