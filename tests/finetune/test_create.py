"""asyncgen.finetune.create: one job, whatever happens on the way to it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from asyncgen.errors import AsyncgenError, AuthError, QuotaError
from asyncgen.finetune.api import JobOrder, OutageError, TrainingClosedError
from asyncgen.finetune.create import INTENT_KEY, ClockAndEntropy, Created, Dataset, create

if TYPE_CHECKING:
    from pathlib import Path

    from asyncgen.run.directory import RunWriter

NOW = 1_800_000_000
ORDER = JobOrder(model="gpt-4.1-mini-2025-04-14", suffix="adverts", hyperparameters={"n_epochs": 3})
JOBS = "/v1/fine_tuning/jobs$"
# Where a job's metadata come back, and where they do not.
PLACES = pytest.mark.parametrize("name", ["openai", "crusoe"])


def clock() -> ClockAndEntropy:
    async def sleep(_seconds: float) -> None:
        await asyncio.sleep(0)

    return ClockAndEntropy(now=lambda: float(NOW), sleep=sleep)


def make(
    open_provider: Any, run: RunWriter, training: Path, name: str = "openai", order: JobOrder = ORDER, **how: Any
) -> Created:
    async def scenario() -> Created:
        async with open_provider(name) as tuner:
            created: Created = await create(
                tuner, run, order, Dataset(training, how.pop("validation", None)), clock=clock(), **how
            )
            return created

    return asyncio.run(scenario())


def test_a_job_is_created_from_uploaded_files_and_noted(
    provider: Any, open_provider: Any, run: RunWriter, training_file: Path, tmp_path: Path
) -> None:
    validation = tmp_path / "validation.jsonl"
    validation.write_text(training_file.read_text(encoding="utf-8")[:90], encoding="utf-8")
    created = make(open_provider, run, training_file, validation=validation)
    assert created.how == "new"
    (body,) = provider.bodies
    assert provider.contents[body["training_file"]] == training_file.read_bytes()
    assert provider.contents[body["validation_file"]] == validation.read_bytes()
    (noted,) = run.state.finetuning
    assert body["metadata"] == {INTENT_KEY: noted.intent}
    assert (noted.job_id, noted.provider, noted.base_url, noted.created) == (
        created.job.id,
        "openai",
        provider.base_url,
        NOW,
    )


def test_the_intent_is_on_the_disk_before_the_job_is_asked_for(
    provider: Any, open_provider: Any, run: RunWriter, training_file: Path
) -> None:
    on_disk: list[Any] = []
    original = provider.add_job

    def add_job(**fields: Any) -> Any:
        on_disk.append(run.directory.read_state().finetuning)
        return original(**fields)

    provider.add_job = add_job
    make(open_provider, run, training_file)
    ((intent,),) = on_disk
    assert intent.job_id is None
    assert intent.intent == run.state.finetuning[0].intent


def test_the_same_job_is_not_created_twice(
    provider: Any, open_provider: Any, run: RunWriter, training_file: Path
) -> None:
    first = make(open_provider, run, training_file)
    again = make(open_provider, run, training_file)
    assert (again.how, again.job.id) == ("noted", first.job.id)
    assert len(provider.jobs) == 1


def test_another_one_is_created_when_that_is_wished(
    provider: Any, open_provider: Any, run: RunWriter, training_file: Path
) -> None:
    make(open_provider, run, training_file)
    assert make(open_provider, run, training_file, another=True).how == "new"
    assert len(provider.jobs) == 2
    assert len(provider.files) == 1


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_job_that_did_not_succeed_is_created_anew(
    status: str, provider: Any, open_provider: Any, run: RunWriter, training_file: Path
) -> None:
    first = make(open_provider, run, training_file)
    provider.finish(provider.jobs[first.job.id], status)
    assert make(open_provider, run, training_file).how == "new"


def test_a_changed_order_or_dataset_is_another_job(
    provider: Any, open_provider: Any, run: RunWriter, training_file: Path
) -> None:
    make(open_provider, run, training_file)
    assert make(open_provider, run, training_file, order=replace(ORDER, seed=9)).how == "new"
    training_file.write_text(training_file.read_text(encoding="utf-8") * 2, encoding="utf-8")
    assert make(open_provider, run, training_file).how == "new"
    assert len(provider.jobs) == 3


@PLACES
@pytest.mark.parametrize("how", ["reset-after", "half"])
def test_a_job_whose_answer_was_lost_is_found_and_not_asked_for_again(
    how: str, name: str, provider: Any, open_provider: Any, run: RunWriter, training_file: Path
) -> None:
    provider.fail("POST", JOBS, how)
    created = make(open_provider, run, training_file, name)
    assert list(provider.jobs) == [created.job.id]
    assert provider.count("POST", "/fine_tuning/jobs") == 1
    assert run.state.finetuning[0].job_id == created.job.id


@pytest.mark.parametrize("how", ["reset", 500, 503, "html"])
def test_a_request_that_did_nothing_is_made_again(
    how: int | str, provider: Any, open_provider: Any, run: RunWriter, training_file: Path
) -> None:
    provider.fail("POST", JOBS, how)
    created = make(open_provider, run, training_file)
    assert list(provider.jobs) == [created.job.id]
    assert len(run.state.finetuning) == 1


@PLACES
def test_a_command_that_died_before_the_answer_finds_its_job_the_next_time(
    name: str, provider: Any, open_provider: Any, run: RunWriter, training_file: Path
) -> None:
    provider.fail("POST", JOBS, "reset-after")
    provider.fail("GET", JOBS, "reset", times=99)
    with pytest.raises(OutageError, match="not known whether"):
        make(open_provider, run, training_file, name)
    assert [noted.job_id for noted in run.state.finetuning] == [None]
    provider.faults.clear()
    created = make(open_provider, run, training_file, name)
    assert created.how == "recovered"
    assert list(provider.jobs) == [created.job.id]
    assert [noted.job_id for noted in run.state.finetuning] == [created.job.id]


def test_an_intent_without_a_job_is_forgotten_and_the_job_created(
    provider: Any, open_provider: Any, run: RunWriter, training_file: Path
) -> None:
    provider.fail("POST", JOBS, "reset", times=99)
    with pytest.raises(OutageError):
        make(open_provider, run, training_file)
    provider.faults.clear()
    assert make(open_provider, run, training_file).how == "new"
    assert len(provider.jobs) == 1
    assert len(run.state.finetuning) == 1


@PLACES
def test_jobs_of_others_are_not_taken_for_the_lost_one(
    name: str, provider: Any, open_provider: Any, run: RunWriter, training_file: Path
) -> None:
    provider.page_size = 2
    for number in range(5):
        provider.add_job(training_file=f"file-of-others-{number}", metadata={INTENT_KEY: f"theirs-{number}"})
    provider.fail("POST", JOBS, "reset")
    created = make(open_provider, run, training_file, name)
    assert len(provider.jobs) == 6
    assert list(provider.jobs)[-1] == created.job.id


def test_a_job_on_the_same_file_from_long_before_is_not_taken_for_the_lost_one(
    provider: Any, open_provider: Any, run: RunWriter, training_file: Path
) -> None:
    first = make(open_provider, run, training_file, "crusoe")
    provider.jobs[first.job.id]["created_at"] = NOW - 3600
    run.update(lambda state: replace(state, finetuning=[]))
    provider.fail("POST", JOBS, "reset")
    assert make(open_provider, run, training_file, "crusoe").job.id != first.job.id
    assert len(provider.jobs) == 2


def test_a_recovered_job_that_is_not_the_one_asked_for_now_is_noted_and_left(
    provider: Any, open_provider: Any, run: RunWriter, training_file: Path
) -> None:
    provider.fail("POST", JOBS, "reset-after")
    provider.fail("GET", JOBS, "reset", times=99)
    with pytest.raises(OutageError):
        make(open_provider, run, training_file)
    provider.faults.clear()
    created = make(open_provider, run, training_file, order=replace(ORDER, seed=3))
    assert created.how == "new"
    assert [noted.job_id for noted in run.state.finetuning] == list(provider.jobs)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "invalid_value", AsyncgenError),
        (401, "invalid_api_key", AuthError),
        (429, "insufficient_quota", QuotaError),
    ],
)
def test_a_refusal_leaves_no_intent_and_keeps_the_upload(
    status: int,
    code: str,
    kind: type[AsyncgenError],
    provider: Any,
    open_provider: Any,
    run: RunWriter,
    training_file: Path,
) -> None:
    provider.fail("POST", JOBS, status, times=9, code=code)
    with pytest.raises(kind) as caught:
        make(open_provider, run, training_file)
    assert caught.value.code == code
    assert run.state.finetuning == []
    assert provider.count("POST", "/fine_tuning/jobs") == 1
    provider.faults.clear()
    make(open_provider, run, training_file)
    assert provider.count("POST", "/files") == 1


def test_a_closed_account_is_explained_with_other_providers_and_the_files_left_behind(
    provider: Any, open_provider: Any, run: RunWriter, training_file: Path
) -> None:
    provider.closed_account = True
    with pytest.raises(TrainingClosedError) as caught:
        make(open_provider, run, training_file)
    error = caught.value
    assert error.exit_code == 4
    assert error.file_ids == tuple(provider.files)
    assert "2 July 2026" in (error.cause or "")
    assert "nebius" in (error.help_text or "")
    assert "local" in (error.help_text or "")
    assert "openai" not in (error.help_text or "")


def test_a_wait_for_the_rate_limit_does_not_create_two_jobs(
    provider: Any, open_provider: Any, run: RunWriter, training_file: Path
) -> None:
    provider.fail("POST", JOBS, 429, times=3)
    make(open_provider, run, training_file)
    assert len(provider.jobs) == 1


def test_a_stop_while_the_job_is_asked_for_still_notes_it(
    provider: Any, open_provider: Any, run: RunWriter, training_file: Path
) -> None:
    async def scenario() -> None:
        async with open_provider() as tuner:
            task = asyncio.ensure_future(create(tuner, run, ORDER, Dataset(training_file), clock=clock()))
            while not provider.count("POST", "/fine_tuning/jobs"):  # noqa: ASYNC110 - it is in another thread
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(scenario())
    assert [noted.job_id for noted in run.state.finetuning] == list(provider.jobs)


def test_every_request_may_break_once_and_one_job_comes_of_it(
    provider: Any, open_provider: Any, run: RunWriter, training_file: Path
) -> None:
    make(open_provider, run, training_file)
    steps = len(provider.seen)
    for step in range(steps):
        provider.jobs.clear()
        provider.files.clear()
        provider.faults.clear()
        run.update(lambda state: replace(state, uploads=[], finetuning=[]))
        provider.fail("GET", "/", "reset", skip=step)
        provider.fail("POST", "/", "reset-after", skip=step)
        make(open_provider, run, training_file)
        assert len(provider.jobs) == 1
