"""Pack several samples into one row of tokens that contains their common prefix only once; threads over rows.

A row is the shared prefix (mostly a chat's system message), then each sample's own tokens, without padding. Every
matrix product is then one of two plain matrices, and the prefix is computed once a row instead of once a sample.
"""

from __future__ import annotations

import heapq
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeVar

import numpy as np
import numpy.typing as npt

from asyncgen.serve.training.layers import Integers, TokenSpan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import TracebackType


Flags = npt.NDArray[np.bool_]

ROW_TOKENS = 512  # approximate length of a row: longer ones are no faster and need more memory


@dataclass(frozen=True, slots=True)
class TokenSample:
    """One training sample.

    Attributes:
        tokens: ids.
        targets: for each token, whether it is learnt; never the first, which nothing precedes.
    """

    tokens: Integers
    targets: Flags

    @property
    def target_count(self) -> int:
        return int(self.targets.sum())

    @property
    def inputs(self) -> Integers:
        """The tokens that the model reads: all before the last target."""
        return self.tokens[: int(np.flatnonzero(self.targets)[-1])]


@dataclass(frozen=True, slots=True)
class PackedRow:
    """Samples packed together.

    Attributes:
        tokens: of the prefix and of all samples' own tokens.
        positions: of these tokens; those of each sample continue from the prefix.
        prefix: number of tokens of the prefix.
        samples: range of each sample's own tokens.
        predictors: indexes of the tokens whose next token is learnt.
        labels: these next tokens.
    """

    tokens: Integers
    positions: Integers
    prefix: int
    samples: tuple[TokenSpan, ...]
    predictors: Integers
    labels: Integers

    @property
    def spans(self) -> tuple[TokenSpan, ...]:
        """The ranges of the whole row: the prefix, if there is one, then the samples."""
        return (TokenSpan(0, self.prefix, prefix=0), *self.samples) if self.prefix else self.samples


def shared_prefix(samples: Sequence[TokenSample]) -> int:
    """Length of the longest common prefix that ends before the first predicting token of any sample.

    The predicting token stays in each sample, because its prediction belongs to the sample.
    """
    first = samples[0].tokens
    length = min(_first_predictor(sample) for sample in samples)
    for sample in samples:
        differs = np.flatnonzero(sample.tokens[:length] != first[:length])
        length = int(differs[0]) if len(differs) else length
    return length


def _first_predictor(sample: TokenSample) -> int:
    """Index of the first token whose successor is a target."""
    return int(np.argmax(sample.targets)) - 1


def pack(samples: Sequence[TokenSample], prefix: int) -> PackedRow:
    """Pack samples that all begin with the same `prefix` tokens."""
    spans = []
    start, predictors, labels = prefix, [], []
    for sample in samples:
        own = len(sample.inputs) - prefix
        spans.append(TokenSpan(start, start + own, prefix))
        targets = np.flatnonzero(sample.targets)
        predictors.append(targets - 1 - prefix + start)
        labels.append(sample.tokens[targets])
        start += own
    inputs = [sample.inputs for sample in samples]
    return PackedRow(
        tokens=np.concatenate([inputs[0][:prefix], *(tokens[prefix:] for tokens in inputs)]),
        positions=np.concatenate([np.arange(prefix), *(np.arange(prefix, len(tokens)) for tokens in inputs)]),
        prefix=prefix,
        samples=tuple(spans),
        predictors=np.concatenate(predictors),
        labels=np.concatenate(labels),
    )


def share_out(samples: Sequence[TokenSample], prefix: int, threads: int) -> list[list[int]]:
    """Assign samples to rows of about the same length, one or more per thread.

    If the rows became too long there are two per thread, or three, and so on. The longest samples are assigned first,
    each to the row that is shortest so far.

    Args:
        samples: the samples.
        prefix: length of their common prefix in tokens, which is not repeated in a row.
        threads: number of threads.

    Returns:
        The numbers of the samples in each row.
    """
    own = [len(sample.inputs) - prefix for sample in samples]
    rounds = -(-sum(own) // (threads * ROW_TOKENS))
    rows = [(0, number) for number in range(min(len(samples), rounds * threads))]  # (length so far, number)
    members: list[list[int]] = [[] for _ in rows]
    for number in sorted(range(len(samples)), key=lambda number: -own[number]):
        length, row = rows[0]
        members[row].append(number)
        heapq.heapreplace(rows, (length + own[number], row))
    return members


Item = TypeVar("Item")
Result = TypeVar("Result")


class TrainingThreads:
    """A pool of threads that train side by side.

    Args:
        count: number of threads.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count)

    def each(self, work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Apply a function to all items in parallel; returns the results in order, or raises the first error."""
        return list(self._pool.map(work, items))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
