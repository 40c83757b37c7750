"""The user's own prices: `prices.toml` in the configuration folder, and beside the job file.

    date = 2026-11-22                       # shown with every estimate made from this file

    [openai."gpt-6-luna"]                   # provider, model; USD per million tokens
    input = 0.10
    cached = 0.01                           # left out: as input
    output = 0.50
    reasoning = 0.50                        # left out: as output
    batch = { input = 0.05, output = 0.25 } # likewise flex and priority
    training = 5.0
    tuned = { input = 0.20, output = 1.00 } # calls to models tuned from this one

Finds, reads and validates these files. Which price is used is left to `prices`.
"""

from __future__ import annotations

import datetime as dt
import math
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from asyncgen.errors import UsageError
from asyncgen.providers.price import BATCH, FLEX, STANDARD, TokenRates
from asyncgen.providers.prices import ANY_MODEL, OwnPrice, PriceList
from asyncgen.providers.user_profiles import configuration_folder, load_user_providers

if TYPE_CHECKING:
    from collections.abc import Mapping


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
    """The price list with the user's entries, of which those beside the job file win.

    An entry for a model goes before the price of a provider in `providers.toml`.

    Args:
        job_folder: where the job file stands; None for the built-in job.
        environ: for XDG_CONFIG_HOME and HOME.

    Raises:
        UsageError: a file that is there cannot be read, or is no price file.
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
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise UsageError(f"{path} cannot be read", cause=error.strerror) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML", cause=str(error)) from error
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
    except msgspec.ValidationError as error:  # knows the place within the entry only
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
