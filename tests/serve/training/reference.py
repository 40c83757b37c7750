"""The same models once more: sample by sample, without packing, cache or threads, differentiated by autograd.

Written from the models' definitions and not from the trainer's code, of which it imports nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import autograd.numpy as anp
import numpy as np
from autograd import value_and_grad

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .tiny_models import TinyModel

Tensors = dict[str, Any]


def plain_tensors(model: TinyModel) -> Tensors:
    """The numbers of a model of type F32, in 64 bits."""
    return {
        name: np.frombuffer(tensor.data, "<f4").reshape(tensor.shape).astype(np.float64)
        for name, tensor in model.tensors().items()
    }


def loss_and_gradients(
    model: TinyModel, adapter: Mapping[str, Any], scale: float, samples: Sequence[tuple[list[int], list[int]]]
) -> tuple[float, Tensors]:
    """The mean loss over all targets of all samples (token ids, 0 or 1 for each), and the adapter's gradients."""
    tensors = plain_tensors(model)
    count = sum(sum(targets[1:]) for _, targets in samples)

    def mean_loss(adapter: Tensors) -> Any:
        losses = [summed_loss(model, tensors, adapter, scale, *sample) for sample in samples]
        return sum(losses) / count

    loss, gradients = value_and_grad(mean_loss)(dict(adapter))
    return float(loss), gradients


def summed_loss(
    model: TinyModel, tensors: Tensors, adapter: Tensors, scale: float, tokens: list[int], targets: list[int]
) -> Any:
    logits = forward(model, tensors, adapter, scale, tokens)
    top = anp.max(logits, axis=-1, keepdims=True)
    log_probabilities = logits - top - anp.log(anp.sum(anp.exp(logits - top), axis=-1, keepdims=True))
    learnt = [place for place in range(1, len(tokens)) if targets[place]]
    return -sum(log_probabilities[place - 1, tokens[place]] for place in learnt)


def forward(model: TinyModel, tensors: Tensors, adapter: Tensors, scale: float, tokens: list[int]) -> Any:
    """The logits after each token."""
    x = tensors["token_embd.weight"][np.array(tokens)]
    for block in range(model.blocks):
        x = _block(model, _Projections(tensors, adapter, scale, f"blk.{block}."), x)
    x = _norm(x, tensors["output_norm.weight"])
    output = tensors["token_embd.weight"] if model.tied else tensors["output.weight"]
    return x @ output.T


class _Projections:
    def __init__(self, tensors: Tensors, adapter: Tensors, scale: float, prefix: str) -> None:
        self.tensors, self.adapter, self.scale, self.prefix = tensors, adapter, scale, prefix

    def __call__(self, name: str, x: Any) -> Any:
        full = f"{self.prefix}{name}.weight"
        matrix = self.tensors[full]
        if f"{full}.lora_a" in self.adapter:
            matrix = matrix + self.scale * (self.adapter[f"{full}.lora_b"] @ self.adapter[f"{full}.lora_a"])
        return x @ matrix.T + self.tensors.get(f"{self.prefix}{name}.bias", 0.0)

    def norm(self, name: str, x: Any) -> Any:
        weight = self.tensors.get(f"{self.prefix}{name}.weight")
        return x if weight is None else _norm(x, weight)


def _block(model: TinyModel, project: _Projections, x: Any) -> Any:
    normed = project.norm("attn_norm", x)
    queries = _rotate(model, project.norm("attn_q_norm", _heads(project("attn_q", normed), model.heads)), project)
    keys = _rotate(model, project.norm("attn_k_norm", _heads(project("attn_k", normed), model.kv_heads)), project)
    values = _heads(project("attn_v", normed), model.kv_heads)
    shared = model.heads // model.kv_heads
    keys, values = anp.repeat(keys, shared, axis=1), anp.repeat(values, shared, axis=1)
    scores = anp.einsum("ihd,jhd->hij", queries, keys) / np.sqrt(model.head_length)
    scores = scores + np.triu(np.full(scores.shape[1:], -1e30), k=1)
    weights = anp.exp(scores - anp.max(scores, axis=-1, keepdims=True))
    weights = weights / anp.sum(weights, axis=-1, keepdims=True)
    x = x + project("attn_output", anp.einsum("hij,jhd->ihd", weights, values).reshape(len(x), -1))
    normed = project.norm("ffn_norm", x)
    gate = project("ffn_gate", normed)
    return x + project("ffn_down", gate / (1 + anp.exp(-gate)) * project("ffn_up", normed))


def _norm(x: Any, weight: Any) -> Any:
    return weight * x / anp.sqrt(anp.mean(x * x, axis=-1, keepdims=True) + 1e-5)


def _heads(x: Any, count: int) -> Any:
    return x.reshape(len(x), count, -1)


def _rotate(model: TinyModel, x: Any, project: _Projections) -> Any:
    """x · cos + (x, its pairs swapped and the new first ones negative) · sin."""
    length = model.head_length
    frequencies = 10000.0 ** (-np.arange(0, length, 2) / length) / project.tensors.get("rope_freqs.weight", 1.0)
    adjacent = model.architecture == "llama"
    angles = np.arange(len(x))[:, None, None] * (np.repeat(frequencies, 2) if adjacent else np.tile(frequencies, 2))
    swap = np.zeros((length, length))
    for pair in range(length // 2):
        first, second = (2 * pair, 2 * pair + 1) if adjacent else (pair, pair + length // 2)
        swap[second, first], swap[first, second] = -1, 1
    return x * np.cos(angles) + (x @ swap) * np.sin(angles)
