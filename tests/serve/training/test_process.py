"""`python -m asyncgen.serve.training` as the server starts it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from asyncgen.serve.training.gguf import read_gguf
from asyncgen.serve.training.protocol import (
    TrainedCheckpoint,
    TrainingEnded,
    TrainingFailed,
    TrainingProgress,
    TrainingStarted,
    TrainingStep,
    decode_message,
)

from .tiny_models import TinyModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

COMMAND = (sys.executable, "-m", "asyncgen.serve.training")


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Path]:
    """A training of a tiny model on twelve samples, as a file."""

    def write(**fields: Any) -> Path:
        samples = np.random.default_rng(0).integers(0, 256, (12, 10)).tolist()
        lines = [json.dumps({"tokens": tokens, "targets": [0] * 5 + [1] * 5}) for tokens in samples]
        (tmp_path / "train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (tmp_path / "valid.jsonl").write_text("\n".join(lines[:3]) + "\n", encoding="utf-8")
        chosen = {
            "model": str(TinyModel().write(tmp_path / "tiny.gguf")),
            "train": str(tmp_path / "train.jsonl"),
            "validation": str(tmp_path / "valid.jsonl"),
            "output_dir": str(tmp_path / "out"),
            "n_epochs": 2,
            "batch_size": 4,
            "layers": 2,
            "rank": 4,
        }
        path = tmp_path / "config.json"
        path.write_text(json.dumps(chosen | fields), encoding="utf-8")
        return path

    return write


def run(*arguments: object) -> tuple[int, list[Any], str]:
    """With a stdin that stays open, as the server's does."""
    with subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines, errors = process.stdout.read(), process.stderr.read()
        return process.wait(), [decode_message(line.encode()) for line in lines.splitlines()], errors


@pytest.fixture
def endless(config: Callable[..., Path]) -> Iterator[subprocess.Popen[bytes]]:
    """A training that is under way and would take hours."""
    process = subprocess.Popen(
        [*COMMAND, str(config(n_epochs=1_000_000))], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    while not isinstance(decode_message(process.stdout.readline()), TrainingStep):
        pass
    yield process
    process.kill()
    assert process.stdin is not None
    process.stdin.close()
    process.stdout.close()
    process.wait()


def test_a_training_tells_its_course_in_order(config: Callable[..., Path], tmp_path: Path) -> None:
    code, messages, errors = run(config())
    assert (code, errors) == (0, "")
    kinds = [type(message) for message in messages if not isinstance(message, TrainingProgress)]
    assert kinds == [
        TrainingStarted,
        TrainingStep,
        TrainingStep,
        TrainingStep,
        TrainedCheckpoint,
        TrainingStep,
        TrainingStep,
        TrainingStep,
        TrainedCheckpoint,
        TrainingEnded,
    ]
    assert messages[0] == TrainingStarted(
        total_steps=6,
        n_epochs=2,
        batch_size=4,
        learning_rate_multiplier=messages[0].learning_rate_multiplier,
        train_samples=12,
        validation_samples=3,
    )
    steps = [message for message in messages if isinstance(message, TrainingStep)]
    assert [(step.step, step.epoch) for step in steps] == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2)]
    assert [step.trained_tokens for step in steps] == [40, 80, 120, 160, 200, 240]
    assert messages[-1].trained_tokens == 240
    assert messages[-1].path == str(tmp_path / "out" / "epoch-2.gguf")


def test_every_epoch_leaves_an_adapter_and_nothing_else(config: Callable[..., Path], tmp_path: Path) -> None:
    _, messages, _ = run(config())
    paths = [str(message.path) for message in messages if isinstance(message, TrainedCheckpoint)]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["epoch-1.gguf", "epoch-2.gguf"]
    for path in paths:
        assert read_gguf(tmp_path / "out" / path).metadata["adapter.type"] == "lora"


def test_sigterm_ends_it_at_once_and_leaves_no_half_file(endless: subprocess.Popen[bytes], tmp_path: Path) -> None:
    asked = time.monotonic()
    endless.terminate()
    assert endless.wait(timeout=2) == -signal.SIGTERM
    assert time.monotonic() - asked < 2
    for path in (tmp_path / "out").iterdir():
        assert path.suffix in {".gguf", ".part"}
        if path.suffix == ".gguf":
            read_gguf(path)


def test_ctrl_c_ends_it_without_a_traceback(config: Callable[..., Path]) -> None:
    process = subprocess.Popen(
        [*COMMAND, str(config(n_epochs=1_000_000))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=5) == -signal.SIGINT
    _, errors = process.communicate()
    assert errors == b""


def test_it_ends_when_its_stdin_closes_however_early(config: Callable[..., Path]) -> None:
    """A server that was killed lets go of it, even before the trainer has begun."""
    path = config(n_epochs=1_000_000)
    for begun in (False, True):
        with subprocess.Popen([*COMMAND, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            if begun:
                process.stdout.readline()
            process.stdin.close()
            assert process.wait(timeout=20) == 1


def test_it_ends_when_nobody_listens_any_more(endless: subprocess.Popen[bytes]) -> None:
    assert endless.stdout is not None
    endless.stdout.close()
    assert endless.wait(timeout=10) == 1


@pytest.mark.parametrize(
    ("fields", "code", "param", "words"),
    [
        ({"model": "/absent.gguf"}, "model_not_found", "model", "there is no file /absent.gguf"),
        ({"train": "/absent.jsonl"}, "invalid_training_file", "training_file", "training file cannot be read"),
        ({"validation": "/absent.jsonl"}, "invalid_validation_file", "validation_file", "file cannot be read"),
        ({"n_epochs": -1}, "invalid_config", None, "n_epochs: "),
        ({"output_dir": "/proc/absent"}, "io_error", None, "No such file or directory"),
        ({"learning_rate_multiplier": 1e30}, "training_diverged", "learning_rate_multiplier", "use a lower"),
        ({"learning_rate_multiplier": 1e39, "n_epochs": 1, "batch_size": 99, "validation": None}, "training_diverged",
         "learning_rate_multiplier", "diverged at step 1 of 1"),
        ({"layers": 10**9, "rank": 10**9}, "out_of_memory", "model", "memory"),
    ],
)  # fmt: skip
def test_what_can_go_wrong_is_the_last_line_and_exit_code_1(
    fields: dict[str, Any], code: str, param: str | None, words: str, config: Callable[..., Path]
) -> None:
    returned, messages, _ = run(config(**fields))
    assert returned == 1
    assert isinstance(messages[-1], TrainingFailed)
    assert (messages[-1].code, messages[-1].param) == (code, param)
    assert words in messages[-1].message


def test_without_a_config_it_tells_its_usage() -> None:
    code, messages, _ = run()
    assert code == 1
    assert "CONFIG.json" in messages[-1].message


def test_a_model_that_cannot_be_tuned_is_refused_with_the_reason(config: Callable[..., Path], tmp_path: Path) -> None:
    path = config()
    TinyModel(metadata={"general.architecture": "gemma3"}).write(tmp_path / "tiny.gguf")
    _, messages, _ = run(path)
    assert messages == [
        TrainingFailed(
            code="unsupported_model",
            message="this model can be served, but not fine-tuned: "
            "its architecture is 'gemma3'; the trainer supports llama, qwen2, qwen3",
            param="model",
        )
    ]
