"""`asyncgen init` and `asyncgen help`, as they are called."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from asyncgen.cli.init_command import EXAMPLES, GENERAL, example_files
from asyncgen.job.load import read_job_file
from asyncgen.job.opened import open_job
from asyncgen.job.reference import reference

Run = Callable[..., subprocess.CompletedProcess[str]]
STEPS = {"chain": ("mine.toml", "mine-answers.toml")}


def test_init_writes_a_small_general_job_named_after_the_file(asyncgen: Run, tmp_path: Path) -> None:
    done = asyncgen("init", "my shop.toml", "--json")
    assert json.loads(done.stdout) == {"path": "my shop.toml", "files": ["my shop.toml"]}
    path = tmp_path / "work" / "my shop.toml"
    opened = open_job(read_job_file(path), generation="local", tuning="local", model="m")
    assert (opened.job.name, opened.grid.count, opened.remarks) == ("my-shop", 18, ())
    assert 35 <= len(path.read_text(encoding="utf-8").splitlines()) <= 50
    assert asyncgen("init", "my shop.toml").returncode == 2, "what is there is not touched"


def test_init_writes_all_of_an_examples_files_or_none(asyncgen: Run, tmp_path: Path) -> None:
    (tmp_path / "work" / "t.csv").write_text("mine", encoding="utf-8")
    refused = asyncgen("init", "t.toml", "--example", "translate")
    assert refused.returncode == 2
    assert "t.csv already exists" in refused.stderr
    assert sorted(each.name for each in (tmp_path / "work").iterdir()) == ["t.csv"]
    assert (tmp_path / "work" / "t.csv").read_text(encoding="utf-8") == "mine"


def test_the_examples_are_listed(asyncgen: Run) -> None:
    lines = asyncgen("init", "--list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(EXAMPLES)
    assert all(len(line.split()) > 5 for line in lines)


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_runs_to_its_dataset(
    example: str, asyncgen: Run, simulated: Callable[..., str], tmp_path: Path
) -> None:
    where = ("--provider", "custom", "--base-url", simulated("--latency-ms", "1"), "--model", "simulated")
    assert asyncgen("init", "mine.toml", "--example", example).returncode == 0
    steps = STEPS.get(example, ("mine.toml",))
    for step in steps:
        done = asyncgen("generate", step, *where, "--yes")
        assert done.returncode == 0, done.stderr
    last = f"runs/{Path(steps[-1]).stem}"
    done = asyncgen("prepare", last, "--yes", "--simulated", "--provider", "custom")
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "work" / last / "train.jsonl").read_bytes().splitlines()
    assert len(lines) >= 3
    assert all(isinstance(orjson.loads(line), dict) for line in lines)


@pytest.mark.parametrize("example", [*EXAMPLES, GENERAL])
def test_an_example_is_short_and_gives_no_remarks(example: str, tmp_path: Path) -> None:
    files = example_files(example, tmp_path / "mine.toml")
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
        assert "EXAMPLE" not in text
    jobs = [path for path in files if path.suffix == ".toml" and path.name not in STEPS.get(example, ())[1:]]
    for path in jobs:
        assert 15 <= len(files[path].splitlines()) <= 45
        opened = open_job(read_job_file(path), generation="openai", tuning="local", model="gpt-6-luna")
        assert opened.remarks == ()


def test_help_explains_the_job_file_and_the_commands(asyncgen: Run) -> None:
    assert asyncgen("help", "job").stdout == reference()
    assert "Usage: asyncgen plan" in asyncgen("help", "plan").stdout
    assert "Commands:" in asyncgen("help").stdout
    wrong = asyncgen("help", "paln")
    assert wrong.returncode == 2
    assert "did you mean 'asyncgen plan'?" in wrong.stderr
