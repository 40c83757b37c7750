from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from asyncgen.serve.training import TrainingError, describe

from .tiny_models import TinyModel

if TYPE_CHECKING:
    from pathlib import Path


def test_a_model_that_can_be_tuned_is_described(tmp_path: Path) -> None:
    path = TinyModel(architecture="qwen2").write(tmp_path / "tiny.gguf")
    description = describe(path)
    assert (description.path, description.architecture, description.name) == (path, "qwen2", "Tiny")
    assert description.context == 2048
    assert description.untunable is None
    matrices = 260 * 64 + 3 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 96 * 64)
    vectors = 64 + 3 * (2 * 64 + 64 + 2 * 32)
    assert description.parameters == matrices + vectors


def test_a_model_that_cannot_be_tuned_is_described_with_the_reason(tmp_path: Path) -> None:
    metadata = {"general.architecture": "gemma3", "general.name": None}
    description = describe(TinyModel(metadata=metadata).write(tmp_path / "tiny.gguf"))
    assert (description.architecture, description.name, description.context) == ("gemma3", None, None)
    assert description.untunable == (
        "this model can be served, but not fine-tuned: its architecture is 'gemma3'; "
        "the trainer supports llama, qwen2, qwen3"
    )


def test_what_is_no_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        describe(tmp_path / "absent.gguf")
    assert caught.value.code == "model_not_found"
    (tmp_path / "text.gguf").write_text("hello", encoding="utf-8")
    with pytest.raises(TrainingError) as caught:
        describe(tmp_path / "text.gguf")
    assert caught.value.code == "invalid_gguf"


def test_describing_does_not_load_numpy() -> None:
    code = "import sys, asyncgen.serve.training; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
