"""Cost of fine-tuning on a job's rows, at every provider that could do it.

Counts the billed training tokens. Whether this account may tune there is not checked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from asyncgen.generate.plan.request_tokens import RequestTokens, Span
from asyncgen.job.model import Job
from asyncgen.providers.prices import PriceList
from asyncgen.providers.profiles import PROFILES, Finetuning, Profile
from asyncgen.providers.training_prices import TunedModelName, epochs_of

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
        chosen: it is the one that the job would use.
        trained: the billed tokens.
        cost_usd: None for an unknown price.
        price: None where it is free or not known.
        note: who may do it and until when, and what else is charged; "" when there is nothing to say.
    """

    provider: str
    model: str
    chosen: bool
    trained: TrainedTokens
    cost_usd: Span | None
    price: TunedModelName | None
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
    """The training at the provider chosen, and at every other within reach; the chosen one first.

    Args:
        jobs: name of a tuning provider to the job with its overlay.
        rows: that become samples.
        tokens: of a row.
        prices: where they are looked up.
        chosen: the profile of the tuning stage. The job's model is its; the others tune their default one.
        within_reach: names of providers for which there is a key, or none is needed.
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
    price: TunedModelName | None,
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


def _note(finetuning: Finetuning, price: TunedModelName | None) -> str:
    notes = [price.note] if price and price.note else []
    until = f"until {finetuning.until}" if finetuning.until else ""
    if not finetuning.new_customers:
        notes.append("only for those who tuned there before" + (f", {until}" if until else ""))
    elif until:
        notes.append(until)
    return "; ".join(notes)
