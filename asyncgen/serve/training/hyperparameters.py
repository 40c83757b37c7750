"""What "auto" means for the hyperparameters of the API.

Owns the rules and the learning rate that a multiplier of 1 stands for. The figures behind them were measured with a
model of 135 million parameters and some hundred short samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Auto = Literal["auto"]

_BASE_RATE = 2e-3
_BASE_WIDTH = 576


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """As the API names them, each decided."""

    n_epochs: int
    batch_size: int
    learning_rate_multiplier: float


def choose(
    samples: int,
    *,
    n_epochs: int | Auto = "auto",
    batch_size: int | Auto = "auto",
    learning_rate_multiplier: float | Auto = "auto",
) -> Hyperparameters:
    """Decide what was left open, for so many training samples.

    Three epochs; more where there are few samples, so that there is something to see of them, and one where there
    are so many that each need be seen but once. Batches of eight, smaller ones where that would make too few steps.
    """
    return Hyperparameters(
        n_epochs=_epochs(samples) if n_epochs == "auto" else n_epochs,
        batch_size=min(8, max(1, samples // 10)) if batch_size == "auto" else batch_size,
        learning_rate_multiplier=1.0 if learning_rate_multiplier == "auto" else learning_rate_multiplier,
    )


def _epochs(samples: int) -> int:
    if samples < 100:
        return min(10, -(-300 // samples))
    return 3 if samples < 2000 else 2 if samples < 5000 else 1


def base_learning_rate(width: int) -> float:
    """The learning rate for a multiplier of 1: wide models want smaller steps, in inverse proportion."""
    return _BASE_RATE * _BASE_WIDTH / width
