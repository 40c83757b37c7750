"""What the profile of the local server promises is what that server does."""

from __future__ import annotations

import pytest

from asyncgen.prices_training import epochs_of
from asyncgen.providers import LOCAL, PROFILES, Finetuning
from asyncgen.serve.training.hyperparameters import choose


@pytest.fixture
def finetuning() -> Finetuning:
    found = PROFILES[LOCAL].finetuning
    assert found is not None
    return found


@pytest.mark.parametrize("samples", [1, 10, 16, 40, 99, 100, 162, 3000, 100_000])
def test_the_epochs_foretold_are_those_that_the_trainer_takes(finetuning: Finetuning, samples: int) -> None:
    assert epochs_of(samples, {}, finetuning) == choose(samples).n_epochs
    assert epochs_of(samples, {"n_epochs": "auto"}, finetuning) == choose(samples).n_epochs
    assert epochs_of(samples, {"n_epochs": 2}, finetuning) == choose(samples, n_epochs=2).n_epochs
