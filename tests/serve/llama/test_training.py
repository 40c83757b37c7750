"""The samples' way to the trainer, and its process, played by small programs."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import pytest

from asyncgen.json_text import NotJsonError
from asyncgen.serve.engine import TrainingTask
from asyncgen.serve.llama import engine
from asyncgen.serve.llama.engine import train, untunable
from asyncgen.serve.llama.process import LlamaSettings
from asyncgen.serve.training.protocol import (
    Hyperparameters,
    TrainerMessage,
    TrainingEnded,
    TrainingFailed,
    TrainingProgress,
)
from asyncgen.serve.tuning.trainers import trainer_messages
from asyncgen.serve.wire import ApiError


async def llama(path: str, body: dict[str, Any] | None) -> dict[str, Any]:
    """What of llama.cpp is asked for samples; it refuses "bad" ones, and takes its time over "slow" ones."""
    text = json.dumps(body)
    if "slow" in text:
        await asyncio.sleep(0.05)
    if "bad" in text:
        raise ApiError(400, "no such text")
    if path == "/props":
        return {"eos_token": "."}
    if path == "/apply-template":
        assert body is not None
        return {"prompt": "".join(message["content"] for message in body["messages"])}
    assert body is not None
    return {"tokens": [ord(character) for character in body["content"]]}


def task(folder: Path, *answers: str) -> TrainingTask:
    upload = folder / "upload"
    lines = (json.dumps({"prompt": "Question", "completion": answer}) for answer in answers)
    upload.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    (folder / "job").mkdir()
    return TrainingTask(
        model="m",
        suffix=None,
        folder=folder / "job",
        train=upload,
        validation=None,
        samples=len(answers),
        hyperparameters=Hyperparameters(n_epochs=1, batch_size=1),
        seed=0,
    )


async def all_of(wanted: TrainingTask) -> list[TrainerMessage]:
    settings = LlamaSettings(Path("model.gguf"), slots=1, threads=1, training_threads=1)
    async with aclosing(train(wanted, settings, llama)) as messages:
        return [message async for message in messages]


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def told(program: str) -> list[TrainerMessage]:
    async def collect() -> list[TrainerMessage]:
        return [message async for message in trainer_messages((sys.executable, "-c", program))]

    return asyncio.run(collect())


def gone(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return False
    return True


def test_messages_are_passed_on_up_to_the_end() -> None:
    program = """print('{"type": "progress", "message": "a"}'); print('{"type": "end", "trained_tokens": 5}')"""
    assert told(program) == [TrainingProgress(message="a"), TrainingEnded(trained_tokens=5)]


def test_first_bad_line_of_a_file_is_named_though_a_later_one_is_found_before(tmp_path: Path) -> None:
    [failure] = asyncio.run(all_of(task(tmp_path, "good", "slow and bad", "bad")))
    assert isinstance(failure, TrainingFailed)
    assert (failure.code, failure.param) == ("invalid_training_file", "training_file")
    assert failure.message == "Line 2 cannot be tokenised: no such text"
    assert left_in(tmp_path / "job") == []


def test_cancelled_tokenising_leaves_no_file(tmp_path: Path) -> None:
    wanted = task(tmp_path, *["slow"] * 100)

    async def scenario() -> None:
        training = asyncio.create_task(all_of(wanted))
        async with asyncio.timeout(20):
            while not left_in(wanted.folder):  # noqa: ASYNC110 - the file is the task's own
                await asyncio.sleep(0)
        training.cancel()
        await asyncio.wait([training])

    asyncio.run(scenario())
    assert left_in(wanted.folder) == []


def test_trainer_gets_its_files_and_they_go_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = """
import json, sys
config = json.load(open(sys.argv[1]))
sample = json.loads(open(config["train"]).readline())
print(json.dumps({"type": "end", "trained_tokens": len(sample["tokens"])}))"""
    monkeypatch.setattr(engine, "_TRAINER", (sys.executable, "-c", program))
    assert asyncio.run(all_of(task(tmp_path, "Answer")))[-1] == TrainingEnded(trained_tokens=len("QuestionAnswer."))
    assert left_in(tmp_path / "job") == []


def test_file_that_cannot_be_written_is_an_error_of_the_disk(tmp_path: Path) -> None:
    wanted = task(tmp_path, "good")
    (wanted.folder / "adapters").write_bytes(b"stands in the way")
    with pytest.raises(OSError, match="exists"):
        asyncio.run(all_of(wanted))


def test_trainers_own_failure_is_the_last_message() -> None:
    program = """print('{"type": "error", "code": "c", "message": "m", "param": "p"}'); raise SystemExit(1)"""
    assert told(program) == [TrainingFailed(code="c", message="m", param="p")]


@pytest.mark.parametrize(
    ("program", "exit_code"), [("import os; os._exit(7)", "7"), ("import os; os.kill(os.getpid(), 9)", "-9")]
)
def test_crash_is_a_failure_with_the_exit_code(program: str, exit_code: str) -> None:
    [failure] = told(program)
    assert isinstance(failure, TrainingFailed)
    assert failure.code == "server_error"
    assert f"exit {exit_code}" in failure.message


def test_line_that_is_no_message_is_a_bug() -> None:
    with pytest.raises(NotJsonError):
        told("print('hello')")


@pytest.mark.parametrize("deaf", [False, True])
def test_closing_ends_the_process_within_two_seconds(deaf: bool) -> None:
    """Also where it does not listen to SIGTERM."""
    program = f"""
import os, signal, time
if {deaf}: signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('{{"type": "progress", "message": "%d"}}' % os.getpid(), flush=True)
time.sleep(60)
"""

    async def scenario() -> tuple[int, float]:
        async with aclosing(trainer_messages((sys.executable, "-c", program))) as messages:
            first = await anext(messages)
            assert isinstance(first, TrainingProgress)
            began = time.monotonic()
        return int(first.message), time.monotonic() - began

    pid, took_s = asyncio.run(scenario())
    assert gone(pid)
    assert took_s < 2


def test_cancelling_ends_the_process(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    program = f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(60)"

    async def consume() -> None:
        async with aclosing(trainer_messages((sys.executable, "-c", program))) as messages:
            async for _ in messages:
                pass

    async def scenario() -> None:
        task = asyncio.create_task(consume())
        async with asyncio.timeout(20):
            while not (mark.exists() and mark.read_text()):  # noqa: ASYNC110 - another process's mark
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(scenario())
    assert gone(int(mark.read_text()))


def test_file_that_is_no_model_cannot_be_tuned(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"not a model")
    assert untunable(path)
    assert untunable(tmp_path / "missing.gguf")
