"""Who answers and who tunes: chosen from flags, the job file's words and the environment.

Owns the precedence (flag, variable, job file, default), the address of a choice, and which key may go to it. Opens
nothing and prints nothing: what the user should hear stands in the choice and in the endpoint.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from asyncgen.errors import AuthError, UsageError
from asyncgen.nearest import nearest
from asyncgen.providers.endpoint import Endpoint, Secret, checked_base_url, is_loopback
from asyncgen.providers.profiles import LOCAL, PROFILES, Choice, Profile

CUSTOM = "custom"
AUTO = "auto"
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Where:
    """What says where the requests of one stage go; None where nothing was said.

    Attributes:
        provider: a profile's name.
        base_url: an address, or several of one provider.
        model: its name in requests.
        api_key_file: holds the key.
    """

    provider: str | None = None
    base_url: str | Sequence[str] | None = None
    model: str | None = None
    api_key_file: Path | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses named, without blanks around them."""
        named = (self.base_url,) if isinstance(self.base_url, str) else self.base_url or ()
        return tuple(filter(None, (address.strip() for address in named)))


def choose_generation(
    where: Where,
    named_in_job: str = AUTO,
    environment: Mapping[str, str] = os.environ,
    profiles: Mapping[str, Profile] = PROFILES,
) -> Choice:
    """Who answers.

    Args:
        where: the flags.
        named_in_job: `generate.provider`; "auto" where no job file says it.
        environment: for keys, and for addresses that belong to a provider.
        profiles: those that can be named.

    Raises:
        UsageError: there is no provider of that name.
    """
    if where.provider:
        return Choice(named_profile(where.provider, profiles), "--provider")
    in_job = None if named_in_job == AUTO else named_profile(named_in_job, profiles)
    if where.addresses:
        return _by_address(where.addresses[0], in_job, environment, profiles)
    if in_job is not None:
        return Choice(in_job, "named in the job file")
    for profile in profiles.values():
        if profile.key_variable and not profile.by_name_only and environment.get(profile.key_variable, "").strip():
            return Choice(profile, f"{profile.key_variable} is set")
    return Choice(profiles[LOCAL], "no provider's key is in the environment")


def _by_address(
    address: str, in_job: Profile | None, environment: Mapping[str, str], profiles: Mapping[str, Profile]
) -> Choice:
    """The provider at an address that was named alone: a key goes to the provider it belongs to, to nobody else."""
    for profile in profiles.values():
        if _place_of(address) in _own_places(profile, environment):
            return Choice(profile, "--base-url is an address of theirs")
    if in_job is not None and in_job.base_url is None:
        return Choice(in_job, "named in the job file, at --base-url")
    return Choice(profiles[CUSTOM], "--base-url, and no provider was named")


def _own_places(profile: Profile, environment: Mapping[str, str]) -> set[tuple[str, int | None]]:
    """Host and port of a provider's addresses: the published one, and the one that its variable gives."""
    published = profile.base_url if profile.base_url and not is_loopback(profile.base_url) else None
    return {_place_of(each) for each in (published, from_variable(profile, environment)) if each}


def is_same_place(address: str, other: str) -> bool:
    """Are both addresses of one host and port?"""
    return _place_of(address) == _place_of(other) != ("", None)


def _place_of(address: str) -> tuple[str, int | None]:
    try:
        parts = urlsplit(address)
        return (parts.hostname or "").rstrip("."), parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return "", None  # no address at all, which is said where it is asked


def choose_tuning(
    generation: Choice,
    named: str | None = None,
    named_in_job: str = AUTO,
    profiles: Mapping[str, Profile] = PROFILES,
) -> Choice:
    """Who tunes: the one named, else who answers where they tune for new customers, else this machine.

    Args:
        generation: who answers.
        named: by a flag.
        named_in_job: `finetune.provider`.
        profiles: those that can be named.

    Raises:
        UsageError: there is no provider of that name, or it does not tune.
    """
    if named:
        return _that_tunes(Choice(named_profile(named, profiles), "named on the command line"), profiles)
    if named_in_job != AUTO:
        return _that_tunes(Choice(named_profile(named_in_job, profiles), "named in the job file"), profiles)
    finetuning = generation.profile.finetuning
    if finetuning is None:
        return Choice(profiles[LOCAL], f"{generation.profile.name} does not tune models")
    if not finetuning.new_customers:
        return Choice(profiles[LOCAL], f"{generation.profile.name} does not tune for new customers")
    return Choice(generation.profile, "it answers, and it tunes")


def choose_tuner(
    where: Where, environment: Mapping[str, str] = os.environ, profiles: Mapping[str, Profile] = PROFILES
) -> Choice:
    """The provider for jobs that no run and no job file tell of.

    Raises:
        UsageError: it does not tune.
    """
    choice = choose_generation(where, AUTO, environment, profiles)
    if where.provider or choice.profile.finetuning is not None:
        return _that_tunes(choice, profiles)
    return Choice(profiles[LOCAL], f"{choice.profile.name} does not tune models")


def _that_tunes(choice: Choice, profiles: Mapping[str, Profile]) -> Choice:
    if choice.profile.finetuning is None:
        able = ", ".join(name for name, profile in profiles.items() if profile.finetuning)
        raise UsageError(f"{choice.profile.name} does not tune models", help_text=f"these do: {able}")
    return choice


def named_profile(name: str, profiles: Mapping[str, Profile] = PROFILES) -> Profile:
    """The profile of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in profiles:
        near = nearest(name, profiles)
        raise UsageError(
            f"there is no provider {name!r}" + (f" (did you mean {near!r}?)" if near else ""),
            help_text=f"they are {', '.join(profiles)}; any other one: --base-url URL",
        )
    return profiles[name]


def named_address(profile: Profile, where: Where, environment: Mapping[str, str] = os.environ) -> str | None:
    """The provider's address: the flag's, the variable's, its own; None where there is none (yet)."""
    return next(iter(where.addresses), None) or from_variable(profile, environment) or profile.base_url


def from_variable(profile: Profile, environment: Mapping[str, str]) -> str | None:
    """The address that the provider's variable gives, with what an address there ends in."""
    value = environment.get(profile.base_url_variable or "", "").strip().rstrip("/")
    return value.removesuffix(profile.base_url_path) + profile.base_url_path if value else None


def addressed_endpoint(
    choice: Choice, where: Where, model: str, environment: Mapping[str, str] = os.environ
) -> Endpoint:
    """The endpoint of a provider that has an address.

    Raises:
        UsageError: there is no address, or it is none that a key may be sent to.
        AuthError: a key is needed and there is none.
    """
    profile = choice.profile
    base_url = named_address(profile, where, environment)
    if base_url is None:
        named = f", or set {profile.base_url_variable}" if profile.base_url_variable else ""
        raise UsageError(f"{profile.name} needs an address", help_text=f"give it with --base-url{named}")
    key = _key(profile, where, base_url, environment)
    remarks = tuple(filter(None, (key_file_warning(where.api_key_file) if where.api_key_file else None,)))
    return Endpoint(profile, checked_base_url(base_url, sends_key=key is not None), key, model, choice.why, remarks)


def _key(profile: Profile, where: Where, base_url: str, environment: Mapping[str, str]) -> Secret | None:
    if where.api_key_file:
        return _key_from_file(where.api_key_file)
    value = environment.get(profile.key_variable, "").strip() if profile.key_variable else ""
    if value and profile.key_variable:
        return Secret(value, profile.key_variable)
    if profile.key_variable is None or profile.key_optional or is_loopback(base_url):
        return None
    raise AuthError(
        f"there is no key for {profile.name}: {profile.key_variable} is not set",
        help_text=f"export {profile.key_variable}=..., or name a file with --api-key-file",
        code="no_key",
    )


def _key_from_file(path: Path) -> Secret:
    try:
        value = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise AuthError(f"no key could be read from {path}", cause=str(error), code="no_key") from error
    if not value or not value.isprintable() or " " in value:
        raise AuthError(f"{path} does not hold a key", cause="expected one line without blanks", code="no_key")
    return Secret(value, str(path))


def key_file_warning(path: Path) -> str | None:
    """What is to be said of a key file that others on this machine can read; None where they cannot."""
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return f"warning: others on this machine can read {path}; `chmod 600 {path}`"
    return None
