"""Check all stages of a run before the first request is paid for.

Collects every problem into one error. Sends nothing.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyncgen.errors import AsyncgenError, UsageError
from asyncgen.finetune.api import JobOrder, check_order, with_defaults
from asyncgen.finetune.source import model_to_tune, order_of
from asyncgen.providers.choose import EndpointFlags, addressed_endpoint, named_address
from asyncgen.providers.profiles import LOCAL, ProviderChoice
from asyncgen.terminal import counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncgen.job.opened import OpenedJob


@dataclass(frozen=True, slots=True)
class RunForecast:
    """What a `run` is going to do.

    Attributes:
        opened: the job.
        generation: the provider that answers.
        generation_where: its flags.
        tuning: the provider that tunes.
        tuning_where: its flags.
        model: the model to tune; None for the job's, else the provider's default.
        yes: whether every question is answered with yes.
    """

    opened: OpenedJob
    generation: ProviderChoice
    generation_where: EndpointFlags
    tuning: ProviderChoice
    tuning_where: EndpointFlags
    model: str | None
    yes: bool

    @property
    def order(self) -> JobOrder:
        """The fine-tuning job to create; raises UsageError if no model is known."""
        settings = self.opened.file.job(self.generation.profile.name, self.tuning.profile.name).finetune
        return order_of(model_to_tune(self.tuning, self.model or settings.model), settings)


def tuning_where(opened: OpenedJob, where: EndpointFlags) -> EndpointFlags:
    """Flags of the tuning stage: the given address applies to it, too, if both stages have the same provider."""
    same = opened.tuning == opened.generation
    return EndpointFlags(
        provider=opened.tuning,
        base_url=where.base_url if same else None,
        api_key_file=where.api_key_file if same else None,
    )


def problems_ahead(ahead: RunForecast, *, tuning: bool = True) -> list[tuple[str, AsyncgenError]]:
    """Find what would stop each stage.

    Args:
        ahead: what the run is going to do.
        tuning: whether it includes the fine-tuning job.

    Returns:
        Name of each stage that is stopped, and the problem.
    """
    found = _raised("generate", lambda: _see_endpoint(ahead.generation, ahead.generation_where, ahead.opened.model))
    if not tuning:
        return found
    found += _raised("prepare", lambda: _see_enough_samples(ahead))
    found += _raised("finetune", lambda: _see_endpoint(ahead.tuning, ahead.tuning_where, ""))
    found += _raised("finetune", lambda: _see_order(ahead))
    return found + _raised("finetune", lambda: _see_consent(ahead))


def refuse_problems(found: list[tuple[str, AsyncgenError]]) -> None:
    """End before anything is sent where a stage cannot be done.

    Raises:
        AsyncgenError: of the first problem's kind, with all of them.
    """
    if not found:
        return
    first = found[0][1]
    if len(found) == 1:
        raise first
    cause = "\n".join(f"{stage}: {_in_words(error)}" for stage, error in found)
    helps = dict.fromkeys(error.help_text for _, error in found if error.help_text)
    raise type(first)(
        f"{counted(len(found), 'problem')} would stop this run; nothing was sent",
        cause=cause,
        help_text="; ".join(helps) or None,
    )


def ahead_lines(ahead: RunForecast, found: list[tuple[str, AsyncgenError]]) -> list[str]:
    """Lines about the later stages, for `plan`."""
    try:
        will = f"tune {ahead.order.model} at {ahead.tuning.profile.name} ({ahead.tuning.why})"
    except AsyncgenError:
        will = f"tune at {ahead.tuning.profile.name} ({ahead.tuning.why})"
    finetuning = ahead.tuning.profile.finetuning
    closed = finetuning is not None and not finetuning.new_customers
    limits = ["note: it tunes only for those who tuned there before"] if closed else []
    return [will, *limits, *(f"missing for {stage}: {_in_words(error)}" for stage, error in found)]


def _raised(stage: str, check: Callable[[], object]) -> list[tuple[str, AsyncgenError]]:
    try:
        check()
    except AsyncgenError as error:
        return [(stage, error)]
    return []


def _in_words(error: AsyncgenError) -> str:
    return error.what + (f" ({error.cause})" if error.cause else "")


def _see_endpoint(choice: ProviderChoice, where: EndpointFlags, model: str) -> None:
    if choice.profile.name != LOCAL or named_address(choice.profile, where) is not None:
        addressed_endpoint(choice, where, model)


def _see_enough_samples(ahead: RunForecast) -> None:
    finetuning = ahead.tuning.profile.finetuning
    job, requests = ahead.opened.job, ahead.opened.grid.count
    if finetuning is None or getattr(job.answer, "each", None) or requests >= finetuning.min_samples:
        return
    raise UsageError(
        f"{counted(requests, 'request')} make at most {counted(requests, 'sample')}, and "
        f"{ahead.tuning.profile.title} wants at least "
        f"{finetuning.min_samples}",
        help_text="more values in [grid], or more repeats under [generate]; or stop before with --until prepare",
        code="too_few",
    )


def _see_order(ahead: RunForecast) -> None:
    profile = ahead.tuning.profile
    assert profile.finetuning is not None, "the choice of a provider sees to it"
    check_order(with_defaults(ahead.order, profile.finetuning), profile)


def _see_consent(ahead: RunForecast) -> None:
    finetuning = ahead.tuning.profile.finetuning
    if ahead.yes or finetuning is None or finetuning.free or (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    raise UsageError(
        f"the fine-tuning job at {ahead.tuning.profile.title} costs money, and there is no terminal to ask on",
        help_text="add --yes, or stop before with --until prepare",
        code="needs_yes",
    )
