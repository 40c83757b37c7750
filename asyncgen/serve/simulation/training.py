"""A made-up training: figures that fall and rise as those of a real one, in a few seconds at most.

Owns the curve and its pace. Trains nothing, and reads no more of the files than their number of lines.
"""

from __future__ import annotations

import asyncio
import math
import random
from typing import TYPE_CHECKING

from asyncgen.serve.tuning.messages import Checkpoint, End, Start, Step, TrainerMessage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from asyncgen.serve.engine import TrainingTask

_STEP_S = 0.02
_LONGEST_S = 5.0
_LOSS_FIRST, _LOSS_LAST = 4.8, 0.4
_EPOCHS, _BATCH = 3, 8
_TOKENS_PER_SAMPLE = 40


async def made_up_training(task: TrainingTask, *, step_s: float = _STEP_S) -> AsyncGenerator[TrainerMessage, None]:
    """The messages of a training of `task`.

    Args:
        task: its number of samples and its hyperparameters count.
        step_s: seconds a step takes; shorter where there are so many that they would take longer than 5 s.
    """
    start = _start(task)
    rng = random.Random(task.seed)  # noqa: S311 - figures, not secrets
    pause_s = min(step_s, _LONGEST_S / start.total_steps)
    yield start
    for number in range(1, start.total_steps + 1):
        await asyncio.sleep(pause_s)
        step = _step(number, start, rng, pause_s, with_validation=task.validation is not None)
        yield step
        if number * start.n_epochs % start.total_steps == 0:
            yield _checkpoint(step)
    yield End(trained_tokens=start.train_samples * start.n_epochs * _TOKENS_PER_SAMPLE)


def _start(task: TrainingTask) -> Start:
    n_epochs = _EPOCHS if task.n_epochs == "auto" else task.n_epochs
    batch_size = _BATCH if task.batch_size == "auto" else task.batch_size
    return Start(
        total_steps=n_epochs * math.ceil(task.samples / batch_size),
        n_epochs=n_epochs,
        batch_size=batch_size,
        learning_rate_multiplier=1.0 if task.learning_rate_multiplier == "auto" else task.learning_rate_multiplier,
        train_samples=task.samples,
    )


def _step(number: int, start: Start, rng: random.Random, pause_s: float, *, with_validation: bool) -> Step:
    done = number / start.total_steps
    loss = _LOSS_LAST + (_LOSS_FIRST - _LOSS_LAST) * math.exp(-5 * done) * rng.uniform(0.9, 1.1)
    ends_epoch = number * start.n_epochs % start.total_steps == 0
    return Step(
        step=number,
        total_steps=start.total_steps,
        epoch=math.ceil(done * start.n_epochs),
        train_loss=round(loss, 4),
        train_mean_token_accuracy=_accuracy(loss),
        elapsed_s=number * pause_s,
        trained_tokens=round(done * start.train_samples * start.n_epochs * _TOKENS_PER_SAMPLE),
        valid_loss=round(loss * 1.1, 4) if with_validation and ends_epoch else None,
        valid_mean_token_accuracy=_accuracy(loss * 1.1) if with_validation and ends_epoch else None,
    )


def _checkpoint(step: Step) -> Checkpoint:
    return Checkpoint(
        step=step.step,
        epoch=step.epoch,
        train_loss=step.train_loss,
        train_mean_token_accuracy=step.train_mean_token_accuracy,
        full_valid_loss=step.valid_loss,
        full_valid_mean_token_accuracy=step.valid_mean_token_accuracy,
    )


def _accuracy(loss: float) -> float:
    return round(math.exp(-0.35 * loss), 4)
