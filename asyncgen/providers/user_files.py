"""The user's own files, in the configuration folder and beside the job file: `providers.toml` and `prices.toml`.

    # providers.toml
    [gpu-box]
    base_url = "http://vllm.internal:8000/v1"   # or base_urls = [...]: several servers, which share the requests
    key_variable = "VLLM_KEY"                   # environment variable of the key; default: no key is sent
    allow_http = true                           # the key may go there unencrypted
    max_tokens_name = "max_tokens"
    headers = { x-team = "data" }               # go out with every request
    [gpu-box.price]                             # USD per million tokens of any model
    input = 0.10
    output = 0.40

    # prices.toml
    date = 2026-11-22                           # shown with every estimate made from this file
    [openai."gpt-6-luna"]                       # provider, model; USD per million tokens
    input = 0.10
    cached = 0.01                               # default: as input
    output = 0.50
    reasoning = 0.50                            # default: as output
    batch = { input = 0.05, output = 0.25 }     # also flex and priority
    training = 5.0
    tuned = { input = 0.20, output = 1.00 }     # calls to models tuned from this one

Finds, reads and validates these files, and reports every problem of `providers.toml` at once. A file may add providers
and change fields of known ones, but never send the key of one provider to the host of another.
"""

from __future__ import annotations

import datetime as dt
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from asyncgen.errors import Problem, UsageError, nearest
from asyncgen.providers.endpoint import header_fault, host_and_port, is_loopback, read_address
from asyncgen.providers.price import BATCH, FLEX, STANDARD, TokenRates
from asyncgen.providers.prices import ANY_MODEL, PriceList, UserPrice
from asyncgen.providers.profiles import PROFILES, Profile
from asyncgen.terminal import counted
from asyncgen.toml_text import line_of, read_toml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

PROVIDERS_NAME = "providers.toml"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_RESERVED = frozenset({"auto", "local"})


class _WrongError(ValueError):
    """What is wrong with a value, for the message."""


@dataclass(frozen=True, slots=True)
class UserProviders:
    """The content of the user's files.

    Attributes:
        profiles: the known providers, as changed, and the user's own.
        prices: provider to the price of all its models.
        sources: provider to the file with its price.
    """

    profiles: Mapping[str, Profile]
    prices: Mapping[str, TokenRates]
    sources: Mapping[str, str]


def configuration_folder(environ: Mapping[str, str]) -> Path | None:
    """Find the user's configuration folder by the XDG rules.

    Args:
        environ: for XDG_CONFIG_HOME and HOME.

    Returns:
        asyncgen's folder in it, which may not exist; None if there is no home.
    """
    given = environ.get("XDG_CONFIG_HOME", "")
    if Path(given).is_absolute():  # the XDG rules ignore a relative path
        return Path(given) / "asyncgen"
    home = environ.get("HOME")
    return Path(home) / ".config" / "asyncgen" if home else None


def load_profiles(folder: Path | None, environ: Mapping[str, str]) -> Mapping[str, Profile]:
    """Load the profiles that can be named.

    Args:
        folder: folder of the job file; None for the configuration folder alone.
        environ: for XDG_CONFIG_HOME and HOME.

    Returns:
        Name to profile.

    Raises:
        UsageError: a file cannot be read or is wrong; the message lists every problem.
    """
    return load_user_providers(folder, environ).profiles


def load_user_providers(folder: Path | None, environ: Mapping[str, str]) -> UserProviders:
    """Load the known providers and the user's own. A file beside the job file takes precedence.

    Args:
        folder: folder of the job file; None for the configuration folder alone.
        environ: for XDG_CONFIG_HOME and HOME.

    Returns:
        Profiles and prices.

    Raises:
        UsageError: a file cannot be read or is wrong; the message lists every problem.
    """
    profiles, prices, sources = dict(PROFILES), dict[str, TokenRates](), dict[str, str]()
    for place in (configuration_folder(environ), folder):
        if place is None or not os.path.lexists(place / PROVIDERS_NAME):
            continue
        file = _File(place / PROVIDERS_NAME)
        for name, table in file.tables():
            profile, rates = file.provider(name, table, profiles.get(name))
            if profile is not None:
                profiles[name] = profile
            if rates is not None:
                prices[name], sources[name] = rates, file.label
        file.refuse_problems()
    return UserProviders(profiles, prices, sources)


class _File:
    """One file, and the problems found in it.

    Args:
        path: of the file.

    Raises:
        UsageError: it cannot be read, or is not TOML.
    """

    def __init__(self, path: Path) -> None:
        self.label = str(path)
        self._text, self._document = read_toml(path)
        self._problems: list[Problem] = []

    def tables(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, table in self._document.items():
            if not isinstance(table, dict):
                self._wrong(name, "expected a table: the settings of a provider belong under [NAME]")
            elif name in _RESERVED or not _NAME.fullmatch(name):
                self._wrong(
                    name, "not a valid provider name: use lower-case letters, digits, - and _, but not auto or local"
                )
            else:
                yield name, table

    def provider(
        self, name: str, table: dict[str, Any], known: Profile | None
    ) -> tuple[Profile | None, TokenRates | None]:
        """Read the profile and the price of a table; each is None if it is wrong or missing."""
        count = len(self._problems)
        fields: dict[str, Any] = {}
        for key, value in table.items():
            if key == "price":
                continue
            if key not in _FIELDS:
                self._unknown(name, key)
                continue
            try:
                fields |= _FIELDS[key](value)
            except (_WrongError, UsageError) as error:
                said = error if isinstance(error, _WrongError) else error.what
                self._wrong(f"{name}.{key}", str(said))
        rates = self._price(name, table["price"]) if "price" in table else None
        if known is None and not fields.get("base_url") and len(self._problems) == count:
            self._wrong(name, "base_url is missing: the address of the server, up to /v1")
        if len(self._problems) > count:
            return None, None
        base = known or Profile(name=name, title=name, base_url=None, key_variable=None, by_name_only=True)
        profile = msgspec.structs.replace(base, **fields)
        self._refuse_foreign_key(profile)
        return profile, rates

    def _refuse_foreign_key(self, profile: Profile) -> None:
        """Check that a key is sent only to the hosts of its provider."""
        for owner in PROFILES.values():
            if owner.key_variable is None or owner.key_variable != profile.key_variable:
                continue
            hosts = {host_and_port(each) for each in owner.addresses if not is_loopback(each)}
            strange = [each for each in profile.addresses if host_and_port(each) not in hosts]
            if (hosts and strange) or (not hosts and profile.name != owner.name):
                text = f"{owner.key_variable} belongs to {owner.name}; use another variable for {strange[0]}"
                self._wrong(f"{profile.name}.key_variable", text)

    def _price(self, name: str, value: Any) -> TokenRates | None:
        place = f"{name}.price"
        if not isinstance(value, dict):
            self._wrong(place, "expected a table with input and output, in USD per million tokens")
            return None
        names = ("input", "output", "cached", "reasoning")
        for key in value.keys() - set(names):
            self._wrong(f"{place}.{key}", "unknown key; possible: " + ", ".join(names), nearest(key, names))
        rates = {key: value[key] for key in names if key in value}
        for key, usd in rates.items():
            if isinstance(usd, bool) or not isinstance(usd, int | float) or not (math.isfinite(usd) and usd >= 0):
                self._wrong(f"{place}.{key}", f"expected USD of 0 or more, got {usd!r}")
                return None
        if not {"input", "output"} <= rates.keys():
            self._wrong(place, "input and output are both needed")
            return None
        return TokenRates(rates["input"], rates.get("cached", rates["input"]), rates["output"], rates.get("reasoning"))

    def _unknown(self, name: str, key: str) -> None:
        if "key" in key.lower() or "token" in key.lower():
            self._wrong(
                f"{name}.{key}",
                "API keys do not belong in this file: set key_variable to the name of an environment variable",
            )
        else:
            known = ", ".join((*_FIELDS, "price"))
            self._wrong(f"{name}.{key}", f"unknown key; possible: {known}", nearest(key, _FIELDS))

    def _wrong(self, key: str, message: str, suggestion: str | None = None) -> None:
        self._problems.append(Problem(key, message, suggestion, line=line_of(self._text, key), file=self.label))

    def refuse_problems(self) -> None:
        if self._problems:
            count = counted(len(self._problems), "problem")
            raise UsageError(
                f"{count} in {self.label}",
                cause="\n".join(map(str, self._problems)),
                help_text="correct the file; `asyncgen providers` shows the result",
                code="providers_file",
            )


def _text(name: str) -> Callable[[Any], dict[str, Any]]:
    def read(value: Any) -> dict[str, Any]:
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            raise _WrongError("expected a text")
        return {name: value}

    return read


def _switch(name: str) -> Callable[[Any], dict[str, Any]]:
    def read(value: Any) -> dict[str, Any]:
        if not isinstance(value, bool):
            raise _WrongError("expected true or false")
        return {name: value}

    return read


def _base_url(value: Any) -> dict[str, Any]:
    if not isinstance(value, str):
        raise _WrongError("expected one address; use base_urls for several")
    return {"base_url": read_address(value, "base_url").base_url, "other_urls": ()}


def _base_urls(value: Any) -> dict[str, Any]:
    if not isinstance(value, list) or not value or not all(isinstance(each, str) for each in value):
        raise _WrongError("expected a list of addresses")
    first, *others = dict.fromkeys(read_address(each, "base_urls").base_url for each in value)
    return {"base_url": first, "other_urls": tuple(others)}


def _key_variable(value: Any) -> dict[str, Any]:
    if not isinstance(value, str) or not _VARIABLE.fullmatch(value):
        raise _WrongError("expected the name of an environment variable; API keys do not belong in this file")
    return {"key_variable": value}


def _headers(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _WrongError('expected a table, such as { x-team = "data" }')
    for name, text in value.items():
        if not isinstance(text, str):
            raise _WrongError(f"{name}: expected a text")
        if fault := header_fault(name, text):
            raise _WrongError(f"{name}: {fault}")
    return {"headers": dict(value)}


def _max_tokens_name(value: Any) -> dict[str, Any]:
    if value not in ("max_tokens", "max_completion_tokens"):
        raise _WrongError("expected max_tokens or max_completion_tokens")
    return {"max_tokens_name": value}


def _concurrency(value: Any) -> dict[str, Any]:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _WrongError("expected a whole number, 1 or more")
    return {"concurrency": value}


def _seconds(value: Any) -> dict[str, Any]:
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value >= 0):
        raise _WrongError("expected seconds, 0 or more")
    return {"starts_within_s": float(value)}


_FIELDS: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "title": _text("title"),
    "base_url": _base_url,
    "base_urls": _base_urls,
    "key_variable": _key_variable,
    "key_optional": _switch("key_optional"),
    "headers": _headers,
    "allow_http": _switch("allow_http"),
    "default_model": _text("default_model"),
    "max_tokens_name": _max_tokens_name,
    "continues_assistant": _switch("continues_assistant"),
    "batch": _switch("batch"),
    "concurrency": _concurrency,
    "starts_within_s": _seconds,
    "notes": _text("notes"),
}


PRICES_NAME = "prices.toml"


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
    entries = {
        (name, ANY_MODEL): UserPrice({STANDARD: rates}, None, None, given.sources[name], None)
        for name, rates in given.prices.items()
    }
    for folder in (configuration_folder(environ), job_folder):
        if folder is not None:
            entries |= _read_prices(folder / PRICES_NAME)
    return PriceList(entries)


def _read_prices(path: Path) -> dict[tuple[str, str], UserPrice]:
    if not os.path.lexists(path):
        return {}
    _, document = read_toml(path)
    try:
        return _entries(document, str(path))
    except msgspec.ValidationError as error:
        raise UsageError(f"{path} is not a price file", cause=str(error)) from error


def _entries(document: dict[str, Any], source: str) -> dict[tuple[str, str], UserPrice]:
    as_of = document.pop("date", None)
    if as_of is not None and not isinstance(as_of, dt.date):
        raise msgspec.ValidationError("Expected a day such as 2026-11-22 - at `$.date`")
    return {
        (provider, model): _price_of_entry(_entry(entry, f"{provider}.{model}"), source, as_of, f"{provider}.{model}")
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


def _price_of_entry(entry: _Entry, source: str, as_of: dt.date | None, place: str) -> UserPrice:
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
    return UserPrice(tiers, entry.training, tuned, source, as_of)


def _rates(given: _TokenRates, place: str) -> TokenRates:
    for value in (given.input, given.output, given.cached, given.reasoning):
        _refuse_nonsense(value, place)
    cached = given.input if given.cached is None else given.cached
    return TokenRates(given.input, cached, given.output, given.reasoning)


def _refuse_nonsense(usd: float | None, place: str) -> None:
    if usd is not None and not (math.isfinite(usd) and usd >= 0):
        raise msgspec.ValidationError(f"Expected USD of 0 or more, got {usd} - at `{place}`")
