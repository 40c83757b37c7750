"""Facts about a disk that is really full, for root alone."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from asyncgen.errors import DiskError
from asyncgen.generate.journal.journal import open_journal
from asyncgen.run.directory import open_run
from asyncgen.run.records import Record, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def record(number: int) -> Record:
    return Record(
        key=f"{number:032x}", index=number, repeat=0, variables={"n": str(number)}, prompt="p", completion="x" * 3000,
        model="m", finish_reason="stop", usage=Usage(1, 0, 1, 0), attempts=1, check_failures=[], latency_s=0.1,
        created=1,
    )  # fmt: skip


def test_answers_that_a_full_disk_does_not_take_are_refused_and_the_others_stay(small_disk: Path) -> None:
    run_folder = small_disk / "run"
    kept = 0

    def fill() -> None:
        nonlocal kept
        with (
            open_run(run_folder, job_name="ads") as run,
            open_journal(run, cost_of=lambda _usages, _in_batch: 0.0) as journal,
        ):
            for number in range(1000):
                journal.settle([record(number)])
                kept += 1

    with pytest.raises(DiskError):
        fill()
    assert 0 < kept < 1000
    lines = (run_folder / "records.jsonl").read_bytes().splitlines()
    assert len(lines) == kept, "no half line stays, and none is lost"


def test_on_a_disk_that_is_full_already_nothing_is_begun(small_disk: Path) -> None:
    with open_run(small_disk / "run", job_name="ads"):
        pass
    with (small_disk / "filling").open("wb", buffering=0) as filling, suppress(OSError):
        while True:
            filling.write(b"x" * 4096)
    begun = []

    def begin() -> None:
        with (
            open_run(small_disk / "run", job_name="ads") as run,
            open_journal(run, cost_of=lambda _usages, _in_batch: 0.0),
        ):
            begun.append(run)

    with pytest.raises(DiskError):
        begin()
    assert not begun
