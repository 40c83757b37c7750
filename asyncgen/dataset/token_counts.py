"""Count the tokens of training samples, and what training on them costs at every provider with a known price.

Counts offline if a vocabulary is installed, otherwise by an estimate. Chooses the vocabulary by model and adds the
overhead of chat messages. Every count says how it was made. Vocabularies come with the extra `tokens` (toktok-rs);
nothing is ever downloaded. Billed tokens are each sample's, cut at the provider's limit, times the epochs. Whether this
account may train there is not checked.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from asyncgen.providers.prices import epochs_of
from asyncgen.providers.profiles import PROFILES
from asyncgen.providers.tokens import estimate_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import date
    from typing import Any

    from asyncgen.providers.prices import PriceList
    from asyncgen.providers.profiles import Profile


# What a chat adds, by OpenAI's rule: 3 tokens and the role's own to a message, 3 to the conversation.
_PER_MESSAGE = 4
_PER_CHAT = 3

# Model to vocabulary, the first that matches; models later than these use o200k_base as far as is known.
_VOCABULARIES = (
    (re.compile(r"(gpt-3\.5|gpt-4(-turbo|-\d{4}|$)|davinci-002|babbage-002)"), "cl100k_base"),
    (re.compile(r"gpt-oss"), "o200k_harmony"),
    (re.compile(r"(?:.*/)?qwen", re.IGNORECASE), "qwen3.5"),
    (re.compile(r"(gpt-|o\d)"), "o200k_base"),
)
_OTHER_VOCABULARY = "o200k_base"


@dataclass(frozen=True, slots=True)
class TokenCounter:
    """Counts the tokens of texts.

    Attributes:
        label: how, in a few words for the user.
        exact: by the model's own vocabulary.
        count: the tokens of each text.
        hint: how to get better counts; "" if there is no way.
    """

    label: str
    exact: bool
    count: Callable[[Sequence[str]], list[int]]
    hint: str = ""

    @property
    def label_with_hint(self) -> str:
        """The label, and the way to better counts."""
        return f"{self.label}; {self.hint}" if self.hint else self.label

    def samples(self, samples: Sequence[Sequence[str]], *, chat: bool) -> list[int]:
        """The tokens of each sample, of which the texts are given; a chat's messages cost more than their texts."""
        if not samples:
            return []  # without loading a vocabulary
        texts = list(dict.fromkeys(chain.from_iterable(samples)))  # prompts come again and again
        tokens_of = dict(zip(texts, self.count(texts), strict=True)).__getitem__
        per_chat, per_message = (_PER_CHAT, _PER_MESSAGE) if chat else (0, 0)
        return [sum(map(tokens_of, sample), per_chat + per_message * len(sample)) for sample in samples]


def token_counter(model: str | None, ratio: float = 1.0) -> TokenCounter:
    """Choose the best available token counter for a model.

    Args:
        model: the model to be trained; None if unknown.
        ratio: counted tokens per estimated token, as measured in this run; used by the estimate only.

    Returns:
        The counter: exact with the extra `tokens` and a known model, else an estimate.
    """
    try:
        from toktok import batch_count  # noqa: PLC0415 - an extra
    except ImportError:
        return _estimate(ratio)
    name = (model or "").removeprefix("ft:")
    known = next((vocabulary for pattern, vocabulary in _VOCABULARIES if pattern.match(name)), None)
    vocabulary = known or _OTHER_VOCABULARY
    label = vocabulary if known else f"estimated with the tokenizer {vocabulary}"
    return TokenCounter(label, known is not None, partial(_count, batch_count, vocabulary))


def _count(
    batch_count: Callable[[Sequence[str], str, int], list[int]], vocabulary: str, texts: Sequence[str]
) -> list[int]:
    return batch_count(texts, vocabulary, 1)  # for some hundred texts, starting threads takes longer than they save


_TO_COUNT = "to count tokens: pip install 'asyncgen[tokens]'"


def _estimate(ratio: float) -> TokenCounter:
    basis = "bytes / 4" if ratio == 1.0 else f"bytes / 4 x {ratio:.2f}, from this run's answers"
    return TokenCounter(f"estimated as {basis}", exact=False, count=partial(_estimated, ratio), hint=_TO_COUNT)


def _estimated(ratio: float, texts: Sequence[str]) -> list[int]:
    return [round(estimate_text(text) * ratio) for text in texts]


class TokenRatio:
    """Learns from answers how many tokens the model's vocabulary makes of what is estimated as one."""

    def __init__(self) -> None:
        self._counted = 0
        self._estimated = 0

    def add(self, text: str, counted: int) -> None:
        """Note an answer that was paid for once; counts that cannot be are left out."""
        estimated = estimate_text(text)
        if counted > 0 and estimated > 0:
            self._counted += counted
            self._estimated += estimated

    @property
    def ratio(self) -> float:
        """1 where nothing was learnt."""
        return min(max(self._counted / self._estimated, 0.2), 5.0) if self._estimated else 1.0


@dataclass(frozen=True, slots=True)
class TrainingCost:
    """Training at one provider.

    Attributes:
        chosen: whether it is the job's own provider.
        model: None where the job names none, and the provider has no default.
        epochs: times that it goes over the samples.
        billed_tokens: of all epochs.
        cut_samples: how many are longer than the provider takes, and are cut.
        usd: lowest and highest; None for an unknown price, zero where it is free.
        as_of: the day of the price.
    """

    provider: str
    chosen: bool
    model: str | None
    epochs: int
    billed_tokens: int
    cut_samples: int
    usd: tuple[float, float] | None
    as_of: date | None


def training_costs(
    tokens: Histogram, chosen: Profile, model: str | None, hyperparameters: Mapping[str, Any], prices: PriceList
) -> list[TrainingCost]:
    """Compute the cost of training at the chosen provider, and at every other whose price is known.

    Args:
        tokens: of the training samples.
        chosen: profile of the job's provider.
        model: the model to train there; None for its default. The others train their default.
        hyperparameters: of the job; `n_epochs` is used.
        prices: all prices.

    Returns:
        The costs, that of the chosen provider first, where it tunes.
    """
    others = [profile for profile in PROFILES.values() if profile.name != chosen.name]
    costs = [_cost(tokens, chosen, model, hyperparameters, prices, chosen=True)]
    costs += [_cost(tokens, profile, None, hyperparameters, prices, chosen=False) for profile in others]
    return [cost for cost in costs if cost is not None and (cost.chosen or cost.usd is not None)]


def _cost(
    tokens: Histogram,
    profile: Profile,
    model: str | None,
    hyperparameters: Mapping[str, Any],
    prices: PriceList,
    *,
    chosen: bool,
) -> TrainingCost | None:
    finetuning = profile.finetuning
    if finetuning is None:
        return None
    model = model or finetuning.default_model
    limit = finetuning.max_sample_tokens
    epochs = epochs_of(tokens.counts.total(), hyperparameters, finetuning)
    billed = tokens.clipped_total(limit) * epochs
    price = None if finetuning.free or model is None else prices.training(profile.name, model)
    return TrainingCost(
        provider=profile.name,
        chosen=chosen,
        model=model,
        epochs=epochs,
        billed_tokens=billed,
        cut_samples=tokens.above(limit) if limit is not None else 0,
        usd=(0.0, 0.0) if finetuning.free else price.cost_usd(billed) if price else None,
        as_of=price.as_of if price else None,
    )


@dataclass(frozen=True, slots=True)
class Summary:
    """The usual figures of a distribution; `low` and `high` leave a twentieth out on either side."""

    count: int
    total: int
    smallest: int
    low: int
    median: int
    high: int
    largest: int

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0


class Histogram:
    """Numbers and how often each came.

    Args:
        numbers: the first ones; `add` takes more.
    """

    def __init__(self, numbers: Iterable[int] = ()) -> None:
        self.counts = Counter(numbers)

    def add(self, numbers: Iterable[int]) -> None:
        """Count numbers.

        Args:
            numbers: any number of them.
        """
        self.counts.update(numbers)

    def above(self, limit: int) -> int:
        """Return how many numbers are above a limit.

        Args:
            limit: not counted itself.
        """
        return sum(count for number, count in self.counts.items() if number > limit)

    def clipped_total(self, limit: int | None) -> int:
        """Return the sum of all numbers, each clipped to a limit.

        Args:
            limit: maximum; None for no clipping.
        """
        most = limit if limit is not None else max(self.counts, default=0)
        return sum(min(number, most) * count for number, count in self.counts.items())

    def bins(self, most: int) -> list[tuple[int, int, int]]:
        """Group the numbers into bins of equal width.

        Args:
            most: maximum number of bins.

        Returns:
            First number, last number, and count of each bin.
        """
        if not self.counts:
            return []
        first, last = min(self.counts), max(self.counts)
        width = -(-(last - first + 1) // most)
        bins = [0] * (-(-(last - first + 1) // width))
        for number, count in self.counts.items():
            bins[(number - first) // width] += count
        return [(first + place * width, first + (place + 1) * width - 1, count) for place, count in enumerate(bins)]

    def summary(self) -> Summary:
        """The figures; all zero where nothing was counted."""
        count = self.counts.total()
        if not count:
            return Summary(0, 0, 0, 0, 0, 0, 0)
        numbers = sorted(self.counts)
        low, median, high = (self._quantile(numbers, count, part) for part in (0.05, 0.5, 0.95))
        return Summary(count, self.clipped_total(None), numbers[0], low, median, high, numbers[-1])

    def _quantile(self, numbers: list[int], count: int, part: float) -> int:
        """The smallest number that at least this part of all do not exceed."""
        wanted = part * count
        seen = 0
        for number in numbers:
            seen += self.counts[number]
            if seen >= wanted:
                return number
        return numbers[-1]
