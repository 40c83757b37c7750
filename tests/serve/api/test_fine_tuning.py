"""Fine-tuning jobs over HTTP, trained in figures only."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any

import openai
import pytest

from asyncgen.serve.simulation.engine import NOTICE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from asyncgen.providers.local_server import ServerInfo

    Ended = Callable[..., Any]


def create(client: openai.OpenAI, training_file: str, /, *, n_epochs: int = 1, **more: Any) -> Any:
    method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": n_epochs, "batch_size": 4}}}
    return client.fine_tuning.jobs.create(
        **{"model": "gpt-x", "training_file": training_file, "method": method, **more}
    )


def upload(client: openai.OpenAI, content: bytes) -> str:
    return client.files.create(file=("train.jsonl", content), purpose="fine-tune").id


def messages(client: openai.OpenAI, identifier: str) -> list[str]:
    """All of a job's messages, oldest first, read page by page."""
    return [event.message for event in client.fine_tuning.jobs.list_events(identifier, limit=3)][::-1]


def test_job_passes_through_its_states_to_a_model_that_answers(
    client: openai.OpenAI, training_file: str, ended: Ended
) -> None:
    job = create(client, training_file, suffix="Direct Marketing!", seed=7, metadata={"run": "a"})
    assert job.status == "validating_files"
    assert (job.seed, job.metadata, job.fine_tuned_model) == (7, {"run": "a"}, None)
    job = ended(client, job.id)
    assert job.status == "succeeded"
    assert job.fine_tuned_model.startswith("ft:gpt-x:simulated:direct-marketing:")
    assert job.trained_tokens > 0
    assert job.finished_at >= job.created_at
    assert job.estimated_finish is None
    answer = client.chat.completions.create(model=job.fine_tuned_model, messages=[{"role": "user", "content": "Hello"}])
    assert answer.model == job.fine_tuned_model
    assert [model.id for model in client.models.list()][:2] == ["simulated", job.fine_tuned_model]


def test_every_job_says_that_it_is_a_simulation(client: openai.OpenAI, training_file: str, ended: Ended) -> None:
    job = create(client, training_file)
    ended(client, job.id)
    assert NOTICE in messages(client, job.id)
    assert client.models.retrieve("gpt-x").owned_by == "asyncgen-simulation"


def test_events_tell_the_course_and_each_is_there_once(client: openai.OpenAI, training_file: str, ended: Ended) -> None:
    job = create(client, training_file, n_epochs=2)
    job = ended(client, job.id)
    told = messages(client, job.id)
    assert told[0] == f"Created fine-tuning job: {job.id}"
    assert told[-2:] == [
        f"New fine-tuned model created: {job.fine_tuned_model}",
        "The job has successfully completed",
    ]
    steps = [message for message in told if message.startswith("Step ")]
    assert [step.split(":")[0] for step in steps] == [f"Step {number}/10" for number in range(1, 11)]
    assert len(told) == len(set(told))


def test_metrics_events_carry_the_figures(client: openai.OpenAI, training_file: str, ended: Ended) -> None:
    job = create(client, training_file, validation_file=training_file)
    ended(client, job.id)
    events = client.fine_tuning.jobs.list_events(job.id, limit=100).data
    metrics = [event.data for event in events if event.type == "metrics" and "Step" in event.message]
    assert len(metrics) == 5
    assert all(
        {"step", "total_steps", "train_loss", "train_mean_token_accuracy"} <= set(data)  # type: ignore[call-overload]
        for data in metrics
    )
    assert metrics[0]["valid_loss"] > 0  # type: ignore[index]
    assert metrics[0]["train_loss"] < metrics[-1]["train_loss"]  # type: ignore[index]
    [whole] = [event for event in events if "full validation loss" in event.message]
    assert set(whole.data) == {"step", "full_valid_loss", "full_valid_mean_token_accuracy"}  # type: ignore[call-overload]


def test_events_page_back_from_any_id(client: openai.OpenAI, training_file: str, ended: Ended) -> None:
    job = create(client, training_file)
    ended(client, job.id)
    every = client.fine_tuning.jobs.list_events(job.id, limit=100)
    assert not every.has_more
    page = client.fine_tuning.jobs.list_events(job.id, limit=2, after=every.data[2].id)
    assert [event.id for event in page.data] == [event.id for event in every.data[3:5]]
    assert page.has_more


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 101}, {"limit": "many"}, {"after": "ftevent-unknown"}])
def test_bad_page_is_refused(client: openai.OpenAI, training_file: str, query: dict[str, Any]) -> None:
    job = create(client, training_file)
    with pytest.raises(openai.BadRequestError) as caught:
        client.fine_tuning.jobs.list_events(job.id, **query)
    assert caught.value.param == next(iter(query))


def test_each_epoch_leaves_a_checkpoint_that_answers(client: openai.OpenAI, training_file: str, ended: Ended) -> None:
    job = create(client, training_file, n_epochs=3)
    ended(client, job.id)
    checkpoints = client.fine_tuning.jobs.checkpoints.list(job.id).data
    assert [checkpoint.step_number for checkpoint in checkpoints] == [15, 10, 5]
    assert checkpoints[0].metrics.train_loss is not None
    first = client.fine_tuning.jobs.checkpoints.list(job.id, limit=1)
    assert (first.data, first.has_more) == (checkpoints[:1], True)
    name = checkpoints[-1].fine_tuned_model_checkpoint
    assert name.endswith(":ckpt-step-5")
    client.chat.completions.create(model=name, messages=[{"role": "user", "content": "Hello"}])


def test_result_file_is_a_table_of_the_steps(client: openai.OpenAI, training_file: str, ended: Ended) -> None:
    job = create(client, training_file)
    job = ended(client, job.id)
    assert client.files.retrieve(job.result_files[0]).purpose == "fine-tune-results"
    rows = list(csv.DictReader(client.files.content(job.result_files[0]).text.splitlines()))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])


def test_hyperparameters_at_the_top_are_taken_too(client: openai.OpenAI, training_file: str, ended: Ended) -> None:
    job = client.fine_tuning.jobs.create(
        model="gpt-x", training_file=training_file, hyperparameters={"n_epochs": 2, "batch_size": 10}
    )
    job = ended(client, job.id)
    assert (job.hyperparameters.n_epochs, job.hyperparameters.batch_size) == (2, 10)
    assert isinstance(job.hyperparameters.learning_rate_multiplier, float)
    assert job.method is not None
    assert job.method.supervised is not None
    assert job.method.supervised.hyperparameters is not None
    assert job.method.supervised.hyperparameters.n_epochs == 2


def test_jobs_list_newest_first_and_filter_by_metadata(client: openai.OpenAI, training_file: str) -> None:
    jobs = [create(client, training_file, metadata={"run": name, "all": "yes"}).id for name in "abc"]
    assert [job.id for job in client.fine_tuning.jobs.list()] == jobs[::-1]
    assert [job.id for job in client.fine_tuning.jobs.list(limit=1)] == jobs[::-1]
    assert [job.id for job in client.fine_tuning.jobs.list(metadata={"run": "b", "all": "yes"})] == [jobs[1]]
    assert client.fine_tuning.jobs.list(metadata={"run": "d"}).data == []


def test_jobs_are_trained_one_at_a_time(client: openai.OpenAI, training_file: str, ended: Ended, until: Any) -> None:
    first = create(client, training_file, n_epochs=50)
    second = create(client, training_file)
    until(lambda: client.fine_tuning.jobs.retrieve(first.id).status == "running")
    until(lambda: client.fine_tuning.jobs.retrieve(second.id).status == "queued")
    client.fine_tuning.jobs.cancel(first.id)
    assert ended(client, second.id).status == "succeeded"


def test_cancelled_job_stops_and_stays_cancelled(client: openai.OpenAI, training_file: str, until: Any) -> None:
    job = create(client, training_file, n_epochs=50)
    running = until(lambda: (found := client.fine_tuning.jobs.retrieve(job.id)).estimated_finish is not None and found)
    assert running.estimated_finish >= running.created_at
    cancelled = client.fine_tuning.jobs.cancel(job.id)
    assert (cancelled.status, cancelled.estimated_finish) == ("cancelled", None)
    told = messages(client, job.id)
    assert told[-1] == "The job was cancelled"
    assert messages(client, job.id) == told
    with pytest.raises(openai.BadRequestError) as caught:
        client.fine_tuning.jobs.cancel(job.id)
    assert caught.value.code == "job_already_ended"


def test_queued_job_that_is_cancelled_never_runs(
    client: openai.OpenAI, training_file: str, ended: Ended, until: Any
) -> None:
    first = create(client, training_file)
    second = create(client, training_file)
    client.fine_tuning.jobs.cancel(second.id)
    ended(client, first.id)
    third = create(client, training_file)
    ended(client, third.id)
    assert client.fine_tuning.jobs.retrieve(second.id).status == "cancelled"
    assert not [message for message in messages(client, second.id) if message.startswith("Step")]


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"training_file": "file-unknown"}, "training_file"),
        ({"validation_file": "file-unknown"}, "validation_file"),
        ({"suffix": "x" * 65}, "suffix"),
        ({"seed": -1}, "seed"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
        ({"method": {"type": "reinforcement"}}, "method"),
        ({"method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 51}}}},
         "method.supervised.hyperparameters.n_epochs"),
        ({"method": {"type": "supervised", "supervised": {"hyperparameters": {"lora_r": 8}}}},
         "method.supervised.hyperparameters"),
        ({"model": None}, "model"),
    ],
)  # fmt: skip
def test_bad_job_is_refused(client: openai.OpenAI, training_file: str, more: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, training_file, **more)
    assert (caught.value.param or "").startswith(param)
    assert client.fine_tuning.jobs.list().data == []


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("n_epochs", "3", '"auto" or a whole number from 1 to 50'),
        ("n_epochs", 0, '"auto" or a whole number from 1 to 50'),
        ("n_epochs", 1.5, '"auto" or a whole number from 1 to 50'),
        ("batch_size", 257, '"auto" or a whole number from 1 to 256'),
        ("learning_rate_multiplier", "high", '"auto" or a number above 0 and up to 10'),
        ("learning_rate_multiplier", 10.5, '"auto" or a number above 0 and up to 10'),
        ("learning_rate_multiplier", 0, '"auto" or a number above 0 and up to 10'),
        ("learning_rate_multiplier", None, '"auto" or a number above 0 and up to 10'),
    ],
)
def test_bad_hyperparameter_is_told_what_it_may_be(
    client: openai.OpenAI, training_file: str, name: str, value: Any, expected: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, training_file, method={"type": "supervised", "supervised": {"hyperparameters": {name: value}}})
    param = f"method.supervised.hyperparameters.{name}"
    assert caught.value.param == param
    assert caught.value.body["message"] == f"Invalid '{param}': expected {expected}."  # type: ignore[index]


def test_job_without_a_file_names_the_parameter(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/fine_tuning/jobs", body={"model": "m"}, cast_to=object)
    assert (caught.value.code, caught.value.param) == ("missing_required_parameter", "training_file")


def test_file_for_another_purpose_is_refused(client: openai.OpenAI) -> None:
    batch = client.files.create(file=("b.jsonl", b"x"), purpose="batch")
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, batch.id)
    assert caught.value.code == "invalid_file_purpose"


def test_file_with_bad_lines_fails_the_job_and_names_them(
    client: openai.OpenAI, chat_samples: Callable[[int], bytes], ended: Ended
) -> None:
    lines = chat_samples(20).splitlines()
    lines[2] = b'{"messages": [{"role": "pirate", "content": "x"}]}'
    lines[16] = b"{"
    job = ended(client, create(client, upload(client, b"\n".join(lines))).id)
    assert job.status == "failed"
    assert job.error is not None
    assert (job.error.code, job.error.param) == ("invalid_training_file", "training_file")
    assert "2 invalid line(s)" in job.error.message
    assert "line 3: " in job.error.message
    assert "line 17: " in job.error.message
    assert messages(client, job.id)[-1].startswith("The job failed: ")
    assert job.finished_at is not None


def test_file_in_another_encoding_fails_the_job_and_leaves_the_server_alone(
    client: openai.OpenAI, chat_samples: Callable[[int], bytes], ended: Ended
) -> None:
    job = ended(
        client, create(client, upload(client, chat_samples(20) + b'{"prompt": "Caf\xe9", "completion": "x"}')).id
    )
    assert job.error is not None
    assert "line 21: not valid JSON" in job.error.message
    assert ended(client, create(client, upload(client, chat_samples(20))).id).status == "succeeded"


def test_fewer_than_ten_samples_fail_the_job(
    client: openai.OpenAI, chat_samples: Callable[[int], bytes], ended: Ended
) -> None:
    job = ended(client, create(client, upload(client, chat_samples(9))).id)
    assert job.status == "failed"
    assert job.error is not None
    assert "has 9 example(s), but must have at least 10" in job.error.message


def test_bad_validation_file_is_named(client: openai.OpenAI, training_file: str, ended: Ended) -> None:
    job = ended(client, create(client, training_file, validation_file=upload(client, b"no")).id)
    assert job.error is not None
    assert (job.error.code, job.error.param) == ("invalid_validation_file", "validation_file")


@pytest.mark.parametrize("param", ["training_file", "validation_file"])
def test_file_that_is_deleted_before_the_training_is_named_by_its_parameter(
    client: openai.OpenAI,
    training_file: str,
    chat_samples: Callable[[int], bytes],
    ended: Ended,
    until: Any,
    param: str,
) -> None:
    first = create(client, training_file, n_epochs=50)
    doomed = upload(client, chat_samples(20))
    files: dict[str, Any] = {"training_file": training_file, param: doomed}
    job = create(client, files.pop("training_file"), **files)
    until(lambda: client.fine_tuning.jobs.retrieve(job.id).status == "queued")
    client.files.delete(doomed)
    client.fine_tuning.jobs.cancel(first.id)
    failed = ended(client, job.id)
    assert failed.error is not None
    assert (failed.error.code, failed.error.param) == ("file_not_found", param)
    assert doomed in failed.error.message


def test_preference_samples_are_taken_for_dpo(client: openai.OpenAI, ended: Ended) -> None:
    line = {
        "input": {"messages": [{"role": "user", "content": "Hello"}]},
        "preferred_output": [{"role": "assistant", "content": "Good day."}],
        "non_preferred_output": [{"role": "assistant", "content": "What?"}],
    }
    file = upload(client, (json.dumps(line) + "\n").encode() * 10)
    job = create(client, file, method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.1}}})
    assert ended(client, job.id).status == "succeeded"


def test_unknown_job_is_404(client: openai.OpenAI) -> None:
    for call in (
        client.fine_tuning.jobs.retrieve,
        client.fine_tuning.jobs.cancel,
        client.fine_tuning.jobs.list_events,
        client.fine_tuning.jobs.checkpoints.list,
    ):
        with pytest.raises(openai.NotFoundError):
            call("ftjob-unknown")


def test_tuned_model_can_be_deleted_and_a_base_model_cannot(
    client: openai.OpenAI, training_file: str, ended: Ended
) -> None:
    name = ended(client, create(client, training_file).id).fine_tuned_model
    assert name is not None
    assert client.models.delete(name).deleted
    for call in (client.models.retrieve, client.models.delete):
        with pytest.raises(openai.NotFoundError):
            call(name)
    with pytest.raises(openai.PermissionDeniedError) as caught:
        client.models.delete("simulated")
    assert (caught.value.code, caught.value.param) == ("base_model", "model")


def test_jobs_events_and_models_outlive_the_server(
    tmp_path: Path,
    restarted: Any,
    chat_samples: Callable[[int], bytes],
    ended: Ended,
) -> None:
    with restarted(tmp_path) as client:
        job = ended(client, create(client, upload(client, chat_samples(20))).id)
        told = messages(client, job.id)
    with restarted(tmp_path) as client:
        assert client.fine_tuning.jobs.retrieve(job.id) == job
        assert messages(client, job.id) == told
        assert len(client.fine_tuning.jobs.checkpoints.list(job.id).data) == 1
        assert client.models.retrieve(job.fine_tuned_model or "").owned_by == "simulated"


def test_job_in_training_is_trained_again_after_a_restart(
    tmp_path: Path, restarted: Any, chat_samples: Callable[[int], bytes], ended: Ended, until: Any
) -> None:
    with restarted(tmp_path) as client:
        file = upload(client, chat_samples(20))
        job = create(client, file, n_epochs=50)
        later = create(client, file)
        until(lambda: any(message.startswith("Step 9/") for message in messages(client, job.id)))
    with restarted(tmp_path) as client:
        assert client.fine_tuning.jobs.retrieve(job.id).status in {"queued", "running"}
        assert ended(client, job.id).status == "succeeded"
        assert ended(client, later.id).status == "succeeded"
        told = messages(client, job.id)
        assert told.count("The server was stopped; the training starts again") == 1
        assert told.count("Fine-tuning job started") == 2
        assert len(client.fine_tuning.jobs.checkpoints.list(job.id, limit=100).data) == 50


def test_training_that_begins_again_takes_its_models_back(
    tmp_path: Path, restarted: Any, chat_samples: Callable[[int], bytes], until: Any
) -> None:
    def tuned(client: openai.OpenAI) -> list[str]:
        return [model.id for model in client.models.list() if model.id.startswith("ft:")]

    with restarted(tmp_path) as client:
        job = create(client, upload(client, chat_samples(20)), n_epochs=50)
        until(lambda: len(tuned(client)) > 5)
    with restarted(tmp_path) as client:
        until(lambda: client.fine_tuning.jobs.retrieve(job.id).status == "running")
        client.fine_tuning.jobs.cancel(job.id)
        checkpoints = client.fine_tuning.jobs.checkpoints.list(job.id, limit=100).data
        assert tuned(client) == [checkpoint.fine_tuned_model_checkpoint for checkpoint in checkpoints]


def test_jobs_of_one_second_keep_their_order_after_a_restart(
    tmp_path: Path, restarted: Any, chat_samples: Callable[[int], bytes]
) -> None:
    with restarted(tmp_path) as client:
        file = upload(client, chat_samples(20))
        jobs = [create(client, file, n_epochs=50).id for _ in range(8)]
        files = [file, *(upload(client, b"{}") for _ in range(8))]
    with restarted(tmp_path) as client:
        assert [job.id for job in client.fine_tuning.jobs.list()] == jobs[::-1]
        assert [found.id for found in client.files.list()] == files[::-1]
        assert "sequence" not in client.fine_tuning.jobs.list().data[0].model_dump()


def test_job_that_ended_three_servers_fails(
    tmp_path: Path, restarted: Any, chat_samples: Callable[[int], bytes], until: Any
) -> None:
    with restarted(tmp_path) as client:
        job = create(client, upload(client, chat_samples(20)), n_epochs=50)
        until(lambda: client.fine_tuning.jobs.retrieve(job.id).status == "running")
    path = tmp_path / "jobs" / job.id / "job.json"
    kept = json.loads(path.read_bytes())
    assert kept["starts"] == 0, "an orderly stop does not count"
    path.write_text(json.dumps({**kept, "starts": 3}), encoding="utf-8")
    with restarted(tmp_path) as client:
        failed = client.fine_tuning.jobs.retrieve(job.id)
        assert failed.status == "failed"
        assert failed.error is not None
        assert failed.error.code == "server_error"


def test_torn_last_event_is_passed_over(
    tmp_path: Path, restarted: Any, chat_samples: Callable[[int], bytes], ended: Ended
) -> None:
    with restarted(tmp_path) as client:
        job = ended(client, create(client, upload(client, chat_samples(20))).id)
        told = messages(client, job.id)
    events = tmp_path / "jobs" / job.id / "events.jsonl"
    events.write_bytes(events.read_bytes() + b'{"id": "ftev')
    with restarted(tmp_path) as client:
        assert messages(client, job.id) == told


def test_made_up_training_takes_as_long_as_asked(
    simulated_server: Callable[..., ServerInfo],
    sdk: Callable[[ServerInfo], openai.OpenAI],
    chat_samples: Callable[[int], bytes],
    ended: Callable[..., Any],
    until: Callable[..., Any],
) -> None:
    client = sdk(simulated_server(training_s=3600))
    file = client.files.create(file=("train.jsonl", chat_samples(20)), purpose="fine-tune").id
    job = client.fine_tuning.jobs.create(model="m", training_file=file)
    until(lambda: client.fine_tuning.jobs.retrieve(job.id).status == "running")
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    client = sdk(simulated_server(training_s=1))
    file = client.files.create(file=("train.jsonl", chat_samples(20)), purpose="fine-tune").id
    done = ended(client, client.fine_tuning.jobs.create(model="m", training_file=file).id)
    assert done.finished_at is not None
    assert done.finished_at - done.created_at >= 1
