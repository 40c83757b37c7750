"""Facts about pipes in the place of a run's files: nothing waits for them."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from asyncgen.run.directory import RunDirectory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

JOB = """
name = "ads"
[grid]
city = ["Rome", "Oslo"]
[prompt]
user = "An advert for {city}."
sample = "{city}"
"""
WHERE = ("--provider", "custom", "--base-url", "http://127.0.0.1:9/v1", "--model", "m")


@pytest.fixture
def impatient() -> Iterator[None]:
    """A command that waits for ever is ended."""

    def end(_number: int, _frame: Any) -> None:
        raise AssertionError("it waits for a pipe")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", ["records.jsonl", "failures.jsonl", "run.json", "job.toml"])
@pytest.mark.parametrize("command", ["status", "report", "prepare", "generate"])
def test_a_pipe_in_the_place_of_a_file_is_refused(
    here: Callable[..., Any], made_run: Path, name: str, command: str
) -> None:
    path = made_run / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    words = ("generate", "job.toml", *WHERE) if command == "generate" else (command, str(made_run))
    done = here(*words)
    if (command, name) == ("status", "job.toml") and done.code == 0:
        return  # without an answer there is nothing to look up in the job
    assert done.code == 6, done.err
    assert name in done.err


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", ["prices.toml", "providers.toml"])
@pytest.mark.parametrize("command", ["plan", "generate"])
def test_a_pipe_in_the_place_of_a_file_beside_the_job_is_refused(
    here: Callable[..., Any], made_run: Path, name: str, command: str
) -> None:
    os.mkfifo(made_run.parents[1] / name)
    done = here(command, "job.toml", *WHERE)
    assert done.code == 2, done.err
    assert name in done.err


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("command", ["status", "report", "prepare"])
def test_a_pipe_that_is_named_as_the_job_file_of_a_run_is_refused(
    here: Callable[..., Any], made_run: Path, command: str
) -> None:
    os.mkfifo(made_run.parents[1] / "pipe.toml")
    done = here(command, "pipe.toml")
    assert done.code == 2, done.err
    assert "pipe.toml" in done.err


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", ["live.json", "job.toml", "evaluations"])
def test_a_pipe_where_readers_look_for_what_may_be_missing_stops_nobody(
    here: Callable[..., Any], made_run: Path, name: str
) -> None:
    place = made_run.parents[1] / name if name == "job.toml" else made_run / name
    place.unlink(missing_ok=True)
    os.mkfifo(place)
    assert here("status", str(made_run)).code == 0
    assert here("view", str(made_run), "--export", "page").code == 0
    assert here("prepare", str(made_run), "--yes").code == 1  # there are no samples


@pytest.fixture
def made_run(here: Callable[..., Any], tmp_path: Path) -> Path:
    """A run of which nothing is answered: nobody listens."""
    from asyncgen.job.opened import keep_job, open_named_job  # noqa: PLC0415 - once the keys are out of the environment
    from asyncgen.providers.choose import EndpointFlags  # noqa: PLC0415 - as above
    from asyncgen.run.directory import open_run  # noqa: PLC0415 - as above

    job = tmp_path / "work" / "job.toml"
    job.write_text(JOB)
    opened, _, _ = open_named_job(job, EndpointFlags("custom", "http://127.0.0.1:9/v1", "m"))
    folder = tmp_path / "work" / "runs" / "ads"
    with open_run(folder, job_name="ads") as run:
        keep_job(run, opened)
    assert RunDirectory(folder).job.exists()
    return folder
