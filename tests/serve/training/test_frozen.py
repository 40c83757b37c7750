from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest

from asyncgen.serve.training import model as frozen_module
from asyncgen.serve.training.model import Block, FrozenBlocks, FrozenStates, Rotations
from asyncgen.serve.training.packing import TokenSample, TrainingThreads, pack, shared_prefix

from .tiny_models import TinyModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from asyncgen.serve.training.layers import Array, Weights


@pytest.fixture
def samples(sample: Callable[..., TokenSample]) -> list[TokenSample]:
    rng = np.random.default_rng(4)
    tails = [rng.integers(0, 256, count).tolist() for count in (6, 15, 4, 9, 11)]
    return [sample([5, 6, 7, *tail], [len(tail)]) for tail in tails]


@pytest.fixture
def weights(open_model: Callable[..., Weights]) -> Weights:
    return open_model(TinyModel(), np.float64)


@pytest.fixture
def threads() -> Iterator[TrainingThreads]:
    with TrainingThreads(2) as threads:
        yield threads


def through_all(weights: Weights, blocks: range, samples: list[TokenSample]) -> Array:
    """The states of one row, straight through the blocks."""
    row = pack(samples, shared_prefix(samples))
    geometry = Rotations(weights).geometry(row)
    states = weights.tensor("token_embd.weight")[row.tokens]
    for index in blocks:
        states, _ = Block(index, weights.block(index), weights.architecture).forward(states, geometry)
    return states


@pytest.mark.parametrize("tokens_at_a_time", [1, 20, 1 << 14])
@pytest.mark.parametrize("count", [0, 2])
def test_cached_states_are_those_of_a_forward_through_all_blocks(
    count: int,
    tokens_at_a_time: int,
    weights: Weights,
    samples: list[TokenSample],
    threads: TrainingThreads,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However the samples are shared out, and in whatever order they are asked for."""
    monkeypatch.setattr(frozen_module, "_TOKENS_AT_A_TIME", tokens_at_a_time)
    states = FrozenBlocks(weights, range(count), threads, lambda share: None).run(samples, 3, io.BytesIO())
    for order in ([0, 1, 2, 3, 4], [3, 1], [4]):
        expected = through_all(weights, range(count), [samples[number] for number in order])
        if len(order) > 1:
            np.testing.assert_allclose(states.row(order), expected, rtol=1e-9, atol=1e-12)
        else:  # alone, a sample shares nothing: compare its own tokens
            np.testing.assert_allclose(states.row(order)[-8:], expected[-8:], rtol=1e-9, atol=1e-12)


def test_progress_grows_to_the_end(weights: Weights, samples: list[TokenSample], threads: TrainingThreads) -> None:
    told: list[float] = []
    FrozenBlocks(weights, range(3), threads, told.append).run(samples, 3, io.BytesIO())
    assert told == sorted(told)
    assert told[-1] == 1
    assert len(told) == 3


def test_a_full_disk_is_an_error_and_not_a_wrong_state(
    weights: Weights, samples: list[TokenSample], threads: TrainingThreads
) -> None:
    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        FrozenBlocks(weights, range(1), threads, lambda share: None).run(samples, 3, Full())


def test_states_are_kept_on_disk_and_not_in_memory() -> None:
    file = io.BytesIO()
    states = FrozenStates(file, np.zeros((0, 4), np.float32))
    states.keep(7, np.ones((3, 4), np.float32))
    states.keep(2, np.full((1, 4), 2, np.float32))
    assert len(file.getvalue()) == 4 * 4 * 4
    assert states.row([2, 7])[:, 0].tolist() == [2, 1, 1, 1]
