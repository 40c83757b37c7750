"""Cost of rows by way of purchase, cost of fine-tuning on them, and the number of calls after which tuning pays off.

Rows cost differently online, in a batch and in flex processing; tuning is billed by training tokens. The number of
calls compares the tuned model with sending the long prompt each time, and lists its assumptions. Prices and the number
of calls are given. Whether this account may tune at a provider is not checked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyncgen.generate.plan.request_tokens import RequestTokens, Span
from asyncgen.providers.price import BATCH, FLEX, STANDARD, Price
from asyncgen.providers.prices import HostingPrice, TuningPrice, epochs_of, hosting_price
from asyncgen.providers.profiles import PROFILES, Finetuning, Profile
from asyncgen.run.records import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from asyncgen.job.model import Job
    from asyncgen.providers.prices import PriceList

_PER_ANSWER = 4  # what a chat adds to a message, as in `tokens.estimate_messages`


@dataclass(frozen=True, slots=True)
class TrainedTokens:
    """The billed tokens of a training.

    Attributes:
        samples: in the training split.
        epochs: number of passes over them.
        tokens: samples times their tokens times epochs.
    """

    samples: int
    epochs: int
    tokens: Span


@dataclass(frozen=True, slots=True)
class Training:
    """The training of a model at a provider.

    Attributes:
        chosen: whether it is the one that the job would use.
        trained: the billed tokens.
        cost_usd: USD; None for an unknown price.
        price: its price; None if it is free or unknown.
        note: who may tune, until when, and what else is charged; "" for nothing.
    """

    provider: str
    model: str
    chosen: bool
    trained: TrainedTokens
    cost_usd: Span | None
    price: TuningPrice | None
    note: str


def trained_tokens(job: Job, rows: int, tokens: RequestTokens, finetuning: Finetuning) -> TrainedTokens:
    """Tokens that a training on all rows of the job would be billed for.

    Args:
        job: for its validation share and epochs.
        rows: that become samples.
        tokens: of a row.
        finetuning: the provider's default number of epochs.
    """
    samples = rows - round(rows * job.dataset.validation)
    epochs = epochs_of(samples, job.finetune.hyperparameters, finetuning)
    prompt = tokens.short_prompt + _PER_ANSWER
    sample = Span(prompt, prompt) + tokens.answer
    return TrainedTokens(samples, epochs, sample * (samples * epochs))


def trainings(
    jobs: Callable[[str], Job],
    rows: int,
    tokens: RequestTokens,
    prices: PriceList,
    *,
    chosen: Profile,
    within_reach: Sequence[str],
) -> list[Training]:
    """Estimate the training at the chosen provider, and at every other within reach.

    Args:
        jobs: maps a tuning provider's name to the job with its overlay.
        rows: number of rows that become samples.
        tokens: of a row.
        prices: all prices.
        chosen: profile of the tuning provider. The job's model is its model; the others tune their default one.
        within_reach: names of providers that have a key or need none.

    Returns:
        The trainings, that of the chosen provider first.
    """
    others = [PROFILES[name] for name in within_reach if name != chosen.name]
    found = []
    for profile in (chosen, *others):
        job = jobs(profile.name)
        named = job.finetune.model if profile is chosen else None
        model = named or (profile.finetuning.default_model if profile.finetuning else None)
        if profile.finetuning and model:
            trained = trained_tokens(job, rows, tokens, profile.finetuning)
            price = prices.training(profile.name, model)
            found.append(_training(profile.name, profile.finetuning, model, trained, price, chosen=profile is chosen))
    return found


def _training(
    provider: str,
    finetuning: Finetuning,
    model: str,
    trained: TrainedTokens,
    price: TuningPrice | None,
    *,
    chosen: bool,
) -> Training:
    cost_usd = None
    if finetuning.free:
        cost_usd = Span(0, 0)
    elif price is not None:
        low, high = price.cost_usd(round(trained.tokens.low))[0], price.cost_usd(round(trained.tokens.high))[1]
        cost_usd = Span(low, high)
    return Training(provider, model, chosen, trained, cost_usd, price, _note(finetuning, price))


def _note(finetuning: Finetuning, price: TuningPrice | None) -> str:
    notes = [price.note] if price and price.note else []
    until = f"until {finetuning.until}" if finetuning.until else ""
    if not finetuning.new_customers:
        notes.append("only for customers who fine-tuned there before" + (f", {until}" if until else ""))
    elif until:
        notes.append(until)
    return "; ".join(notes)


def ways_to_buy(profile: Profile, tier: str) -> tuple[str, ...]:
    """The tiers to show: the one that the job asks for, and the others that the provider sells.

    Args:
        profile: of the provider that answers.
        tier: of the job's own parameters.
    """
    offered = [(FLEX, profile.flex), (BATCH, profile.batch)]
    return (tier, *(each for each, sold in offered if sold and each != tier))


def cost_of_rows(rows: int, tokens: RequestTokens, price: Price | None, tier: str) -> Span | None:
    """USD for `rows` rows; None if the price of the model or tier is unknown."""
    if price is None or (tier not in price.tiers and tier != STANDARD):
        return None
    return Span(
        rows * _cost_usd(price, tier, tokens.prompt.low, tokens.completion.low),
        rows * _cost_usd(price, tier, tokens.prompt.high, tokens.completion.high),
    )


def _cost_usd(price: Price, tier: str, prompt: float, completion: float) -> float:
    return price.cost_usd(Usage(prompt_tokens=round(prompt), completion_tokens=round(completion)), tier)


@dataclass(frozen=True, slots=True)
class BreakEven:
    """A tuned model compared with the long prompt.

    Attributes:
        provider: the provider that would tune.
        model: the model that would be tuned.
        long_call_usd: cost of one answer to the long prompt.
        tuned_call_usd: cost of one answer of the tuned model to the short prompt; None if unknown.
        outlay_usd: cost of the missing rows and the training; None if unknown.
        calls: break-even number of calls, lowest and highest; `math.inf` for never; None if unknown.
        hosting: hourly price of its endpoint, if it needs a dedicated one; calls are then free.
        calls_an_hour: number of calls per hour above which the endpoint is cheaper than the long prompt.
    """

    provider: str
    model: str
    long_call_usd: float
    tuned_call_usd: float | None
    outlay_usd: Span | None
    calls: Span | None
    hosting: HostingPrice | None = None
    calls_an_hour: int | None = None


def break_even(
    training: Training, tokens: RequestTokens, rows_usd: Span | None, price: Price, prices: PriceList
) -> BreakEven:
    """Compare calls of the tuned model with calls of the long prompt.

    Args:
        training: which model is tuned, where, and at what cost.
        tokens: of the long prompt, the short one and the answer.
        rows_usd: what the missing rows cost; None where unknown.
        price: of the model that is sent the long prompt.
        prices: for calls to the tuned model.
    """
    answer = round(tokens.answer.middle)
    long_call = price.cost_usd(Usage(prompt_tokens=round(tokens.question), completion_tokens=answer))
    tuned_call = _tuned_call(
        training, Usage(prompt_tokens=round(tokens.short_prompt), completion_tokens=answer), prices
    )
    outlay = rows_usd + training.cost_usd if rows_usd and training.cost_usd else None
    calls = None if outlay is None or tuned_call is None else _calls(outlay, long_call - tuned_call)
    hosting = hosting_price(training.provider, training.model) if tuned_call is None else None
    an_hour = math.ceil(hosting.usd_per_hour / long_call) if hosting and long_call > 0 else None
    return BreakEven(training.provider, training.model, long_call, tuned_call, outlay, calls, hosting, an_hour)


def _tuned_call(training: Training, usage: Usage, prices: PriceList) -> float | None:
    if training.price is not None and training.price.rates is not None:
        return training.price.rates.cost_usd(usage)
    if training.cost_usd == Span(0, 0):  # tuned on this machine, and answering there
        free = prices.price(training.provider, None, training.model)
        return free.cost_usd(usage) if free else None
    return None


def _calls(outlay: Span, saved_usd: float) -> Span:
    if saved_usd <= 0:
        return Span(math.inf, math.inf)
    return Span(math.ceil(outlay.low / saved_usd), math.ceil(outlay.high / saved_usd))


def assumptions(tokens: RequestTokens, price: Price) -> list[str]:
    """The assumptions of the comparison, a sentence each."""
    ratio = tokens.question / tokens.short_prompt if tokens.short_prompt else 0.0
    return [
        (
            f"the long prompt has {tokens.question:,.0f} tokens, the short one {tokens.short_prompt:,.0f} "
            f"({ratio:.1f} times fewer)"
        ),
        f"an answer has {tokens.answer.middle:,.0f} tokens with either model ({tokens.basis})",
        "every row becomes a sample, and there is one training",
        "all calls are online, at the standard price, without prompt caching",
        f"both models answer equally well, and prices do not change ({price.source}{_as_of(price)})",
        "what runs on this machine is free: power and time are not counted",
    ]


def _as_of(price: Price) -> str:
    return f", {price.as_of}" if price.as_of else ""
