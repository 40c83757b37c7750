"""What the training process is told: one JSON file.

Owns its fields and their limits. Does not know what they do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from asyncgen.json_text import NotJsonError, decode_json
from asyncgen.serve.training.failure import TrainingError

RANK, LAYERS = 16, 12  # unless the server is told otherwise

Count = Annotated[int, msgspec.Meta(ge=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A training.

    Attributes:
        model: the GGUF file of the base model.
        train, validation: files of samples, as `samples` reads them.
        output_dir: an existing folder, for the adapters and for what is kept while training.
        n_epochs, batch_size, learning_rate_multiplier: as in the API.
        seed: decides the adapter's first numbers and the order of the samples.
        rank, alpha: of the adapter.
        layers: how many of the model's last blocks are tuned; fewer, if it has no more.
        threads: for the matrix products.
    """

    model: str
    train: str
    output_dir: str
    validation: str | None = None
    n_epochs: Count | Literal["auto"] = "auto"
    batch_size: Count | Literal["auto"] = "auto"
    learning_rate_multiplier: Positive | Literal["auto"] = "auto"
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
