"""The whole way against the local server: its simulation, and its faults."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from asyncgen.finetune.api import AbsentError, JobOrder, OutageError
from asyncgen.finetune.complete import Completion, PromptForm, PromptSettings, ask_all
from asyncgen.finetune.create import ClockAndEntropy, Created, Dataset, create
from asyncgen.finetune.follow import FollowPace, follow, open_run_log, points_of_table
from asyncgen.finetune.target import open_calls, open_tuner
from asyncgen.providers.endpoint import Endpoint
from asyncgen.providers.openai_client import Pacing
from asyncgen.providers.profiles import PROFILES

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from asyncgen.finetune.api import Event, Tuner, TuningJob
    from asyncgen.run.directory import RunWriter

Result = TypeVar("Result")
ORDER = JobOrder(model="simulated", suffix="adverts", hyperparameters={"n_epochs": 2, "batch_size": 4})


class Listener:
    def __init__(self) -> None:
        self.ids: list[str] = []

    def on_event(self, event: Event) -> None:
        self.ids.append(event.id)

    def on_job(self, job: TuningJob) -> None:
        pass

    def on_outage(self, error: Exception) -> None:
        pass


def endpoint(server: Any) -> Endpoint:
    return Endpoint(PROFILES["local"], server.base_url, None, "simulated", "a test")


async def in_the_end(command: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """As a user does: the same command again, while the provider cannot be reached."""
    for _ in range(20):
        try:
            return await command()
        except OutageError:
            continue
    raise AssertionError("twenty commands did not get through")


async def tuned(tuner: Tuner, run: RunWriter, training: Path) -> tuple[Created, TuningJob, list[str]]:
    async def quick(_seconds: float) -> None:
        await asyncio.sleep(0)

    listener = Listener()
    created = await in_the_end(lambda: create(tuner, run, ORDER, Dataset(training), clock=ClockAndEntropy(sleep=quick)))
    pace = FollowPace(first_s=0.02, longest_s=0.1)
    with open_run_log(run, created.job.id) as log:
        job = await in_the_end(
            lambda: follow(tuner.jobs, created.job.id, log, listener, stop=asyncio.Event(), pace=pace)
        )
    assert job is not None
    return created, job, listener.ids


async def all_ids(tuner: Tuner) -> list[str]:
    return [job.id async for job in tuner.jobs.all()]


def test_a_dataset_becomes_a_model_that_answers_and_is_deleted(
    simulated_server: Callable[..., Any], run: RunWriter, training_file: Path
) -> None:
    async def scenario() -> None:
        server = endpoint(simulated_server())
        async with open_tuner(server) as tuner, open_calls(server) as calls:
            created, job, ids = await tuned(tuner, run, training_file)
            assert (created.how, job.outcome) == ("new", "succeeded")
            assert len(ids) == len(set(ids)) > 6
            assert job.tuned_model is not None
            assert run.state.uploads[0].base_url == ""
            assert len(points_of_table(await tuner.jobs.metrics(job) or b"")) == 6
            assert [found.step for found in await tuner.jobs.checkpoints(job.id)] == [6, 3]
            asking = PromptSettings(job.tuned_model, PromptForm(system="Be brief."))
            (answer,) = [answer async for answer in ask_all(calls, asking, ["Hotel, New York, small"])]
            assert isinstance(answer, Completion)
            assert answer.text
            await tuner.models.delete(job.tuned_model)
            with pytest.raises(AbsentError):
                await tuner.models.get(job.tuned_model)

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_server_full_of_faults_still_trains_one_job_and_tells_each_event_once(
    seed: int, simulated_server: Callable[..., Any], run: RunWriter, training_file: Path
) -> None:
    faults = {"500": 0.1, "503": 0.05, "reset": 0.1, "reset-after": 0.1, "malformed": 0.05, "truncated": 0.05}

    async def quick(_seconds: float) -> None:
        await asyncio.sleep(0)

    async def scenario() -> None:
        server = endpoint(simulated_server(faults=faults, seed=seed))
        async with open_tuner(server, pacing=Pacing(attempts=8, sleep=quick, rng=Random(seed))) as tuner:
            _, job, ids = await tuned(tuner, run, training_file)
            assert job.outcome == "succeeded"
            assert len(ids) == len(set(ids))
            assert await in_the_end(lambda: all_ids(tuner)) == [job.id]

    asyncio.run(scenario())


def test_a_server_that_forgot_everything_gets_the_file_again(
    simulated_server: Callable[..., Any], run: RunWriter, training_file: Path
) -> None:
    async def once() -> str:
        async with open_tuner(endpoint(simulated_server())) as tuner:
            created, _, _ = await tuned(tuner, run, training_file)
            assert created.how == "new"
            return created.job.id

    assert asyncio.run(once()) != asyncio.run(once())
    assert len(run.state.uploads) == 1
    assert len(run.state.finetuning) == 2
