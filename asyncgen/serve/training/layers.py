"""The layers of a transformer block, forward and backward, on plain arrays; and a model's weights, read on demand.

Weights are read one tensor or block at a time, so that the frozen part of a model is never in memory as a whole.

`x` is a value, `dx` the gradient of the loss with respect to it; T counts tokens. A forward function returns what its
backward function needs; what is cheap to compute again is not kept, because memory bounds the length of a row.
Arguments are never changed. Adapters are left to `lora`.

Causal attention works on a packed row. A token attends to the shared prefix, and within its own sample to itself and
the tokens before. The scores are computed sample by sample, (own tokens) x (prefix + own tokens), never as a square of
the row's length. Probabilities are not kept for the backward pass, only the logarithm of each softmax's denominator:
one product and one exponential restore them. For a sample of 1,024 tokens that saves some 40 MB in each block. The
projections are left to `model`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, quants

from asyncgen.serve.training.architecture import EMBEDDING, OUTPUT, ROPE_FACTORS, Architecture, block_shapes

if TYPE_CHECKING:
    from asyncgen.serve.training.gguf import Gguf

Array = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.int64]
Precision = type[np.float32] | type[np.float64]

# The tensors of a block, by their names within it, such as "attn_q.weight".
BlockWeights = Mapping[str, Array]


def decode(data: bytes, type_number: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Convert a tensor's bytes to numbers.

    Args:
        data: all its bytes.
        type_number: one of `gguf.TENSOR_TYPES`.
        shape: rows first.
    """
    rows = np.frombuffer(data, np.uint8).reshape(*shape[:-1], -1)
    numbers: npt.NDArray[np.float32] = quants.dequantize(rows, GGMLQuantizationType(type_number))
    return numbers.reshape(shape)


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


@dataclass(frozen=True, slots=True)
class SavedNorm:
    """Activations of `rms_norm`: x divided by its root mean square, and 1 / that root, over the last axis."""

    unit: Array
    inverse: Array


def rms_norm(x: Array, weight: Array, epsilon: float) -> tuple[Array, SavedNorm]:
    """The function y = weight · x / sqrt(mean(x²) + epsilon), over the last axis."""
    square = np.einsum("...i,...i->...", x, x)[..., None]
    inverse = 1 / np.sqrt(square / x.shape[-1] + epsilon)
    unit = x * inverse
    return unit * weight, SavedNorm(unit, inverse)


def rms_norm_backward(dy: Array, weight: Array, normed: SavedNorm) -> Array:
    """The gradient (g - u · mean(g · u)) / rms with u = x / rms, g = weight · dy; its part along x is zero."""
    gradient = dy * weight
    along = np.einsum("...i,...i->...", gradient, normed.unit)[..., None] / normed.unit.shape[-1]
    gradient -= normed.unit * along
    gradient *= normed.inverse
    return gradient


@dataclass(frozen=True, slots=True)
class Rotation:
    """Rotary positions: pairs of a head's entries turned by an angle that grows with the position.

    Attributes:
        cosine, sine: (T, 1, pairs).
        adjacent: the pairs are (0, 1), (2, 3), ...; else (0, n/2), (1, n/2 + 1), ...
    """

    cosine: Array
    sine: Array
    adjacent: bool

    def turn(self, x: Array) -> Array:
        """Rotate x (T, heads, length)."""
        return self._turn(x, self.sine)

    def turn_back(self, x: Array) -> Array:
        """Rotate the other way: the inverse, which is also the gradient."""
        return self._turn(x, -self.sine)

    def _turn(self, x: Array, sine: Array) -> Array:
        turned = np.empty_like(x)
        first, second = self._pairs(x)
        new_first, new_second = self._pairs(turned)
        np.subtract(first * self.cosine, second * sine, out=new_first)
        np.add(first * sine, second * self.cosine, out=new_second)
        return turned

    def _pairs(self, x: Array) -> tuple[Array, Array]:
        """Views of the first and second entries of all pairs."""
        half = x.shape[-1] // 2
        return (x[..., 0::2], x[..., 1::2]) if self.adjacent else (x[..., :half], x[..., half:])


def rotation(positions: Integers, architecture: Architecture, factors: Array | None, precision: Precision) -> Rotation:
    """The rotation for tokens at these positions: pair i turns by position · base^(-2i / head_length) / factor."""
    exponents = -np.arange(0, architecture.head_length, 2) / architecture.head_length
    frequencies = architecture.rope_base**exponents * architecture.rope_scale
    if factors is not None:
        frequencies = frequencies / factors
    angles = positions[:, None, None] * frequencies
    adjacent = architecture.family.rotated_pairs == "adjacent"
    return Rotation(np.cos(angles).astype(precision), np.sin(angles).astype(precision), adjacent)


def gated(gate: Array, up: Array) -> Array:
    """The function silu(gate) · up, with silu(x) = x · sigmoid(x)."""
    y = _sigmoid(gate)
    y *= gate
    y *= up
    return y


def gated_backward(dy: Array, gate: Array, up: Array) -> tuple[Array, Array]:
    """The gradients d_gate = dy · up · s · (1 + gate · (1 - s)) and d_up = dy · gate · s, with s = sigmoid(gate)."""
    sigmoid = _sigmoid(gate)
    d_up = gate * sigmoid
    d_gate = gate - d_up  # gate · (1 - s)
    d_gate += 1
    d_gate *= sigmoid
    d_gate *= up
    d_gate *= dy
    d_up *= dy
    return d_gate, d_up


def _sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), as (1 + tanh(x / 2)) / 2: nothing overflows for any x."""
    y = x * 0.5
    np.tanh(y, out=y)
    y += 1
    y *= 0.5
    return y


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """One sample's own tokens in a row, or the prefix's (which then has no prefix itself).

    Attributes:
        prefix: tokens at the row's beginning that the span sees as well.
    """

    start: int
    stop: int
    prefix: int

    @property
    def indexes(self) -> slice:
        return slice(self.start, self.stop)


@dataclass(frozen=True, slots=True)
class SavedAttention:
    """Activations of `attention`. Keys and values have fewer heads than queries; G query heads share one of theirs.

    Attributes:
        queries: (T, heads, length), scaled by 1 / sqrt(length).
        keys: (T, kv heads, length).
        values: (T, kv heads, length).
        mixed: the result, (T, heads, length).
        log_sums: of each span, the logarithms of the softmax's denominators: (kv heads, G · tokens, 1).
    """

    queries: Array
    keys: Array
    values: Array
    mixed: Array
    log_sums: Sequence[Array]


def attention(queries: Array, keys: Array, values: Array, spans: Sequence[TokenSpan]) -> SavedAttention:
    """softmax(queries · keys / sqrt(length)) · values for each span."""
    queries = queries * queries.shape[-1] ** -0.5
    mixed = np.empty_like(queries)
    log_sums = []
    for span in spans:
        scores = _scores(queries, keys, span)
        top = scores.max(axis=-1, keepdims=True)
        scores -= top
        np.exp(scores, out=scores)
        total = scores.sum(axis=-1, keepdims=True)
        mixed[span.indexes] = _by_token(scores @ _seen(values, span) / total, mixed.shape[1])
        log_sums.append(top + np.log(total))
    return SavedAttention(queries, keys, values, mixed, log_sums)


def attention_backward(d_mixed: Array, saved: SavedAttention, spans: Sequence[TokenSpan]) -> tuple[Array, Array, Array]:
    """The gradients of queries, keys and values.

    With p = softmax(s) and o = p · v:  dv = pᵀ · do,  ds = p · (do · vᵀ - sum(do · o)).
    """
    d_queries = np.empty_like(saved.queries)
    d_keys, d_values = np.zeros_like(saved.keys), np.zeros_like(saved.values)
    kv_heads = saved.keys.shape[1]
    for span, log_sum in zip(spans, saved.log_sums, strict=True):
        probabilities = _scores(saved.queries, saved.keys, span)
        probabilities -= log_sum
        np.exp(probabilities, out=probabilities)
        gradient = _by_head(d_mixed[span.indexes], kv_heads)
        result = _by_head(saved.mixed[span.indexes], kv_heads)
        _add(d_values, span, probabilities.swapaxes(1, 2) @ gradient)
        d_scores = gradient @ _seen(saved.values, span).swapaxes(1, 2)
        d_scores -= np.einsum("hti,hti->ht", gradient, result)[..., None]
        d_scores *= probabilities
        _add(d_keys, span, d_scores.swapaxes(1, 2) @ _by_head(saved.queries[span.indexes], kv_heads))
        d_queries[span.indexes] = _by_token(d_scores @ _seen(saved.keys, span), d_queries.shape[1])
    d_queries *= d_queries.shape[-1] ** -0.5
    return d_queries, d_keys, d_values


def _scores(queries: Array, keys: Array, span: TokenSpan) -> Array:
    """(kv heads, G · tokens, prefix + tokens), minus infinity where a token would see a later one."""
    inside = queries[span.indexes]
    tokens, kv_heads = len(inside), keys.shape[1]
    scores: Array = _by_head(inside, kv_heads) @ _seen(keys, span).swapaxes(1, 2)
    later = np.triu(np.full((tokens, tokens), -np.inf, scores.dtype), k=1)
    scores.reshape(kv_heads, -1, tokens, span.prefix + tokens)[..., span.prefix :] += later
    return scores


def _seen(x: Array, span: TokenSpan) -> Array:
    """What a span sees of keys or values: (kv heads, prefix + tokens, length)."""
    seen = np.concatenate([x[: span.prefix], x[span.indexes]]) if span.prefix else x[span.indexes]
    return seen.swapaxes(0, 1)


def _add(total: Array, span: TokenSpan, part: Array) -> None:
    """The reverse of `_seen`: add a gradient (kv heads, prefix + tokens, length) to where it came from."""
    by_token = part.swapaxes(0, 1)
    total[: span.prefix] += by_token[: span.prefix]
    total[span.indexes] += by_token[span.prefix :]


def _by_head(x: Array, kv_heads: int) -> Array:
    """(tokens, heads, length) to (kv heads, G · tokens, length)."""
    tokens, _, length = x.shape
    return x.reshape(tokens, kv_heads, -1, length).transpose(1, 2, 0, 3).reshape(kv_heads, -1, length)


def _by_token(x: Array, heads: int) -> Array:
    """(kv heads, G · tokens, length) to (tokens, heads, length)."""
    kv_heads, _, length = x.shape
    grouped = x.reshape(kv_heads, heads // kv_heads, -1, length)
    return grouped.transpose(2, 0, 1, 3).reshape(-1, heads, length)
