"""The training loop: epochs, steps, a checkpoint after each epoch; AdamW and its learning rate schedule.

The learning rate warms up fast, then decays to zero. AdamW is from Loshchilov and Hutter, "Decoupled Weight Decay
Regularization" (2019). Forward and backward passes are left to `model`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from asyncgen.serve.training.model import PredictionScore, TunedPart
from asyncgen.serve.training.packing import PackedRow, TokenSample, pack, share_out
from asyncgen.serve.training.protocol import TrainedCheckpoint, TrainerMessage, TrainingError, TrainingStep

if TYPE_CHECKING:
    from asyncgen.serve.training.layers import Array
    from asyncgen.serve.training.lora import Adapter
    from asyncgen.serve.training.model import FrozenStates
    from asyncgen.serve.training.packing import TrainingThreads

WARM_UP = 0.1  # share of all steps, up to:
LONGEST_WARM_UP = 20


def learning_rate(step: int, total_steps: int, peak: float) -> float:
    """The rate of a step, counted from 1: a straight line up to the peak, and one down that ends short of zero."""
    warm_up = min(LONGEST_WARM_UP, max(1, round(WARM_UP * total_steps)))
    if step <= warm_up:
        return peak * step / warm_up
    return peak * (total_steps + 1 - step) / (total_steps + 1 - warm_up)


class AdamW:
    """The AdamW optimiser of one vector, which it changes in place.

    Args:
        numbers: what is trained.
        mean_decay, square_decay: how much of the running means of gradients and of their squares stays at each step.
        weight_decay: share of each number that a learning rate of 1 would take away.
        epsilon: added to the divisor.
    """

    def __init__(
        self,
        numbers: Array,
        *,
        mean_decay: float = 0.9,
        square_decay: float = 0.99,
        weight_decay: float = 0.01,
        epsilon: float = 1e-8,
    ) -> None:
        self._numbers = numbers
        self._mean, self._square = np.zeros_like(numbers), np.zeros_like(numbers)
        self._mean_decay, self._square_decay = mean_decay, square_decay
        self._weight_decay, self._epsilon = weight_decay, epsilon
        self._steps = 0

    def step(self, gradient: Array, learning_rate: float) -> None:
        """Take rate · (mean / (sqrt(square) + epsilon) + decay · numbers) away; the means freed of their start at 0."""
        self._steps += 1
        self._mean *= self._mean_decay
        self._mean += (1 - self._mean_decay) * gradient
        self._square *= self._square_decay
        self._square += (1 - self._square_decay) * gradient * gradient
        mean_share = 1 - self._mean_decay**self._steps
        square_share = 1 - self._square_decay**self._steps
        divisor = np.sqrt(self._square)
        divisor /= math.sqrt(square_share)
        divisor += self._epsilon
        self._numbers *= 1 - learning_rate * self._weight_decay
        self._numbers -= learning_rate / mean_share * self._mean / divisor


def clip(gradient: Array, longest: float) -> float:
    """Clip a gradient to the norm `longest`, in place; returns the norm that it had."""
    length = float(np.linalg.norm(gradient))
    if length > longest:
        gradient *= longest / length
    return length


Emit = Callable[[TrainerMessage], None]
Clock = Callable[[], float]

LONGEST_GRADIENT = 1.0
MEASUREMENTS = 5  # validation losses during training, besides the full ones after each epoch
MEASURED_SAMPLES = 8  # at each of these


@dataclass(frozen=True, slots=True)
class TrainingData:
    """All samples, with the cached states of the frozen blocks.

    Attributes:
        samples: those to train on, then those to validate with.
        train_count: how many are trained on.
        prefix: tokens that all begin with.
        states: of `samples`, by number.
    """

    samples: Sequence[TokenSample]
    train_count: int
    prefix: int
    states: FrozenStates

    @property
    def validation(self) -> range:
        return range(self.train_count, len(self.samples))

    def rows(self, numbers: Sequence[int], threads: int) -> list[tuple[Array, PackedRow]]:
        """These samples packed, for so many threads; each row with the states that it begins with."""
        samples = [self.samples[number] for number in numbers]
        return [
            (
                self.states.row([numbers[member] for member in members]),
                pack([samples[member] for member in members], self.prefix),
            )
            for members in share_out(samples, self.prefix, threads)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """Length of a training, and its highest learning rate."""

    epochs: int
    steps_per_epoch: int
    peak_learning_rate: float

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch


class TrainingLoop:
    """The training loop.

    Args:
        data: the samples.
        part: the tuned blocks.
        adapter: their adapter, changed in place.
        plan: epochs, steps and learning rate.
        threads: share each batch.
        order: randomness of the order of the samples in each epoch.
        save: called after each epoch with its number, from 1; saves the adapter and returns its path.
        emit: called with each step and checkpoint.
        elapsed: seconds since the training began.
    """

    def __init__(
        self,
        data: TrainingData,
        part: TunedPart,
        adapter: Adapter,
        plan: TrainingPlan,
        *,
        threads: TrainingThreads,
        order: np.random.Generator,
        save: Callable[[int], Path],
        emit: Emit,
        elapsed: Clock,
    ) -> None:
        self._data, self._part, self._plan = data, part, plan
        self._threads = threads
        self._gradients = [adapter.zeros() for _ in range(threads.count)]
        self._numbers = adapter.numbers
        self._optimiser = AdamW(adapter.numbers)
        self._order, self._save, self._emit, self._elapsed = order, save, emit, elapsed
        self._steps = 0
        self.trained_tokens = 0  # tokens of all samples so far, targets or not

    def run(self) -> Path:
        """Train all epochs, and return the path of the last adapter.

        Raises:
            TrainingError: the loss is no longer finite.
            OSError: an adapter cannot be written.
        """
        path = Path()
        for epoch in range(1, self._plan.epochs + 1):
            score = self._epoch(epoch)
            valid = self._measure(self._data.validation)
            self._check_bounds(bool(np.isfinite(self._numbers).all()) and (valid is None or math.isfinite(valid.loss)))
            path = self._save(epoch)
            self._emit(self._checkpoint(epoch, path, score, valid))
        return path

    def _epoch(self, epoch: int) -> PredictionScore:
        """All samples once, in a new order and in batches of nearly equal size."""
        order = self._order.permutation(self._data.train_count)
        epoch_score = PredictionScore()
        for batch in np.array_split(order, self._plan.steps_per_epoch):
            self._steps += 1
            rate = learning_rate(self._steps, self._plan.total_steps, self._plan.peak_learning_rate)
            score, gradient_norm = self._learn(batch.tolist(), rate)
            self.trained_tokens += sum(len(self._data.samples[number].tokens) for number in batch)
            epoch_score += score
            self._emit(self._step_message(epoch, score, gradient_norm, rate))
        return epoch_score

    def _learn(self, batch: Sequence[int], rate: float) -> tuple[PredictionScore, float]:
        """One optimiser step on the mean loss of a batch; returns the loss before it, and the gradient norm."""
        score, gradient = self._score_and_gradient(batch)
        gradient /= score.targets
        gradient_norm = clip(gradient, LONGEST_GRADIENT)
        self._check_bounds(math.isfinite(score.loss) and math.isfinite(gradient_norm))
        self._optimiser.step(gradient, rate)
        return score, gradient_norm

    def _check_bounds(self, is_within: bool) -> None:
        if not is_within:
            raise TrainingError(
                f"the training diverged at step {self._steps} of {self._plan.total_steps}",
                code="training_diverged",
                param="learning_rate_multiplier",
                help_text="use a lower learning_rate_multiplier",
            )

    def _score_and_gradient(self, batch: Sequence[int]) -> tuple[PredictionScore, Array]:
        """The summed loss of the batch and its gradient.

        Which thread computes which row, and the order of the sums, do not depend on which is faster: the same seed
        gives the same numbers to the last bit.
        """
        rows = self._data.rows(batch, self._threads.count)

        def train_rows(number: int) -> PredictionScore:
            gradient = self._gradients[number]
            gradient.numbers[:] = 0
            scores = [
                self._part.score_and_gradient(states, row, gradient)
                for states, row in rows[number :: self._threads.count]
            ]
            return sum(scores, PredictionScore())

        score = sum(self._threads.each(train_rows, range(self._threads.count)), PredictionScore())
        gradient = self._gradients[0].numbers
        for other in self._gradients[1:]:
            gradient += other.numbers
        return score, gradient

    def _step_message(self, epoch: int, score: PredictionScore, gradient_norm: float, rate: float) -> TrainingStep:
        every = max(1, self._plan.total_steps // MEASUREMENTS)
        validation = self._data.validation
        measured = validation[:: -(-len(validation) // MEASURED_SAMPLES)] if validation else validation
        valid = self._measure(measured if self._steps % every == 0 else ())
        return TrainingStep(
            step=self._steps,
            total_steps=self._plan.total_steps,
            epoch=epoch,
            train_loss=score.mean_loss,
            train_mean_token_accuracy=score.accuracy,
            grad_norm=gradient_norm,
            learning_rate=rate,
            trained_tokens=self.trained_tokens,
            elapsed_s=self._elapsed(),
            valid_loss=valid.mean_loss if valid else None,
            valid_mean_token_accuracy=valid.accuracy if valid else None,
        )

    def _checkpoint(
        self, epoch: int, path: Path, score: PredictionScore, valid: PredictionScore | None
    ) -> TrainedCheckpoint:
        return TrainedCheckpoint(
            step=self._steps,
            epoch=epoch,
            path=str(path),
            train_loss=score.mean_loss,
            train_mean_token_accuracy=score.accuracy,
            full_valid_loss=valid.mean_loss if valid else None,
            full_valid_mean_token_accuracy=valid.accuracy if valid else None,
        )

    def _measure(self, numbers: Sequence[int]) -> PredictionScore | None:
        """The loss on some samples, without learning; None when there are none."""
        if not numbers:
            return None
        rows = self._data.rows(numbers, self._threads.count)
        return sum(self._threads.each(lambda row: self._part.score(*row), rows), PredictionScore())
