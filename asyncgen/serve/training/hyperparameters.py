"""What "auto" means for the hyperparameters of the API.

Owns the rules but that of the epochs, which others foretell, and the learning rate that a multiplier of 1 stands for.
Does not know what they are used for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from asyncgen.epochs import local_epochs

Auto = Literal["auto"]

BATCH = 8
FEWEST_STEPS = 10  # of an epoch: where there would be fewer the batches are smaller

# Measured with 138 samples and a model of 135 million parameters and this width: half the rate left the loss on samples
# held out a tenth higher after three epochs; with twice the rate it began to misspell what it had not seen in training.
RATE = 4e-3
WIDTH = 576


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
    """Decide what was left open, for so many training samples."""
    return Hyperparameters(
        n_epochs=local_epochs(samples) if n_epochs == "auto" else n_epochs,
        batch_size=min(BATCH, max(1, samples // FEWEST_STEPS)) if batch_size == "auto" else batch_size,
        learning_rate_multiplier=1.0 if learning_rate_multiplier == "auto" else learning_rate_multiplier,
    )


def base_learning_rate(width: int) -> float:
    """The learning rate for a multiplier of 1: wider models want smaller steps, in inverse proportion."""
    return RATE * WIDTH / width
