"""Who answers: the named profiles of providers, and the choice among them.

Owns what differs between providers of the OpenAI shape (addresses, key variables, abilities, quirks), so that
adding one takes a profile and no code. Does not open connections, and knows nothing of prices or of jobs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Finetuning:
    """How a provider tunes.

    Attributes:
        api: "openai" for `/files` and `/fine_tuning/jobs`; "together" for that provider's own paths.
        default_model: tuned when the job names none.
        new_customers: may somebody who never tuned there start a job today?
        until: the last day on which jobs can be created, where one is announced.
        hyperparameters_in: where they stand in the request; None where none are taken.
        byte_order_mark: the training file must begin with one.
        suffix_pattern: a regular expression that a suffix must match as a whole.
        formats: the training formats taken, by our names for them.
        next_step: what the user must do after success before the model answers; "" when nothing.
        free: a job costs nothing.
    """

    api: Literal["openai", "together"] = "openai"
    default_model: str | None = None
    new_customers: bool = True
    until: date | None = None
    hyperparameters_in: Literal["method", "top"] = "method"
    byte_order_mark: bool = False
    suffix_pattern: str = r".{1,64}"
    formats: tuple[str, ...] = ("chat",)
    next_step: str = ""
    free: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One provider of the OpenAI shape.

    Attributes:
        base_url: up to and including the version, without a trailing slash; None where each user has their own.
        key_variable: the environment variable that holds the key; None where no key is needed.
        base_url_variable: the environment variable that gives or replaces the address.
        default_model: answers when the job names none.
        continues_assistant: a last assistant message is taken as the beginning of the answer.
        batch: the Batch API is there.
        flex: `service_tier = "flex"` is there, at half the price.
        finetuning: how it tunes; None where it does not.
    """

    name: str
    title: str
    base_url: str | None
    key_variable: str | None
    base_url_variable: str | None = None
    default_model: str | None = None
    continues_assistant: bool = False
    batch: bool = False
    flex: bool = False
    finetuning: Finetuning | None = None
    notes: str = ""


LOCAL = "local"

_PROFILES = (
    Profile(
        name="openai",
        title="OpenAI",
        base_url="https://api.openai.com/v1",
        key_variable="OPENAI_API_KEY",
        base_url_variable="OPENAI_BASE_URL",
        default_model="gpt-6-luna",
        batch=True,
        flex=True,
        finetuning=Finetuning(
            default_model="gpt-4.1-mini-2025-04-14",
            new_customers=False,
            until=date(2027, 1, 6),
        ),
    ),
    Profile(
        name=LOCAL,
        title="asyncgen serve, on this machine",
        base_url=None,
        key_variable=None,
        default_model="smollm2-135m-instruct",
        continues_assistant=True,
        batch=True,
        finetuning=Finetuning(default_model="smollm2-135m-instruct", formats=("chat", "completion"), free=True),
    ),
)

PROFILES: Mapping[str, Profile] = {profile.name: profile for profile in _PROFILES}


@dataclass(frozen=True, slots=True)
class Choice:
    """The profile chosen, and the reason in a few words, for the first line on stderr."""

    profile: Profile
    why: str = field(compare=False)
