"""Results of a finished job: the table of its metrics, and the texts of its events."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asyncgen.serve.training.messages import Start, Step, TrainedCheckpoint

RESULT_FILENAME = "step_metrics.csv"
_COLUMNS = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")


def step_message(step: Step) -> str:
    validation = f", validation loss={step.valid_loss:.2f}" if step.valid_loss is not None else ""
    place = f"{step.step}/{step.total_steps}" if step.total_steps else str(step.step)
    return f"Step {place}: training loss={step.train_loss:.2f}{validation}"


def start_message(start: Start) -> str:
    cut = f", {start.cut_samples} of them cut to the longest that fits" if start.cut_samples else ""
    return (
        f"Training on {start.train_samples} samples{cut}: {start.n_epochs} epochs of batches of "
        f"{start.batch_size}, {start.total_steps} steps"
    )


def step_metrics(step: Step) -> dict[str, Any]:
    """The step's figures under the API's names and ours; those that were not measured are left out."""
    figures = {
        "step": step.step,
        "total_steps": step.total_steps or None,
        "epoch": step.epoch or None,
        "train_loss": step.train_loss,
        "train_mean_token_accuracy": step.train_mean_token_accuracy,
        "valid_loss": step.valid_loss,
        "valid_mean_token_accuracy": step.valid_mean_token_accuracy,
        "grad_norm": step.grad_norm,
        "learning_rate": step.learning_rate,
    }
    return {name: value for name, value in figures.items() if value is not None}


def checkpoint_metrics(checkpoint: TrainedCheckpoint) -> dict[str, Any]:
    """The checkpoint's figures under the API's names; those that were not measured are left out."""
    figures = {
        "step": checkpoint.step,
        "train_loss": checkpoint.train_loss,
        "train_mean_token_accuracy": checkpoint.train_mean_token_accuracy,
        "full_valid_loss": checkpoint.full_valid_loss,
        "full_valid_mean_token_accuracy": checkpoint.full_valid_mean_token_accuracy,
    }
    return {name: value for name, value in figures.items() if value is not None}


def validation_metrics(checkpoint: TrainedCheckpoint) -> dict[str, Any]:
    """The figures over the whole validation file, for an event of their own: the epoch's steps were told before."""
    figures = checkpoint_metrics(checkpoint)
    return {name: figures[name] for name in figures if name == "step" or name.startswith("full_valid")}


def metrics_csv(steps: Iterable[Step]) -> bytes:
    """The result file: one line a step, empty where nothing was measured."""
    stream = io.StringIO(newline="")
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(_COLUMNS)
    for step in steps:
        accuracy = step.train_mean_token_accuracy
        table.writerow([step.step, step.train_loss, accuracy, step.valid_loss, step.valid_mean_token_accuracy])
    return stream.getvalue().encode()
