"""Names of tuned models: `ft:BASE:ORGANISATION:SUFFIX:ID`, as OpenAI makes them.

What a training tells while it runs: one JSON object a line.

Owns the protocol between the server and the training process. Does not know who trains.
"""

from __future__ import annotations

import re

import msgspec

from asyncgen.json_text import decoder
from asyncgen.serve.wire import new_id

_NOT_IN_A_SUFFIX = re.compile(r"[^a-z0-9_.-]+")


def tuned_name(base: str, organization: str, suffix: str | None) -> str:
    """A new name. The suffix is lower-cased, and what cannot stand in a name becomes a dash."""
    clean = _NOT_IN_A_SUFFIX.sub("-", (suffix or "").lower()).strip("-")
    return f"ft:{base}:{organization}:{clean}:{new_id('', 8)}"


def checkpoint_name(tuned: str, step: int) -> str:
    """The name of the model as it was after a step."""
    return f"{tuned}:ckpt-step-{step}"


class Start(msgspec.Struct, frozen=True, kw_only=True, tag="start"):
    """The first message: what was chosen where the job said "auto", and what there is to do."""

    total_steps: int
    n_epochs: int
    batch_size: int
    learning_rate_multiplier: float
    train_samples: int
    validation_samples: int = 0
    cut_samples: int = 0


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag="progress"):
    """Something worth knowing between steps."""

    message: str = ""


class Step(msgspec.Struct, frozen=True, kw_only=True, tag="step"):
    """One optimiser step; validation figures where this step measured them."""

    step: int
    total_steps: int
    epoch: int
    train_loss: float
    train_mean_token_accuracy: float
    grad_norm: float | None = None
    learning_rate: float | None = None
    trained_tokens: int = 0
    elapsed_s: float = 0.0
    valid_loss: float | None = None
    valid_mean_token_accuracy: float | None = None


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True, tag="checkpoint"):
    """An adapter that is whole, at the end of an epoch; `path` is None where nothing was trained."""

    step: int
    epoch: int
    path: str | None = None
    train_loss: float | None = None
    train_mean_token_accuracy: float | None = None
    full_valid_loss: float | None = None
    full_valid_mean_token_accuracy: float | None = None


class End(msgspec.Struct, frozen=True, kw_only=True, tag="end"):
    """The training is done; `path` is the final adapter."""

    trained_tokens: int
    path: str | None = None
    elapsed_s: float = 0.0


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="error"):
    """The training is not going to end well."""

    code: str
    message: str
    param: str | None = None


TrainerMessage = Start | Progress | Step | Checkpoint | End | Failed

_decode = decoder(TrainerMessage)


def decode_message(line: bytes) -> TrainerMessage:
    """Read one line of the training process.

    Raises:
        NotJsonError: it is not JSON, or no message of the protocol.
    """
    message: TrainerMessage = _decode(line)
    return message
