"""`asyncgen evaluate` as it is typed, against a simulated server."""

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
PAGE = Path(__file__).parents[2] / "docs" / "evaluate.md"
JOB = """
name = "campaign"
[grid]
city = ["Paris", "Berlin", "Rome"]
sector = ["Garage", "Florist", "Cinema", "Butcher"]
[prompt]
user = "Write an advert for {sector} in {city}."
sample = "{sector} in {city}"
[generate]
provider = "local"
[checks]
max_sentences = 2
[dataset]
validation = 0.25
[finetune]
provider = "local"
"""


@pytest.fixture
def tuned(asyncgen: Run, simulated: Callable[..., str], tmp_path: Path) -> str:
    """The address of a server at which a small run was generated and tuned."""
    base_url = simulated()
    (tmp_path / "work" / "job.toml").write_text(JOB.replace("[checks]", "repeats = 2\n[checks]"), encoding="utf-8")
    done = asyncgen("run", "job.toml", "--base-url", base_url, "-y", "--json", timeout_s=100)
    assert done.returncode == 0, done.stderr
    small = json.loads(done.stdout.splitlines()[-1])["evaluate"]
    assert [each["name"] for each in small["contestants"]] == ["base", "tuned"]
    assert "usable answers: " in done.stdout
    return base_url


def object_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_the_commands_of_the_page_can_be_typed(asyncgen: Run, tuned: str, tmp_path: Path) -> None:
    commands = re.findall(r"^    asyncgen (evaluate.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(commands) >= 4
    for command in commands:
        done = asyncgen(*shlex.split(command), "--base-url", tuned, "-y", timeout_s=100)
        assert done.returncode == 0, (command, done.stderr)
        assert done.stdout.splitlines()[-1]
    assert (tmp_path / "work" / "answers.html").exists()


def test_the_object_has_its_form_and_the_same_again_asks_nobody(asyncgen: Run, tuned: str) -> None:
    words = ("evaluate", "--axis", "sector=Hotel,Bakery", "--base-url", tuned, "-y", "--json")
    first = asyncgen(*words, timeout_s=100)
    assert first.returncode == 0, first.stderr
    found = object_of(first)
    assert {each["technique"] for each in found["contestants"]} == {"zero-shot", "few-shot", "prompt", "tuned"}
    for each in found["contestants"]:
        assert each.keys() >= {
            "name", "technique", "provider", "model", "n", "passed", "pass_rate", "ci95", "tokens_in", "tokens_out",
            "cost_usd_per_1000",
        }  # fmt: skip
        assert each["n"] == 6
        assert each["ci95"][0] <= each["pass_rate"] <= each["ci95"][1]
    assert len(found["comparisons"]) == 3
    assert found["comparisons"][0].keys() >= {"a", "b", "difference", "ci95", "p", "pairs"}
    assert found["sentence"]
    assert any("simulated" in note for note in found["notes"])
    again = asyncgen(*words, timeout_s=100)
    assert "0 rows to send" in again.stderr
    assert object_of(again) == found
    narrow = asyncgen(*words[:-1], COLUMNS="60")
    assert max(map(len, narrow.stdout.splitlines()[2:20])) <= 60
