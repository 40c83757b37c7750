"""Facts about `asyncgen status` and `asyncgen repair`, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from asyncgen.generate.journal.journal import open_journal
from asyncgen.run.directory import RunDirectory, open_run
from asyncgen.run.jsonl import LineFile
from asyncgen.run.records import Failure, FailureError, Record, Usage, encode_line
from asyncgen.run.state import DatasetFile, DatasetState, FinetuningState, RunState

Run = Callable[..., subprocess.CompletedProcess[str]]


def row(number: int) -> dict[str, Any]:
    return {"key": f"{number:016x}" * 2, "index": number, "repeat": 0, "variables": {"city": str(number)}, "created": 1}


def record(number: int) -> Record:
    return Record(
        **row(number),
        prompt="p",
        completion="c",
        model="model-1",
        finish_reason="stop",
        usage=Usage(prompt_tokens=1000, completion_tokens=30),
        attempts=1,
        check_failures=[],
        latency_s=0.1,
    )


def with_job(state: RunState) -> RunState:
    job = msgspec.structs.replace(state.job, requests=10, stale=1, model="model-1", generation_provider="openai")
    return msgspec.structs.replace(state, job=job)


@pytest.fixture
def folder(tmp_path: Path, asyncgen: Run) -> Path:
    """Four records (one of them stale), a failure, ten rows in the job; below the folder the commands run in."""
    folder = tmp_path / "work" / "runs" / "campaign"
    with open_run(folder, job_name="campaign") as run:
        run.update(with_job)
        with open_journal(run, cost_of=lambda usages, _in_batch: 0.25 * len(usages)) as journal:
            for number in range(1, 5):
                journal.settle([record(number)])
            error = FailureError(type="bad_request", status=400)
            journal.fail(Failure(**row(9), error=error, attempts=1, maybe_paid=0))
    return folder


def last_json(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_status_counts_the_rows_of_the_newest_run(asyncgen: Run, folder: Path) -> None:
    done = asyncgen("status")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "run       runs/campaign",
        "job       campaign, model model-1 at openai",
        "rows      10: 3 done, 1 failed, 6 left; 1 more belong to an earlier version of the job",
        "spend     1.00 USD; 4,000 prompt tokens (0 cached), 120 completion tokens (0 reasoning)",
    ]
    assert done.stderr.startswith("next: asyncgen generate ")


def test_status_as_json_has_the_same_figures(asyncgen: Run, folder: Path) -> None:
    answer = last_json(asyncgen("status", str(folder), "--json"))
    usage = {"prompt_tokens": 4000, "cached_tokens": 0, "completion_tokens": 120, "reasoning_tokens": 0}
    assert answer == {
        "run": str(folder),
        "job": "campaign",
        "provider": "openai",
        "model": "model-1",
        "requests": 10,
        "done": 3,
        "failed": 1,
        "left": 6,
        "stale": 1,
        "simulated": 0,
        "lost": 0,
        "being_written": False,
        "cost_usd": 1.0,
        "unpriced": 0,
        "usage": usage,
        "dataset": None,
        "finetuning": [],
        "batches": [],
    }


def test_status_works_while_the_run_is_written_and_changes_nothing(asyncgen: Run, folder: Path) -> None:
    with open_run(folder), closing(LineFile(RunDirectory(folder).records)) as file:
        file.append(encode_line(record(5)))
        with RunDirectory(folder).records.open("ab") as half:
            half.write(b'{"key":"half a li')
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        answer = last_json(asyncgen("status", "--json"))
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert (answer["done"], answer["being_written"]) == (4, True)


def test_status_shows_dataset_and_fine_tuning(asyncgen: Run, folder: Path) -> None:
    def change(state: RunState) -> RunState:
        files = [DatasetFile(name="train.jsonl", sha256="00", samples=3, bytes=100)]
        tuning = FinetuningState(
            intent="i",
            provider="local",
            base_url="http://127.0.0.1:1/v1",
            model="m",
            training_file="file-1",
            job_id="ftjob-1",
            status="running",
        )
        return msgspec.structs.replace(state, dataset=DatasetState(files=files, format="chat"), finetuning=[tuning])

    with open_run(folder) as run:
        run.update(change)
    shown = asyncgen("status", str(folder)).stdout.splitlines()
    assert shown[-2:] == ["dataset   train.jsonl 3 samples (chat)", "tuning    ftjob-1 at local: running"]


def test_status_of_nothing_names_the_next_step(asyncgen: Run) -> None:
    done = asyncgen("status", "--json")
    assert done.returncode == 2
    assert "there is no run under runs" in done.stderr
    assert "asyncgen run" in last_json(done)["error"]["help"]


def test_a_bad_line_stops_status_and_repair_mends_it(asyncgen: Run, folder: Path) -> None:
    with RunDirectory(folder).records.open("ab") as file:
        file.write(b"nonsense\n")
    refused = asyncgen("status")
    assert refused.returncode == 6
    assert "records.jsonl, line 5 cannot be read" in refused.stderr
    assert "help:  asyncgen repair runs/campaign" in refused.stderr
    mended = asyncgen("repair", "runs/campaign")
    assert mended.returncode == 0
    assert mended.stdout.splitlines() == [
        "records.jsonl: 4 lines kept, 1 damaged moved to records.jsonl.bad (line 5)",
        "failures.jsonl: 1 line kept",
    ]
    assert "sends the missing rows again" in mended.stderr
    assert asyncgen("status").returncode == 0


def test_repair_as_json(asyncgen: Run, folder: Path) -> None:
    with RunDirectory(folder).records.open("ab") as file:
        file.write(b"nonsense\n{")
    assert last_json(asyncgen("repair", "--json")) == {
        "run": "runs/campaign",
        "files": [
            {"name": "records.jsonl", "kept": 4, "bad": [5], "torn_bytes": 1},
            {"name": "failures.jsonl", "kept": 1, "bad": [], "torn_bytes": 0},
        ],
        "state_made_anew": False,
    }


def test_repair_of_a_run_in_use_is_refused(asyncgen: Run, folder: Path) -> None:
    with open_run(folder):
        assert asyncgen("repair").returncode == 7


def test_status_tells_of_answers_that_are_gone(asyncgen: Run, folder: Path) -> None:
    (folder / "records.jsonl").unlink()
    done = asyncgen("status")
    assert done.returncode == 0
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert lines["rows"] == "10: 0 done, 1 failed, 9 left"
    assert lines["lost"] == "run.json counts 4 answers, but runs/campaign/records.jsonl has 0 of them"
    assert "restore runs/campaign/records.jsonl" in done.stderr
    assert last_json(asyncgen("status", "--json"))["lost"] == 4


def test_status_after_a_repair_says_that_the_job_is_not_known(asyncgen: Run, folder: Path) -> None:
    (folder / "run.json").unlink()
    assert asyncgen("repair", str(folder)).returncode == 0
    done = asyncgen("status", str(folder))
    assert "4 done, 1 failed; the total is not known" in done.stdout
    assert f"job.toml --out {folder}" in done.stderr
