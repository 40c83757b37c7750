"""The plan of a job, put together from its parts, and its JSON form.

Sends nothing and prints nothing.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from asyncgen.generate.plan.costs import (
    BreakEven,
    Training,
    assumptions,
    break_even,
    cost_of_rows,
    trainings,
    ways_to_buy,
)
from asyncgen.generate.plan.request_tokens import (
    Duration,
    RequestTokens,
    RunMeasurements,
    Span,
    duration,
    tokens_of_a_request,
)
from asyncgen.providers.price import Price, tier_of
from asyncgen.providers.prices import shutdown_date
from asyncgen.terminal import counted, usd_range

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import date

    from asyncgen.job.model import Job
    from asyncgen.job.requests import RequestGrid
    from asyncgen.providers.prices import PriceList
    from asyncgen.providers.profiles import Profile

_SHOWN_PROMPTS = 2


@dataclass(frozen=True, slots=True)
class PlanTarget:
    """The providers that a plan is for.

    Attributes:
        profile: the provider that answers.
        base_url: its address if not the profile's.
        model: that answers.
        tuning: the provider that tunes.
        within_reach: names of all providers at which this user can tune.
        jobs: provider that tunes to the job with its overlay.
    """

    profile: Profile
    base_url: str | None
    model: str
    tuning: Profile
    within_reach: Sequence[str]
    jobs: Callable[[str], Job]


@dataclass(frozen=True, slots=True)
class PlannedPrompt:
    """A request as it would be sent, and its short prompt for the tuned model."""

    body: dict[str, Any]
    short: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Requests, cost and time of a job.

    Attributes:
        excluded: number of rows that the job excludes.
        left: number of open requests: not answered, failed, or in an open batch.
        prompts: of the first rows.
        tokens: of a row.
        tier: the one that the job's parameters ask for.
        costs: tier to USD for the open rows; None for an unknown price.
        shutdowns: models with an announced shutdown date.
        remarks: on the job, for the user, a sentence each.
    """

    provider: str
    model: str
    requests: int
    excluded: int
    there: RunMeasurements
    left: int
    prompts: tuple[PlannedPrompt, ...]
    tokens: RequestTokens
    tier: str
    costs: dict[str, Span | None]
    price: Price | None
    duration: Duration
    trainings: tuple[Training, ...]
    shutdowns: tuple[tuple[str, date], ...]
    remarks: tuple[str, ...] = ()

    def __repr__(self) -> str:
        cost = "cost unknown" if self.cost_usd is None else usd_range(self.cost_usd.low, self.cost_usd.high)
        left = f"{self.left:,} of {counted(self.requests, 'request')}"
        return f"<Plan: {left} to {self.model} at {self.provider} are left, {cost}>"

    @property
    def cost_usd(self) -> Span | None:
        """USD for the rows left, bought as the job's parameters say."""
        return self.costs[self.tier]


def make_plan(
    job: Job,
    grid: RequestGrid,
    there: RunMeasurements,
    place: PlanTarget,
    prices: PriceList,
    remarks: tuple[str, ...] = (),
) -> Plan:
    """Make the plan of a job.

    Args:
        job: with the overlay of the chosen providers.
        grid: its requests.
        there: what the run holds of them already.
        place: the providers and the model.
        prices: known prices.
        remarks: on the job.

    Returns:
        The plan; what is unknown in it is None.
    """
    tokens = tokens_of_a_request(job, grid, there)
    price = prices.price(place.profile.name, place.base_url, place.model)
    left = max(grid.count - there.twins - there.settled - there.failed - there.in_batches, 0)
    tier = tier_of(job.generate.parameters)
    found = trainings(place.jobs, grid.count, tokens, prices, chosen=place.tuning, within_reach=place.within_reach)
    return Plan(
        provider=place.profile.name,
        model=place.model,
        requests=grid.count,
        excluded=grid.excluded,
        there=there,
        left=left,
        prompts=_prompts(grid),
        tokens=tokens,
        tier=tier,
        costs={each: cost_of_rows(left, tokens, price, each) for each in ways_to_buy(place.profile, tier)},
        price=price,
        duration=duration(left, tokens, there, job.limits),
        trainings=tuple(found),
        shutdowns=_shutdowns(place, found),
        remarks=remarks,
    )


def _prompts(grid: RequestGrid) -> tuple[PlannedPrompt, ...]:
    return tuple(
        PlannedPrompt(orjson.loads(each.body), grid.prompt(each)) for each in grid.sample_evenly(_SHOWN_PROMPTS)
    )


def _shutdowns(place: PlanTarget, found: Sequence[Training]) -> tuple[tuple[str, date], ...]:
    named = [(place.profile.name, place.model), *((each.provider, each.model) for each in found)]
    days = {model: shutdown_date(provider, model) for provider, model in named}
    return tuple((model, day) for model, day in days.items() if day is not None)


def compare_with_tuning(plan: Plan, prices: PriceList) -> tuple[list[BreakEven], list[str]]:
    """Compare the price of calls to the large model with that of tuning a small one.

    Args:
        plan: with its trainings.
        prices: all prices.

    Returns:
        The number of calls from which each training is cheaper, and the assumptions. Both are empty if the large
        model's price is unknown.
    """
    if plan.price is None:
        return [], []
    compared = [break_even(each, plan.tokens, plan.cost_usd, plan.price, prices) for each in plan.trainings]
    return compared, assumptions(plan.tokens, plan.price)


def plan_as_json(plan: Plan, compared: tuple[list[BreakEven], list[str]] | None) -> dict[str, Any]:
    """Convert a plan for `--json`.

    Args:
        plan: the plan.
        compared: from `compare_with_tuning`; None to leave it out.

    Returns:
        The fields; ranges are `{"low": x, "high": y}`, unknown values None.
    """
    tokens, there = plan.tokens, plan.there
    answer: dict[str, Any] = {
        "provider": plan.provider,
        "model": plan.model,
        "requests": plan.requests,
        "twins": there.twins,
        "excluded": plan.excluded,
        "done": there.settled,
        "failed": there.failed,
        "in_batches": there.in_batches,
        "stale": there.stale,
        "left": plan.left,
        "prompts": [each.body for each in plan.prompts],
        "tokens_a_row": {"prompt": tokens.prompt.rounded(), "completion": tokens.completion.rounded()},
        "tokens": {
            "prompt": (tokens.prompt * plan.left).rounded(),
            "completion": (tokens.completion * plan.left).rounded(),
            "basis": tokens.basis,
        },
        "cost_usd": {tier: _span(cost) for tier, cost in plan.costs.items()},
        "prices": plan.price and {"source": plan.price.source, "date": plan.price.as_of},
        "seconds": {"at_least": round(plan.duration.seconds, 1), "bound_by": plan.duration.bound_by},
        "training": [_training(each) for each in plan.trainings],
        "shutdowns": dict(plan.shutdowns),
        "remarks": list(plan.remarks),
    }
    if compared is not None:
        answer["break_even"] = {"compared": [_break_even(each) for each in compared[0]], "assumptions": compared[1]}
    return answer


def _span(span: Span | None) -> dict[str, float] | None:
    return span.rounded() if span else None


def _training(training: Training) -> dict[str, Any]:
    return {
        "provider": training.provider,
        "model": training.model,
        "chosen": training.chosen,
        "samples": training.trained.samples,
        "epochs": training.trained.epochs,
        "tokens": training.trained.tokens.rounded(),
        "cost_usd": _span(training.cost_usd),
        "prices": training.price and {"source": training.price.source, "date": training.price.as_of},
        "note": training.note,
    }


def _break_even(compared: BreakEven) -> dict[str, Any]:
    never = compared.calls is not None and math.isinf(compared.calls.low)
    return {
        "provider": compared.provider,
        "model": compared.model,
        "long_call_usd": compared.long_call_usd,
        "tuned_call_usd": compared.tuned_call_usd,
        "outlay_usd": _span(compared.outlay_usd),
        "pays": None if compared.calls is None else not never,
        "calls": None if never else _span(compared.calls),
        "hosting_usd_per_hour": compared.hosting and compared.hosting.usd_per_hour,
        "calls_an_hour": compared.calls_an_hour,
    }


def tuners_within_reach(profiles: Mapping[str, Profile]) -> list[str]:
    """List the providers that tune and have a key in the environment or need none.

    Args:
        profiles: the known providers.

    Returns:
        Their names.
    """
    return [
        name
        for name, profile in profiles.items()
        if profile.finetuning and (profile.key_variable is None or os.environ.get(profile.key_variable))
    ]
