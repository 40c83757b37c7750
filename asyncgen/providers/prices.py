"""Find the prices of a model at a provider, of calls and of fine-tuning, and its announced shutdown date.

Sources, in order: this machine is free; the user's `prices.toml`; the small dated tables of this module; the published
prices of a library. A model without a price is not an error. No library has the prices of fine-tuning and of calls to
tuned models, so they are in the tables, with OpenAI's shutdown dates (tuned models included); a `shutdown_date` that a
server gives with a model takes precedence. Training tokens, budgets and consent are left to others.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

from asyncgen.providers.endpoint import is_loopback
from asyncgen.providers.price import FREE, STANDARD, Price, TokenRates
from asyncgen.providers.profiles import LOCAL, PROFILES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asyncgen.providers.profiles import Finetuning


ANY_MODEL = "*"


@dataclass(frozen=True, slots=True)
class UserPrice:
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
        entries: the user's, by provider and model. They take precedence over everything but the local server's zero.
    """

    entries: Mapping[tuple[str, str], UserPrice] = field(default_factory=dict)

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
        return self._user_price(provider, model) or self._known_price(provider, base_url, model)

    def training(self, provider: str, model: str) -> TuningPrice | None:
        """Look up the price of tuning a model.

        Args:
            provider: name of a profile.
            model: the base model.

        Returns:
            The price of the training and of calls to the tuned model; None if it is unknown.
        """
        entry = self.entries.get((provider, model))
        known = tuned_model(provider, model)
        if entry is None or entry.training is None:
            return known
        rates = entry.tuned or (known.rates if known else None)
        return TuningPrice(entry.training, entry.training, rates, entry.source, entry.as_of, "")

    def _user_price(self, provider: str, model: str) -> Price | None:
        entry = self.entries.get((provider, model)) or self.entries.get((provider, ANY_MODEL))
        if entry is not None and entry.tiers:
            return Price(entry.tiers, entry.source, entry.as_of)
        base = self.entries.get((provider, base_model(model) or ""))
        return Price({STANDARD: base.tuned}, base.source, base.as_of) if base and base.tuned else None

    def _known_price(self, provider: str, base_url: str | None, model: str) -> Price | None:
        if base_url and is_loopback(base_url):
            return None
        at_home = is_provider_address(provider, base_url)
        base = base_model(model)
        known = tuned_model(provider, base) if base and at_home else None
        if known and known.rates:
            return Price({STANDARD: known.rates}, known.source, known.as_of)
        # Imported only when a price is needed: the import takes a quarter of a second.
        from asyncgen.providers.published_prices import published_price  # noqa: PLC0415

        by_address = published_price(None, base_url, model) if base_url else None
        return by_address or (published_price(provider, None, model) if at_home else None)


def is_provider_address(provider: str, base_url: str | None) -> bool:
    """Check whether an address is the provider's own.

    Args:
        provider: name of a profile.
        base_url: the address in use; None for that of the profile.

    Returns:
        Whether the provider itself is asked.
    """
    profile = PROFILES.get(provider)
    return base_url is None or (profile is not None and profile.base_url in {None, base_url})


_OPENAI = "OpenAI's fine-tuning price table"


_READ_OPENAI = date(2026, 11, 22)


_TUNED_NAME = re.compile(r"ft:(?P<base>[^:]+):")


_BILLIONS = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?)b(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class TuningPrice:
    """The price of tuning a model.

    Attributes:
        low: USD per million trained tokens (tokens of the training file times epochs), by the cheapest method.
        high: the same, by the most expensive method.
        rates: of calls to the tuned model; None if unknown or not priced per token.
        source: where the price is from, for the user.
        as_of: day of the price; None if unknown.
        note: what else is charged; "" if nothing.
    """

    low: float
    high: float
    rates: TokenRates | None
    source: str
    as_of: date | None
    note: str = ""

    def cost_usd(self, tokens: int) -> tuple[float, float]:
        """Cost of a training.

        Args:
            tokens: trained tokens, epochs included.

        Returns:
            USD, lowest and highest.
        """
        return tokens * self.low / 1_000_000, tokens * self.high / 1_000_000


def _openai(training: float, input_: float, cached: float, output: float) -> TuningPrice:
    return TuningPrice(training, training, TokenRates(input_, cached, output), _OPENAI, _READ_OPENAI)


_NEBIUS = "a third party's note on Nebius"


_READ_NEBIUS = date(2026, 11, 22)


_TOGETHER = "Together's price list"


_READ_TOGETHER = date(2026, 5, 1)


_BY_THE_MINUTE = "calls need a dedicated endpoint, billed by the minute"


# fireworks.ai/pricing, "Managed Training", LoRA, supervised: the one method that can be asked for. As the page was
# transcribed that day in api-evangelist/fireworks-ai on GitHub, like the price of its hardware below.
_FIREWORKS = "Fireworks' price list"


_READ_FIREWORKS = date(2026, 10, 7)


_BY_THE_SECOND = "calls need a dedicated deployment, billed by the second"


# Adapters of this model are served at the base model's price; of several published prices, the highest.
_LLAMA_8B_AT_NEBIUS = TuningPrice(0.40, 0.40, TokenRates(0.03, 0.03, 0.09), _NEBIUS, _READ_NEBIUS)


_BY_NAME = {
    # developers.openai.com/api/docs/pricing, table "Finetuning"; models already shut down are left out.
    "openai": {
        "gpt-4.1": _openai(25.0, 3.00, 0.75, 12.0),
        "gpt-4.1-mini": _openai(5.0, 0.80, 0.20, 3.20),
        "gpt-4o": _openai(25.0, 3.75, 1.875, 15.0),
        "gpt-4o-mini": _openai(3.0, 0.30, 0.15, 1.20),
    },
    "nebius": {
        "meta-llama/Llama-3.1-8B-Instruct": _LLAMA_8B_AT_NEBIUS,
        "meta-llama/Meta-Llama-3.1-8B-Instruct": _LLAMA_8B_AT_NEBIUS,
    },
}


# Billions of parameters (up to and including) to the price; low and high differ by method.
_BY_SIZE: dict[str, tuple[tuple[float, TuningPrice], ...]] = {
    "fireworks": (
        (16, TuningPrice(0.50, 0.50, None, _FIREWORKS, _READ_FIREWORKS, _BY_THE_SECOND)),
        (80, TuningPrice(3.00, 3.00, None, _FIREWORKS, _READ_FIREWORKS, _BY_THE_SECOND)),
        (300, TuningPrice(6.00, 6.00, None, _FIREWORKS, _READ_FIREWORKS, _BY_THE_SECOND)),
        (math.inf, TuningPrice(10.00, 10.00, None, _FIREWORKS, _READ_FIREWORKS, _BY_THE_SECOND)),
    ),
    "nebius": (
        (20, TuningPrice(0.40, 0.40, None, _NEBIUS, _READ_NEBIUS)),
        (1000, TuningPrice(2.80, 2.80, None, _NEBIUS, _READ_NEBIUS)),
    ),
    "together": (
        (16, TuningPrice(0.48, 1.35, None, _TOGETHER, _READ_TOGETHER, _BY_THE_MINUTE)),
        (69, TuningPrice(1.50, 4.12, None, _TOGETHER, _READ_TOGETHER, _BY_THE_MINUTE)),
        (100, TuningPrice(2.90, 8.00, None, _TOGETHER, _READ_TOGETHER, _BY_THE_MINUTE)),
    ),
}


@dataclass(frozen=True, slots=True)
class HostingPrice:
    """What it costs to keep a tuned model running on dedicated hardware, whether it is called or not.

    Attributes:
        usd_per_hour: price of the smallest hardware that holds the model.
        hardware: that hardware.
        source: where the price is from, for the user.
        as_of: day on which the price was read.
    """

    usd_per_hour: float
    hardware: str
    source: str
    as_of: date


# Providers that serve every tuned model on a dedicated endpoint: USD per hour of one GPU with 80 GB.
# Nebius serves adapters of some models at their own price, and publishes no price of its dedicated endpoints. Azure
# answers on a deployment with a fee by the hour and calls by the token; its price page shows no figures by itself.
_BY_THE_HOUR = {
    "fireworks": (8.00, "H100 80GB", "fireworks.ai/pricing", date(2026, 10, 7)),
    "together": (3.99, "H100 80GB", "docs.together.ai/docs/dedicated-endpoints/overview", date(2026, 11, 29)),
}


_GIGABYTES, _BYTES_A_PARAMETER, _BESIDE_WEIGHTS = 80, 2, 1.2


def hosting_price(provider: str, model: str) -> HostingPrice | None:
    """Look up the price of the dedicated endpoint that a tuned model needs.

    Args:
        provider: name of a profile.
        model: the base model; its size is read from the name.

    Returns:
        The price; None if no such endpoint is needed, or its price is unknown.
    """
    known = _BY_THE_HOUR.get(provider)
    size = _BILLIONS.search(model)
    if known is None or size is None:
        return None
    usd, gpu, source, as_of = known
    needed = float(size[1]) * _BYTES_A_PARAMETER * _BESIDE_WEIGHTS / _GIGABYTES
    gpus = 2 ** max(0, math.ceil(math.log2(needed)))
    return HostingPrice(usd * gpus, f"{gpus}x {gpu}", source, as_of)


def tuned_model(provider: str, model: str) -> TuningPrice | None:
    """Look up the price of tuning a model in the table.

    Args:
        provider: name of a profile.
        model: the base model.

    Returns:
        The price; None if the table has none.
    """
    undated = re.sub(r"-20\d\d-\d\d-\d\d$", "", model)
    named = _BY_NAME.get(provider, {}).get(undated)
    return named or _by_size(provider, model)


def _by_size(provider: str, model: str) -> TuningPrice | None:
    size = _BILLIONS.search(model)
    if size is None:
        return None
    rows = _BY_SIZE.get(provider, ())
    return next((price for billions, price in rows if float(size[1]) <= billions), None)


def base_model(model: str) -> str | None:
    """Find the base of a tuned model by its name.

    Args:
        model: name of any model.

    Returns:
        The base model; None if the name does not contain it.
    """
    tuned = _TUNED_NAME.match(model)
    return tuned["base"] if tuned else None


def epochs_of(samples: int, hyperparameters: Mapping[str, Any], finetuning: Finetuning) -> int:
    """Find the number of epochs of a training: the job's, else the provider's default, else by the number of samples.

    Args:
        samples: size of the training set.
        hyperparameters: of the job.
        finetuning: how the provider tunes.

    Returns:
        The number of epochs.
    """
    given = hyperparameters.get("n_epochs")
    return given if isinstance(given, int) else finetuning.default_epochs or finetuning.epochs_by_samples(samples)


READ_ON = date(2026, 11, 22)


# developers.openai.com/api/docs/deprecations. Undated names, so that every snapshot of a model is found by them.
_OPENAI_SHUTDOWNS = {
    date(2026, 9, 28): ("davinci-002", "babbage-002", "gpt-3.5-turbo-instruct"),
    date(2026, 10, 23): (
        "gpt-3.5-turbo",
        "gpt-4",
        "gpt-4-turbo",
        "gpt-4.1-nano",
        "gpt-4o-2024-05-13",
        "o1",
        "o3-mini",
        "o4-mini",
    ),
    date(2026, 12, 11): ("gpt-5", "gpt-5-mini", "gpt-5-nano", "o3"),
    date(2027, 1, 14): ("gpt-4.1", "gpt-4.1-mini", "gpt-4o", "gpt-4o-mini"),
    date(2027, 4, 1): ("gpt-5.1", "gpt-5.4-nano"),
}


_DAYS = {model: day for day, models in _OPENAI_SHUTDOWNS.items() for model in models}


_SNAPSHOT = re.compile(r"-(20\d\d-\d\d-\d\d|\d{4})$")


def shutdown_date(provider: str, model: str) -> date | None:
    """Look up the day from which a model is no longer available. A tuned model goes with its base.

    Args:
        provider: name of a profile.
        model: as named in requests.

    Returns:
        The day; None if none is announced or known here.
    """
    if provider != "openai":
        return None
    base = base_model(model) or model
    return _DAYS.get(base) or _DAYS.get(_SNAPSHOT.sub("", base))
