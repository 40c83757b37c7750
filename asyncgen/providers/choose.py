"""Choose the provider that answers and the one that tunes, from flags, job file and environment.

Precedence: flag, environment variable, job file, default. Also finds the address and the key that may be sent to it,
starts the local server if the choice is `local` without an address, and says what was chosen and why. Requests are left
to the callers.
"""

from __future__ import annotations

import os
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from asyncgen.errors import UsageError, nearest
from asyncgen.providers.endpoint import (
    Address,
    Endpoint,
    Secret,
    header_fault,
    host_and_port,
    is_loopback,
    key_file_warning,
    key_from_file,
    key_from_variable,
    missing_key,
    nearly_named,
    read_address,
    refuse_clear_key,
)
from asyncgen.providers.profiles import LOCAL, Profile, ProviderChoice
from asyncgen.providers.user_files import load_profiles
from asyncgen.terminal import counted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

_BASE_URL_VARIABLE = "ASYNCGEN_BASE_URL"  # of the flag, in every command
CUSTOM = "custom"
AUTO = "auto"
OPENAI = "openai"


@dataclass(frozen=True, slots=True)
class EndpointFlags:
    """Flags that select the provider of one stage; None for a flag that was not given.

    Attributes:
        provider: name of a profile.
        base_url: an address, or several of one provider.
        model: name of the model in requests.
        api_key_file: path of a file that contains the key.
    """

    provider: str | None = None
    base_url: str | Sequence[str] | None = None
    model: str | None = None
    api_key_file: Path | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses given, stripped."""
        named = (self.base_url,) if isinstance(self.base_url, str) else self.base_url or ()
        return tuple(filter(None, (address.strip() for address in named)))


def choose_generation(
    where: EndpointFlags,
    named_in_job: str = AUTO,
    environment: Mapping[str, str] = os.environ,
    profiles: Mapping[str, Profile] | None = None,
) -> ProviderChoice:
    """Choose the provider that answers.

    Args:
        where: the flags.
        named_in_job: `generate.provider` of the job file; "auto" if it names none.
        environment: environment variables, with keys and addresses.
        profiles: the known providers; None for the built-in ones and the user's own in this folder.

    Returns:
        The choice, with the reason for it.

    Raises:
        UsageError: there is no provider of that name.
    """
    profiles = profiles_here(environment) if profiles is None else profiles
    if where.provider:
        return ProviderChoice(named_profile(where.provider, profiles), "--provider")
    in_job = None if named_in_job == AUTO else named_profile(named_in_job, profiles)
    if where.addresses:
        return _by_address(where.addresses, in_job, environment, profiles)
    if in_job is not None:
        return ProviderChoice(in_job, "named in the job file")
    for profile in profiles.values():
        if profile.key_variable and not profile.by_name_only and environment.get(profile.key_variable, "").strip():
            return ProviderChoice(profile, f"{profile.key_variable} is set")
    return ProviderChoice(profiles[LOCAL], "no API key is set" + _misspelt_key_remark(profiles, environment))


def _misspelt_key_remark(profiles: Mapping[str, Profile], environment: Mapping[str, str]) -> str:
    """A remark on a key under a misspelt variable."""
    for profile in profiles.values():
        if not profile.by_name_only and profile.key_variable and (near := nearly_named(profile, environment)):
            return f"; {near} is set: did you mean {profile.key_variable}?"
    return ""


def _by_address(
    addresses: Sequence[str], in_job: Profile | None, environment: Mapping[str, str], profiles: Mapping[str, Profile]
) -> ProviderChoice:
    """The provider at addresses given without a name; only the provider that owns an address gets its key."""
    places = {host_and_port(address) for address in addresses}
    for profile in profiles.values():
        if places <= _places_of(profile, environment):
            return ProviderChoice(profile, "--base-url is an address of this provider")
    if in_job is not None and in_job.base_url is None:
        return ProviderChoice(in_job, "named in the job file, at --base-url")
    if in_job is None or in_job.name == CUSTOM:
        return ProviderChoice(profiles[CUSTOM], "--base-url is set, and no provider")
    name = in_job.name
    why = f"not an address of the job's provider {name}; --provider {name} uses its key, prices and [on.{name}]"
    return ProviderChoice(profiles[CUSTOM], why)


def _places_of(profile: Profile, environment: Mapping[str, str]) -> set[tuple[str, int | None]]:
    """Host and port of a provider's addresses: the published one, and the one in its variable."""
    published = [address for address in profile.addresses if not is_loopback(address)]
    given = environment.get(profile.base_url_variable or "", "").strip()
    return {host_and_port(each) for each in (*published, given) if each} - {("", None)}


def is_same_place(address: str, other: str) -> bool:
    """Compare two addresses by host and port.

    Args:
        address: a URL.
        other: another one.

    Returns:
        Whether both lead to the same host and port; False if one has no host.
    """
    return host_and_port(address) == host_and_port(other) != ("", None)


def choose_tuning(
    generation: ProviderChoice,
    named: str | None = None,
    named_in_job: str = AUTO,
    profiles: Mapping[str, Profile] | None = None,
) -> ProviderChoice:
    """Choose the provider that tunes.

    The one that is named; else the one that answers, if it tunes for new customers; else this machine.

    Args:
        generation: the provider that answers.
        named: by a flag.
        named_in_job: `finetune.provider` of the job file.
        profiles: the known providers; None for the built-in ones and the user's own in this folder.

    Returns:
        The choice, with the reason for it.

    Raises:
        UsageError: there is no provider of that name, or it does not tune.
    """
    profiles = profiles_here() if profiles is None else profiles
    if named:
        return _that_tunes(ProviderChoice(named_profile(named, profiles), "named on the command line"), profiles)
    if named_in_job != AUTO:
        return _that_tunes(ProviderChoice(named_profile(named_in_job, profiles), "named in the job file"), profiles)
    finetuning = generation.profile.finetuning
    if finetuning is None:
        return ProviderChoice(profiles[LOCAL], f"{generation.profile.name} has no fine-tuning")
    if not finetuning.new_customers:
        return ProviderChoice(profiles[LOCAL], f"{generation.profile.name} has no fine-tuning for new customers")
    return ProviderChoice(generation.profile, "the provider of the answers")


def choose_tuner(
    where: EndpointFlags, environment: Mapping[str, str] = os.environ, profiles: Mapping[str, Profile] | None = None
) -> ProviderChoice:
    """Choose the provider whose fine-tuning jobs a command is about, without a run or job file.

    Args:
        where: the flags.
        environment: environment variables, with keys and addresses.
        profiles: the known providers; None for the built-in ones and the user's own in this folder.

    Returns:
        The choice, with the reason for it.

    Raises:
        UsageError: the named provider does not tune.
    """
    profiles = profiles_here(environment) if profiles is None else profiles
    choice = choose_generation(where, AUTO, environment, profiles)
    if where.provider or choice.profile.finetuning is not None:
        return _that_tunes(choice, profiles)
    return ProviderChoice(profiles[LOCAL], f"{choice.profile.name} has no fine-tuning")


def _that_tunes(choice: ProviderChoice, profiles: Mapping[str, Profile]) -> ProviderChoice:
    if choice.profile.finetuning is None:
        able = ", ".join(name for name, profile in profiles.items() if profile.finetuning)
        raise UsageError(f"{choice.profile.name} has no fine-tuning", help_text=f"providers with fine-tuning: {able}")
    return choice


def profiles_here(environment: Mapping[str, str] = os.environ) -> Mapping[str, Profile]:
    """Load the built-in profiles and the user's own in this folder, for commands without a job file.

    Args:
        environment: for XDG_CONFIG_HOME and HOME.

    Returns:
        Name to profile.

    Raises:
        UsageError: a `providers.toml` cannot be read or is wrong.
    """
    return load_profiles(Path(), environment)


def named_profile(name: str, profiles: Mapping[str, Profile] | None = None) -> Profile:
    """Find a profile by its name.

    Args:
        name: of the provider.
        profiles: the known providers; None for the built-in ones and the user's own in this folder.

    Returns:
        The profile.

    Raises:
        UsageError: there is none of that name; the message suggests the nearest one.
    """
    profiles = profiles_here() if profiles is None else profiles
    if name not in profiles:
        near = nearest(name, profiles)
        raise UsageError(
            f"there is no provider {name!r}" + (f" (did you mean {near!r}?)" if near else ""),
            help_text=f"providers: {', '.join(profiles)}; for any other one, use --base-url URL",
        )
    return profiles[name]


def named_address(profile: Profile, where: EndpointFlags, environment: Mapping[str, str] = os.environ) -> str | None:
    """Find the first address of a provider: from the flag, its variable, or its profile.

    Args:
        profile: of the provider.
        where: the flags.
        environment: environment variables.

    Returns:
        The address, normalised; None if none is set, as for the local server before it starts.

    Raises:
        UsageError: the text given is not an address.
    """
    return next((address.base_url for address in _addresses(profile, where, environment)), None)


def _addresses(profile: Profile, where: EndpointFlags, environment: Mapping[str, str]) -> list[Address]:
    if where.addresses:
        is_variable = tuple(environment.get(_BASE_URL_VARIABLE, "").split()) == where.addresses
        given_by = _BASE_URL_VARIABLE if is_variable else "--base-url"
        return [read_address(each, given_by) for each in where.addresses]
    variable = profile.base_url_variable
    if variable and (value := environment.get(variable, "").strip()):
        return [_ending_in(read_address(value, variable), profile.base_url_path)]
    return [Address(each) for each in profile.addresses]


def _ending_in(address: Address, path: str) -> Address:
    """Complete the address to the path in which all addresses of this provider end."""
    if not path or address.base_url.endswith(path):
        return address
    first = path.split("/")[1]
    return Address(re.sub(rf"/{first}(/.*)?$", "", address.base_url) + path, address.remarks)


def addressed_endpoint(
    choice: ProviderChoice, where: EndpointFlags, model: str, environment: Mapping[str, str] = os.environ
) -> Endpoint:
    """Make the endpoint of a provider that has an address.

    Args:
        choice: the provider.
        where: the flags.
        model: the model to ask; "" if none is asked.
        environment: environment variables, with keys and addresses.

    Returns:
        The endpoint. Nothing has been connected.

    Raises:
        UsageError: there is no address, or the key must not be sent to it unencrypted.
        AuthError: a key is needed and missing, or contains characters that no header can carry.
    """
    profile = choice.profile
    found = _addresses(profile, where, environment)
    if not found:
        named = f", or set {profile.base_url_variable}" if profile.base_url_variable else ""
        raise UsageError(f"{profile.name} needs an address", help_text=f"set it with --base-url{named}")
    addresses = list(dict.fromkeys(address.base_url for address in found))
    key = _key(profile, where, addresses, environment)
    if key is not None:
        for address in addresses:
            refuse_clear_key(address, profile)
    warning = key_file_warning(where.api_key_file) if where.api_key_file else None
    remarks = [*(remark for address in found for remark in address.remarks), *([warning] if warning else [])]
    return Endpoint(
        profile,
        addresses[0],
        key,
        model,
        choice.why,
        tuple(dict.fromkeys(remarks)),
        {**profile.headers, **_headers_of_openai(profile, addresses, environment)},
        tuple(addresses[1:]),
    )


def _key(
    profile: Profile, where: EndpointFlags, addresses: Sequence[str], environment: Mapping[str, str]
) -> Secret | None:
    if where.api_key_file:
        return key_from_file(where.api_key_file)
    key = key_from_variable(profile, environment)
    if key is not None or profile.key_variable is None or profile.key_optional or all(map(is_loopback, addresses)):
        return key
    raise missing_key(profile, environment)


def _headers_of_openai(profile: Profile, addresses: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
    """The headers that OpenAI's own clients take from the environment, for OpenAI's addresses alone.

    Source: openai-python, `lib/_client_auth.py`: OPENAI_ORG_ID, OPENAI_PROJECT_ID, OPENAI_CUSTOM_HEADERS.
    """
    if profile.name != OPENAI or not {host_and_port(each) for each in addresses} <= _places_of(profile, environment):
        return {}
    named = {"OpenAI-Organization": "OPENAI_ORG_ID", "OpenAI-Project": "OPENAI_PROJECT_ID"}
    headers = {name: value for name, variable in named.items() if (value := environment.get(variable, "").strip())}
    lines = [line.partition(":") for line in environment.get("OPENAI_CUSTOM_HEADERS", "").split("\n")]
    headers |= {name.strip(): value.strip() for name, colon, value in lines if colon}
    for name, value in headers.items():
        if fault := header_fault(name, value):
            variable = named.get(name, "OPENAI_CUSTOM_HEADERS")
            raise UsageError(f"{variable} cannot be used", cause=fault, help_text=f"unset {variable}, or correct it")
    return headers


def requested_model(profile: Profile, named: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """Choose the model to ask.

    Args:
        profile: of the provider.
        named: by a flag or the job file; None for the provider's default.
        environment: for ASYNCGEN_MODEL_PATH.

    Returns:
        The name of the model.

    Raises:
        UsageError: none was named, and the provider has no default.
    """
    model = named or local_model_given(profile, environment) or profile.default_model
    if model is None:
        raise UsageError(
            f"no model is set, and {profile.name} has no default",
            help_text="set one with --model, or with `model` under [generate] in the job file",
        )
    return model


def local_model_given(profile: Profile, environment: Mapping[str, str] = os.environ) -> str | None:
    """Find the name of the user's own model on the local server.

    Args:
        profile: of the provider.
        environment: for ASYNCGEN_MODEL_PATH.

    Returns:
        The name; None if the provider is not `local`, or serves the small model.
    """
    path = environment.get("ASYNCGEN_MODEL_PATH")
    if profile.name != LOCAL or not path:
        return None
    from asyncgen.providers.local_server import model_name_of_file  # noqa: PLC0415 - needs aiohttp

    return model_name_of_file(Path(path))


@asynccontextmanager
async def open_endpoint(
    choice: ProviderChoice, where: EndpointFlags, model: str, say: Callable[[str], None]
) -> AsyncIterator[Endpoint]:
    """Open the endpoint of a stage. The local server is started if necessary, and kept running until the block ends.

    Args:
        choice: the provider that answers or tunes.
        where: the flags.
        model: the model to ask; "" if none is asked.
        say: called with what was chosen and why, and with remarks for the user.

    Yields:
        The endpoint.

    Raises:
        UsageError: there is no address, or the key must not be sent to it unencrypted.
        AuthError: a key is needed and missing.
        AsyncgenError: the local server does not start.
    """
    if choice.profile.name == LOCAL and named_address(choice.profile, where) is None:
        from asyncgen.providers.local_server import local_server  # noqa: PLC0415 - needs aiohttp

        async with local_server(say) as base_url:
            endpoint = Endpoint(choice.profile, base_url, None, model, choice.why)
            _announce(endpoint, say)
            yield endpoint
    else:
        endpoint = addressed_endpoint(choice, where, model)
        _announce(endpoint, say)
        yield endpoint


def _announce(endpoint: Endpoint, say: Callable[[str], None]) -> None:
    chosen = ", ".join(name for name in (endpoint.profile.name, endpoint.model) if name)
    more = f" and {counted(len(endpoint.others), 'more address', 'more addresses')}" if endpoint.others else ""
    say(f"{chosen} at {endpoint.base_url}{more} ({endpoint.why})")
    for remark in endpoint.remarks:
        say(remark)
