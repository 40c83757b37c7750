"""What FILE and RUN stand for: named, left out, misspelt, or something else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Here = Callable[..., Any]

JOB = 'name = "{name}"\n[grid]\ncity = ["Paris", "Berlin"]\n[prompt]\nuser = "Write to {{city}}."\n'


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir(exist_ok=True)
    return folder


def write_job(path: Path, name: str | None = None) -> None:
    path.write_text(JOB.format(name=name or path.stem), encoding="utf-8")


def test_generate_without_a_file_sends_nothing_where_there_is_no_job(here: Here, work: Path) -> None:
    done = here("generate", "--provider", "local", "--base-url", "http://127.0.0.1:9/v1", "--model", "m")
    assert done.code == 2
    assert "there is no job file here" in done.err
    assert "asyncgen init" in done.err
    assert not list(work.iterdir())


def test_generate_without_a_file_takes_the_only_job_file(
    here: Here, work: Path, simulated_server: Callable[..., Any]
) -> None:
    write_job(work / "mine.toml")
    (work / "pyproject.toml").write_text('[project]\nname = "x"\n', encoding="utf-8")
    done = here("generate", "--base-url", simulated_server().base_url, "--model", "m", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["run"] == "runs/mine"


def test_generate_without_a_file_names_the_job_files_where_there_are_several(here: Here, work: Path) -> None:
    write_job(work / "a.toml")
    write_job(work / "b.toml")
    done = here("generate")
    assert done.code == 2
    assert "a.toml, b.toml" in done.err


@pytest.mark.parametrize("command", ["plan", "run", "generate", "preview"])
def test_a_misspelt_job_file_is_told_the_near_one(here: Here, work: Path, command: str) -> None:
    write_job(work / "base.toml")
    done = here(command, "bas.toml")
    assert done.code == 2
    assert "did you mean base.toml?" in done.err
    assert [path.name for path in work.iterdir()] == ["base.toml"]


@pytest.mark.parametrize("argument", ["", ".", "folder"])
def test_a_folder_is_no_job_file(here: Here, work: Path, argument: str) -> None:
    write_job(work / "base.toml")
    (work / "folder").mkdir()
    write_job(work / "folder" / "other.toml")
    done = here("generate", argument)
    assert done.code == 2
    assert "a job file" in done.err
    assert ("folder/other.toml" if argument == "folder" else "base.toml") in done.err


def test_a_run_in_the_place_of_a_job_file_is_told(here: Here, work: Path, simulated_server: Callable[..., Any]) -> None:
    write_job(work / "mine.toml")
    here("generate", "mine.toml", "--base-url", simulated_server().base_url, "--model", "m")
    done = here("generate", "runs/mine")
    assert done.code == 2
    assert "runs/mine is a run" in done.err


@pytest.mark.parametrize("command", ["status", "report", "prepare", "batch list"])
def test_a_job_file_stands_for_the_run_that_it_made(
    here: Here, work: Path, simulated_server: Callable[..., Any], command: str
) -> None:
    write_job(work / "mine.toml")
    write_job(work / "later.toml")
    for name in ("mine", "later"):
        ran = here(
            "generate",
            f"{name}.toml",
            "--base-url",
            simulated_server().base_url,
            "--model",
            "m",
            "--out",
            f"runs/of-{name}",
        )
        assert ran.code == 0, ran.err
    given = ("--simulated",) if command == "prepare" else ()
    done = here(*command.split(), "mine.toml", *given)
    assert done.code in {0, 2}, done.err  # two answers alike are too few for a dataset
    assert "no run" not in done.err
    if command == "status":
        assert "runs/of-mine" in done.out


def test_a_job_file_without_a_run_is_told_how_to_make_one(here: Here, work: Path) -> None:
    write_job(work / "mine.toml")
    done = here("status", "mine.toml")
    assert done.code == 2
    assert "asyncgen generate mine.toml" in done.err


def test_a_misspelt_run_is_told_the_near_one(here: Here, work: Path, simulated_server: Callable[..., Any]) -> None:
    write_job(work / "mine.toml")
    here("generate", "mine.toml", "--base-url", simulated_server().base_url, "--model", "m")
    done = here("status", "runs/mien")
    assert done.code == 2
    assert "did you mean runs/mine?" in done.err


def test_a_refused_command_leaves_no_folder_behind(here: Here, work: Path) -> None:
    write_job(work / "mine.toml")
    done = here("generate", "mine.toml", "--provider", "openai")
    assert done.code == 4
    assert [path.name for path in work.iterdir()] == ["mine.toml"]


def test_a_refused_tuning_of_a_file_leaves_no_folder_behind(here: Here, work: Path) -> None:
    (work / "pairs.csv").write_text("prompt,completion\na,b\n", encoding="utf-8")
    done = here("finetune", "create", "pairs.csv", "--provider", "local", "--base-url", "http://127.0.0.1:9/v1")
    assert done.code == 2
    assert "asyncgen prepare pairs.csv" in done.err
    assert [path.name for path in work.iterdir()] == ["pairs.csv"]


def test_a_refused_command_leaves_what_was_there(here: Here, work: Path) -> None:
    write_job(work / "mine.toml")
    (work / "place").mkdir()
    done = here("generate", "mine.toml", "--provider", "openai", "--out", "place")
    assert done.code == 4
    assert (work / "place").is_dir()


def test_a_place_that_cannot_hold_a_run_is_told_as_such(here: Here, work: Path) -> None:
    write_job(work / "mine.toml")
    done = here("generate", "mine.toml", "--base-url", "http://127.0.0.1:9/v1", "--model", "m", "--out", "/proc/x")
    assert done.code == 6
    assert "the folder /proc/x could not be created" in done.err
