from collections.abc import Callable
from pathlib import Path

import pytest

from asyncgen.job.load import read_job_file
from asyncgen.job.opened import OpenedJob, open_job

Open = Callable[..., OpenedJob]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """Write a job file and open it."""

    def open_text(
        text: str, *, generation: str = "openai", tuning: str = "local", model: str = "some-model"
    ) -> OpenedJob:
        path = tmp_path / "job.toml"
        path.write_text(text, encoding="utf-8")
        return open_job(read_job_file(path), generation=generation, tuning=tuning, model=model)

    return open_text
