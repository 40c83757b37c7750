from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from asyncgen.job.load import read_job_file
from asyncgen.job.opened import OpenedJob, open_job

GRID = """
name = "c"
[grid]
sector = ["Bakers", "Butchers"]
city = ["Paris", "Berlin"]
[prompt]
user = "Write an advert that sells a payment service to {sector} in {city}."
sample = "{sector}, {city}"
"""


@pytest.fixture(name="open_job")
def _open_job(tmp_path: Path) -> Callable[..., OpenedJob]:
    """Open a job of four rows, with more tables behind the usual ones."""

    def open_text(
        tables: str = "", *, generation: str = "openai", tuning: str = "openai", model: str = "gpt-6-luna"
    ) -> OpenedJob:
        path = tmp_path / "job.toml"
        path.write_text(GRID + tables, encoding="utf-8")
        return open_job(read_job_file(path), generation=generation, tuning=tuning, model=model)

    return open_text
