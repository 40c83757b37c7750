"""The configuration of a training: hyperparameters, settings, their limits, and the error for invalid ones.

Resolves "auto" (except epochs, which `providers.profiles` does) and the base of the learning rate multiplier. Needs no
numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from asyncgen.errors import AsyncgenError
from asyncgen.json_text import NotJsonError, decode_json
from asyncgen.providers.profiles import local_epochs

if TYPE_CHECKING:
    from pathlib import Path


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

BATCH = 8
FEWEST_STEPS = 10  # steps per epoch; with fewer, batches are smaller

# Measured with 138 samples and a model of 135 million parameters and this width: half the rate left the loss on samples
# held out a tenth higher after three epochs; with twice the rate it began to misspell what it had not seen in training.
RATE = 4e-3
WIDTH = 576


Count = Annotated[int, msgspec.Meta(ge=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]


class ResolvedHyperparameters(msgspec.Struct, frozen=True, kw_only=True):
    """The hyperparameters of a training, as the API names them."""

    n_epochs: Count
    batch_size: Count
    learning_rate_multiplier: Positive


class Hyperparameters(msgspec.Struct, frozen=True, kw_only=True):
    """As a job asks for them; "auto" leaves one to the trainer."""

    n_epochs: Count | Auto = "auto"
    batch_size: Count | Auto = "auto"
    learning_rate_multiplier: Positive | Auto = "auto"

    def decided(self, samples: int) -> ResolvedHyperparameters:
        """Decide what was left open, for so many training samples."""
        batch = min(BATCH, max(1, samples // FEWEST_STEPS))
        return ResolvedHyperparameters(
            n_epochs=local_epochs(samples) if self.n_epochs == "auto" else self.n_epochs,
            batch_size=batch if self.batch_size == "auto" else self.batch_size,
            learning_rate_multiplier=1.0 if self.learning_rate_multiplier == "auto" else self.learning_rate_multiplier,
        )


def base_learning_rate(width: int) -> float:
    """The learning rate for a multiplier of 1: wider models want smaller steps, in inverse proportion."""
    return RATE * WIDTH / width


RANK, LAYERS = 16, 12  # the server's default


class Config(Hyperparameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A training.

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
        raise TrainingError(f"{path.name} is not a training", code="invalid_config", cause=str(error)) from error
