from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.serve.training.protocol import Hyperparameters, ResolvedHyperparameters, base_learning_rate


def test_what_the_job_says_is_kept() -> None:
    chosen = Hyperparameters(n_epochs=7, batch_size=31, learning_rate_multiplier=0.1).decided(162)
    assert chosen == ResolvedHyperparameters(n_epochs=7, batch_size=31, learning_rate_multiplier=0.1)


@pytest.mark.parametrize(
    ("samples", "epochs", "batch"),
    [(1, 10, 1), (10, 10, 1), (40, 8, 4), (99, 4, 8), (100, 3, 8), (162, 3, 8), (3000, 2, 8), (100_000, 1, 8)],
)
def test_few_samples_are_seen_more_often_and_in_smaller_batches(samples: int, epochs: int, batch: int) -> None:
    decided = ResolvedHyperparameters(n_epochs=epochs, batch_size=batch, learning_rate_multiplier=1.0)
    assert Hyperparameters().decided(samples) == decided


@given(st.integers(1, 10**6))
def test_more_samples_never_mean_more_epochs_or_smaller_batches(samples: int) -> None:
    fewer, more = Hyperparameters().decided(samples), Hyperparameters().decided(samples + 1)
    assert more.n_epochs <= fewer.n_epochs
    assert more.batch_size >= fewer.batch_size


def test_wider_models_take_smaller_steps() -> None:
    assert base_learning_rate(1152) == pytest.approx(base_learning_rate(576) / 2)
