"""What training on a dataset costs, at every provider with a known price.

Counts billed tokens: each sample's, cut at the provider's limit, times the epochs. Whether this account may train there
is not checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyncgen.providers.profiles import PROFILES
from asyncgen.providers.training_prices import epochs_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date
    from typing import Any

    from asyncgen.dataset.histogram import Histogram
    from asyncgen.providers.prices import PriceList
    from asyncgen.providers.profiles import Profile


@dataclass(frozen=True, slots=True)
class TrainingCost:
    """Training at one provider.

    Attributes:
        epochs: times that it goes over the samples.
        billed_tokens: of all epochs.
        cut_samples: how many are longer than the provider takes, and are cut.
        usd: lowest and highest; None for an unknown price, zero where it is free.
        as_of: the day of the price.
    """

    provider: str
    model: str
    epochs: int
    billed_tokens: int
    cut_samples: int
    usd: tuple[float, float] | None
    as_of: date | None


def training_costs(
    tokens: Histogram, chosen: Profile, model: str | None, hyperparameters: Mapping[str, Any], prices: PriceList
) -> list[TrainingCost]:
    """The provider chosen first, then every other whose price is known, with the model that it trains by default.

    Args:
        tokens: of the training samples.
        chosen: the provider of the job.
        model: trained there; None for its default.
        hyperparameters: the job's, of which `n_epochs` counts.
        prices: where they are looked up.
    """
    others = [profile for profile in PROFILES.values() if profile.name != chosen.name]
    costs = [_cost(tokens, chosen, model, hyperparameters, prices)]
    costs += [_cost(tokens, profile, None, hyperparameters, prices) for profile in others]
    return [cost for place, cost in enumerate(costs) if cost is not None and (not place or cost.usd is not None)]


def _cost(
    tokens: Histogram, profile: Profile, model: str | None, hyperparameters: Mapping[str, Any], prices: PriceList
) -> TrainingCost | None:
    finetuning = profile.finetuning
    if finetuning is None:
        return None
    model = model or finetuning.default_model
    if model is None:
        return None
    limit = finetuning.max_sample_tokens
    epochs = epochs_of(tokens.counts.total(), hyperparameters, finetuning)
    billed = tokens.clipped_total(limit) * epochs
    price = None if finetuning.free else prices.training(profile.name, model)
    return TrainingCost(
        provider=profile.name,
        model=model,
        epochs=epochs,
        billed_tokens=billed,
        cut_samples=tokens.above(limit) if limit is not None else 0,
        usd=(0.0, 0.0) if finetuning.free else price.cost_usd(billed) if price else None,
        as_of=price.as_of if price else None,
    )
