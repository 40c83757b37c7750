"""Convert an adapter of the PEFT library (`adapter_config.json`, `adapter_model.safetensors`) to one for llama.cpp.

Trainers of the transformers world write such folders. Only plain LoRA on the seven projections is converted, and only
for the architectures of `architecture`; anything else is refused, since it would answer nonsense. Formats: PEFT's
documentation ("Checkpoint format") and safetensors' README; the order of rows as in llama.cpp's `convert_hf_to_gguf.py`
(LlamaModel.permute).
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from asyncgen.json_text import NotJsonError, decode_json
from asyncgen.serve.training.architecture import Architecture, block_shapes, read_architecture
from asyncgen.serve.training.config import TrainingError
from asyncgen.serve.training.gguf import read_gguf
from asyncgen.serve.training.lora import write_adapter

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from asyncgen.serve.training.layers import Array

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


class _Config(msgspec.Struct, kw_only=True):
    """What of `adapter_config.json` changes the arithmetic."""

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
        raise _unfit("it holds no matrices")
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
        "it holds whole modules beside the adapter": bool(config.modules_to_save),
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
        raise _unfit(f"it holds {name}, which llama.cpp has no place for here")
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
    """Rows of which each of a head's first half turns with its like in the second, put side by side."""
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
