"""A model's weights as arrays, read from the file when they are asked for.

Owns reading one tensor or one block at a time, so that the frozen part of a model never stands in memory as a whole.
Does not know what is computed with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from asyncgen.serve.training.architecture import (
    EMBEDDING,
    OUTPUT,
    ROPE_FACTORS,
    Architecture,
    block_shapes,
)
from asyncgen.serve.training.decoding import decode
from asyncgen.serve.training.gguf import Gguf

Array = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.int64]
Precision = type[np.float32] | type[np.float64]

# The tensors of a block, by their names within it, such as "attn_q.weight".
BlockWeights = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Weights:
    """The tensors of one model file.

    Attributes:
        precision: of the arrays, and with them of all that is computed: 32 bits; 64 where gradients are checked.
    """

    model: Gguf
    architecture: Architecture
    precision: Precision = np.float32

    def tensor(self, name: str) -> Array:
        entry = self.model.tensors[name]
        numbers = decode(self.model.data(entry), entry.type, entry.shape)
        return numbers.astype(self.precision, copy=False)

    def block(self, index: int) -> BlockWeights:
        return {name: self.tensor(f"blk.{index}.{name}") for name in block_shapes(self.architecture)}

    def output(self) -> Array:
        """The matrix from the last hidden state to the vocabulary; many small models use the embedding again."""
        return self.tensor(OUTPUT if OUTPUT in self.model.tensors else EMBEDDING)

    def rope_factors(self) -> Array | None:
        """Divisors of the rotary frequencies, one for each pair; None where the model has none."""
        return self.tensor(ROPE_FACTORS) if ROPE_FACTORS in self.model.tensors else None
