"""The queue of fine-tuning jobs with work of the test's own."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, cast

import pytest

from asyncgen.serve.stores.jobs import ENDED, JobEntry, JobStore, ServedJob
from asyncgen.serve.training.protocol import Hyperparameters
from asyncgen.serve.tuning.queue import TuningQueue

if TYPE_CHECKING:
    from pathlib import Path

    from asyncgen.serve.tuning.work import TuningWork

ID = "ftjob-1"


class EndOfServer(BaseException):
    """What ends a server in the middle of its work."""


BUG = EndOfServer()


class Work:
    """Two steps of which one may meet a bug.

    Args:
        jobs: the store.
        bug_in: "check", "train" or "".
        bug: what is met there.
    """

    def __init__(self, jobs: JobStore, bug_in: str, bug: BaseException) -> None:
        self._jobs = jobs
        self._bug_in = bug_in
        self._bug = bug

    async def check(self, job: ServedJob) -> None:
        self._meet("check")
        self._jobs.change(job.id, status="queued")

    async def train(self, job: ServedJob) -> None:
        self._meet("train")
        self._jobs.change(job.id, status="succeeded")

    def _meet(self, step: str) -> None:
        if step == self._bug_in:
            raise self._bug


def server(folder: Path, bug_in: str = "", bug: BaseException = BUG) -> ServedJob:
    """A server on the folder, up to the job's end or its own; the job is created where there is none."""

    async def live() -> None:
        queue = TuningQueue(jobs, cast("TuningWork", Work(jobs, bug_in, bug)), "", lambda: 0.0)
        running = asyncio.create_task(queue.run())
        await asyncio.sleep(0)
        if not jobs.all():
            queue.submit(_kept())
        async with asyncio.timeout(10):
            while not (running.done() or jobs.get(ID).status in ENDED):  # noqa: ASYNC110 - as a client polls
                await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running])
        if not running.cancelled():
            running.result()

    jobs = JobStore(folder, lambda: 0.0)
    asyncio.run(live())
    return jobs.get(ID)


def _kept() -> JobEntry:
    job = ServedJob(
        id=ID,
        created_at=0,
        model="m",
        organization_id="org",
        training_file="file-1",
        hyperparameters=Hyperparameters(),
        method={"type": "supervised"},
        seed=0,
    )
    return JobEntry(job=job, model_name="ft:m")


@pytest.mark.parametrize("step", ["check", "train"])
def test_job_that_ends_three_servers_is_failed_by_the_next(tmp_path: Path, step: str) -> None:
    for _ in range(3):
        with pytest.raises(BaseExceptionGroup) as caught:
            server(tmp_path, bug_in=step)
        assert caught.group_contains(EndOfServer)
    failed = server(tmp_path, bug_in=step)
    assert failed.status == "failed"
    assert failed.error is not None
    assert failed.error.code == "server_error"
    assert "stopped 3 times" in failed.error.message


def test_servers_that_the_check_ended_do_not_count_for_the_training(tmp_path: Path) -> None:
    for step in ("check", "check", "train", "train"):
        with pytest.raises(BaseExceptionGroup):
            server(tmp_path, bug_in=step)
    assert server(tmp_path).status == "succeeded"


@pytest.mark.parametrize("step", ["check", "train"])
def test_full_disk_fails_the_job_and_not_the_server(tmp_path: Path, step: str) -> None:
    failed = server(tmp_path, bug_in=step, bug=OSError(errno.ENOSPC, "No space left on device", "/secret/path"))
    assert failed.error is not None
    assert failed.error.code == "io_error"
    assert failed.error.message == "The job's files could not be read or written: No space left on device."


@pytest.mark.parametrize("step", ["check", "train"])
def test_bug_fails_the_job_and_not_the_server(tmp_path: Path, step: str) -> None:
    failed = server(tmp_path, bug_in=step, bug=ZeroDivisionError("secret detail"))
    assert failed.error is not None
    assert failed.error.code == "server_error"
    assert "secret" not in failed.error.message
