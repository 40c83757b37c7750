"""Every system call that a run makes on its files fails once, or is the last one before the process dies.

As the tests of SQLite do it: the fault comes at the first call, then at the second, and so on until a run meets it no
more. Whatever happens, what was settled stays, the exit code tells of a fault, and the next plain run completes.

Run: pytest tests/durability/test_nth_call.py (the calls that change files, one fault at each in turn);
pytest -m slow tests/durability/test_nth_call.py (every fault at every call). Needs strace and the right to use it.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, cycle
from pathlib import Path
from typing import Any

import pytest

from asyncgen.run.jsonl import read_rows
from asyncgen.run.records import decode_record

ROWS = 3
FAULTS = ("error=ENOSPC", "error=EIO", "error=EINTR", "signal=KILL")
# Calls on the run's files; the others of a process (imports, sockets, the terminal) are kept out by their paths.
CALLS = (
    "write", "fsync", "rename", "ftruncate", "openat", "flock", "mkdir", "unlink", "newfstatat", "pwrite64", "pread64",
    "read", "close", "getdents64",
)  # fmt: skip

ONLY_ON_WHAT_IS_THERE = ("read", "pread64")


def can_trace() -> bool:
    if shutil.which("strace") is None:
        return False
    return (
        subprocess.run(["strace", "-qq", "-o", "/dev/null", "true"], check=False, capture_output=True).returncode == 0
    )


pytestmark = pytest.mark.skipif(not can_trace(), reason="strace is missing, or may not trace here")


@contextmanager
def traced(child: Any, call: str, fault: str, number: int, run: Path, log: Path) -> Iterator[None]:
    """The stopped `child` goes on, and meets `fault` at its `number`th `call` on the files of `run`."""
    temporary = [f".{name}.{child.pid}.tmp" for name in ("run.json", "job.toml")]
    files = ["", ".lock", "run.json", "job.toml", "records.jsonl", "failures.jsonl", *temporary]
    paths = [f"-P{run / name}" for name in files]
    arguments = ["strace", "-f", "-o", str(log), f"-etrace={call}", f"-einject={call}:{fault}:when={number}", *paths]
    while Path(f"/proc/{child.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "T":
        pass  # it stops itself at once
    with subprocess.Popen([*arguments, "-p", str(child.pid)], stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr is not None
        line = tracer.stderr.readline()
        while "attached" not in line:
            assert "Requested path" in line, line  # it notes each path that it resolved
            line = tracer.stderr.readline()
        child.signal(signal.SIGCONT)
        yield
        tracer.communicate()  # it ends with the child


@pytest.mark.parametrize("call", CALLS[:6])
def test_a_fault_at_any_call_leaves_old_or_new_and_the_next_run_completes(
    call: str, start: Callable[..., Any], counting_server: Callable[..., Any], tmp_path: Path
) -> None:
    faults = cycle(FAULTS)
    begun = call in {*ONLY_ON_WHAT_IS_THERE, "ftruncate"}
    visit_calls(call, lambda: [next(faults)], start, counting_server(), tmp_path, begun=begun)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("begun", [False, True], ids=["new", "torn"])
@pytest.mark.parametrize("call", CALLS)
def test_every_fault_at_every_call_leaves_old_or_new_and_the_next_run_completes(
    call: str, begun: bool, start: Callable[..., Any], counting_server: Callable[..., Any], tmp_path: Path
) -> None:
    visit_calls(call, lambda: list(FAULTS), start, counting_server(), tmp_path, begun=begun)


def visit_calls(
    call: str, faults: Callable[[], list[str]], start: Callable[..., Any], server: Any, folder: Path, *, begun: bool
) -> None:
    """Try the faults at the first such call, then at the second, until a run makes no more of them.

    Args:
        begun: the run has a settled row and a torn line already.
    """
    values = ", ".join(f'"row {number}"' for number in range(ROWS))
    text = f'name = "small"\n[grid]\nrow = [{values}]\n[prompt]\nuser = "Write about {{row}}."\n'
    (folder / "small.toml").write_text(text, encoding="utf-8")
    command = (
        "generate",
        "small.toml",
        "--out",
        str(folder / "run"),
        "--base-url",
        server.base_url,
        "--model",
        "m",
        "--quiet",
    )
    if begun:
        assert start(*command, "--limit", "1").wait() == 0
        with (folder / "run" / "records.jsonl").open("ab") as file:
            file.write(b'{"key":"0123')
        (folder / "run").rename(folder / "begun")
    for number in count(1):
        for fault in faults():
            shutil.rmtree(folder / "run", ignore_errors=True)
            if begun:
                shutil.copytree(folder / "begun", folder / "run")
            if not meets(call, fault, number, start, command, folder / "run"):
                assert number > 1 or (not begun and call in ONLY_ON_WHAT_IS_THERE), "no run makes this call"
                return


def meets(call: str, fault: str, number: int, start: Callable[..., Any], command: tuple[str, ...], run: Path) -> bool:
    """One run with the fault, and one plain run after it; False when the run made fewer such calls."""
    log = run.with_name("trace")
    before = whole_lines(run / "records.jsonl")
    child = start(*command, stopped=True)
    with traced(child, call, fault, number, run, log):
        code = child.wait()
    trace = log.read_text(encoding="utf-8", errors="replace")
    where = f"{fault} at {call} {number}: exit {code}\n{child.stderr}\n{trace[-2000:]}"
    assert code in ({0, -signal.SIGKILL} if fault == "signal=KILL" else {0, 6}), where
    settled = whole_lines(run / "records.jsonl")
    assert settled[: len(before)] == before, where
    assert code != 0 or len(settled) == ROWS, where
    plain = start(*command)
    assert plain.wait() == 0, where + plain.stderr
    assert whole_lines(run / "records.jsonl")[: len(settled)] == settled, where
    records = [record for _, record in read_rows(run / "records.jsonl", decode_record)]
    assert len({record.key for record in records}) == len(records) == ROWS, where
    assert not list(run.glob(".*.tmp")), where
    return "(INJECTED)" in trace or code == -signal.SIGKILL


def whole_lines(path: Path) -> list[bytes]:
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []
