"""What a training is billed for."""

from __future__ import annotations

import pytest

from asyncgen.dataset.token_counts import Histogram, training_costs
from asyncgen.providers.prices import PriceList
from asyncgen.providers.profiles import PROFILES


def histogram(*numbers: int) -> Histogram:
    tokens = Histogram()
    tokens.add(numbers)
    return tokens


def test_billed_tokens_are_each_samples_cut_at_the_limit_times_the_epochs() -> None:
    [cost, *_] = training_costs(histogram(100, 70_000), PROFILES["openai"], None, {"n_epochs": 2}, PriceList())
    assert (cost.epochs, cost.billed_tokens, cost.cut_samples) == (2, 2 * (100 + 65_536), 1)


@pytest.mark.parametrize(("samples", "epochs"), [(10, 10), (2, 25), (100, 3), (20_000, 1), (30_000, 1)])
def test_epochs_are_the_providers_own_where_the_job_names_none(samples: int, epochs: int) -> None:
    [cost, *_] = training_costs(histogram(*[10] * samples), PROFILES["openai"], None, {}, PriceList())
    assert cost.epochs == epochs
    [cost, *_] = training_costs(histogram(*[10] * samples), PROFILES["nebius"], None, {}, PriceList())
    assert cost.epochs == 3


def test_the_chosen_provider_comes_first_and_others_only_with_a_known_price() -> None:
    costs = training_costs(histogram(*[1000] * 100), PROFILES["local"], None, {}, PriceList())
    assert costs[0].provider == "local"
    assert costs[0].usd == (0.0, 0.0)
    others = {cost.provider: cost.usd for cost in costs[1:]}
    assert {"openai", "nebius", "together"} <= set(others)
    assert all(usd is not None for usd in others.values())
    assert others["openai"] == pytest.approx((1.5, 1.5))


def test_another_provider_never_stands_for_the_chosen_one() -> None:
    costs = training_costs(histogram(*[10] * 20), PROFILES["custom"], None, {}, PriceList())
    assert [(cost.provider, cost.model) for cost in costs if cost.chosen] == [("custom", None)]
    assert not any(cost.chosen for cost in training_costs(histogram(10), PROFILES["openrouter"], None, {}, PriceList()))


def test_a_model_without_a_known_price_has_tokens_only() -> None:
    [cost, *_] = training_costs(histogram(*[10] * 20), PROFILES["custom"], "my-model", {}, PriceList())
    assert (cost.model, cost.usd) == ("my-model", None)
    assert cost.billed_tokens > 0
