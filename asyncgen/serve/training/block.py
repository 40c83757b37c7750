"""One transformer block, forward and backward, with or without an adapter.

The order is that of Llama; Qwen 2 adds biases to queries, keys and values, Qwen 3 norms their heads.

    x ─ norm ─ q, k, v ─ (head norms) ─ rotate ─ attend ─ attn_output ─ + x ─ norm ─ gate, up ─ ffn_down ─ + ─
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyncgen.serve.training.layers import (
    Array,
    BlockWeights,
    Rotation,
    SavedAttention,
    SavedNorm,
    TokenSpan,
    attention,
    attention_backward,
    gated,
    gated_backward,
    rms_norm,
    rms_norm_backward,
)
from asyncgen.serve.training.lora import Adapter, project, project_backward

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from asyncgen.serve.training.architecture import Architecture


@dataclass(frozen=True, slots=True)
class Geometry:
    """Positions of the tokens of a row: their rotations, and which tokens attend to which."""

    rotation: Rotation
    spans: Sequence[TokenSpan]


@dataclass(frozen=True, slots=True)
class Activations:
    """Activations that the backward pass needs: some ten times the model's width per token.

    Attributes:
        thin: x · Aᵀ of each projection, by name.
        head_norms: norms of queries and keys, if the model has them.
    """

    attn_norm: SavedNorm
    head_norms: Mapping[str, SavedNorm]
    attended: SavedAttention
    ffn_norm: SavedNorm
    gate: Array
    up: Array
    thin: Mapping[str, Array]


class Block:
    """A block of the model.

    Args:
        index: its place in the model, 0 first; names its part of the adapter.
        weights: its tensors.
        adapter: what is trained; None in the frozen part.
    """

    def __init__(
        self, index: int, weights: BlockWeights, architecture: Architecture, adapter: Adapter | None = None
    ) -> None:
        self.index = index
        self.weights = weights
        self.architecture = architecture
        self.adapter = adapter

    def forward(self, x: Array, geometry: Geometry) -> tuple[Array, Activations]:
        """The block's output for a row (T, width), and what `backward` needs."""
        thin: dict[str, Array] = {}
        normed, attn_norm = self._norm("attn_norm", x)
        attended, head_norms = self._attend(normed, geometry, thin)
        middle = self._project("attn_output", attended.mixed.reshape(len(x), -1), thin)
        middle += x
        normed, ffn_norm = self._norm("ffn_norm", middle)
        gate, up = self._project("ffn_gate", normed, thin), self._project("ffn_up", normed, thin)
        y = self._project("ffn_down", gated(gate, up), thin)
        y += middle
        return y, Activations(attn_norm, head_norms, attended, ffn_norm, gate, up, thin)

    def backward(self, dy: Array, kept: Activations, geometry: Geometry, gradient: Adapter) -> Array:
        """Add to the adapter's gradient, and return the gradient of the block's input."""
        normed = kept.ffn_norm.unit * self.weights["ffn_norm.weight"]
        d_gated = self._back("ffn_down", dy, gated(kept.gate, kept.up), kept, gradient)
        d_gate, d_up = gated_backward(d_gated, kept.gate, kept.up)
        d_normed = self._back("ffn_gate", d_gate, normed, kept, gradient)
        d_normed += self._back("ffn_up", d_up, normed, kept, gradient)
        d_middle = rms_norm_backward(d_normed, self.weights["ffn_norm.weight"], kept.ffn_norm)
        d_middle += dy
        d_normed = self._attend_backward(d_middle, kept, geometry, gradient)
        dx = rms_norm_backward(d_normed, self.weights["attn_norm.weight"], kept.attn_norm)
        dx += d_middle
        return dx

    def _attend(
        self, x: Array, geometry: Geometry, thin: dict[str, Array]
    ) -> tuple[SavedAttention, Mapping[str, SavedNorm]]:
        head_norms: dict[str, SavedNorm] = {}
        turned = []
        for name in ("attn_q", "attn_k"):
            heads = self._heads(self._project(name, x, thin))
            norm = self.weights.get(f"{name}_norm.weight")
            if norm is not None:
                heads, head_norms[name] = rms_norm(heads, norm, self.architecture.norm_epsilon)
            turned.append(geometry.rotation.turn(heads))
        values = self._heads(self._project("attn_v", x, thin))
        return attention(turned[0], turned[1], values, geometry.spans), head_norms

    def _attend_backward(self, d_middle: Array, kept: Activations, geometry: Geometry, gradient: Adapter) -> Array:
        mixed = kept.attended.mixed.reshape(len(d_middle), -1)
        d_mixed = self._heads(self._back("attn_output", d_middle, mixed, kept, gradient))
        d_queries, d_keys, d_values = attention_backward(d_mixed, kept.attended, geometry.spans)
        normed = kept.attn_norm.unit * self.weights["attn_norm.weight"]
        d_normed = self._back("attn_v", d_values.reshape(len(normed), -1), normed, kept, gradient)
        for name, d_turned in (("attn_q", d_queries), ("attn_k", d_keys)):
            heads: Array = geometry.rotation.turn_back(d_turned)
            norm = self.weights.get(f"{name}_norm.weight")
            if norm is not None:
                heads = rms_norm_backward(heads, norm, kept.head_norms[name])
            d_normed += self._back(name, heads.reshape(len(normed), -1), normed, kept, gradient)
        return d_normed

    def _norm(self, name: str, x: Array) -> tuple[Array, SavedNorm]:
        return rms_norm(x, self.weights[f"{name}.weight"], self.architecture.norm_epsilon)

    def _heads(self, x: Array) -> Array:
        return x.reshape(len(x), -1, self.architecture.head_length)

    def _project(self, name: str, x: Array, thin: dict[str, Array]) -> Array:
        weight, bias = self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias")
        y: Array
        if self.adapter is None:
            y = x @ weight.T
        else:
            y, thin[name] = project(x, weight, self.adapter.pair(self.index, name), self.adapter.scale)
        if bias is not None:
            y += bias
        return y

    def _back(self, name: str, dy: Array, x: Array, kept: Activations, gradient: Adapter) -> Array:
        assert self.adapter is not None
        return project_backward(
            dy,
            x,
            kept.thin[name],
            self.weights[f"{name}.weight"],
            self.adapter.pair(self.index, name),
            self.adapter.scale,
            gradient.pair(self.index, name),
        )
