"""`asyncgen providers`: who can be asked, and who tunes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from asyncgen.cli.options import output_options
from asyncgen.cli.output import json_result, result, table
from asyncgen.providers.choose import profiles_here

if TYPE_CHECKING:
    from asyncgen.providers.profiles import Profile


@click.command("providers")
@output_options
def providers(as_json: bool) -> None:
    """List the providers: address, API key, features, and end dates."""
    profiles = profiles_here()
    if as_json:
        json_result({"providers": [_as_object(profile) for profile in profiles.values()]})
        return
    rows = [(each.name, _address(each), _key(each), _answers(each), _tunes(each)) for each in profiles.values()]
    for line in table(("provider", "address", "key", "answers", "tunes"), rows):
        result(line)
    result("")
    for profile in profiles.values():
        result(f"{profile.name}: {profile.title}. {profile.notes}".rstrip())


def _address(profile: Profile) -> str:
    variable = profile.base_url_variable
    if variable and os.environ.get(variable):
        return f"{os.environ[variable]} ({variable})"
    if profile.base_url:
        return profile.base_url
    return "this machine" if profile.key_variable is None else variable or "--base-url"


def _key(profile: Profile) -> str:
    if profile.key_variable is None:
        return "none needed"
    state = "set" if _has_key(profile) else "optional" if profile.key_optional else "not set"
    return f"{profile.key_variable}: {state}"


def _has_key(profile: Profile) -> bool:
    return bool(profile.key_variable and os.environ.get(profile.key_variable, "").strip())


def _answers(profile: Profile) -> str:
    extras = [name for name, able in (("batch", profile.batch), ("flex", profile.flex)) if able]
    return ", ".join([profile.default_model or "--model", *extras])


def _tunes(profile: Profile) -> str:
    finetuning = profile.finetuning
    if finetuning is None:
        return "no"
    parts = [finetuning.default_model or "--model"]
    if not finetuning.new_customers:
        parts.append("existing customers only")
    if finetuning.until:
        parts.append(f"until {finetuning.until}")
    if finetuning.free:
        parts.append("free")
    return ", ".join(parts)


def _as_object(profile: Profile) -> dict[str, Any]:
    finetuning = profile.finetuning
    tunes = finetuning and {
        "default_model": finetuning.default_model,
        "new_customers": finetuning.new_customers,
        "until": finetuning.until.isoformat() if finetuning.until else None,
        "methods": list(finetuning.methods),
        "formats": list(finetuning.formats),
        "hyperparameters": list(finetuning.hyperparameters),
        "answers_at_once": not finetuning.next_step,
        "free": finetuning.free,
    }
    return {
        "name": profile.name,
        "title": profile.title,
        "base_url": profile.base_url,
        "base_url_variable": profile.base_url_variable,
        "key_variable": profile.key_variable,
        "key_set": _has_key(profile),
        "default_model": profile.default_model,
        "batch": profile.batch,
        "flex": profile.flex,
        "finetuning": tunes,
        "notes": profile.notes,
    }
