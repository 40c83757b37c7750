"""The commands of docs/trainers.md, as they are typed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from asyncgen.dataset.export.trainers import TRAINERS

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    Run = Callable[..., subprocess.CompletedProcess[str]]

PAGE = Path(__file__).parents[2] / "docs" / "trainers.md"
ROWS = re.findall(r"\| `asyncgen (export [^`]+)` \| `([^`]+)` \|", PAGE.read_text(encoding="utf-8"))


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


def test_each_trainer_has_a_command_on_the_page() -> None:
    assert [shlex.split(command)[4] for command, _ in ROWS] == list(TRAINERS)


def test_each_command_writes_the_folder_and_prints_the_next_one(
    asyncgen: Run, simulated: Callable[..., str], work: Path
) -> None:
    ran = asyncgen("preview", "-n", "50", "--provider", "local", "--base-url", simulated(), "--model", "m", "-q")
    assert ran.returncode == 0, ran.stderr
    ran = asyncgen("prepare", "--simulated")
    assert ran.returncode == 0, ran.stderr
    for command, following in ROWS:
        ran = asyncgen(*shlex.split(command), "--simulated")
        assert ran.returncode == 0, ran.stderr
        assert f"next: {following}" in ran.stderr
        assert (work / shlex.split(command)[2] / "train.jsonl").exists()
    ran = asyncgen("export", "-o", "for-trl", "--for", "nothing")
    assert ran.returncode == 2
