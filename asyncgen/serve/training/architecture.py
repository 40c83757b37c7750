"""The model architectures that can be trained, their shapes, and the summary of a model file.

Supports the three architectures that the trainer computes exactly as llama.cpp does, and refuses all others: a model
that differs in a detail would train without an error and answer nonsense. Also tells the memory that a training will
need. Reads the header only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from asyncgen.serve.training.gguf import Gguf, Tensor, read_gguf
from asyncgen.serve.training.protocol import TrainingError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

EMBEDDING = "token_embd.weight"
OUTPUT = "output.weight"  # absent where the embedding is used again
OUTPUT_NORM = "output_norm.weight"
ROPE_FACTORS = "rope_freqs.weight"

PROJECTIONS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


@dataclass(frozen=True, slots=True)
class Family:
    """Differences between the architectures.

    Attributes:
        rotated_pairs: which entries of a head are rotated together: neighbours ("adjacent"), or corresponding entries
            of both halves ("halves").
        extras: tensors of each block in addition to the projections and their two norms.
        factors: whether the file may contain a divisor for each rotation's frequency.
    """

    rotated_pairs: Literal["adjacent", "halves"]
    extras: tuple[str, ...] = ()
    factors: bool = False


FAMILIES: Mapping[str, Family] = {
    "llama": Family("adjacent", factors=True),
    "qwen2": Family("halves", extras=("attn_q.bias", "attn_k.bias", "attn_v.bias")),
    "qwen3": Family("halves", extras=("attn_q_norm.weight", "attn_k_norm.weight")),
}

# Settings that would change the arithmetic: below the architecture's name, with the values that change nothing.
_UNUSUAL: Mapping[str, tuple[object, ...]] = {
    "expert_count": (0,),
    "attention.causal": (True,),
    "attention.scale": (0.0,),
    "attention.clamp_kqv": (0.0,),
    "logit_scale": (0.0, 1.0),
    "rope.scaling.type": ("none", "linear"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The shape of a model. Lengths are counts of numbers.

    Attributes:
        name: as in the file: "llama", "qwen2" or "qwen3".
        heads, kv_heads: query heads, and the heads for keys and values, each shared by as many query heads.
        rope_base, rope_scale: the frequency base of the rotary positions, and what positions are multiplied with.
        context: tokens that the model was made for.
    """

    name: str
    blocks: int
    width: int
    hidden: int
    heads: int
    kv_heads: int
    head_length: int
    norm_epsilon: float
    rope_base: float
    rope_scale: float
    context: int
    vocabulary: int

    @property
    def family(self) -> Family:
        return FAMILIES[self.name]


def read_architecture(model: Gguf) -> Architecture:
    """Read and check the architecture of a model.

    Raises:
        TrainingError: it cannot be tuned; the message says why.
    """
    name = _name(model)
    _refuse_unusual(model, name)
    settings = _Settings(model, name)
    heads = settings.whole("attention.head_count")
    width = settings.whole("embedding_length")
    embedding = _tensor(model, EMBEDDING)
    architecture = Architecture(
        name=name,
        blocks=settings.whole("block_count"),
        width=width,
        hidden=settings.whole("feed_forward_length"),
        heads=heads,
        kv_heads=settings.whole("attention.head_count_kv", heads),
        head_length=settings.whole("attention.key_length", width // heads),
        norm_epsilon=settings.real("attention.layer_norm_rms_epsilon"),
        rope_base=settings.real("rope.freq_base", 10_000.0),
        rope_scale=_rope_scale(settings),
        context=settings.whole("context_length"),
        vocabulary=embedding.shape[0],
    )
    _check_heads(architecture, settings)
    _check_tensors(model, architecture)
    return architecture


def _name(model: Gguf) -> str:
    name = model.metadata.get("general.architecture")
    if not isinstance(name, str) or name not in FAMILIES:
        raise _untunable(f"its architecture is {name!r}; the trainer supports " + ", ".join(FAMILIES))
    parts = model.metadata.get("split.count", 1)
    if isinstance(parts, int) and parts > 1:
        raise _untunable(f"it is one of {parts} parts; merge them into one file (llama-gguf-split --merge)")
    return name


def _refuse_unusual(model: Gguf, name: str) -> None:
    for key, harmless in _UNUSUAL.items():
        value = model.metadata.get(f"{name}.{key}", harmless[0])
        if value not in harmless:
            raise _untunable(f"its setting {name}.{key} is {value!r}, which the trainer does not support")


@dataclass(frozen=True, slots=True)
class _Settings:
    """Reads the metadata keys that begin with the architecture's name."""

    model: Gguf
    name: str

    def real(self, key: str, default: float | None = None) -> float:
        value = self.model.metadata.get(f"{self.name}.{key}", default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            found = "missing" if value is None else "not one number for all blocks"
            raise _untunable(f"its setting {self.name}.{key} is {found}")
        return float(value)

    def whole(self, key: str, default: int | None = None) -> int:
        value = self.real(key, default)
        if value < 1 or value != int(value):
            raise _untunable(f"its setting {self.name}.{key} is {value:g}")
        return int(value)


def _rope_scale(settings: _Settings) -> float:
    """1 / factor. "scale_linear" is the factor's older name; 0 stands for no scaling."""
    if settings.model.metadata.get(f"{settings.name}.rope.scaling.type") == "none":
        return 1.0
    older = settings.real("rope.scale_linear", 0.0)
    factor = settings.real("rope.scaling.factor", older)
    return 1.0 / factor if factor else 1.0


def _check_heads(architecture: Architecture, settings: _Settings) -> None:
    length = architecture.head_length
    if architecture.heads % architecture.kv_heads or length % 2:
        raise _untunable(
            f"{architecture.heads} heads of {length} cannot share {architecture.kv_heads} heads of keys and values"
        )
    for key in ("attention.value_length", "rope.dimension_count"):
        if (other := settings.whole(key, length)) != length:
            raise _untunable(f"its setting {settings.name}.{key} is {other}, but its heads are {length} long")


def _check_tensors(model: Gguf, architecture: Architecture) -> None:
    """Check that there are exactly the known tensors, of the right shapes and of types that can be read."""
    shapes = expected_shapes(architecture)
    optional = {OUTPUT: shapes[EMBEDDING]}
    if architecture.family.factors:
        optional[ROPE_FACTORS] = (architecture.head_length // 2,)
    if unknown := sorted(model.tensors.keys() - shapes.keys() - optional.keys()):
        raise _untunable(f"it has tensors that the trainer does not support, such as {unknown[0]}")
    shapes |= {name: shape for name, shape in optional.items() if name in model.tensors}
    for name, shape in shapes.items():
        tensor = _tensor(model, name)
        if tensor.shape != shape:
            raise _untunable(f"its tensor {name} has the shape {tensor.shape} where {shape} was expected")
        _ = tensor.size  # raises for a type that is not read


def expected_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """The tensors that a model of this architecture must have, rows first."""
    width = architecture.width
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (architecture.vocabulary, width), OUTPUT_NORM: (width,)}
    block = block_shapes(architecture)
    for index in range(architecture.blocks):
        shapes |= {f"blk.{index}.{name}": shape for name, shape in block.items()}
    return shapes


def block_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """The tensors of one block, by their names within it."""
    width, hidden, length = architecture.width, architecture.hidden, architecture.head_length
    queries, keys = architecture.heads * length, architecture.kv_heads * length
    shapes: dict[str, tuple[int, ...]] = {
        "attn_norm.weight": (width,),
        "attn_q.weight": (queries, width),
        "attn_k.weight": (keys, width),
        "attn_v.weight": (keys, width),
        "attn_output.weight": (width, queries),
        "ffn_norm.weight": (width,),
        "ffn_gate.weight": (hidden, width),
        "ffn_up.weight": (hidden, width),
        "ffn_down.weight": (width, hidden),
    }
    extras = {
        "attn_q.bias": (queries,),
        "attn_k.bias": (keys,),
        "attn_v.bias": (keys,),
        "attn_q_norm.weight": (length,),
        "attn_k_norm.weight": (length,),
    }
    return shapes | {name: extras[name] for name in architecture.family.extras}


def _tensor(model: Gguf, name: str) -> Tensor:
    tensor = model.tensors.get(name)
    if tensor is None:
        raise _untunable(f"it has no tensor {name}")
    return tensor


def _untunable(why: str) -> TrainingError:
    return TrainingError(
        "this model can be served, but not fine-tuned", code="unsupported_model", param="model", cause=why
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDescription:
    """The header of a model file.

    Attributes:
        architecture: as in the file, known to the trainer or not.
        name: the model's own name; None if the file has none.
        parameters: number of values in all tensors.
        context: tokens that it was made for; None if unknown.
        untunable: why it cannot be tuned here, in one line; None if it can.
    """

    path: Path
    architecture: str
    name: str | None
    parameters: int
    context: int | None
    untunable: str | None


def describe(path: Path) -> ModelDescription:
    """Describe a model, and check whether it can be tuned. Takes some 50 ms, mostly for the vocabulary.

    Args:
        path: the file.

    Returns:
        The description.

    Raises:
        TrainingError: the file is missing ("model_not_found"), or not a valid GGUF file ("invalid_gguf").
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
        untunable=_why_untunable(model),
    )


def _why_untunable(model: Gguf) -> str | None:
    try:
        read_architecture(model)
    except TrainingError as error:
        return error.sentence
    return None
