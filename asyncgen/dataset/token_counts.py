"""Count the tokens of training samples, offline if a vocabulary is installed, otherwise by an estimate.

Chooses the vocabulary by model and adds the overhead of chat messages. Every count says how it was made. Vocabularies
come with the extra `tokens` (toktok-rs); nothing is ever downloaded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from asyncgen.providers.tokens import estimate_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
    """

    label: str
    exact: bool
    count: Callable[[Sequence[str]], list[int]]

    def samples(self, samples: Sequence[Sequence[str]], *, chat: bool) -> list[int]:
        """The tokens of each sample, of which the texts are given; a chat's messages cost more than their texts."""
        counts = iter(self.count([text for sample in samples for text in sample]))
        return [
            sum(next(counts) for _ in sample) + (_PER_CHAT + _PER_MESSAGE * len(sample) if chat else 0)
            for sample in samples
        ]


def token_counter(model: str | None, ratio: float = 1.0) -> TokenCounter:
    """The best counter at hand.

    Args:
        model: to be trained; None where it is not known.
        ratio: counted tokens to one estimated, as this run's answers showed; for the estimate only.
    """
    try:
        from toktok import batch_count  # noqa: PLC0415 - an extra
    except ImportError:
        return _estimate(ratio)
    name = (model or "").removeprefix("ft:")
    known = next((vocabulary for pattern, vocabulary in _VOCABULARIES if pattern.match(name)), None)
    vocabulary = known or _OTHER_VOCABULARY
    label = vocabulary if known else f"estimate by {vocabulary}, not the model's own vocabulary"
    return TokenCounter(label, known is not None, partial(_count, batch_count, vocabulary))


def _count(batch_count: Callable[[Sequence[str], str], list[int]], vocabulary: str, texts: Sequence[str]) -> list[int]:
    return batch_count(texts, vocabulary)


def _estimate(ratio: float) -> TokenCounter:
    basis = "bytes / 4" if ratio == 1.0 else f"bytes / 4 x {ratio:.2f}, from this run's answers"
    return TokenCounter(
        f"estimate ({basis}); pip install 'asyncgen[tokens]' counts",
        exact=False,
        count=lambda texts: [round(estimate_text(text) * ratio) for text in texts],
    )


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
