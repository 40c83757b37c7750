"""AdamW: Adam with weight decay apart from the gradient.

Owns the optimiser's state and its step. From Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (2019).
Does not know what the numbers are; the learning rate comes with each step.
"""

from __future__ import annotations

import math

import numpy as np

from asyncgen.serve.training.weights import Array


class AdamW:
    """The optimiser of one vector, which it changes in place.

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
    """Shorten a gradient to the length `longest`, in place; the length that it had."""
    length = float(np.linalg.norm(gradient))
    if length > longest:
        gradient *= longest / length
    return length
