"""Facts about standard streams that a shell has closed."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

JOB = """
name = "ads"
[grid]
city = ["Bonn", "Oslo", "Rome", "Lima", "Bern"]
[prompt]
user = "An ad for {city}."
"""
WITHOUT_UVLOOP = "import sys; sys.modules['uvloop'] = None; from asyncgen.cli.main import main; main()"


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_with_any_standard_stream_closed_every_row_is_kept(
    tmp_path: Path, environment: dict[str, str], simulated: Callable[..., str], closed: str, loop: str
) -> None:
    (tmp_path / "job.toml").write_text(JOB)
    program = [sys.executable, "-m", "asyncgen"] if loop == "uvloop" else [sys.executable, "-c", WITHOUT_UVLOOP]
    address = ["--provider", "custom", "--model", "m", "--base-url", simulated()]
    command = [*program, "generate", "job.toml", *address, "--out", "run", "-y"]
    shell = ["sh", "-c", f'"$@" {closed}', "sh", *command]
    done = subprocess.run(shell, cwd=tmp_path, env=environment, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0
    assert (tmp_path / "run" / "records.jsonl").read_bytes().count(b',"simulated":true}\n') == 5
