"""Runs made for the tests of this package: a job, and records as generation would have left them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from asyncgen.job.load import read_job_file
from asyncgen.job.opened import OpenedJob, keep_job, open_job
from asyncgen.run.directory import RunDirectory, RunWriter, open_run
from asyncgen.run.records import Failure, FailureError, Record, Usage, encode_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from asyncgen.job.requests import Request
    from asyncgen.run.state import RunState

JOB = """
name = "shops"
[grid]
sector = ["Grocery", "Pharmacy", "Bakery", "Books"]
city = ["Brussels", "Paris", "Berlin"]
[prompt]
user = "Write for {sector} in {city}."
sample = "{sector}, {city}"
[generate]
repeats = 3
"""


@dataclass
class MadeRun:
    """A run on disk, and what made it."""

    path: Path
    opened: OpenedJob
    records: list[Record] = field(default_factory=list)

    @property
    def directory(self) -> RunDirectory:
        return RunDirectory(self.path)

    def request(self, place: int) -> Request:
        return next(request for request in self.opened.grid.requests() if request.index == place)

    def record(self, request: Request, completion: str | None = None, **changes: Any) -> Record:
        grid = self.opened.grid
        answer = f"Answer {request.index} is for {', '.join(request.values)}." if completion is None else completion
        made = Record(
            key=request.key.hex(),
            index=request.index,
            repeat=request.repeat,
            variables=grid.variables(request),
            prompt=grid.prompt(request),
            completion=answer,
            model="some-model-2026",
            finish_reason="stop",
            usage=Usage(100, 0, 10, 0),
            attempts=1,
            check_failures=[],
            latency_s=0.25,
            created=1_790_000_000 + request.index,
            request_id="req_1",
        )
        return msgspec.structs.replace(made, **changes)

    def fill(self, change: Callable[[Record], Record | None] = lambda record: record) -> MadeRun:
        """Write a record for every request; `change` may alter one, or leave it out."""
        made = (change(self.record(request)) for request in self.opened.grid.requests())
        return self.write([record for record in made if record is not None])

    def write(self, records: list[Record]) -> MadeRun:
        self.records = records
        self.directory.records.write_bytes(b"".join(map(encode_line, records)))
        return self

    def fail(self, place: int, kind: str = "server_error") -> None:
        request = self.request(place)
        failure = Failure(
            key=request.key.hex(),
            index=request.index,
            repeat=request.repeat,
            variables=self.opened.grid.variables(request),
            error=FailureError(type=kind, message="no"),
            attempts=3,
            maybe_paid=0,
            created=1_790_000_000,
        )
        with self.directory.failures.open("ab") as file:
            file.write(encode_line(failure))


def settle(run: RunWriter, opened: OpenedJob) -> None:
    """Note in the run what generation notes: the job, and its fingerprint.

    A run that has records already is left as after a job was changed and before generation looked at the rows.
    """
    keep_job(run, opened)
    if run.directory.records.exists():
        return

    def change(state: RunState) -> RunState:
        job = msgspec.structs.replace(state.job, fingerprint=opened.grid.fingerprint)
        return msgspec.structs.replace(state, job=job)

    run.update(change)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., MadeRun]:
    """Make a run of the job above with more tables; the same `name` again changes that run's job."""

    def make(
        tables: str = "", *, job: str = JOB, name: str = "run", generation: str = "openai", tuning: str = "local"
    ) -> MadeRun:
        file = tmp_path / f"{name}.toml"
        file.write_text(f"{job}\n{tables}", encoding="utf-8")
        opened = open_job(read_job_file(file), generation=generation, tuning=tuning, model="some-model")
        with open_run(tmp_path / name, job_name=opened.job.name) as run:
            settle(run, opened)
        return MadeRun(tmp_path / name, opened)

    return make
