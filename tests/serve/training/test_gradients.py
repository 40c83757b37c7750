from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from asyncgen.serve.training.lora import Adapter, new_adapter
from asyncgen.serve.training.model import TunedPart
from asyncgen.serve.training.packing import PackedRow, TokenSample, pack, shared_prefix

from .reference import loss_and_gradients
from .tiny_models import TinyModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncgen.serve.training.layers import Array, Weights

MODELS = {
    "llama": TinyModel(width=12, hidden=20, heads=4, kv_heads=2, head_length=6, rope_factors=True),
    "qwen2": TinyModel(architecture="qwen2", width=12, hidden=20, heads=4, kv_heads=2, head_length=6),
    "qwen3": TinyModel(architecture="qwen3", width=12, hidden=20, heads=4, kv_heads=1, head_length=6, tied=False),
}


class Problem:
    """Three samples that share a prefix of two tokens, a model tuned in all blocks, and an adapter without zeros."""

    def __init__(self, weights: Weights, sample: Callable[..., TokenSample]) -> None:
        rng = np.random.default_rng(3)
        rows = [rng.integers(0, 256, count).tolist() for count in (5, 9, 7)]
        self.samples = [
            sample([1, 2, *tokens], targets) for tokens, targets in zip(rows, ([4, 6], [3, 4, 9], [8]), strict=True)
        ]
        blocks = range(weights.architecture.blocks)
        self.adapter = new_adapter(
            weights.architecture, blocks=blocks, rank=2, alpha=3.0, rng=rng, precision=np.float64
        )
        self.adapter.numbers[:] = 0.3 * rng.standard_normal(self.adapter.numbers.shape)
        self.part = TunedPart(weights, blocks, self.adapter)
        self.row: PackedRow = pack(self.samples, shared_prefix(self.samples))
        self.states: Array = weights.tensor("token_embd.weight")[self.row.tokens]

    def loss(self) -> float:
        return self.part.score(self.states, self.row).mean_loss

    def gradient(self) -> Adapter:
        gradient = self.adapter.zeros()
        score = self.part.score_and_gradient(self.states, self.row, gradient)
        gradient.numbers[:] /= score.targets
        return gradient


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> TinyModel:
    return MODELS[request.param]


@pytest.fixture
def problem(model: TinyModel, open_model: Callable[..., Weights], sample: Callable[..., TokenSample]) -> Problem:
    return Problem(open_model(model, np.float64), sample)


def test_the_samples_share_a_prefix_and_one_row(problem: Problem) -> None:
    assert problem.row.prefix == 2
    assert len(problem.row.samples) == 3


def test_every_tensors_gradient_is_the_slope_of_the_loss(problem: Problem) -> None:
    """Central differences along a random direction within each tensor, in 64 bits."""
    rng = np.random.default_rng(5)
    gradient = problem.gradient()
    assert len(gradient.tensors) == 3 * 7 * 2
    for name, numbers in problem.adapter.tensors.items():
        direction = rng.standard_normal(numbers.shape)
        slope = _slope(problem, numbers, direction)
        assert float((gradient.tensors[name] * direction).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-9), name


def _slope(problem: Problem, numbers: Array, direction: Any, step: float = 1e-5) -> float:
    numbers += step * direction
    above = problem.loss()
    numbers -= 2 * step * direction
    below = problem.loss()
    numbers += step * direction
    return (above - below) / (2 * step)


def test_loss_and_gradients_are_those_of_an_automatic_differentiation(model: TinyModel, problem: Problem) -> None:
    samples = [(sample.tokens.tolist(), sample.targets.astype(int).tolist()) for sample in problem.samples]
    loss, expected = loss_and_gradients(model, problem.adapter.tensors, problem.adapter.scale, samples)
    assert problem.loss() == pytest.approx(loss, rel=1e-7)  # the file keeps epsilon in 32 bits
    for name, gradient in problem.gradient().tensors.items():
        np.testing.assert_allclose(gradient, expected[name], rtol=1e-6, atol=1e-9, err_msg=name)


def test_gradients_of_several_rows_add_up(problem: Problem) -> None:
    once, twice = problem.adapter.zeros(), problem.adapter.zeros()
    problem.part.score_and_gradient(problem.states, problem.row, once)
    for _ in range(2):
        problem.part.score_and_gradient(problem.states, problem.row, twice)
    np.testing.assert_allclose(twice.numbers, 2 * once.numbers, rtol=1e-12)


def test_computing_changes_neither_the_adapter_nor_the_states(problem: Problem) -> None:
    adapter, states = problem.adapter.numbers.copy(), problem.states.copy()
    problem.gradient()
    assert np.array_equal(adapter, problem.adapter.numbers)
    assert np.array_equal(states, problem.states)
