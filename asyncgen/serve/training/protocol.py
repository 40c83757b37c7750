"""What goes into a training and what comes out: its configuration, and its messages, one JSON object a line.

Defines the hyperparameters, their limits and the error for invalid ones; resolves "auto" (except epochs, which
`providers.profiles` does) and the base of the learning rate multiplier. The messages are the protocol between the
server and a trainer: the built-in one, or a user's own command (`docs/trainer-protocol.md`). Needs no numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from asyncgen.errors import AsyncgenError
from asyncgen.json_text import NotJsonError, decode_json, decoder
from asyncgen.providers.profiles import local_epochs

if TYPE_CHECKING:
    from pathlib import Path

BATCH = 8
FEWEST_STEPS = 10  # steps per epoch; with fewer, batches are smaller
# Measured with 138 samples and a model of 135 million parameters and this width: half the rate left the loss on samples
# held out a tenth higher after three epochs; with twice the rate it began to misspell what it had not seen in training.
RATE = 4e-3
WIDTH = 576
RANK, LAYERS = 16, 12  # the server's default


class TrainingError(AsyncgenError):
    """A training that cannot begin or continue for a foreseen reason.

    Args:
        what: one sentence, without a full stop.
        code: stable identifier, such as "invalid_gguf".
        param: the API's parameter at fault, such as "training_file"; None if there is none.
        cause: the reason; None if `what` says it.
        help_text: the next step; None if there is none.
    """

    def __init__(
        self,
        what: str,
        *,
        code: str,
        param: str | None = None,
        cause: str | None = None,
        help_text: str | None = None,
    ) -> None:
        super().__init__(what, cause=cause, help_text=help_text, code=code)
        self.param = param

    @property
    def sentence(self) -> str:
        """What, cause and next step in one line, for places that show a single text."""
        cause = f": {self.cause}" if self.cause else ""
        return self.what + cause + (f"; {self.help_text}" if self.help_text else "")


Auto = Literal["auto"]


Count = Annotated[int, msgspec.Meta(ge=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]


class ResolvedHyperparameters(msgspec.Struct, frozen=True, kw_only=True):
    """The hyperparameters of a training, as the API names them."""

    n_epochs: Count
    batch_size: Count
    learning_rate_multiplier: Positive


class Hyperparameters(msgspec.Struct, frozen=True, kw_only=True):
    """Hyperparameters as a job requests them; "auto" leaves one to the trainer."""

    n_epochs: Count | Auto = "auto"
    batch_size: Count | Auto = "auto"
    learning_rate_multiplier: Positive | Auto = "auto"

    def decided(self, samples: int) -> ResolvedHyperparameters:
        """Resolve "auto" for a number of training samples."""
        batch = min(BATCH, max(1, samples // FEWEST_STEPS))
        return ResolvedHyperparameters(
            n_epochs=local_epochs(samples) if self.n_epochs == "auto" else self.n_epochs,
            batch_size=batch if self.batch_size == "auto" else self.batch_size,
            learning_rate_multiplier=1.0 if self.learning_rate_multiplier == "auto" else self.learning_rate_multiplier,
        )


def base_learning_rate(width: int) -> float:
    """The learning rate for a multiplier of 1: wider models want smaller steps, in inverse proportion."""
    return RATE * WIDTH / width


class Config(Hyperparameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The configuration of a training.

    Attributes:
        model: the GGUF file of the base model.
        train, validation: files of samples, as `samples` reads them.
        output_dir: an existing folder, for the adapters and for what is kept while training.
        seed: decides the adapter's first numbers and the order of the samples.
        rank, alpha: of the adapter.
        layers: how many of the model's last blocks are tuned; fewer, if it has no more.
        threads: for the matrix products.
    """

    model: str
    train: str
    output_dir: str
    validation: str | None = None
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0
    rank: Count = RANK
    alpha: Positive = 32.0
    layers: Count = LAYERS
    threads: Count = 2


def read_config(path: Path) -> Config:
    """Read a training's JSON file.

    Raises:
        TrainingError: it cannot be read, or a field is not as it must be.
    """
    try:
        return decode_json(path.read_bytes(), Config)
    except OSError as error:
        raise TrainingError(f"{path.name} cannot be read", code="invalid_config", cause=error.strerror) from error
    except NotJsonError as error:
        raise TrainingError(f"{path.name} is not a valid training", code="invalid_config", cause=str(error)) from error


class TrainingStarted(ResolvedHyperparameters, frozen=True, kw_only=True, tag="start"):
    """The first message: the hyperparameters, with those chosen for "auto", and the amount of work."""

    total_steps: int
    train_samples: int
    validation_samples: int = 0
    cut_samples: int = 0


class TrainingProgress(msgspec.Struct, frozen=True, kw_only=True, tag="progress"):
    """A message for the job's log, between steps."""

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
    """The training failed."""

    message: str
    code: str = "training_failed"
    param: str | None = None


TrainerMessage = TrainingStarted | TrainingProgress | TrainingStep | TrainedCheckpoint | TrainingEnded | TrainingFailed

_decode = decoder(TrainerMessage)


def decode_message(line: bytes) -> TrainerMessage:
    """Decode one line of a trainer's output.

    Raises:
        NotJsonError: it is not JSON, or no message of the protocol.
    """
    message: TrainerMessage = _decode(line)
    return message
