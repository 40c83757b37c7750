"""What a server wants to know of a model file before it takes a job.

Owns the summary, and what training will need of the machine's memory. Reads a header only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from asyncgen.serve.training.architecture import read_architecture
from asyncgen.serve.training.failure import TrainingError
from asyncgen.serve.training.gguf import Gguf, read_gguf


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDescription:
    """A model file, by its header.

    Attributes:
        architecture: as the file says, known to the trainer or not.
        name: the model's own name; None where the file gives none.
        parameters: numbers in all tensors.
        context: tokens that it was made for; None where the file does not say.
        untunable: why it cannot be tuned here, in one line; None when it can.
    """

    path: Path
    architecture: str
    name: str | None
    parameters: int
    context: int | None
    untunable: str | None


def describe(path: Path) -> ModelDescription:
    """Tell what a model is, and whether it can be tuned. Takes some 50 ms, most of it for the vocabulary.

    Raises:
        TrainingError: no such file ("model_not_found"), no GGUF file or a damaged one ("invalid_gguf").
    """
    model = read_gguf(path)
    architecture = str(model.metadata.get("general.architecture", "unknown"))
    name = model.metadata.get("general.name")
    context = model.metadata.get(f"{architecture}.context_length")
    return ModelDescription(
        path=path,
        architecture=architecture,
        name=name if isinstance(name, str) else None,
        parameters=sum(math.prod(tensor.shape) for tensor in model.tensors.values()),
        context=context if isinstance(context, int) else None,
        untunable=_untunable(model),
    )


def _untunable(model: Gguf) -> str | None:
    try:
        read_architecture(model)
    except TrainingError as error:
        return error.sentence
    return None
