"""Tiny random models, made on the spot: whole GGUF files that llama.cpp loads and the trainer tunes.

The vocabulary is GPT-2's 256 bytes, one merge and the marks of the ChatML template; the weights are random, of a size
that lets a wrong formula change the answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from asyncgen.serve.training.gguf import TENSOR_TYPES
from asyncgen.serve.training.lora import NewTensor, Writable, write_gguf

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TYPE_NUMBERS = {kind.name: number for number, kind in TENSOR_TYPES.items()}

# Of each block format: where its 16-bit scale stands, the spread of its numbers for a scale of 1 when all other bits
# are random, where its second scale stands, and the multiple of the first that brings their mean to about 0.
BLOCK_SCALES = {
    "Q4_0": (0, 4.6, None, 0.0),
    "Q4_1": (0, 4.6, 2, -7.5),
    "Q5_0": (0, 9.2, None, 0.0),
    "Q5_1": (0, 9.2, 2, -15.5),
    "Q8_0": (0, 74.0, None, 0.0),
    "Q4_K": (0, 258.0, 2, 7.5),
    "Q5_K": (0, 516.0, 2, 15.5),
    "Q6_K": (208, 1360.0, None, 0.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyModel:
    """What to make. `metadata` is laid over what the other fields say; None takes a key away."""

    architecture: str = "llama"
    type: str = "F32"
    blocks: int = 3
    width: int = 64
    hidden: int = 96
    heads: int = 4
    kv_heads: int = 2
    head_length: int = 16
    tied: bool = True
    rope_factors: bool = False
    seed: int = 0
    metadata: Mapping[str, Writable | None] = field(default_factory=dict)

    @property
    def vocabulary(self) -> int:
        return len(tokens())

    def write(self, path: Path) -> Path:
        write_gguf(path, self.header(), self.tensors())
        return path

    def header(self) -> dict[str, Writable]:
        header = {**self._header(), **self.metadata}
        return {key: value for key, value in header.items() if value is not None}

    def tensors(self) -> dict[str, NewTensor]:
        rng = np.random.default_rng(self.seed)
        return {name: self._tensor(name, shape, rng) for name, shape in self._shapes().items()}

    def _tensor(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> NewTensor:
        if len(shape) == 2:
            return random_matrix(self.type, shape, rng)
        if name.endswith("bias"):
            return plain(0.5 * rng.standard_normal(shape))
        if name == "rope_freqs.weight":
            return plain(rng.uniform(1, 8, shape))
        return plain(1 + 0.2 * rng.standard_normal(shape))

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        queries, keys = self.heads * self.head_length, self.kv_heads * self.head_length
        shapes: dict[str, tuple[int, ...]] = {
            "token_embd.weight": (self.vocabulary, self.width),
            "output_norm.weight": (self.width,),
        }
        if not self.tied:
            shapes["output.weight"] = (self.vocabulary, self.width)
        if self.rope_factors:
            shapes["rope_freqs.weight"] = (self.head_length // 2,)
        for block in range(self.blocks):
            matrices = {
                "attn_norm.weight": (self.width,),
                "attn_q.weight": (queries, self.width),
                "attn_k.weight": (keys, self.width),
                "attn_v.weight": (keys, self.width),
                "attn_output.weight": (self.width, queries),
                "ffn_norm.weight": (self.width,),
                "ffn_gate.weight": (self.hidden, self.width),
                "ffn_up.weight": (self.hidden, self.width),
                "ffn_down.weight": (self.width, self.hidden),
            }
            if self.architecture == "qwen2":
                matrices |= {"attn_q.bias": (queries,), "attn_k.bias": (keys,), "attn_v.bias": (keys,)}
            if self.architecture == "qwen3":
                matrices |= {f"attn_{name}_norm.weight": (self.head_length,) for name in "qk"}
            shapes |= {f"blk.{block}.{name}": shape for name, shape in matrices.items()}
        return shapes

    def _header(self) -> dict[str, Writable | None]:
        name = self.architecture
        return {
            "general.architecture": name,
            "general.name": "Tiny",
            f"{name}.block_count": self.blocks,
            f"{name}.context_length": 2048,
            f"{name}.embedding_length": self.width,
            f"{name}.feed_forward_length": self.hidden,
            f"{name}.attention.head_count": self.heads,
            f"{name}.attention.head_count_kv": self.kv_heads,
            f"{name}.attention.key_length": self.head_length,
            f"{name}.attention.value_length": self.head_length,
            f"{name}.rope.dimension_count": self.head_length,
            f"{name}.attention.layer_norm_rms_epsilon": 1e-5,
            f"{name}.rope.freq_base": 10000.0,
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "smollm",
            "tokenizer.ggml.tokens": tokens(),
            "tokenizer.ggml.token_type": [1] * (len(tokens()) - len(MARKS)) + [3] * len(MARKS),
            "tokenizer.ggml.merges": ["Ġ t"],
            "tokenizer.ggml.bos_token_id": tokens().index("<|im_start|>"),
            "tokenizer.ggml.eos_token_id": tokens().index("<|im_end|>"),
            "tokenizer.chat_template": CHATML,
        }


def plain(numbers: np.ndarray) -> NewTensor:
    return NewTensor(numbers.shape, TYPE_NUMBERS["F32"], numbers.astype("<f4").tobytes())


def random_matrix(kind: str, shape: tuple[int, int], rng: np.random.Generator) -> NewTensor:
    """A matrix of any type, whose products with a normed vector are of about the vector's size."""
    spread = 1 / math.sqrt(shape[1])
    numbers = rng.standard_normal(shape) * spread
    if kind == "F32":
        return plain(numbers)
    if kind == "F16":
        return NewTensor(shape, TYPE_NUMBERS[kind], numbers.astype("<f2").tobytes())
    if kind == "BF16":
        upper = numbers.astype("<f4").view("<u4") >> 16
        return NewTensor(shape, TYPE_NUMBERS[kind], upper.astype("<u2").tobytes())
    return NewTensor(shape, TYPE_NUMBERS[kind], random_blocks(kind, math.prod(shape), spread, rng))


def random_blocks(kind: str, count: int, spread: float, rng: np.random.Generator) -> bytes:
    """Blocks of random bits, with scales that give their numbers the spread and a mean of about 0."""
    layout = TENSOR_TYPES[TYPE_NUMBERS[kind]]
    blocks = rng.integers(0, 256, (count // layout.elements, layout.size), dtype=np.uint8)
    first, divisor, second, multiple = BLOCK_SCALES[kind]
    scales = (spread / divisor * rng.uniform(0.5, 1.5, (len(blocks), 1))).astype("<f2")
    blocks[:, first : first + 2] = scales.view(np.uint8)
    if second is not None:
        blocks[:, second : second + 2] = (scales * np.float16(multiple)).astype("<f2").view(np.uint8)
    return blocks.tobytes()


def tokens() -> list[str]:
    """GPT-2's names for the 256 bytes: printable ones stand for themselves, the others for letters from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    names = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    return [names[byte] for byte in range(256)] + ["Ġt", *MARKS]
