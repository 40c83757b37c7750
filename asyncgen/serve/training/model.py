"""The tuned part of a model: its last blocks, the output, the loss, and the gradient of the adapter.

Hidden states come from the cache in `frozen`; the optimiser is left to `loop`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from asyncgen.serve.training.architecture import OUTPUT_NORM
from asyncgen.serve.training.block import Block, Geometry
from asyncgen.serve.training.layers import Array, Integers, Weights, rms_norm, rms_norm_backward, rotation

if TYPE_CHECKING:
    from asyncgen.serve.training.lora import Adapter
    from asyncgen.serve.training.packing import PackedRow

LOGITS_AT_A_TIME = 1 << 23  # numbers; bounds what a long completion needs: 32 MB


@dataclass(frozen=True, slots=True)
class PredictionScore:
    """How well the targets of a row are predicted.

    Attributes:
        loss: the sum of their negative log-probabilities (nats).
        correct: how many are the most probable token.
        targets: how many there are.
    """

    loss: float = 0.0
    correct: int = 0
    targets: int = 0

    def __add__(self, other: PredictionScore) -> PredictionScore:
        return PredictionScore(self.loss + other.loss, self.correct + other.correct, self.targets + other.targets)

    @property
    def mean_loss(self) -> float:
        return self.loss / self.targets

    @property
    def accuracy(self) -> float:
        return self.correct / self.targets


class Rotations:
    """Makes the geometry of rows; holds the model's frequency divisors, where it has them."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._factors = weights.rope_factors()

    def geometry(self, row: PackedRow) -> Geometry:
        architecture, precision = self._weights.architecture, self._weights.precision
        return Geometry(rotation(row.positions, architecture, self._factors, precision), row.spans)


class TunedPart:
    """The last blocks of a model with their adapter, and its output.

    Args:
        weights: the model's.
        blocks: which blocks, up to the last.
        adapter: covers these blocks; its numbers may change between calls.

    Several rows may be computed at the same time in different threads, each with a gradient of its own.
    """

    def __init__(self, weights: Weights, blocks: range, adapter: Adapter) -> None:
        architecture = weights.architecture
        self._rotations = Rotations(weights)
        self._blocks = [Block(index, weights.block(index), architecture, adapter) for index in blocks]
        self._norm = weights.tensor(OUTPUT_NORM)
        self._output = weights.output()
        self._epsilon = architecture.norm_epsilon

    def score(self, hidden: Array, row: PackedRow) -> PredictionScore:
        """Only the loss: for validation."""
        geometry = self._rotations.geometry(row)
        for block in self._blocks:
            hidden, _ = block.forward(hidden, geometry)
        normed, _ = rms_norm(hidden[row.predictors], self._norm, self._epsilon)
        return self._predict(normed, row.labels, None)

    def score_and_gradient(self, hidden: Array, row: PackedRow, gradient: Adapter) -> PredictionScore:
        """Add the gradient of the row's summed loss to `gradient`."""
        geometry = self._rotations.geometry(row)
        kept = []
        for block in self._blocks:
            hidden, memory = block.forward(hidden, geometry)
            kept.append(memory)
        normed, output_norm = rms_norm(hidden[row.predictors], self._norm, self._epsilon)
        d_normed = np.empty_like(normed)
        score = self._predict(normed, row.labels, d_normed)
        dx = np.zeros_like(hidden)
        dx[row.predictors] = rms_norm_backward(d_normed, self._norm, output_norm)
        for block in reversed(self._blocks):
            dx = block.backward(dx, kept.pop(), geometry, gradient)
        return score

    def _predict(self, normed: Array, labels: Integers, d_normed: Array | None) -> PredictionScore:
        """Cross-entropy over the vocabulary, some predictions at a time; fills `d_normed` where it is given."""
        score = PredictionScore()
        at_a_time = max(1, LOGITS_AT_A_TIME // len(self._output))
        for start in range(0, len(labels), at_a_time):
            part = slice(start, start + at_a_time)
            gradient = None if d_normed is None else d_normed[part]
            score += self._predict_part(normed[part], labels[part], gradient)
        return score

    def _predict_part(self, normed: Array, labels: Integers, d_normed: Array | None) -> PredictionScore:
        """The loss log(sum(exp(z))) - z[label], with z = output · normed.

        Its gradient is softmax(z) · output - output[label]. In place, for it is the largest array of a step.
        """
        logits = normed @ self._output.T
        places = np.arange(len(labels))
        correct = int((logits.argmax(axis=1) == labels).sum())
        logits -= logits.max(axis=1, keepdims=True)
        of_labels = logits[places, labels]
        np.exp(logits, out=logits)
        total = logits.sum(axis=1, keepdims=True)
        loss = float((np.log(total[:, 0]) - of_labels).sum())
        if d_normed is not None:
            np.matmul(logits, self._output, out=d_normed)
            d_normed /= total
            d_normed -= self._output[labels]
        return PredictionScore(loss, correct, len(labels))
