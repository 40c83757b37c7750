from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.serve.training.lora import new_adapter
from asyncgen.serve.training.model import PredictionScore, TunedPart
from asyncgen.serve.training.packing import ROW_TOKENS, TokenSample, pack, share_out, shared_prefix

from .tiny_models import TinyModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncgen.serve.training.layers import Weights


@st.composite
def sample_lists(draw: st.DrawFn, longest: int = 40) -> list[TokenSample]:
    """Samples with some tokens in common, each with at least one target."""
    common = draw(st.lists(st.integers(0, 9), max_size=8))
    samples = []
    for _ in range(draw(st.integers(1, 8))):
        tokens = common + draw(st.lists(st.integers(0, 9), min_size=2, max_size=longest))
        targets = [False, *draw(st.lists(st.booleans(), min_size=len(tokens) - 1, max_size=len(tokens) - 1))]
        targets[draw(st.integers(1, len(tokens) - 1))] = True
        samples.append(TokenSample(np.array(tokens), np.array(targets)))
    return samples


@given(sample_lists())
def test_all_samples_begin_with_the_prefix_and_learn_nothing_in_it_nor_from_it(samples: list[TokenSample]) -> None:
    prefix = shared_prefix(samples)
    for sample in samples:
        assert sample.tokens[:prefix].tolist() == samples[0].tokens[:prefix].tolist()
        assert not sample.targets[: prefix + 1].any()


@given(sample_lists())
def test_a_longer_prefix_would_not_do(samples: list[TokenSample]) -> None:
    longer = shared_prefix(samples) + 1
    differ = len({tuple(sample.tokens[:longer]) for sample in samples}) > 1
    learnt = any(sample.targets[: longer + 1].any() for sample in samples)
    assert differ or learnt


@given(sample_lists())
def test_each_sample_stands_in_the_row_as_it_is(samples: list[TokenSample]) -> None:
    prefix = shared_prefix(samples)
    row = pack(samples, prefix)
    assert len(row.tokens) == len(row.positions) == prefix + sum(len(span_range(span)) for span in row.samples)
    for sample, span in zip(samples, row.samples, strict=True):
        whole = np.concatenate([row.tokens[:prefix], row.tokens[span.indexes]])
        assert whole.tolist() == sample.inputs.tolist()
        assert row.positions[span.indexes].tolist() == list(range(prefix, len(whole)))
        assert span.prefix == prefix


def span_range(span: Any) -> range:
    return range(span.start, span.stop)


@given(sample_lists())
def test_each_target_is_predicted_from_the_token_before_it(samples: list[TokenSample]) -> None:
    row = pack(samples, shared_prefix(samples))
    pairs = list(zip(row.tokens[row.predictors].tolist(), row.labels.tolist(), strict=True))
    expected = [
        (int(sample.tokens[place - 1]), int(sample.tokens[place]))
        for sample in samples
        for place in np.flatnonzero(sample.targets)
    ]
    assert pairs == expected


@given(sample_lists(), st.integers(1, 5))
def test_every_sample_comes_into_exactly_one_row(samples: list[TokenSample], threads: int) -> None:
    rows = share_out(samples, shared_prefix(samples), threads)
    assert sorted(number for row in rows for number in row) == list(range(len(samples)))
    assert all(rows)
    assert len(rows) == min(threads, len(samples))  # these are short enough for one row a lane


def test_rows_are_of_nearly_the_same_length(sample: Callable[..., TokenSample]) -> None:
    samples = [sample([1] * (length + 1), [length]) for length in (300, 20, 20, 140, 30, 150)]
    rows = share_out(samples, 0, 2)
    assert sorted(sum(len(samples[number].inputs) for number in row) for row in rows) == [320, 340]


def test_rows_that_would_be_too_long_become_more_rows(sample: Callable[..., TokenSample]) -> None:
    samples = [sample([1] * 101, [100]) for _ in range(40)]
    rows = share_out(samples, 0, 2)
    assert len(rows) == 8
    assert max(100 * len(row) for row in rows) <= ROW_TOKENS


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_packed_samples_have_the_loss_and_gradient_of_single_ones(
    architecture: str, open_model: Callable[..., Weights], sample: Callable[..., TokenSample]
) -> None:
    weights = open_model(TinyModel(architecture=architecture), np.float64)
    rng = np.random.default_rng(1)
    tails = [rng.integers(0, 256, count).tolist() for count in (3, 8, 5)]
    samples = [sample([7, 8, 9, *tail], [4, len(tail) + 2]) for tail in tails]
    adapter = new_adapter(weights.architecture, blocks=range(3), rank=2, alpha=2, rng=rng, precision=np.float64)
    adapter.numbers[:] = 0.2 * rng.standard_normal(adapter.numbers.shape)
    part, embedding = TunedPart(weights, range(3), adapter), weights.tensor("token_embd.weight")

    def measured(rows: list[tuple[list[TokenSample], int]]) -> tuple[PredictionScore, Any]:
        gradient, score = adapter.zeros(), PredictionScore()
        for members, prefix in rows:
            row = pack(members, prefix)
            score += part.score_and_gradient(embedding[row.tokens], row, gradient)
        return score, gradient.numbers

    assert shared_prefix(samples) == 3
    packed, packed_gradient = measured([(samples, 3)])
    single, single_gradient = measured([([one], 0) for one in samples])
    assert packed.targets == single.targets == 6
    assert packed.loss == pytest.approx(single.loss, rel=1e-12)
    np.testing.assert_allclose(packed_gradient, single_gradient, rtol=1e-9, atol=1e-12)
