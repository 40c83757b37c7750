"""A server lives on with a damaged data folder, with any model's name, and on a full disk."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import openai
import pytest

from asyncgen.errors import DiskError, UsageError
from asyncgen.providers.local_server import server_info
from asyncgen.serve.data_folder import open_data_folder
from asyncgen.serve.stores import files as files_module

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from openai.types.fine_tuning import FineTuningJob

GARBAGE = [b"\x00\xff garbage\n", b"[" * 100_000 + b"\n", b'{"id": 1e400}\n', b"{}\n"]


@pytest.fixture
def trained(
    restarted: Callable[[Path], AbstractContextManager[openai.OpenAI]],
    chat_samples: Callable[[int], bytes],
    ended: Callable[..., FineTuningJob],
    tmp_path: Path,
) -> tuple[Path, FineTuningJob]:
    """A data folder with a finished job, a batch and files in it."""
    with restarted(tmp_path) as client:
        file = client.files.create(file=("train.jsonl", chat_samples(20)), purpose="fine-tune").id
        job = ended(client, client.fine_tuning.jobs.create(model="m", training_file=file).id)
    return tmp_path, job


def test_damaged_lines_of_a_log_are_passed_over(
    restarted: Callable[[Path], AbstractContextManager[openai.OpenAI]], trained: tuple[Path, FineTuningJob]
) -> None:
    folder, job = trained
    path = folder / "jobs" / job.id / "events.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], *GARBAGE, *lines[1:], lines[0][:20]]))
    with restarted(folder) as client:
        events = [event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=100)]
        assert len(events) == len(lines)
    (folder / "jobs" / job.id / "checkpoints.jsonl").write_bytes(b"".join(GARBAGE))
    with restarted(folder) as client:
        assert client.fine_tuning.jobs.checkpoints.list(job.id).data == []


@pytest.mark.parametrize("content", [b"", b"{", b"\0" * 9, b"[" * 100_000, b'{"engine": 3}'])
def test_every_object_may_be_damaged(
    restarted: Callable[[Path], AbstractContextManager[openai.OpenAI]],
    trained: tuple[Path, FineTuningJob],
    content: bytes,
) -> None:
    folder, job = trained
    for path in [*folder.rglob("*.json"), *folder.rglob("*.jsonl")]:
        path.write_bytes(content)
    (folder / "jobs" / "stray").write_bytes(b"")
    (folder / "models" / "folder.json").mkdir()
    with restarted(folder) as client:
        assert client.fine_tuning.jobs.list().data == []
        assert client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}]).choices
        with pytest.raises(openai.NotFoundError):
            client.fine_tuning.jobs.retrieve(job.id)


def test_object_that_names_a_path_is_not_served(
    restarted: Callable[[Path], AbstractContextManager[openai.OpenAI]], trained: tuple[Path, FineTuningJob]
) -> None:
    folder, _ = trained
    secret = folder / "secret"
    secret.write_text("for nobody")
    [one] = [path for path in (folder / "files").glob("*.json") if b"fine-tune" in path.read_bytes()][:1]
    fields = json.loads(one.read_bytes())
    for identifier in ("../secret", str(secret)):
        (folder / "files" / "x.json").write_text(json.dumps({**fields, "id": identifier}))
        with restarted(folder) as client:
            assert identifier not in [file.id for file in client.files.list()]
            with pytest.raises(openai.NotFoundError):
                client.files.content("..%2Fsecret")
    model = json.loads(next((folder / "models").glob("*.json")).read_bytes())
    evil = {**model, "id": "ft:m:o::1", "adapter": "../../etc/passwd"}
    (folder / "models" / "ft_m_o__1.json").write_text(json.dumps(evil))
    with restarted(folder) as client:
        assert "ft:m:o::1" not in [found.id for found in client.models.list()]


@pytest.mark.parametrize(
    "model", ["meta-llama/Meta-Llama-3.1-8B-Instruct", "..", "../../x", "m" * 300, "m m", "Ä", "a:b", "\u0000", "."]
)
def test_model_of_any_name_is_tuned_answers_and_is_deleted(
    restarted: Callable[[Path], AbstractContextManager[openai.OpenAI]],
    chat_samples: Callable[[int], bytes],
    ended: Callable[..., FineTuningJob],
    tmp_path: Path,
    model: str,
) -> None:
    folder = tmp_path / "data"
    with restarted(folder) as client:
        file = client.files.create(file=("train.jsonl", chat_samples(20)), purpose="fine-tune").id
        job = ended(client, client.fine_tuning.jobs.create(model=model, training_file=file).id)
        assert job.status == "succeeded", job.error
        assert job.fine_tuned_model is not None
    assert {path.name for path in tmp_path.iterdir()} == {"data"}
    with restarted(folder) as client:
        named = [found.id for found in client.models.list() if found.id.startswith("ft:")]
        assert job.fine_tuned_model in named
        asked: list[Any] = [{"role": "user", "content": "x"}]
        assert client.chat.completions.create(model=job.fine_tuned_model, messages=asked).choices
    assert not [path for path in tmp_path.rglob("*") if len(path.name) > 200]


def test_full_disk_fails_the_job_and_no_other_request(
    client: openai.OpenAI, training_file: str, ended: Callable[..., FineTuningJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise DiskError("it could not be written", cause="No space left on device")

    job = client.fine_tuning.jobs.create(model="m", training_file=training_file)
    with monkeypatch.context() as patch:
        patch.setattr(files_module, "write_whole", full)
        failed = ended(client, job.id)
        assert (failed.status, failed.error and failed.error.code) == ("failed", "io_error")
        assert failed.error is not None
        assert failed.error.message is not None
        assert "No space left" in failed.error.message
        for ask in (
            lambda: client.fine_tuning.jobs.create(model="m", training_file=training_file),
            lambda: client.files.create(file=("x.jsonl", b"x\n"), purpose="batch"),
        ):
            with pytest.raises(openai.InternalServerError) as caught:
                ask()
            assert caught.value.code == "io_error"
        assert len(client.fine_tuning.jobs.list().data) == 1
        assert len(client.files.list().data) == 1
    again = client.fine_tuning.jobs.create(model="m", training_file=training_file)
    assert ended(client, again.id).status == "succeeded"


def test_full_disk_fails_the_batch_and_no_other_one(
    client: openai.OpenAI, until: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": body}
    file = client.files.create(file=("b.jsonl", json.dumps(line).encode() + b"\n"), purpose="batch").id
    ends = {"failed", "completed"}

    def batch() -> Any:
        made = client.batches.create(input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h")
        return until(lambda: (found := client.batches.retrieve(made.id)).status in ends and found)

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files_module.FileStore, "copy", full)
        failed = batch()
        assert failed.status == "failed"
        assert "No space left" in failed.errors.data[0].message
    assert batch().status == "completed"


def test_bug_in_a_job_ends_that_job_alone(
    client: openai.OpenAI,
    training_file: str,
    ended: Callable[..., FineTuningJob],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("secret detail")

    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
        patch.setattr("asyncgen.serve.tuning.work.check_samples", broken)
        failed = ended(client, client.fine_tuning.jobs.create(model="m", training_file=training_file).id)
    assert (failed.status, failed.error and failed.error.code) == ("failed", "server_error")
    assert "secret detail" in caplog.text
    again = client.fine_tuning.jobs.create(model="m", training_file=training_file)
    assert ended(client, again.id).status == "succeeded"


def test_folder_that_others_can_read_is_told(tmp_path: Path) -> None:
    said: list[str] = []
    open_data_folder(tmp_path / "own", "simulated", said.append).close()
    assert said == []
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "open").chmod(0o755)
    open_data_folder(tmp_path / "open", "simulated", said.append).close()
    assert "chmod 700" in said[0]


def test_folder_of_a_newer_asyncgen_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "folder.json").write_text('{"engine": "simulated", "version": 99}')
    with pytest.raises(UsageError, match="newer"):
        open_data_folder(tmp_path, "simulated", lambda _: None)
    assert b"99" in (tmp_path / "folder.json").read_bytes()
    assert server_info(tmp_path) is None
