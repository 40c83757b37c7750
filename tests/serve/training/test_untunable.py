"""Models that llama.cpp serves and the trainer does not know, over HTTP: they answer, and a job is told why not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import openai
import pytest

from asyncgen.serve.server import ServeSettings
from asyncgen.serve.training.lora import NewTensor, write_gguf

from .tiny_models import TinyModel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from asyncgen.providers.local_server import ServerInfo

_IQ4_NL = 20  # blocks of 32 numbers: a 16-bit scale and 4 bits each


def of_another_architecture(path: Path) -> Path:
    """It has the tensors of a llama, and computes otherwise with them."""
    return TinyModel(architecture="smollm3").write(path)


def of_an_unknown_type(path: Path) -> Path:
    """A llama, one matrix of which is packed in a way that the trainer cannot read."""
    model = TinyModel()
    tensors = model.tensors()
    shape = tensors["blk.1.ffn_up.weight"].shape
    blocks = np.random.default_rng(0).integers(0, 256, (shape[0] * shape[1] // 32, 18), dtype=np.uint8)
    blocks[:, :2] = np.full((1, 1), 0.001, "<f2").view(np.uint8)
    tensors["blk.1.ffn_up.weight"] = NewTensor(shape, _IQ4_NL, blocks.tobytes())
    write_gguf(path, model.header(), tensors)
    return path


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (of_another_architecture, "its architecture is 'smollm3'; the trainer supports llama, qwen2, qwen3"),
        (of_an_unknown_type, "the tensor blk.1.ffn_up.weight has the type IQ4_NL, which the trainer cannot read"),
    ],
)
def test_model_beyond_the_trainer_answers_and_its_job_is_refused_with_the_reason(
    make: Callable[[Path], Path],
    reason: str,
    tmp_path: Path,
    start_server: Callable[[ServeSettings], ServerInfo],
    sdk: Callable[[ServerInfo], openai.OpenAI],
    chat_samples: Callable[[int], bytes],
) -> None:
    model = make(tmp_path / "odd.gguf")
    client = sdk(start_server(ServeSettings(data_dir=tmp_path / "data", model_path=model, slots=1, threads=1)))
    hello: list[Any] = [{"role": "user", "content": "Hello"}]
    answer = client.chat.completions.create(model="odd", messages=hello, max_tokens=4)
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0
    file = client.files.create(file=("train.jsonl", chat_samples(10)), purpose="fine-tune")
    with pytest.raises(openai.BadRequestError) as caught:
        client.fine_tuning.jobs.create(model="odd", training_file=file.id)
    assert (caught.value.code, caught.value.param) == ("model_not_available", "model")
    assert reason in caught.value.message
    assert client.fine_tuning.jobs.list().data == []
