"""Who answers and who tunes: from flags, the environment and the job file to an open endpoint.

Owns the precedence (flag, variable, job file, default) and the first line on stderr that says what was chosen and
why. Starts the local server when the provider is `local` and no address was given. Sends nothing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from asyncgen.cli.output import say
from asyncgen.endpoint import Endpoint, checked_base_url, is_loopback
from asyncgen.errors import AuthError, UsageError
from asyncgen.job.load import JobFile, read_job_file
from asyncgen.job.of_run import OpenedJob, open_job
from asyncgen.job.schema import nearest
from asyncgen.providers import LOCAL, PROFILES, Choice, Profile
from asyncgen.secret import Secret


@dataclass(frozen=True, slots=True)
class Where:
    """The flags that say where requests of one stage go; None where a flag was not given."""

    provider: str | None = None
    base_url: str | None = None
    model: str | None = None
    api_key_file: Path | None = None


def choose_generation(file: JobFile, where: Where, environment: Mapping[str, str] = os.environ) -> Choice:
    """Who answers the job's requests."""
    if where.provider:
        return Choice(_profile(where.provider), "--provider")
    if file.generation_provider != "auto":
        return Choice(_profile(file.generation_provider), "named in the job file")
    return choose_answering(where, environment)


def choose_answering(where: Where, environment: Mapping[str, str] = os.environ) -> Choice:
    """Who answers when no job file says it."""
    if where.provider:
        return Choice(_profile(where.provider), "--provider")
    if where.base_url:
        return Choice(PROFILES["openai"], "--base-url, and no provider was named")
    for profile in PROFILES.values():
        if profile.key_variable and environment.get(profile.key_variable):
            return Choice(profile, f"{profile.key_variable} is set")
    return Choice(PROFILES[LOCAL], "no provider's key is in the environment")


def choose_tuning(file: JobFile, generation: Choice, provider: str | None) -> Choice:
    """Who tunes: the one named, else who answers where they tune for new customers, else this machine."""
    if provider:
        chosen = Choice(_profile(provider), "named on the command line")
    elif file.tuning_provider != "auto":
        chosen = Choice(_profile(file.tuning_provider), "named in the job file")
    elif generation.profile.finetuning and generation.profile.finetuning.new_customers:
        return Choice(generation.profile, "it answers, and it tunes")
    else:
        return Choice(PROFILES[LOCAL], f"{generation.profile.name} does not tune for new customers")
    if chosen.profile.finetuning is None:
        able = ", ".join(name for name, profile in PROFILES.items() if profile.finetuning)
        raise UsageError(f"{chosen.profile.name} does not tune models", help_text=f"these do: {able}")
    return chosen


def open_named_job(
    path: Path | None, where: Where, *, finetune_provider: str | None = None
) -> tuple[OpenedJob, Choice, Choice]:
    """Read a job and open its grid for the providers chosen; returns it with who answers and who tunes."""
    file = read_job_file(path)
    generation = choose_generation(file, where)
    tuning = choose_tuning(file, generation, finetune_provider)
    laid_over = file.job(generation.profile.name, tuning.profile.name)
    model = model_name(generation.profile, where.model or laid_over.generate.model)
    opened = open_job(file, generation=generation.profile.name, tuning=tuning.profile.name, model=model)
    return opened, generation, tuning


def own_local_model(profile: Profile, environment: Mapping[str, str]) -> str | None:
    """The name under which the local server serves the user's own model; None where it serves the small one."""
    path = environment.get("ASYNCGEN_MODEL_PATH")
    if profile.name != LOCAL or not path:
        return None
    from asyncgen.serve.llama.model_files import model_name as name_of_file  # noqa: PLC0415 - the server's rule

    return name_of_file(Path(path))


def model_name(profile: Profile, named: str | None) -> str:
    """The model to ask: the one named, else the provider's default."""
    model = named or own_local_model(profile, os.environ) or profile.default_model
    if model is None:
        raise UsageError(
            f"{profile.name} has no model of its own choice",
            help_text="name one with --model, or as `model` under [generate] in the job file",
        )
    return model


@asynccontextmanager
async def open_endpoint(choice: Choice, where: Where, model: str) -> AsyncIterator[Endpoint]:
    """The endpoint of a stage, and its first line on stderr; the local server runs while the block does.

    Raises:
        UsageError: there is no address, or it is none that a key may be sent to.
        AuthError: a key is needed and there is none.
    """
    profile = choice.profile
    base_url = _base_url(profile, where, os.environ)
    if base_url is None:
        from asyncgen.cli.local_server import local_server  # noqa: PLC0415 - needs aiohttp

        async with local_server() as base_url:
            yield _announced(Endpoint(profile, base_url, None, model, choice.why))
    else:
        yield _announced(addressed_endpoint(choice, where, model))


def addressed_endpoint(choice: Choice, where: Where, model: str) -> Endpoint:
    """The endpoint of a provider that has an address; raises as `open_endpoint` does."""
    base_url = _base_url(choice.profile, where, os.environ)
    if base_url is None:
        raise UsageError(f"{choice.profile.name} has no address yet", help_text="give one with --base-url")
    key = _key(choice.profile, where, base_url, os.environ)
    return Endpoint(choice.profile, checked_base_url(base_url, sends_key=key is not None), key, model, choice.why)


def _announced(endpoint: Endpoint) -> Endpoint:
    chosen = ", ".join(name for name in (endpoint.profile.name, endpoint.model) if name)
    say(f"{chosen} at {endpoint.base_url} ({endpoint.why})")
    return endpoint


def _profile(name: str) -> Profile:
    if name not in PROFILES:
        near = nearest(name, PROFILES)
        raise UsageError(
            f"there is no provider {name!r}" + (f" (did you mean {near!r}?)" if near else ""),
            help_text=f"they are {', '.join(PROFILES)}; any other one: --base-url URL",
        )
    return PROFILES[name]


def named_address(profile: Profile, where: Where, environment: Mapping[str, str] = os.environ) -> str | None:
    """The provider's address: the flag's, the variable's, its own; None where there is none (yet)."""
    return where.base_url or _from_variable(profile, environment) or profile.base_url


def _base_url(profile: Profile, where: Where, environment: Mapping[str, str]) -> str | None:
    variable = profile.base_url_variable
    found = named_address(profile, where, environment)
    if found is None and profile.name != LOCAL:
        named = f", or set {variable}" if variable else ""
        raise UsageError(f"{profile.name} needs an address", help_text=f"give it with --base-url{named}")
    return found


def _from_variable(profile: Profile, environment: Mapping[str, str]) -> str | None:
    value = environment.get(profile.base_url_variable or "", "").rstrip("/")
    return value.removesuffix(profile.base_url_path) + profile.base_url_path if value else None


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
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise AuthError(f"no key could be read from {path}", cause=str(error), code="no_key") from error
    if not value or not value.isprintable() or " " in value:
        raise AuthError(f"{path} does not hold a key", cause="expected one line without blanks", code="no_key")
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        say(f"warning: others on this machine can read {path}; `chmod 600 {path}`")
    return Secret(value, str(path))
