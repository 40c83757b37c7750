"""Messages of a running training: one JSON object a line.

The protocol between the server and a trainer: the built-in one, or a user's own command (`docs/trainer-protocol.md`).
"""

from __future__ import annotations

import msgspec

from asyncgen.json_text import decoder
from asyncgen.serve.training.config import ResolvedHyperparameters


class TrainingStarted(ResolvedHyperparameters, frozen=True, kw_only=True, tag="start"):
    """The first message: the hyperparameters, with those chosen for "auto", and the amount of work."""

    total_steps: int
    train_samples: int
    validation_samples: int = 0
    cut_samples: int = 0


class TrainingProgress(msgspec.Struct, frozen=True, kw_only=True, tag="progress"):
    """Something worth knowing between steps."""

    message: str = ""


class TrainingStep(msgspec.Struct, frozen=True, kw_only=True, tag="step"):
    """One optimiser step, with validation metrics if they were measured at this step; `total_steps` is 0 if unknown."""

    step: int
    train_loss: float
    total_steps: int = 0
    epoch: int = 0
    train_mean_token_accuracy: float | None = None
    grad_norm: float | None = None
    learning_rate: float | None = None
    trained_tokens: int = 0
    elapsed_s: float = 0.0
    valid_loss: float | None = None
    valid_mean_token_accuracy: float | None = None


class TrainedCheckpoint(msgspec.Struct, frozen=True, kw_only=True, tag="checkpoint"):
    """A complete model at the end of an epoch; `path` is None if there is no file."""

    step: int
    epoch: int = 0
    path: str | None = None
    train_loss: float | None = None
    train_mean_token_accuracy: float | None = None
    full_valid_loss: float | None = None
    full_valid_mean_token_accuracy: float | None = None


class TrainingEnded(msgspec.Struct, frozen=True, kw_only=True, tag="end"):
    """The training is done.

    Attributes:
        path: the final adapter or model: a GGUF file, or a folder in a form of the trainer's own.
        base_url: a server that answers for the model, up to and including `/v1`.
        model: the model's name there.
    """

    trained_tokens: int = 0
    path: str | None = None
    base_url: str | None = None
    model: str | None = None
    elapsed_s: float = 0.0


class TrainingFailed(msgspec.Struct, frozen=True, kw_only=True, tag="error"):
    """The training is not going to end well."""

    message: str
    code: str = "training_failed"
    param: str | None = None


TrainerMessage = TrainingStarted | TrainingProgress | TrainingStep | TrainedCheckpoint | TrainingEnded | TrainingFailed

_decode = decoder(TrainerMessage)


def decode_message(line: bytes) -> TrainerMessage:
    """Read one line of a trainer.

    Raises:
        NotJsonError: it is not JSON, or no message of the protocol.
    """
    message: TrainerMessage = _decode(line)
    return message
