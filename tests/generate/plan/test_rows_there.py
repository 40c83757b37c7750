"""Counting what a run holds of a job."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from asyncgen.generate.plan.request_tokens import measure_run
from asyncgen.job.opened import OpenedJob
from asyncgen.job.requests import Request, RequestGrid
from asyncgen.run.directory import RunDirectory
from asyncgen.run.jsonl import BadLineError
from asyncgen.run.records import Failure, FailureError, Record, Usage, encode_line
from asyncgen.run.state import BatchState, JobState, RunState, write_state

Open = Callable[..., OpenedJob]


def record(grid: RequestGrid, request: Request, **changed: object) -> Record:
    fields: dict[str, object] = {
        "key": request.key.hex(),
        "index": request.index,
        "repeat": request.repeat,
        "variables": grid.variables(request),
        "prompt": grid.prompt(request),
        "completion": "Buy.",
        "model": "m",
        "finish_reason": "stop",
        "usage": Usage(100, 0, 60),
        "attempts": 3,
        "asked": 2,
        "check_failures": [],
        "latency_s": 1.5,
        "created": 1,
    }
    return Record(**(fields | changed))  # type: ignore[arg-type]


def failure(grid: RequestGrid, request: Request) -> Failure:
    return Failure(
        key=request.key.hex(),
        index=request.index,
        repeat=request.repeat,
        variables=grid.variables(request),
        error=FailureError(type="refusal"),
        attempts=1,
        maybe_paid=1,
        created=1,
    )


def write(path: Path, rows: Iterable[Record | Failure]) -> None:
    path.write_bytes(b"".join(encode_line(row) for row in rows))


def test_a_run_that_is_not_there_holds_nothing(open_job: Open, tmp_path: Path) -> None:
    there = measure_run(RunDirectory(tmp_path / "nowhere"), open_job().grid)
    assert (there.settled, there.failed, there.stale) == (0, 0, 0)


def test_rows_are_counted_and_measured(open_job: Open, tmp_path: Path) -> None:
    grid = open_job().grid
    first, second, third, _ = grid.requests()
    run = RunDirectory(tmp_path)
    write(run.records, [record(grid, first), record(grid, second, latency_s=0.0)])
    write(run.failures, [failure(grid, first), failure(grid, third), failure(grid, third)])
    there = measure_run(run, grid)
    assert (there.settled, there.failed, there.stale) == (2, 1, 0)
    assert (there.prompt_tokens.mean, there.completion_tokens.mean, there.answer_tokens.mean) == (100, 60, 30)
    assert (there.latency_s.count, there.latency_s.mean) == (1, 1.5)


def test_rows_that_the_job_no_longer_asks_for_are_counted_apart(open_job: Open, tmp_path: Path) -> None:
    before = open_job("[generate.parameters]\ntemperature = 0.5", model="m").grid
    run = RunDirectory(tmp_path)
    write(run.records, [record(before, request) for request in before.requests()])
    write(run.failures, [failure(before, request) for request in before.requests()])
    there = measure_run(run, open_job("[generate.parameters]\ntemperature = 0.6", model="m").grid)
    assert (there.settled, there.failed, there.stale) == (0, 0, 4)


def test_rows_in_open_batches_are_counted(open_job: Open, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    batches = [
        BatchState(intent=name, provider="p", base_url="u", model="m", requests=rows, collected=name == "old")
        for name, rows in (("old", 5), ("one", 2), ("two", 1))
    ]
    write_state(run.state, RunState(job=JobState(name="c"), batches=batches))
    assert measure_run(run, open_job().grid).in_batches == 3


def test_a_bad_line_is_told_with_its_number(open_job: Open, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.records.write_bytes(b"{}\n{}\n")
    with pytest.raises(BadLineError, match="line 1"):
        measure_run(run, open_job().grid)
