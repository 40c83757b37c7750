"""Every folder with prompts and answers in it can be read by its owner alone, whatever the umask."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

JOB = """name = "ads"
[grid]
city = ["Bonn", "Oslo", "Rome", "Lima", "Bern", "Kyiv", "Cork", "Lyon", "Nice", "Riga", "Turin", "York"]
[prompt]
user = "Write one advert for a hotel in {city}."
"""
COMMANDS = {
    "run": (["generate", "job.toml", "--yes"], "runs/ads"),
    "shard": (["generate", "job.toml", "--yes", "--shard", "0/2", "--out", "runs/shards"], "runs/shards"),
    "dataset folder": (["export", "runs/ads", "--simulated", "-o", "hub/"], "hub"),
    "trainer's folder": (["export", "runs/ads", "--simulated", "--for", "trl", "-o", "trl/"], "trl"),
    "page": (["view", "runs/ads", "--export", "page"], "page"),
}


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_with_answers_can_be_read_by_its_owner_alone(
    name: str, here: Callable[..., Any], simulated_server: Callable[..., Any]
) -> None:
    Path("job.toml").write_text(JOB)
    way = ["--provider", "custom", "--base-url", simulated_server().base_url, "--model", "simulated"]
    arguments, folder = COMMANDS[name]
    if "generate" not in arguments:
        assert here(*COMMANDS["run"][0], *way).code == 0
        assert here("prepare", "runs/ads", "--simulated").code == 0
    assert here(*arguments, *(way if "generate" in arguments else [])).code == 0
    assert Path(folder).stat().st_mode & 0o077 == 0
