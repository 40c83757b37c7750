"""Find the price of a model at a provider; read the user's own `prices.toml`.

Sources, in order: this machine is free; the user's own files (in the configuration folder, and beside the job file); a
small table of tuned models; the published prices of a library. A model without a price is not an error.

    date = 2026-11-22                       # shown with every estimate made from this file

    [openai."gpt-6-luna"]                   # provider, model; USD per million tokens
    input = 0.10
    cached = 0.01                           # default: as input
    output = 0.50
    reasoning = 0.50                        # default: as output
    batch = { input = 0.05, output = 0.25 } # also flex and priority
    training = 5.0
    tuned = { input = 0.20, output = 1.00 } # calls to models tuned from this one

Budgets and consent are left to `generate`.
"""

from __future__ import annotations

import datetime as dt
import math
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from asyncgen.errors import UsageError
from asyncgen.providers.endpoint import is_loopback
from asyncgen.providers.price import BATCH, FLEX, FREE, STANDARD, Price, TokenRates
from asyncgen.providers.profiles import LOCAL, PROFILES
from asyncgen.providers.training_prices import TuningPrice, base_model, tuned_model
from asyncgen.providers.user_profiles import configuration_folder, load_user_providers
from asyncgen.toml_text import read_toml

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date
    from pathlib import Path


ANY_MODEL = "*"


@dataclass(frozen=True, slots=True)
class OwnPrice:
    """An entry of the user's price file: a price, a training price, or both.

    Attributes:
        tiers: rates by tier; empty if it has none.
        training: USD per million trained tokens; None if it has none.
        tuned: rates of models tuned from this one; None if it has none.
        source: the file.
        as_of: the date in the file; None if it has none.
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
        own: the user's entries by provider and model. They take precedence over everything but the local server's zero.
    """

    own: Mapping[tuple[str, str], OwnPrice] = field(default_factory=dict)

    def price(self, provider: str, base_url: str | None, model: str) -> Price | None:
        """Look up the price of calls to a model.

        Args:
            provider: name of a profile.
            base_url: the address in use; None for that of the profile. Another host's published prices are used for
                another address.
            model: as named in requests.

        Returns:
            The price; None if it is unknown.
        """
        if provider == LOCAL:
            return FREE
        return self._own_price(provider, model) or self._known_price(provider, base_url, model)

    def training(self, provider: str, model: str) -> TuningPrice | None:
        """Look up the price of tuning a model.

        Args:
            provider: name of a profile.
            model: the base model.

        Returns:
            The price of the training and of calls to the tuned model; None if it is unknown.
        """
        own = self.own.get((provider, model))
        known = tuned_model(provider, model)
        if own is None or own.training is None:
            return known
        rates = own.tuned or (known.rates if known else None)
        return TuningPrice(own.training, own.training, rates, own.source, own.as_of, "")

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
    """Check whether an address is the provider's own.

    Args:
        provider: name of a profile.
        base_url: the address in use; None for that of the profile.

    Returns:
        Whether the provider itself is asked.
    """
    profile = PROFILES.get(provider)
    return base_url is None or (profile is not None and profile.base_url in {None, base_url})


FILE_NAME = "prices.toml"


class _TokenRates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    input: float
    output: float
    cached: float | None = None
    reasoning: float | None = None


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    input: float | None = None
    output: float | None = None
    cached: float | None = None
    reasoning: float | None = None
    batch: _TokenRates | None = None
    flex: _TokenRates | None = None
    priority: _TokenRates | None = None
    training: float | None = None
    tuned: _TokenRates | None = None


def load_price_list(job_folder: Path | None, environ: Mapping[str, str]) -> PriceList:
    """Load the user's prices. Those beside the job file take precedence over those in the configuration folder.

    An entry for a model takes precedence over the price of a provider in `providers.toml`.

    Args:
        job_folder: folder of the job file; None for the built-in job.
        environ: for XDG_CONFIG_HOME and HOME.

    Returns:
        The price list.

    Raises:
        UsageError: a file cannot be read, or is not a price file.
    """
    given = load_user_providers(job_folder, environ)
    own = {
        (name, ANY_MODEL): OwnPrice({STANDARD: rates}, None, None, given.sources[name], None)
        for name, rates in given.prices.items()
    }
    for folder in (configuration_folder(environ), job_folder):
        if folder is not None:
            own |= _read(folder / FILE_NAME)
    return PriceList(own)


def _read(path: Path) -> dict[tuple[str, str], OwnPrice]:
    if not os.path.lexists(path):
        return {}
    _, document = read_toml(path)
    try:
        return _entries(document, str(path))
    except msgspec.ValidationError as error:
        raise UsageError(f"{path} is not a price file", cause=str(error)) from error


def _entries(document: dict[str, Any], source: str) -> dict[tuple[str, str], OwnPrice]:
    as_of = document.pop("date", None)
    if as_of is not None and not isinstance(as_of, dt.date):
        raise msgspec.ValidationError("Expected a day such as 2026-11-22 - at `$.date`")
    return {
        (provider, model): _own_price(_entry(entry, f"{provider}.{model}"), source, as_of, f"{provider}.{model}")
        for provider, models in document.items()
        for model, entry in _table(models, provider).items()
    }


def _table(value: object, place: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise msgspec.ValidationError(f"Expected a table of models - at `{place}`")


def _entry(value: object, place: str) -> _Entry:
    try:
        return msgspec.convert(value, _Entry)
    except msgspec.ValidationError as error:  # has the path within the entry only
        raise msgspec.ValidationError(f"{error} of `{place}`") from error


def _own_price(entry: _Entry, source: str, as_of: dt.date | None, place: str) -> OwnPrice:
    tiers: dict[str, TokenRates] = {}
    if entry.input is not None and entry.output is not None:
        standard = _TokenRates(entry.input, entry.output, entry.cached, entry.reasoning)
        tiers[STANDARD] = _rates(standard, place)
        special = {BATCH: entry.batch, FLEX: entry.flex, "priority": entry.priority}
        tiers |= {tier: _rates(given, f"{place}.{tier}") for tier, given in special.items() if given}
    elif any((entry.input, entry.output, entry.cached, entry.batch, entry.flex, entry.priority)):
        raise msgspec.ValidationError(f"Expected both `input` and `output` - at `{place}`")
    _refuse_nonsense(entry.training, place)
    tuned = _rates(entry.tuned, f"{place}.tuned") if entry.tuned else None
    return OwnPrice(tiers, entry.training, tuned, source, as_of)


def _rates(given: _TokenRates, place: str) -> TokenRates:
    for value in (given.input, given.output, given.cached, given.reasoning):
        _refuse_nonsense(value, place)
    cached = given.input if given.cached is None else given.cached
    return TokenRates(given.input, cached, given.output, given.reasoning)


def _refuse_nonsense(usd: float | None, place: str) -> None:
    if usd is not None and not (math.isfinite(usd) and usd >= 0):
        raise msgspec.ValidationError(f"Expected USD of 0 or more, got {usd} - at `{place}`")
