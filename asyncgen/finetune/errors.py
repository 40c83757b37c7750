"""What fine-tuning adds to the errors that end a command.

    AsyncgenError
    ├─ OutageError           1  the provider cannot be asked just now, or answers nonsense: asking later may help
    ├─ AbsentError           1  it has no such job, file or model
    └─ AuthError
       └─ TrainingClosedError 4  this account may not tune there any more

Owns when an answer means which of them. Does not know who asks.
"""

from __future__ import annotations

from typing import TypeVar

from asyncgen.errors import AsyncgenError, AuthError
from asyncgen.providers import PROFILES, Profile

Kind = TypeVar("Kind", bound=AsyncgenError)


class OutageError(AsyncgenError):
    """The provider could not be asked, or did not answer in its own form."""

    code = "unreachable"


class AbsentError(AsyncgenError):
    """The provider has no such thing."""

    code = "not_found"


class TrainingClosedError(AuthError):
    """The account may not create jobs.

    Args:
        file_ids: what was uploaded for the job and is of no use there now.
    """

    code = "training_not_available"

    def __init__(self, profile: Profile, said: str | None, file_ids: tuple[str, ...]) -> None:
        super().__init__(
            f"{profile.title} does not let this account tune models",
            cause=_who_may(profile) + (f" ({said})" if said else ""),
            help_text=f"choose another one with --provider: {_others(profile)}",
        )
        self.file_ids = file_ids


def as_kind(kind: type[Kind], error: AsyncgenError) -> Kind:
    """The same error, as another kind of it."""
    return kind(error.what, cause=error.cause, help_text=error.help_text, code=error.code)


def _who_may(profile: Profile) -> str:
    if profile.name != "openai":
        return "the account lacks the right"
    # OpenAI's deprecations page: "Update to OpenAI's self-serve fine-tuning", announced on 2026-05-07.
    return (
        "since 7 May 2026 only organizations that had tuned before may, since 2 July 2026 only those that asked a "
        "tuned model in the 60 days before, and from 6 January 2027 nobody"
    )


def _others(profile: Profile) -> str:
    able = [
        other.name
        for other in PROFILES.values()
        if other.finetuning and other.finetuning.new_customers and other.name not in {profile.name, "custom"}
    ]
    return ", ".join(able) + " (local needs no key; the dataset serves them all)"
