"""llama.cpp as the judge: what is tuned here is answered there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from asyncgen.serve.training.architecture import OUTPUT_NORM
from asyncgen.serve.training.layers import rms_norm
from asyncgen.serve.training.lora import Adapter, new_adapter, save_adapter
from asyncgen.serve.training.model import Block, Rotations
from asyncgen.serve.training.packing import pack

from .tiny_models import TYPE_NUMBERS, TinyModel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from asyncgen.serve.training.layers import Weights
    from asyncgen.serve.training.packing import TokenSample

ARCHITECTURES = ("llama", "qwen2", "qwen3")
TOKENS = np.random.default_rng(1).integers(0, 256, 40).tolist()

# llama.cpp keeps keys and values in 16 bits, and before it multiplies with a quantised matrix it quantises the other
# side too. The log-probabilities of a model like these spread by about 1; a wrong layout moves them by that much.
TOLERANCES = {"F32": 0.02, "F16": 0.02, "BF16": 0.06}
QUANTISED_TOLERANCE = 0.4
QUANTISED_MEAN = 0.1


def of_type(architecture: str, kind: str) -> TinyModel:
    """The K types come in blocks of 256."""
    wide: dict[str, Any] = {"width": 256, "hidden": 256, "head_length": 64} if kind.endswith("_K") else {}
    return TinyModel(architecture=architecture, type=kind, **wide)


@pytest.fixture
def log_probabilities(sample: Callable[..., TokenSample]) -> Callable[..., Any]:
    """Ours, after each of TOKENS."""

    def compute(weights: Weights, adapter: Adapter | None = None) -> Any:
        row = pack([sample([*TOKENS, 0], [len(TOKENS)])], prefix=0)
        geometry = Rotations(weights).geometry(row)
        states = weights.tensor("token_embd.weight")[row.tokens]
        for index in range(weights.architecture.blocks):
            tuned = adapter and f"blk.{index}.attn_q.weight.lora_a" in adapter.tensors
            block = Block(index, weights.block(index), weights.architecture, adapter if tuned else None)
            states, _ = block.forward(states, geometry)
        normed, _ = rms_norm(states, weights.tensor(OUTPUT_NORM), weights.architecture.norm_epsilon)
        logits = normed @ weights.output().T
        return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)

    return compute


@pytest.mark.parametrize("kind", TYPE_NUMBERS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_type_of_every_architecture_predicts_as_llama_cpp_does(
    architecture: str,
    kind: str,
    open_model: Callable[..., Weights],
    log_probabilities: Callable[..., Any],
    llama_cpp: Callable[..., Any],
) -> None:
    model = of_type(architecture, kind)
    weights = open_model(model)
    ours, server = log_probabilities(weights), llama_cpp(weights.model.path)
    for length in (1, 17, 40):
        theirs = server.log_probabilities(TOKENS[:length], model.vocabulary)
        difference = np.abs(ours[length - 1] - theirs)
        assert difference.max() < TOLERANCES.get(kind, QUANTISED_TOLERANCE)
        assert difference.mean() < QUANTISED_MEAN
        assert np.ptp(theirs) > 3  # there is something to be wrong about


@pytest.mark.parametrize(
    "model",
    [
        TinyModel(rope_factors=True),
        TinyModel(tied=False),
        TinyModel(kv_heads=4),
        TinyModel(kv_heads=1),
        TinyModel(head_length=32),
        TinyModel(architecture="qwen3", head_length=32, tied=False),
        TinyModel(metadata={"llama.rope.freq_base": 500.0}),
        TinyModel(metadata={"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}),
        TinyModel(metadata={"llama.rope.scale_linear": 4.0}),
        TinyModel(metadata={"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0}),
        TinyModel(metadata={"llama.attention.key_length": None, "llama.attention.value_length": None}),
    ],
    ids=repr,
)
def test_every_variant_predicts_as_llama_cpp_does(
    model: TinyModel,
    open_model: Callable[..., Weights],
    log_probabilities: Callable[..., Any],
    llama_cpp: Callable[..., Any],
) -> None:
    weights = open_model(model)
    theirs = llama_cpp(weights.model.path).log_probabilities(TOKENS, model.vocabulary)
    assert np.abs(log_probabilities(weights)[-1] - theirs).max() < 0.02


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_adapter_changes_llama_cpps_answers_as_it_changes_ours(
    architecture: str,
    open_model: Callable[..., Weights],
    log_probabilities: Callable[..., Any],
    llama_cpp: Callable[..., Any],
    tmp_path: Path,
) -> None:
    weights = open_model(TinyModel(architecture=architecture))
    adapter = new_adapter(weights.architecture, blocks=range(1, 3), rank=4, alpha=6.0, rng=np.random.default_rng(2))
    adapter.numbers[:] = 0.1 * np.random.default_rng(3).standard_normal(adapter.numbers.shape)
    save_adapter(tmp_path / "adapter.gguf", adapter, architecture=weights.architecture, alpha=6.0)
    ours = log_probabilities(weights, adapter)
    server = llama_cpp(weights.model.path, tmp_path / "adapter.gguf")
    for length in (1, 17, 40):
        theirs = server.log_probabilities(TOKENS[:length], TinyModel().vocabulary)
        assert np.abs(ours[length - 1] - theirs).max() < 0.03
        without = log_probabilities(weights)[length - 1]
        assert np.abs(without - theirs).max() > 0.3
