from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from asyncgen.serve.training.gguf import read_gguf
from asyncgen.serve.training.lora import Adapter, new_adapter, save_adapter

from .tiny_models import TinyModel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from asyncgen.serve.training.architecture import Architecture
    from asyncgen.serve.training.layers import Weights


@pytest.fixture
def architecture(open_model: Callable[..., Weights]) -> Architecture:
    return open_model(TinyModel()).architecture


def adapter_of(architecture: Architecture, seed: int = 0) -> Adapter:
    return new_adapter(architecture, blocks=range(1, 3), rank=4, alpha=8, rng=np.random.default_rng(seed))


def test_a_new_adapter_changes_nothing_but_can_learn(architecture: Architecture) -> None:
    """B is zero, A is not."""
    adapter = adapter_of(architecture)
    assert adapter.scale == 2
    for name, numbers in adapter.tensors.items():
        assert numbers.any() == name.endswith("lora_a")


def test_the_seed_decides_how_it_begins(architecture: Architecture) -> None:
    first, same, other = (adapter_of(architecture, seed).numbers for seed in (1, 1, 2))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_the_tensors_are_the_numbers_themselves(architecture: Architecture) -> None:
    adapter = adapter_of(architecture)
    adapter.numbers[:] = np.arange(len(adapter.numbers))
    assert np.array_equal(np.concatenate([view.ravel() for view in adapter.tensors.values()]), adapter.numbers)
    pair = adapter.pair(2, "ffn_down")
    assert (pair.a.shape, pair.b.shape) == ((4, 96), (64, 4))
    assert pair.a.base is not None


def test_the_file_holds_every_tensor_under_its_name(architecture: Architecture, tmp_path: Path) -> None:
    adapter = adapter_of(architecture)
    adapter.numbers[:] = np.random.default_rng(1).standard_normal(len(adapter.numbers))
    save_adapter(tmp_path / "adapter.gguf", adapter, architecture=architecture, alpha=8)
    gguf = read_gguf(tmp_path / "adapter.gguf")
    assert gguf.metadata == {
        "general.architecture": "llama",
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": 8.0,
    }
    assert len(gguf.tensors) == 2 * 7 * 2
    for name, entry in gguf.tensors.items():
        assert np.array_equal(np.frombuffer(gguf.data(entry), "<f4").reshape(entry.shape), adapter.tensors[name])
