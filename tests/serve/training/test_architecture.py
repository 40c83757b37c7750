from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from asyncgen.serve.training.architecture import read_architecture
from asyncgen.serve.training.gguf import read_gguf
from asyncgen.serve.training.lora import write_gguf
from asyncgen.serve.training.protocol import TrainingError

from .tiny_models import TinyModel, plain

if TYPE_CHECKING:
    from pathlib import Path

    from asyncgen.serve.training.architecture import Architecture


def architecture_of(model: TinyModel, folder: Path) -> Architecture:
    return read_architecture(read_gguf(model.write(folder / "tiny.gguf")))


def refusal(model: TinyModel, folder: Path) -> str:
    with pytest.raises(TrainingError, match="can be served, but not fine-tuned") as caught:
        architecture_of(model, folder)
    assert caught.value.code == "unsupported_model"
    assert caught.value.param == "model"
    return str(caught.value.cause)


def test_the_shape_is_read_from_the_header(tmp_path: Path) -> None:
    architecture = architecture_of(TinyModel(architecture="qwen3", head_length=32), tmp_path)
    assert (architecture.name, architecture.blocks, architecture.width, architecture.hidden) == ("qwen3", 3, 64, 96)
    assert (architecture.heads, architecture.kv_heads, architecture.head_length) == (4, 2, 32)
    assert architecture.norm_epsilon == pytest.approx(1e-5)
    assert (architecture.rope_base, architecture.rope_scale) == (10000.0, 1.0)
    assert architecture.context == 2048


def test_what_a_file_leaves_out_has_its_default(tmp_path: Path) -> None:
    absent = ("rope.freq_base", "rope.dimension_count", "attention.key_length", "attention.value_length")
    model = TinyModel(metadata={f"llama.{key}": None for key in absent})
    assert architecture_of(model, tmp_path) == architecture_of(TinyModel(), tmp_path)
    model = TinyModel(kv_heads=4, metadata={"llama.attention.head_count_kv": None})
    assert architecture_of(model, tmp_path).kv_heads == 4


@pytest.mark.parametrize(
    ("metadata", "cause"),
    [
        ({"general.architecture": "gemma3"}, "architecture is 'gemma3'; the trainer supports llama, qwen2, qwen3"),
        ({"general.architecture": None}, "architecture is None"),
        ({"split.count": 4}, "one of 4 parts"),
        ({"llama.expert_count": 8}, "llama.expert_count is 8"),
        ({"llama.rope.scaling.type": "yarn"}, "llama.rope.scaling.type is 'yarn'"),
        ({"llama.attention.scale": 0.5}, "llama.attention.scale is 0.5"),
        ({"llama.block_count": None}, "llama.block_count is missing"),
        ({"llama.block_count": 0}, "llama.block_count is 0"),
        ({"llama.feed_forward_length": [96, 96, 96]}, "llama.feed_forward_length is not one number for all blocks"),
        ({"llama.attention.head_count_kv": 3}, "4 heads of 16 cannot share 3"),
        ({"llama.attention.value_length": 8}, "llama.attention.value_length is 8, but its heads are 16 long"),
        ({"llama.rope.dimension_count": 8}, "llama.rope.dimension_count is 8, but its heads are 16 long"),
        ({"llama.block_count": 4}, "it has no tensor blk.3.attn_norm.weight"),
        ({"llama.block_count": 2}, "tensors that the trainer does not support, such as blk.2.attn_k.weight"),
        ({"llama.embedding_length": 32}, "shape (260, 64) where (260, 32) was expected"),
    ],
)
def test_a_model_that_would_be_computed_wrongly_is_refused(
    metadata: dict[str, Any], cause: str, tmp_path: Path
) -> None:
    assert cause in refusal(TinyModel(metadata=metadata), tmp_path)


def test_one_more_tensor_in_a_block_is_a_reason_to_refuse(tmp_path: Path) -> None:
    """Such as the biases that some models call "llama" have."""
    model = TinyModel()
    tensors = model.tensors()
    tensors["blk.1.attn_output.bias"] = plain(np.zeros(64))
    write_gguf(tmp_path / "odd.gguf", model.header(), tensors)
    with pytest.raises(TrainingError) as caught:
        read_architecture(read_gguf(tmp_path / "odd.gguf"))
    assert "such as blk.1.attn_output.bias" in str(caught.value.cause)


def test_frequency_factors_are_taken_for_llama_only(tmp_path: Path) -> None:
    architecture_of(TinyModel(rope_factors=True), tmp_path)
    assert "such as rope_freqs.weight" in refusal(TinyModel(architecture="qwen2", rope_factors=True), tmp_path)
