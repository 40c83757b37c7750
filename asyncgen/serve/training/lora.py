"""LoRA: W becomes W + (alpha / rank) · B · A, of which only the thin A and B are trained; and the files of adapters.

All numbers are in one vector, of which the matrices are views; gradients are in another of the same layout. So
optimiser and clipping are a few lines on two vectors. From Hu et al., "LoRA: Low-Rank Adaptation of Large Language
Models" (2021); as there, A starts random and B zero, so that training starts at the base model. GGUF files are written
in version 3, whole or not at all.

Other trainers write a folder of the PEFT library (`adapter_config.json`, `adapter_model.safetensors`); it is converted
to a GGUF file. Only plain LoRA on the seven projections is converted, and only for the architectures of `architecture`;
anything else is refused, since it would answer nonsense. Formats: PEFT's documentation ("Checkpoint format") and
safetensors' README; the order of rows as in llama.cpp's `convert_hf_to_gguf.py` (LlamaModel.permute).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from asyncgen.json_text import NotJsonError, decode_json
from asyncgen.run.whole_file import replacing
from asyncgen.serve.training.architecture import PROJECTIONS, Architecture, block_shapes, read_architecture
from asyncgen.serve.training.gguf import ALIGNMENT, ARRAY, BOOL, F32, I32, MAGIC, SCALARS, STRING, U32, read_gguf
from asyncgen.serve.training.protocol import TrainingError

if TYPE_CHECKING:
    from pathlib import Path

    from asyncgen.serve.training.layers import Array, Precision


Writable = bool | int | float | str | Sequence[str] | Sequence[int]
CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
_PREFIX = "base_model.model.model.layers."
_PROJECTIONS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


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
    """The trained parameters, or a gradient of them.

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
        """An adapter of the same shape with all zeros, to accumulate gradients in."""
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


class _Config(msgspec.Struct, kw_only=True):
    """The fields of `adapter_config.json` that change the arithmetic."""

    peft_type: str = "LORA"
    r: int
    lora_alpha: float
    use_rslora: bool = False
    use_dora: bool = False
    bias: str = "none"
    rank_pattern: dict[str, Any] | None = None
    alpha_pattern: dict[str, Any] | None = None
    modules_to_save: list[str] | None = None


def convert_peft(folder: Path, base: Path, target: Path) -> None:
    """Write the adapter in `folder` to `target`, as llama.cpp loads it.

    Args:
        folder: as PEFT saved it.
        base: the GGUF file of the model that was tuned; its header is read.
        target: the file to be written.

    Raises:
        TrainingError: it is not an adapter of this model, or none that can be converted.
        DiskError: the target cannot be written.
    """
    config = _read_config(folder / CONFIG)
    architecture = read_architecture(read_gguf(base))
    tensors: dict[str, Array] = {}
    for name, matrix in _read_tensors(folder / TENSORS).items():
        place, rows_heads = _place(name, architecture)
        is_b = place.endswith("lora_b")
        _check_shape(name, place, matrix.shape, architecture)
        tensors[place] = _adjacent(matrix, rows_heads) if is_b and rows_heads else matrix
    if not tensors:
        raise _unfit("it has no matrices")
    # llama.cpp scales by alpha / rank, where rank-stabilised LoRA has alpha / sqrt(rank).
    alpha = config.lora_alpha * (math.sqrt(config.r) if config.use_rslora else 1)
    write_adapter(target, tensors, architecture=architecture, alpha=alpha)


def _read_config(path: Path) -> _Config:
    try:
        config = decode_json(path.read_bytes(), _Config)
    except (OSError, NotJsonError) as error:
        raise _unfit(f"its {CONFIG} cannot be read: {error}") from error
    unusual = {
        f"its type is {config.peft_type}": config.peft_type != "LORA",
        "it uses DoRA": config.use_dora,
        "it trains biases": config.bias != "none",
        "its rank differs between modules": bool(config.rank_pattern or config.alpha_pattern),
        "it contains whole modules beside the adapter": bool(config.modules_to_save),
        f"its rank is {config.r}": config.r < 1,
    }
    for what, is_so in unusual.items():
        if is_so:
            raise _unfit(what)
    return config


def _place(name: str, architecture: Architecture) -> tuple[str, int]:
    """llama.cpp's name of a matrix, and the number of heads whose rows have another order there; 0 for none."""
    block, _, rest = name.removeprefix(_PREFIX).partition(".")
    module, _, part = rest.rpartition(".lora_")
    projection = _PROJECTIONS.get(module)
    matrix = {"A.weight": "lora_a", "B.weight": "lora_b"}.get(part)
    if not name.startswith(_PREFIX) or not block.isdecimal() or projection is None or matrix is None:
        raise _unfit(f"it contains {name}, which llama.cpp does not support here")
    heads = {"attn_q": architecture.heads, "attn_k": architecture.kv_heads}
    is_other_order = architecture.family.rotated_pairs == "adjacent"
    return f"blk.{int(block)}.{projection}.weight.{matrix}", heads.get(projection, 0) if is_other_order else 0


def _check_shape(name: str, place: str, shape: tuple[int, ...], architecture: Architecture) -> None:
    _, block, rest = place.split(".", 2)
    outputs, inputs = block_shapes(architecture)[rest.rpartition(".")[0]]
    wanted, at = (inputs, -1) if place.endswith("lora_a") else (outputs, 0)
    if len(shape) != 2 or shape[at] != wanted or int(block) >= architecture.blocks:  # noqa: PLR2004 - a matrix
        raise _unfit(f"its {name} is {shape}, which does not fit the base model")


def _adjacent(matrix: Array, heads: int) -> Array:
    """Reorder rows: each row of a head's first half is put next to its rotary partner in the second half."""
    rows, rank = matrix.shape
    halves = matrix.reshape(heads, 2, rows // heads // 2, rank)
    return halves.swapaxes(1, 2).reshape(rows, rank)


def _read_tensors(path: Path) -> Mapping[str, Array]:
    try:
        content = path.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header = decode_json(content[8 : 8 + length], dict[str, Any])
        data = memoryview(content)[8 + length :]
        return {name: _tensor(entry, data) for name, entry in header.items() if name != "__metadata__"}
    except (OSError, NotJsonError, ValueError, KeyError, TypeError, struct.error) as error:
        raise _unfit(f"its {TENSORS} cannot be read: {error}") from error


def _tensor(entry: dict[str, Any], data: memoryview) -> Array:
    start, end = entry["data_offsets"]
    raw, kind = data[start:end], entry["dtype"]
    if kind == "BF16":
        numbers = (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
    elif kind in {"F16", "F32", "F64"}:
        numbers = np.frombuffer(raw, f"<f{int(kind[1:]) // 8}").astype(np.float32)
    else:
        raise ValueError(f"its numbers are {kind}")
    return numbers.reshape(entry["shape"])


def _unfit(why: str) -> TrainingError:
    return TrainingError("the adapter cannot be served by llama.cpp", code="unsupported_adapter", cause=why)
