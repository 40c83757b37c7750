"""Sentences about a fine-tuning job: size, price and lifetime before it starts; next step or failure afterwards.

Decides nothing and prints nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyncgen.errors import IncompleteError, command_line
from asyncgen.providers.prices import load_price_list
from asyncgen.providers.training_prices import hosting_price
from asyncgen.terminal import counted, local_time, usd, usd_range

if TYPE_CHECKING:
    from asyncgen.dataset.token_counts import TrainingCost
    from asyncgen.finetune.api import TuningJob
    from asyncgen.finetune.create import Created
    from asyncgen.providers.profiles import Profile


@dataclass(frozen=True, slots=True)
class TrainingExtent:
    """The size and cost of a training.

    Attributes:
        samples: size of the training set.
        counted: how the tokens were counted.
        cost: tokens and USD; None if the provider's model is unknown.
    """

    samples: int
    counted: str
    cost: TrainingCost | None


def extent_words(extent: TrainingExtent) -> str:
    """Samples, epochs and tokens."""
    samples = counted(extent.samples, "sample")
    if extent.cost is None:
        return samples
    cost = extent.cost
    billed = "billed " if cost.usd is None or cost.usd[1] else ""
    return f"{samples}, {counted(cost.epochs, 'epoch')}, {cost.billed_tokens:,} {billed}tokens ({extent.counted})"


def price_words(cost: TrainingCost | None) -> str:
    """The price of the job, for the user."""
    if cost is None or cost.usd is None:
        return "not known"
    span = f"about {usd_range(*cost.usd)}"
    return f"{span} (an estimate, prices of {cost.as_of})" if cost.as_of else f"{span} (an estimate)"


def only_known(profile: Profile) -> str:
    """Who may tune at the provider, if not everybody."""
    assert profile.finetuning is not None, "the choice of a provider sees to it"
    return "" if profile.finetuning.new_customers else ", and only for those who tuned there before"


def days_left(days: int) -> str:
    """How long something lasts yet."""
    return "it is gone already" if days <= 0 else counted(days, "more day")


def how_created(created: Created) -> str:
    """How the job came to be."""
    job = created.job
    if created.how == "new":
        return f"created {job.id}"
    if created.how == "recovered":
        return f"found {job.id}, which an earlier command created and did not live to note"
    return (
        f"the same job was created {local_time(job.created)}: {job.id}, {job.status}; "
        "none is created now (--another creates one)"
    )


def trained_cost(profile: Profile, job: TuningJob) -> str:
    """The cost of the job, by the tokens that the provider counted; "" if it is free or unknown."""
    if profile.finetuning and profile.finetuning.free:
        return ""
    price = load_price_list(None, os.environ).training(profile.name, job.model)
    if price is None or job.trained_tokens is None:
        return ""
    return f", about {usd_range(*price.cost_usd(job.trained_tokens))}"


def success_words(profile: Profile, job: TuningJob) -> str:
    """The model of a job that succeeded, and what the user must do before it answers."""
    model = job.tuned_model or "its model"
    if profile.finetuning is None or not profile.finetuning.next_step:
        return f"{job.id} succeeded: {model}"
    step = profile.finetuning.next_step.format(model=model, job=job.id)
    download = command_line("finetune download", job.id, "--provider", profile.name)
    given = f". Or take the weights: {download}" if profile.finetuning.gives_weights else ""
    return f"{job.id} succeeded: {model}. Next: {step}{_hosting_words(profile, job)}{given}"


def _hosting_words(profile: Profile, job: TuningJob) -> str:
    price = hosting_price(profile.name, job.model)
    if price is None:
        return ""
    return f"; about {usd(price.usd_per_hour)} an hour, called or not ({price.hardware}, price of {price.as_of})"


def job_failure(job: TuningJob) -> IncompleteError:
    """The end of a job that failed or was cancelled, as an error."""
    cause = None
    if job.error is not None:
        code = f"{job.error.code}: " if job.error.code else ""
        param = f" (param: {job.error.param})" if job.error.param else ""
        cause = f"{code}{job.error.message}{param}"
    happened = "was cancelled" if job.outcome == "cancelled" else "failed"
    return IncompleteError(
        f"the fine-tuning job {job.id} {happened}",
        cause=cause,
        help_text=f"{command_line('finetune events', job.id)}   (what it told); given again, the command that made it "
        "creates another",
        code=f"job_{job.outcome}",
    )


def leave_words(job_id: str, status: str) -> str:
    """The message when following stops before the job's end."""
    return (
        f"left {job_id}, which goes on: {status.replace('_', ' ')}. To follow it again: "
        f"{command_line('finetune follow', job_id)}; to cancel it: {command_line('finetune cancel', job_id)}"
    )
