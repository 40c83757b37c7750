"""LoRA: W becomes W + (alpha / rank) · B · A, of which only the thin A and B are trained; and the adapter's GGUF file.

All numbers are in one vector, of which the matrices are views; gradients are in another of the same layout. So
optimiser and clipping are a few lines on two vectors. From Hu et al., "LoRA: Low-Rank Adaptation of Large Language
Models" (2021); as there, A starts random and B zero, so that training starts at the base model. GGUF files are written
in version 3, whole or not at all.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from asyncgen.run.whole_file import replacing
from asyncgen.serve.training.architecture import PROJECTIONS, Architecture, block_shapes
from asyncgen.serve.training.gguf import ALIGNMENT, ARRAY, BOOL, F32, I32, MAGIC, SCALARS, STRING, U32

if TYPE_CHECKING:
    from pathlib import Path

    from asyncgen.serve.training.layers import Array, Precision

Writable = bool | int | float | str | Sequence[str] | Sequence[int]


@dataclass(frozen=True, slots=True)
class NewTensor:
    """A tensor to be written.

    Attributes:
        shape: rows first, as numpy has it.
        type: its number in GGUF.
        data: its bytes, blocks and all.
    """

    shape: tuple[int, ...]
    type: int
    data: bytes


def write_gguf(path: Path, metadata: Mapping[str, Writable], tensors: Mapping[str, NewTensor]) -> None:
    """Write a file, whole or not at all.

    All numbers are written in 32 bits; integers without a sign, in (non-empty) lists with one, as llama.cpp has them.

    Raises:
        DiskError: it could not be written.
    """
    with replacing(path) as file:
        file.write(_padded(_header(metadata, tensors)))
        for tensor in tensors.values():
            file.write(_padded(tensor.data))


def _header(metadata: Mapping[str, Writable], tensors: Mapping[str, NewTensor]) -> bytes:
    parts = [MAGIC, struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    parts += [_text(key) + _value(value) for key, value in metadata.items()]
    offset = 0
    for name, tensor in tensors.items():
        dimensions = len(tensor.shape)
        parts.append(_text(name) + struct.pack(f"<I{dimensions}Q", dimensions, *reversed(tensor.shape)))
        parts.append(struct.pack("<IQ", tensor.type, offset))
        offset += len(_padded(tensor.data))
    return b"".join(parts)


def _value(value: Writable) -> bytes:
    if isinstance(value, str | bool | int | float):
        kind = _kind(value)
        return struct.pack("<I", kind) + _bare(kind, value)
    kind = I32 if isinstance(value[0], int) else STRING
    elements = b"".join(_bare(kind, element) for element in value)
    return struct.pack("<IIQ", ARRAY, kind, len(value)) + elements


def _kind(value: bool | float | str) -> int:
    kinds = ((bool, BOOL), (int, U32), (float, F32), (str, STRING))  # bool first: it is an int as well
    return next(kind for of, kind in kinds if isinstance(value, of))


def _bare(kind: int, value: bool | float | str) -> bytes:
    return _text(value) if isinstance(value, str) else struct.pack(SCALARS[kind], value)


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % ALIGNMENT)


# Names as llama.cpp expects them: "blk.18.attn_q.weight.lora_a".
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class LoraPair:
    """The two matrices of one projection: a (rank, inputs), b (outputs, rank). Or their gradients."""

    a: Array
    b: Array


@dataclass(frozen=True, slots=True)
class Adapter:
    """The trained numbers, or a gradient of them.

    Attributes:
        numbers: all of them, one after the other.
        tensors: views of `numbers`, by name.
        scale: alpha / rank.
    """

    numbers: Array
    tensors: Mapping[str, Array]
    scale: float

    def pair(self, block: int, projection: str) -> LoraPair:
        name = f"blk.{block}.{projection}.weight.lora_"
        return LoraPair(self.tensors[name + "a"], self.tensors[name + "b"])

    def zeros(self) -> Adapter:
        """An adapter of the same shape, all zero: where gradients are added up."""
        return _adapter({name: view.shape for name, view in self.tensors.items()}, self.scale, self.numbers.dtype)


def new_adapter(
    architecture: Architecture,
    *,
    blocks: range,
    rank: int,
    alpha: float,
    rng: np.random.Generator,
    precision: Precision = np.float32,
) -> Adapter:
    """An adapter for all seven projections of these blocks that changes nothing yet."""
    shapes: dict[str, tuple[int, ...]] = {}
    for block in blocks:
        for projection in PROJECTIONS:
            outputs, inputs = block_shapes(architecture)[f"{projection}.weight"]
            shapes[f"blk.{block}.{projection}.weight.lora_a"] = (rank, inputs)
            shapes[f"blk.{block}.{projection}.weight.lora_b"] = (outputs, rank)
    adapter = _adapter(shapes, alpha / rank, np.dtype(precision))
    for name, view in adapter.tensors.items():
        if name.endswith("lora_a"):
            view[:] = rng.uniform(-1, 1, view.shape) / math.sqrt(view.shape[1])
    return adapter


def _adapter(shapes: Shapes, scale: float, precision: np.dtype[np.floating]) -> Adapter:
    sizes = [math.prod(shape) for shape in shapes.values()]
    numbers = np.zeros(sum(sizes), precision)
    parts = np.split(numbers, np.cumsum(sizes)[:-1])
    views = {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
    return Adapter(numbers, views, scale)


def project(x: Array, weight: Array, pair: LoraPair, scale: float) -> tuple[Array, Array]:
    """The function x · Wᵀ + scale · (x · Aᵀ) · Bᵀ; kept for the way back is x · Aᵀ, `rank` numbers a token."""
    y = x @ weight.T
    thin = x @ pair.a.T
    y += thin @ (pair.b.T * scale)
    return y, thin


def project_backward(
    dy: Array, x: Array, thin: Array, weight: Array, pair: LoraPair, scale: float, gradient: LoraPair
) -> Array:
    """Adds to the pair's gradient, and returns dx = dy · W + scale · (dy · B) · A."""
    d_thin = dy @ (pair.b * scale)
    gradient.b[:] += dy.T @ (thin * scale)
    gradient.a[:] += d_thin.T @ x
    dx = dy @ weight
    dx += d_thin @ pair.a
    return dx


def save_adapter(path: Path, adapter: Adapter, *, architecture: Architecture, alpha: float) -> None:
    """Write the adapter as `write_adapter` does."""
    write_adapter(path, adapter.tensors, architecture=architecture, alpha=alpha)


def write_adapter(path: Path, tensors: Mapping[str, Array], *, architecture: Architecture, alpha: float) -> None:
    """Write matrices as llama.cpp loads them: alpha as metadata, the rank to be seen from the shapes.

    Raises:
        DiskError: it could not be written.
    """
    metadata: dict[str, Writable] = {
        "general.architecture": architecture.name,
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": float(alpha),
    }
    written = {name: NewTensor(each.shape, 0, each.astype("<f4").tobytes()) for name, each in tensors.items()}
    write_gguf(path, metadata, written)
