"""A fine-tuning job survives the death of the command that creates it: processes killed at the worst moments."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from asyncgen.run.directory import RunDirectory

if TYPE_CHECKING:
    from pathlib import Path


def started(provider: Any, folder: Path, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
    environment = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return subprocess.Popen(
        [sys.executable, "-m", "asyncgen", "finetune", "create", "train.jsonl", "--provider", "openai", "-y"],
        cwd=folder,
        env={
            **environment,
            "HOME": str(folder),
            "OPENAI_BASE_URL": provider.base_url,
            "OPENAI_API_KEY": "sk-x",
            "TERM": "xterm",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


def kill_at(provider: Any, moment: str, process: subprocess.Popen[str]) -> None:
    """Have the process killed when the server is at that moment of the job's creation."""
    create = provider.add_job

    def killing(**fields: Any) -> Any:
        provider.add_job = create
        if moment == "before":
            process.kill()
            raise ConnectionResetError
        job = create(**fields)
        process.kill()
        process.wait()
        return job

    provider.add_job = killing


def end_at_once(provider: Any) -> None:
    provider.script = [lambda job, _events: provider.finish(job)]


def killed_and_repeated(provider: Any, folder: Path, moment: str) -> None:
    first = started(provider, folder)
    kill_at(provider, moment, first)
    first.communicate(timeout=60)
    assert first.returncode == -signal.SIGKILL
    (noted,) = RunDirectory(folder / "runs" / "train").read_state().finetuning
    assert noted.job_id is None
    end_at_once(provider)
    again = started(provider, folder)
    _, err = again.communicate(timeout=60)
    assert again.returncode == 0, err
    (noted,) = RunDirectory(folder / "runs" / "train").read_state().finetuning
    assert [noted.job_id] == list(provider.jobs)
    assert provider.count("POST", "/files") == 1


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_command_killed_while_the_job_is_created_leaves_one_job(
    moment: str, provider: Any, training_file: Path
) -> None:
    killed_and_repeated(provider, training_file.parent, moment)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_fifty_killed_commands_leave_one_job_each(moment: str, provider: Any, training_file: Path) -> None:
    lines = training_file.read_text(encoding="utf-8")
    for number in range(50):
        folder = training_file.parent / str(number)
        folder.mkdir()
        (folder / "train.jsonl").write_text(lines.replace("Hotel", f"Hotel {number}"), encoding="utf-8")
        provider.jobs.clear()
        provider.seen.clear()
        killed_and_repeated(provider, folder, moment)


def test_a_signal_while_the_job_is_created_waits_for_it_and_leaves_it(provider: Any, training_file: Path) -> None:
    create = provider.add_job
    asked = threading.Event()

    def slowly(**fields: Any) -> Any:
        asked.set()
        time.sleep(0.7)
        return create(**fields)

    provider.add_job = slowly
    process = started(provider, training_file.parent)
    assert asked.wait(60)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    (job_id,) = provider.jobs
    assert f"stopped following {job_id}" in err
    assert [
        noted.job_id for noted in RunDirectory(training_file.parent / "runs" / "train").read_state().finetuning
    ] == [job_id]
    assert provider.count("POST", ".*/cancel") == 0


def test_on_a_terminal_the_state_stands_under_the_events(provider: Any, training_file: Path) -> None:
    def training(job: dict[str, Any], _events: Any) -> None:
        job["status"] = "running"
        for step in (1, 2):
            data = {"step": step, "total_steps": 2, "train_loss": 3.0 - step}
            provider.tell(job["id"], f"Step {step}/2", data=data)
        provider.tell(job["id"], "Checkpoint created at step 2")

    provider.script = [training, lambda _job, _events: None, lambda job, _events: provider.finish(job)]
    ours, theirs = pty.openpty()
    process = started(provider, training_file.parent, stderr=theirs)
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # how a terminal's end shows on Linux
        while chunk := os.read(ours, 65536):
            shown += chunk
    os.close(ours)
    process.communicate(timeout=60)
    assert process.returncode == 0
    text = shown.decode()
    assert "Step 2/2" not in text  # the state shows the steps
    state = r"running  step 2 of 2  [0-9.]+ s  loss 1  █▁"
    assert re.search(rf"  Checkpoint created at step 2\r\n.*{state}", text, re.DOTALL)


def interrupted(provider: Any, folder: Path) -> None:
    process = started(provider, folder)
    deadline = time.monotonic() + 60
    while not provider.count("GET", "/fine_tuning/jobs/ftjob-.*/events") and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "finetune cancel ftjob-" in err


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_fifty_interrupted_commands_cancel_nothing_and_create_one_job(provider: Any, training_file: Path) -> None:
    for _ in range(50):
        provider.seen.clear()
        interrupted(provider, training_file.parent)
    assert len(provider.jobs) == 1
    assert provider.count("POST", ".*/cancel") == 0
    assert next(iter(provider.jobs.values()))["status"] == "validating_files"
