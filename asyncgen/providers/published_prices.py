"""Published prices, from the data in the genai-prices package.

Converts that library's entries to `TokenRates`. The data is offline and as old as the installed package. Importing this
module imports the library, which costs a quarter of a second of CPU.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from functools import cache
from typing import TYPE_CHECKING

import genai_prices
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelPrice, StartDateConstraint, TieredPrices

from asyncgen.providers.price import BATCH, FLEX, STANDARD, Price, TokenRates

if TYPE_CHECKING:
    from decimal import Decimal

    from genai_prices.types import ModelInfo, Provider


_CONTEXTS = {
    FLEX: {"service_tier": "flex"},
    "priority": {"service_tier": "priority"},
    BATCH: {"processing": "batch"},
}


@cache
def published_price(provider: str | None, base_url: str | None, model: str) -> Price | None:
    """Look up the published price of a model.

    Args:
        provider: name of the provider; None to go by the address.
        base_url: the address, if no provider is named.
        model: as named in requests.

    Returns:
        The price; None if the library does not know the model or the provider.
    """
    try:
        found, entry = get_snapshot().find_provider_model(model, None, provider, base_url)
    except LookupError:
        return None
    now = datetime.now(tz=UTC)
    standard = _rates(entry.get_prices(now))
    if standard is None:
        return None
    tiers = {STANDARD: standard}
    for tier, context in _CONTEXTS.items():
        varied = _rates(entry.get_prices(now, context)) if _has_variant(entry, context) else None
        if varied is not None:
            tiers[tier] = varied
    return Price(tiers, f"genai-prices {genai_prices.__version__}", _newest_entry(found, now.date()))


def _has_variant(entry: ModelInfo, context: dict[str, str]) -> bool:
    return any(variant.when == context for variant in entry.price_variants or ())


def _rates(price: ModelPrice) -> TokenRates | None:
    """Convert the library's prices; None for models that are not priced per token."""
    if price.input_mtok is None or price.output_mtok is None:
        return None
    starts = sorted({tier.start for each in _tiered(price) for tier in each.tiers})
    steps = tuple((start, _rates_above(price, start)) for start in starts)
    base = _rates_above(price, -1)
    return TokenRates(base.input, base.cached, base.output, base.reasoning, steps)


def _tiered(price: ModelPrice) -> list[TieredPrices]:
    return [each for each in vars(price).values() if isinstance(each, TieredPrices)]


def _rates_above(price: ModelPrice, tokens: int) -> TokenRates:
    """The rates of a prompt just longer than `tokens` tokens."""
    uncached = _usd(price.input_mtok, tokens)
    cached = uncached if price.cache_read_mtok is None else _usd(price.cache_read_mtok, tokens)
    reasoning = getattr(price, "output_reasoning_mtok", None)
    return TokenRates(
        input=uncached,
        cached=cached,
        output=_usd(price.output_mtok, tokens),
        reasoning=None if reasoning is None else _usd(reasoning, tokens),
    )


def _usd(price: Decimal | TieredPrices | None, tokens: int) -> float:
    if isinstance(price, TieredPrices):
        chosen = price.base
        for tier in price.tiers:
            if tokens >= tier.start:
                chosen = tier.price
        return float(chosen)
    return float(price or 0)


def _newest_entry(provider: Provider, today: date) -> date | None:
    """The latest date in the provider's entries: the data is at least that recent."""
    dated = [
        constraint.start_date
        for model in provider.models
        for constraint in _constraints(model)
        if isinstance(constraint, StartDateConstraint) and constraint.start_date <= today
    ]
    return max(dated, default=None)


def _constraints(model: ModelInfo) -> list[object]:
    prices = model.prices if isinstance(model.prices, list) else []
    return [each.constraint for each in (*prices, *(model.price_variants or ()))]
