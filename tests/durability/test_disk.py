"""A disk that is full, a second writer and a changed job, met by the real command.

Run: pytest tests/durability/test_disk.py
"""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncgen.run.directory import RunDirectory, open_run
from asyncgen.run.jsonl import read_rows
from asyncgen.run.records import decode_record

CONCURRENCY = 8
ROWS = 60


def command(server: Any, *more: str) -> tuple[str, ...]:
    return ("generate", "job.toml", "--base-url", server.base_url, "--model", "m",
            "--concurrency", str(CONCURRENCY), *more)  # fmt: skip


def settled(run: RunDirectory) -> int:
    return sum(1 for _ in read_rows(run.records, decode_record))


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of another process are set on Linux only")
def test_when_the_disk_is_full_sending_stops_and_the_unsaved_answers_are_counted(
    start: Callable[..., Any], counting_server: Callable[..., Any], run: RunDirectory, forker: Any
) -> None:
    """The kernel refuses to let a file grow beyond a limit, in the middle of a line, as a full disk does."""
    server = counting_server(completion="x" * 2000, latency_s=0.02)
    soft, hard = resource.prlimit(forker.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(forker.pid, resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        child = start(*command(server, "--json"))
        assert child.wait() == 6
    finally:
        resource.prlimit(forker.pid, resource.RLIMIT_FSIZE, (soft, hard))
    answer = json.loads(child.stdout.splitlines()[-1])
    assert answer["stopped"] == "io"
    assert run.records.read_bytes().endswith(b"}\n"), "no half line is left"
    kept, sent = settled(run), server.received.total()
    assert kept == answer["done"]
    assert 0 < kept < sent <= kept + 2 * CONCURRENCY, "nothing was sent after the failure but what was in flight"
    unsaved = sent - kept
    assert f"{unsaved} paid answers could not be saved" in child.stderr
    assert "then run the same command again" in child.stderr
    assert start(*command(server)).wait() == 0
    assert settled(run) == ROWS
    assert server.received.total() == ROWS + unsaved


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs user namespaces")
def test_on_a_disk_that_is_really_full_no_half_line_is_left(
    counting_server: Callable[..., Any], run: RunDirectory, tmp_path: Path
) -> None:
    """A file system of 64 KiB in memory; it takes a part of the line that does not fit."""
    server = counting_server(completion="x" * 3000, latency_s=0.01)
    place = tmp_path / "small-disk"
    place.mkdir()
    inside = f"mount -t tmpfs -o size=64k tmpfs {place} && cd {tmp_path} && {python()} -m asyncgen " + " ".join(
        command(server, "--out", str(place / "run"))
    )
    script = f"({inside}); echo exit $?; cat {place}/run/records.jsonl | tail -c 3; umount {place}"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False)
    if "mount" in done.stderr or "unshare" in done.stderr:
        pytest.skip(f"no mounts here: {done.stderr.splitlines()[-1]}")
    assert "exit 6" in done.stdout, done.stderr
    assert done.stdout.endswith('"}\n') or done.stdout.endswith("}\n")
    assert "No space left on device" in done.stderr
    assert "free some space" in done.stderr


def test_a_second_writer_exits_7_and_changes_nothing(
    start: Callable[..., Any], counting_server: Callable[..., Any], run: RunDirectory
) -> None:
    with open_run(run.path, job_name="job"):
        before = {path.name: path.read_bytes() for path in run.path.iterdir()}
        server = counting_server()
        child = start(*command(server, "--json"))
        assert child.wait() == 7
        assert json.loads(child.stdout.splitlines()[-1])["error"]["code"] == "in_use"
        assert {path.name: path.read_bytes() for path in run.path.iterdir()} == before
        assert server.received.total() == 0
    assert start(*command(server)).wait() == 0


def test_a_run_deleted_while_it_is_written_stops_it(
    start: Callable[..., Any], counting_server: Callable[..., Any], run: RunDirectory
) -> None:
    server = counting_server(latency_s=0.2)
    child = start(*command(server))
    assert server.wait_for(lambda server: server.answered >= 1)
    run.records.unlink()
    assert child.wait() == 6, child.stderr
    assert server.received.total() < ROWS
    assert "records.jsonl could not be synced to disk" in child.stderr
    assert start(*command(server)).wait() == 0
    assert settled(run) == ROWS


def test_when_answers_cannot_be_made_safe_sending_stops_but_those_in_flight_are_written(
    start: Callable[..., Any], counting_server: Callable[..., Any], run: RunDirectory
) -> None:
    """`run.json` is made a folder: from then on no flush succeeds, though lines can be written."""
    server = counting_server(latency_s=0.2)
    child = start(*command(server))
    assert server.wait_for(lambda server: server.answered >= 1)
    run.state.rename(run.path / "run.json.mine")
    run.state.mkdir()
    assert child.wait() == 6, child.stderr
    run.state.rmdir()
    (run.path / "run.json.mine").rename(run.state)
    assert settled(run) == server.answered == server.received.total() < ROWS
    assert "could not be saved" not in child.stderr
    assert start(*command(server)).wait() == 0
    assert settled(run) == server.received.total() == ROWS


def test_a_job_that_would_leave_rows_behind_needs_consent_and_names_what_changed(
    start: Callable[..., Any], counting_server: Callable[..., Any], run: RunDirectory, tmp_path: Path
) -> None:
    server = counting_server()
    assert start(*command(server)).wait() == 0
    job = tmp_path / "job.toml"
    job.write_text(job.read_text(encoding="utf-8").replace("Write about", "Sing of"), encoding="utf-8")
    before = {path.name: path.read_bytes() for path in run.path.iterdir() if path.name != ".lock"}
    refused = start(*command(server))
    assert refused.wait() == 2
    assert f"{ROWS} rows of runs/job no longer belong to the job: prompt.user changed" in refused.stderr
    assert "add --yes to continue" in refused.stderr
    assert {path.name: path.read_bytes() for path in run.path.iterdir() if path.name != ".lock"} == before
    assert server.received.total() == ROWS
    accepted = start(*command(server, "--yes", "--json"))
    assert accepted.wait() == 0
    answer = json.loads(accepted.stdout.splitlines()[-1])
    assert (answer["done"], answer["already_done"], answer["stale"], answer["left"]) == (ROWS, 0, ROWS, 0)
    again = start(*command(server, "--json"))
    assert again.wait() == 0, "what was accepted is not asked again"
    assert json.loads(again.stdout.splitlines()[-1])["stale"] == ROWS
    assert server.received.total() == 2 * ROWS


def test_additions_are_just_run(
    start: Callable[..., Any], counting_server: Callable[..., Any], run: RunDirectory, tmp_path: Path
) -> None:
    server = counting_server()
    assert start(*command(server)).wait() == 0
    job = tmp_path / "job.toml"
    job.write_text(job.read_text(encoding="utf-8").replace('["row 0"', '["new", "row 0"'), encoding="utf-8")
    child = start(*command(server, "--json"))
    assert child.wait() == 0
    answer = json.loads(child.stdout.splitlines()[-1])
    assert (answer["done"], answer["already_done"], answer["stale"]) == (ROWS + 1, ROWS, 0)
    assert server.received.total() == ROWS + 1


def test_a_killed_writer_leaves_no_lock_behind(
    start: Callable[..., Any], counting_server: Callable[..., Any], run: RunDirectory
) -> None:
    server = counting_server(latency_s=0.05)
    child = start(*command(server))
    assert server.wait_for(lambda server: server.answered >= 1)
    child.signal(signal.SIGKILL)
    child.wait()
    assert start(*command(server)).wait() == 0


def python() -> str:
    import sys  # noqa: PLC0415 - named only here

    return sys.executable
