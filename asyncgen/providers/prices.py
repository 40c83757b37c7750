"""Find the price of a model at a provider.

Sources, in order: this machine is free; the user's own files; a small table of tuned models; the published prices of a
library. A model without a price is not an error. Budgets and consent are left to `generate`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from asyncgen.providers.endpoint import is_loopback
from asyncgen.providers.price import FREE, STANDARD, Price, TokenRates
from asyncgen.providers.profiles import LOCAL, PROFILES
from asyncgen.providers.training_prices import TunedModelName, base_model, tuned_model

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date


ANY_MODEL = "*"


@dataclass(frozen=True, slots=True)
class OwnPrice:
    """An entry of the user's: a price, a training price, or both.

    Attributes:
        training: USD per million trained tokens.
        tuned: rates of models tuned from this one.
    """

    tiers: Mapping[str, TokenRates]
    training: float | None
    tuned: TokenRates | None
    source: str
    as_of: date | None


@dataclass(frozen=True, slots=True)
class PriceList:
    """All prices that can be looked up.

    Attributes:
        own: the user's entries by provider and model; they win over everything but this machine's zero.
    """

    own: Mapping[tuple[str, str], OwnPrice] = field(default_factory=dict)

    def price(self, provider: str, base_url: str | None, model: str) -> Price | None:
        """The price of calls to `model`; None where nobody knows it.

        Args:
            provider: a profile's name.
            base_url: the address in use; another one than the profile's decides whose prices are published.
            model: as it is named in requests.
        """
        if provider == LOCAL:
            return FREE
        return self._own_price(provider, model) or self._known_price(provider, base_url, model)

    def training(self, provider: str, model: str) -> TunedModelName | None:
        """What tuning `model` costs, and calls to the result; None where nobody knows it."""
        own = self.own.get((provider, model))
        known = tuned_model(provider, model)
        if own is None or own.training is None:
            return known
        rates = own.tuned or (known.rates if known else None)
        return TunedModelName(own.training, own.training, rates, own.source, own.as_of, "")

    def _own_price(self, provider: str, model: str) -> Price | None:
        own = self.own.get((provider, model)) or self.own.get((provider, ANY_MODEL))
        if own is not None and own.tiers:
            return Price(own.tiers, own.source, own.as_of)
        base = self.own.get((provider, base_model(model) or ""))
        return Price({STANDARD: base.tuned}, base.source, base.as_of) if base and base.tuned else None

    def _known_price(self, provider: str, base_url: str | None, model: str) -> Price | None:
        if base_url and is_loopback(base_url):
            return None
        at_home = is_at_home(provider, base_url)
        base = base_model(model)
        known = tuned_model(provider, base) if base and at_home else None
        if known and known.rates:
            return Price({STANDARD: known.rates}, known.source, known.as_of)
        # Imported only when a price is needed: the import takes a quarter of a second.
        from asyncgen.providers.published_prices import published_price  # noqa: PLC0415

        by_address = published_price(None, base_url, model) if base_url else None
        return by_address or (published_price(provider, None, model) if at_home else None)


def is_at_home(provider: str, base_url: str | None) -> bool:
    """True if the address is the provider's own, and not one that the user gave."""
    profile = PROFILES.get(provider)
    return base_url is None or (profile is not None and profile.base_url in {None, base_url})
