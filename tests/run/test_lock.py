"""Facts about the lock of a run directory."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from asyncgen.errors import DiskError, RunInUseError
from asyncgen.run.directory import RunDirectory, open_run
from asyncgen.run.lock import is_held

if TYPE_CHECKING:
    from pathlib import Path


def make_run(folder: Path, job_name: str = "campaign") -> None:
    with open_run(folder, job_name=job_name):
        pass


HOLD = """
import sys, pathlib
from asyncgen.run.directory import open_run
with open_run(pathlib.Path(sys.argv[1]), job_name="campaign"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_is_told_who_writes_and_changes_nothing_until_the_first_dies(folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        before = {entry.name: entry.read_bytes() for entry in folder.iterdir()}
        with pytest.raises(RunInUseError, match=f"another process \\(number {first.pid}\\)") as refused:
            make_run(folder)
        assert refused.value.exit_code == 7
        assert {entry.name: entry.read_bytes() for entry in folder.iterdir()} == before
        assert RunDirectory(folder).read_state().job.name == "campaign"  # reading is always possible
        first.kill()
        first.wait()
        make_run(folder)


def test_whether_a_run_is_being_written_can_be_seen_without_disturbing_it(folder: Path) -> None:
    folder.mkdir(parents=True)
    assert not is_held(folder)
    with open_run(folder, job_name="campaign"):
        assert is_held(folder)
        assert is_held(folder)
    assert not is_held(folder)


def test_a_writer_that_meets_somebody_who_only_looks_tries_again(folder: Path) -> None:
    make_run(folder)
    descriptor = os.open(folder / ".lock", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    timer = threading.Timer(0.03, os.close, [descriptor])
    timer.start()
    make_run(folder)
    timer.join()


def test_a_process_does_not_share_the_lock_with_its_children(folder: Path) -> None:
    with open_run(folder, job_name="campaign"):
        child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        make_run(folder)
    finally:
        child.communicate()


@pytest.mark.parametrize("error", [errno.ENOTSUP, errno.ENOLCK])
def test_a_file_system_without_locks_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    def fail(*args: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(DiskError, match="cannot lock files") as refused:
        make_run(folder)
    assert "local disk" in (refused.value.help_text or "")
