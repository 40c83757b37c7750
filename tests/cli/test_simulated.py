"""Facts about a simulation's answers: they never pass for real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from asyncgen.run.directory import RunDirectory, open_run
from asyncgen.run.records import decode_record, encode_line

if TYPE_CHECKING:
    from collections.abc import Callable

JOB = """
name = "ads"
[grid]
city = ["Rome", "Oslo", "Bern", "Lima", "Cork", "Bonn", "Nice", "Graz", "Kyiv", "Riga", "Metz", "Pisa"]
twin = ["one", "two"]
[prompt]
user = "An advert for {city}."
sample = "{city}"
[finetune]
provider = "custom"
model = "simulated"
[finetune.hyperparameters]
n_epochs = 1
"""


@pytest.fixture
def rehearsed(
    asyncgen: Callable[..., Any], simulated: Callable[..., str], tmp_path: Path
) -> tuple[Path, tuple[str, ...]]:
    """A run whose answers a simulation made up, and the flags that lead there."""
    (tmp_path / "work" / "job.toml").write_text(JOB)
    where = ("--provider", "custom", "--base-url", simulated(), "--model", "simulated")
    done = asyncgen("generate", "job.toml", *where)
    assert done.returncode == 0, done.stderr
    return tmp_path / "work" / "runs" / "ads", where


def refused(done: Any) -> bool:
    return bool(done.returncode == 2) and bool(json.loads(done.stdout.splitlines()[-1])["error"]["code"] == "simulated")


def test_made_up_answers_are_handed_on_only_where_that_is_said(
    asyncgen: Callable[..., Any], rehearsed: tuple[Path, tuple[str, ...]]
) -> None:
    run, where = rehearsed
    for output in ("a.csv", "a.jsonl", "folder/"):
        assert refused(asyncgen("export", "-o", output, "--json"))
        assert not (run.parent.parent / output).exists()
        assert asyncgen("export", "-o", output, "--simulated").returncode == 0
    assert "12 of these rows are simulated" in (run.parent.parent / "folder" / "README.md").read_text()
    assert refused(asyncgen("prepare", "--json"))
    assert not (run / "train.jsonl").exists()
    assert asyncgen("prepare", "--simulated").returncode == 0
    assert RunDirectory(run).read_state().dataset.simulated == 12  # type: ignore[union-attr]
    create = ("finetune", "create", *where[:4], "--yes", "--json")
    assert refused(asyncgen(*create))
    assert RunDirectory(run).read_state().finetuning == []
    assert asyncgen(*create, "--simulated").returncode == 0


def test_whoever_looks_is_told(asyncgen: Callable[..., Any], rehearsed: tuple[Path, tuple[str, ...]]) -> None:
    run, _ = rehearsed
    done = asyncgen("status")
    assert "simulated 12 of the answers; a model cannot" in done.stdout
    assert "24: 24 done, 0 failed, 0 left" in done.stdout, "rows with one request share an answer"
    assert f"asyncgen prepare {run.relative_to(run.parent.parent)} --simulated" in done.stderr
    assert "simulated answers" in asyncgen("report").stdout
    assert asyncgen("report", "--html", "page.html").returncode == 0
    assert "simulated" in (run.parent.parent / "page.html").read_text()


def test_a_simulation_at_another_port_goes_on_with_what_is_there(
    asyncgen: Callable[..., Any], simulated: Callable[..., str], rehearsed: tuple[Path, tuple[str, ...]]
) -> None:
    run, where = rehearsed
    before = (run / "records.jsonl").read_bytes()
    there = (*where[:3], simulated("--fault", "503=0.3"), *where[4:])
    done = asyncgen("generate", "job.toml", *there, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert (answer["already_done"], answer["retries"]) == (12, 0)
    assert (run / "records.jsonl").read_bytes() == before


def test_run_rehearses_with_the_simulation_that_it_was_told_to_ask(
    asyncgen: Callable[..., Any], rehearsed: tuple[Path, tuple[str, ...]]
) -> None:
    _, where = rehearsed
    done = asyncgen("run", "job.toml", *where, "--finetune-provider", "custom", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["complete"]["completion"]


def test_a_real_servers_run_holds_no_made_up_row(
    asyncgen: Callable[..., Any], rehearsed: tuple[Path, tuple[str, ...]]
) -> None:
    run, _ = rehearsed
    lines = (run / "records.jsonl").read_bytes().splitlines()
    real = [msgspec.structs.replace(decode_record(line), simulated=False) for line in lines]
    with open_run(run):
        (run / "records.jsonl").write_bytes(b"".join(map(encode_line, real)))
    assert asyncgen("prepare").returncode == 0
    assert asyncgen("export", "-o", "a.csv").returncode == 0
    assert "simulat" not in asyncgen("status").stdout.replace("model simulated", "")


def test_checks_that_simulated_answers_cannot_pass_are_told_as_such(
    asyncgen: Callable[..., Any], simulated: Callable[..., str], tmp_path: Path
) -> None:
    checks = '[checks]\nmust_contain = ["{city}"]\n[generate]\nrepeats = 2\n'
    (tmp_path / "work" / "job.toml").write_text(JOB + checks)
    done = asyncgen("generate", "job.toml", "--base-url", simulated(), "--model", "simulated")
    assert done.returncode == 1
    assert "simulated answers contain no values of the row" in done.stderr
