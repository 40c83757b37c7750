"""What tuning on a job's rows would cost, at every provider that could do it.

Owns the count of trained tokens. Does not know how a job is created, nor whether this user may create one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from asyncgen.generate.plan.request_tokens import RequestTokens
from asyncgen.generate.plan.span import Span
from asyncgen.job.model import Job
from asyncgen.prices import PriceList
from asyncgen.prices_training import TunedModel
from asyncgen.providers import PROFILES, Finetuning, Profile

_PER_ANSWER = 4  # what a chat adds to a message, as in `tokens.estimate_messages`
_USUAL_EPOCHS = 3
_FEWEST_TRAINED, _MOST_TRAINED = 100, 25_000
_MOST_EPOCHS = 25


@dataclass(frozen=True, slots=True)
class Training:
    """Tuning a model at a provider.

    Attributes:
        chosen: it is the one that the job would use.
        cost_usd: None where the price is not known.
        price: None where it is free or not known.
        note: who may do it and until when, and what else is charged; "" when there is nothing to say.
    """

    provider: str
    model: str
    chosen: bool
    cost_usd: Span | None
    price: TunedModel | None
    note: str


@dataclass(frozen=True, slots=True)
class TrainedTokens:
    """What the bill of a training counts.

    Attributes:
        samples: in the training split.
        epochs: times the provider goes over them.
        tokens: samples times their tokens times epochs.
    """

    samples: int
    epochs: int
    tokens: Span


def trained_tokens(job: Job, rows: int, tokens: RequestTokens) -> TrainedTokens:
    """Tokens that a training on all rows of the job would be billed for.

    Args:
        job: for its validation share and epochs.
        rows: that become samples.
        tokens: of a row.
    """
    samples = rows - round(rows * job.dataset.validation)
    epochs = _epochs(job, samples)
    prompt = tokens.short_prompt + _PER_ANSWER
    sample = Span(prompt, prompt) + tokens.answer
    return TrainedTokens(samples, epochs, sample * (samples * epochs))


def _epochs(job: Job, samples: int) -> int:
    given = job.finetune.hyperparameters.get("n_epochs", "auto")
    return given if isinstance(given, int) else usual_epochs(samples)


def usual_epochs(samples: int) -> int:
    """Epochs where the job names none: the rule of OpenAI's data preparation notebook, followed by others."""
    if samples * _USUAL_EPOCHS < _FEWEST_TRAINED:
        return min(_MOST_EPOCHS, _FEWEST_TRAINED // max(samples, 1))
    if samples * _USUAL_EPOCHS > _MOST_TRAINED:
        return max(1, _MOST_TRAINED // samples)
    return _USUAL_EPOCHS


def trainings(
    job: Job, chosen: Profile, within_reach: Sequence[str], tokens: TrainedTokens, prices: PriceList
) -> list[Training]:
    """The training at the provider chosen, and at every other within reach; the chosen one first.

    Args:
        job: names the model for the provider chosen; the others tune their default one.
        chosen: the profile of the tuning stage.
        within_reach: names of providers for which there is a key, or none is needed.
        tokens: to be trained.
        prices: where they are looked up.
    """
    others = [PROFILES[name] for name in within_reach if name != chosen.name]
    found = [
        (profile, job.finetune.model or _default_model(profile) if profile is chosen else _default_model(profile))
        for profile in (chosen, *others)
    ]
    return [
        _training(profile.finetuning, profile.name, model, tokens, prices, chosen=profile is chosen)
        for profile, model in found
        if profile.finetuning and model
    ]


def _default_model(profile: Profile) -> str | None:
    return profile.finetuning.default_model if profile.finetuning else None


def _training(
    finetuning: Finetuning, provider: str, model: str, tokens: TrainedTokens, prices: PriceList, *, chosen: bool
) -> Training:
    price = prices.training(provider, model)
    if finetuning.free:
        cost_usd: Span | None = Span(0, 0)
    elif price is None:
        cost_usd = None
    else:
        cost_usd = Span(price.cost_usd(round(tokens.tokens.low))[0], price.cost_usd(round(tokens.tokens.high))[1])
    return Training(provider, model, chosen, cost_usd, price, _note(finetuning, price))


def _note(finetuning: Finetuning, price: TunedModel | None) -> str:
    notes = [price.note] if price and price.note else []
    if not finetuning.new_customers:
        notes.append("only for those who tuned there before" + _until(finetuning.until))
    elif finetuning.until:
        notes.append(_until(finetuning.until).strip())
    return "; ".join(notes)


def _until(day: date | None) -> str:
    return f", until {day}" if day else ""
