"""What the profile of the local server promises is what that server does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from asyncgen.dataset.token_counts import Histogram, training_costs
from asyncgen.errors import UsageError
from asyncgen.finetune.api import JobOrder, check_order
from asyncgen.providers.prices import PriceList, epochs_of
from asyncgen.providers.profiles import LOCAL, PROFILES, Finetuning
from asyncgen.serve.llama.engine import LlamaEngine
from asyncgen.serve.llama.process import LlamaSettings
from asyncgen.serve.training.protocol import Hyperparameters
from asyncgen.serve.training.train import LONGEST

if TYPE_CHECKING:
    from pathlib import Path

    from asyncgen.serve.llama.engine import ProcessSwitch


@pytest.fixture
def finetuning() -> Finetuning:
    found = PROFILES[LOCAL].finetuning
    assert found is not None
    return found


@pytest.mark.parametrize("samples", [1, 10, 16, 40, 99, 100, 162, 3000, 100_000])
def test_the_epochs_foretold_are_those_that_the_trainer_takes(finetuning: Finetuning, samples: int) -> None:
    assert epochs_of(samples, {}, finetuning) == Hyperparameters().decided(samples).n_epochs
    assert epochs_of(samples, {"n_epochs": "auto"}, finetuning) == Hyperparameters().decided(samples).n_epochs
    assert epochs_of(samples, {"n_epochs": 2}, finetuning) == Hyperparameters(n_epochs=2).decided(samples).n_epochs


def test_samples_are_cut_where_the_profile_says(finetuning: Finetuning) -> None:
    assert finetuning.max_sample_tokens == LONGEST


def test_prepare_counts_the_samples_that_are_cut() -> None:
    tokens = Histogram()
    tokens.add([LONGEST, LONGEST + 1])
    [cost, *_] = training_costs(tokens, PROFILES[LOCAL], None, {"n_epochs": 1}, PriceList())
    assert (cost.cut_samples, cost.billed_tokens) == (1, 2 * LONGEST)


def test_the_methods_are_those_that_the_engine_takes(finetuning: Finetuning, tmp_path: Path) -> None:
    model = tmp_path / "tiny.gguf"
    model.touch()
    settings = LlamaSettings(model=model, slots=1, threads=1, training_threads=1)
    assert set(finetuning.methods) == LlamaEngine(settings, cast("ProcessSwitch", None)).traits.methods


@pytest.mark.parametrize("order", [{"method": "dpo"}, {"hyperparameters": {"beta": 0.1}}], ids=str)
def test_what_the_server_would_refuse_is_refused_before_it_is_sent(order: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="would refuse"):
        check_order(JobOrder(model="m", training_file="f", **order), PROFILES[LOCAL])
