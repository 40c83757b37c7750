"""A fine-tuning job as ordered by the user, and checks of what a provider would refuse before anything is sent.

The request body is left to `openai_shape` and `together`.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from asyncgen.errors import UsageError
from asyncgen.providers.profiles import Finetuning, Profile

_MAX_PAIRS, _MAX_KEY, _MAX_VALUE = 16, 64, 512
_SEEDS = 2**31
_OWN_PAIR = 1


class JobOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A fine-tuning job to be created.

    Attributes:
        training_file: the provider's id of the file; "" until it is uploaded, likewise `validation_file`.
        hyperparameters: under the provider's own names.
        metadata: pairs that the job keeps.
        integrations: in OpenAI's form, `{"type": "wandb", "wandb": {"project": ...}}`.
    """

    model: str
    training_file: str = ""
    validation_file: str | None = None
    method: str = "supervised"
    suffix: str | None = None
    seed: int | None = None
    hyperparameters: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    integrations: list[dict[str, Any]] = []


def with_defaults(order: JobOrder, finetuning: Finetuning) -> JobOrder:
    """The order with the hyperparameters that the provider's profile puts in the place of its own defaults."""
    chosen = {**finetuning.default_hyperparameters, **order.hyperparameters}
    return msgspec.structs.replace(order, hyperparameters=chosen)


def fingerprint(order: JobOrder, *sha256s: str) -> str:
    """A hash of what the job will be: the order and its files' content, not the ids that they have somewhere."""
    content = msgspec.structs.replace(order, training_file="", validation_file=None)
    text = msgspec.json.encode([content, sha256s], order="sorted")
    return hashlib.sha256(text).hexdigest()[:32]


def check_order(order: JobOrder, profile: Profile) -> None:
    """See that the provider can take the order.

    Raises:
        UsageError: with everything that is wrong.
    """
    assert profile.finetuning is not None, "the choice of a provider sees to it"
    problems = [*_problems(order, profile.finetuning)]
    if problems:
        raise UsageError(
            f"{profile.title} would refuse this job" if len(problems) == 1 else f"{len(problems)} things are wrong",
            cause="\n".join(problems),
            help_text="change [finetune] in the job file, or the options of the same names",
        )


def _problems(order: JobOrder, finetuning: Finetuning) -> Iterator[str]:
    if order.method not in finetuning.methods:
        yield f"method: {order.method!r} is not taken; possible: {', '.join(finetuning.methods)}"
    if order.suffix is not None and not re.fullmatch(finetuning.suffix_pattern, order.suffix):
        yield f"suffix: {order.suffix!r} is not {finetuning.suffix_rule}"
    if order.seed is not None and not 0 <= order.seed < _SEEDS:
        yield f"seed: {order.seed} is not from 0 to {_SEEDS - 1}"
    yield from _hyperparameter_problems(order, finetuning)
    yield from _metadata_problems(order.metadata, kept=finetuning.metadata)
    for place, integration in enumerate(order.integrations):
        if not _is_wandb(integration):
            yield f'integrations[{place}]: expected type = "wandb" and wandb = {{ project = ... }}'


def _hyperparameter_problems(order: JobOrder, finetuning: Finetuning) -> Iterator[str]:
    known = (*finetuning.hyperparameters, *finetuning.fields)
    if not finetuning.hyperparameters:
        return
    for name in order.hyperparameters:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else f"; possible: {', '.join(known)}"
            yield f"hyperparameters.{name}: not taken{hint}"


def _metadata_problems(metadata: dict[str, str], *, kept: bool) -> Iterator[str]:
    if metadata and not kept:
        yield "metadata: this provider keeps none"
    if len(metadata) > _MAX_PAIRS - _OWN_PAIR:
        yield f"metadata: {len(metadata)} pairs, of at most {_MAX_PAIRS - _OWN_PAIR} (one more is ours)"
    for key, value in metadata.items():
        if len(key) > _MAX_KEY or len(value) > _MAX_VALUE:
            yield f"metadata.{key}: at most {_MAX_KEY} characters a key and {_MAX_VALUE} a value"


def _is_wandb(integration: dict[str, Any]) -> bool:
    settings = integration.get("wandb")
    return integration.get("type") == "wandb" and isinstance(settings, dict) and bool(settings.get("project"))
