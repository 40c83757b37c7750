"""A model in training: its transformer blocks, frozen ones computed once and tuned ones with the adapter, and the loss.

A block is in the order of Llama; Qwen 2 adds biases to queries, keys and values, Qwen 3 norms their heads.

    x ─ norm ─ q, k, v ─ (head norms) ─ rotate ─ attend ─ attn_output ─ + x ─ norm ─ gate, up ─ ffn_down ─ + ─

Blocks without an adapter give the same output in every epoch, so the hidden states after the last of them are cached:
for each sample, and once for the shared prefix. The cache is a file, because the data may be larger than memory. It is
computed block by block over many samples: each block's weights are read once, and only one frozen block is in memory at
a time. The optimiser is left to `loop`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

import numpy as np

from asyncgen.serve.training.architecture import EMBEDDING, OUTPUT_NORM
from asyncgen.serve.training.layers import (
    Array,
    BlockWeights,
    Integers,
    Rotation,
    SavedAttention,
    SavedNorm,
    TokenSpan,
    Weights,
    attention,
    attention_backward,
    gated,
    gated_backward,
    rms_norm,
    rms_norm_backward,
    rotation,
)
from asyncgen.serve.training.lora import Adapter, project, project_backward
from asyncgen.serve.training.packing import PackedRow, TokenSample, pack, share_out

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asyncgen.serve.training.architecture import Architecture
    from asyncgen.serve.training.packing import TrainingThreads

LOGITS_AT_A_TIME = 1 << 23  # limits the memory for a long completion to 32 MB
_TOKENS_AT_A_TIME = 1 << 14  # whose hidden states are in memory at the same time


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
    """A transformer block.

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

    def backward(self, dy: Array, saved: Activations, geometry: Geometry, gradient: Adapter) -> Array:
        """Add to the adapter's gradient, and return the gradient of the block's input."""
        normed = saved.ffn_norm.unit * self.weights["ffn_norm.weight"]
        d_gated = self._back("ffn_down", dy, gated(saved.gate, saved.up), saved, gradient)
        d_gate, d_up = gated_backward(d_gated, saved.gate, saved.up)
        d_normed = self._back("ffn_gate", d_gate, normed, saved, gradient)
        d_normed += self._back("ffn_up", d_up, normed, saved, gradient)
        d_middle = rms_norm_backward(d_normed, self.weights["ffn_norm.weight"], saved.ffn_norm)
        d_middle += dy
        d_normed = self._attend_backward(d_middle, saved, geometry, gradient)
        dx = rms_norm_backward(d_normed, self.weights["attn_norm.weight"], saved.attn_norm)
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

    def _attend_backward(self, d_middle: Array, saved: Activations, geometry: Geometry, gradient: Adapter) -> Array:
        mixed = saved.attended.mixed.reshape(len(d_middle), -1)
        d_mixed = self._heads(self._back("attn_output", d_middle, mixed, saved, gradient))
        d_queries, d_keys, d_values = attention_backward(d_mixed, saved.attended, geometry.spans)
        normed = saved.attn_norm.unit * self.weights["attn_norm.weight"]
        d_normed = self._back("attn_v", d_values.reshape(len(normed), -1), normed, saved, gradient)
        for name, d_turned in (("attn_q", d_queries), ("attn_k", d_keys)):
            heads: Array = geometry.rotation.turn_back(d_turned)
            norm = self.weights.get(f"{name}_norm.weight")
            if norm is not None:
                heads = rms_norm_backward(heads, norm, saved.head_norms[name])
            d_normed += self._back(name, heads.reshape(len(normed), -1), normed, saved, gradient)
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

    def _back(self, name: str, dy: Array, x: Array, saved: Activations, gradient: Adapter) -> Array:
        assert self.adapter is not None
        return project_backward(
            dy,
            x,
            saved.thin[name],
            self.weights[f"{name}.weight"],
            self.adapter.pair(self.index, name),
            self.adapter.scale,
            gradient.pair(self.index, name),
        )


@dataclass(frozen=True, slots=True)
class PredictionScore:
    """How well the targets of a row are predicted.

    Attributes:
        loss: the sum of their negative log-probabilities (nats).
        correct: how many are the most probable token.
        targets: how many there are.
    """

    loss: float = 0.0
    correct: int = 0
    targets: int = 0

    def __add__(self, other: PredictionScore) -> PredictionScore:
        return PredictionScore(self.loss + other.loss, self.correct + other.correct, self.targets + other.targets)

    @property
    def mean_loss(self) -> float:
        return self.loss / self.targets

    @property
    def accuracy(self) -> float:
        return self.correct / self.targets


class Rotations:
    """Computes the geometry of rows from the model's rotary frequencies."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._factors = weights.rope_factors()

    def geometry(self, row: PackedRow) -> Geometry:
        architecture, precision = self._weights.architecture, self._weights.precision
        return Geometry(rotation(row.positions, architecture, self._factors, precision), row.spans)


class TunedPart:
    """The last blocks of a model with their adapter, and its output.

    Args:
        weights: the model's.
        blocks: which blocks, up to the last.
        adapter: covers these blocks; its numbers may change between calls.

    Several rows may be computed at the same time in different threads, each with a gradient of its own.
    """

    def __init__(self, weights: Weights, blocks: range, adapter: Adapter) -> None:
        architecture = weights.architecture
        self._rotations = Rotations(weights)
        self._blocks = [Block(index, weights.block(index), architecture, adapter) for index in blocks]
        self._norm = weights.tensor(OUTPUT_NORM)
        self._output = weights.output()
        self._epsilon = architecture.norm_epsilon

    def score(self, hidden: Array, row: PackedRow) -> PredictionScore:
        """Compute the loss only, for validation."""
        geometry = self._rotations.geometry(row)
        for block in self._blocks:
            hidden, _ = block.forward(hidden, geometry)
        normed, _ = rms_norm(hidden[row.predictors], self._norm, self._epsilon)
        return self._predict(normed, row.labels, None)

    def score_and_gradient(self, hidden: Array, row: PackedRow, gradient: Adapter) -> PredictionScore:
        """Add the gradient of the row's summed loss to `gradient`."""
        geometry = self._rotations.geometry(row)
        saved = []
        for block in self._blocks:
            hidden, memory = block.forward(hidden, geometry)
            saved.append(memory)
        normed, output_norm = rms_norm(hidden[row.predictors], self._norm, self._epsilon)
        d_normed = np.empty_like(normed)
        score = self._predict(normed, row.labels, d_normed)
        dx = np.zeros_like(hidden)
        dx[row.predictors] = rms_norm_backward(d_normed, self._norm, output_norm)
        for block in reversed(self._blocks):
            dx = block.backward(dx, saved.pop(), geometry, gradient)
        return score

    def _predict(self, normed: Array, labels: Integers, d_normed: Array | None) -> PredictionScore:
        """Cross-entropy over the vocabulary, some predictions at a time; fills `d_normed` where it is given."""
        score = PredictionScore()
        at_a_time = max(1, LOGITS_AT_A_TIME // len(self._output))
        for start in range(0, len(labels), at_a_time):
            part = slice(start, start + at_a_time)
            gradient = None if d_normed is None else d_normed[part]
            score += self._predict_part(normed[part], labels[part], gradient)
        return score

    def _predict_part(self, normed: Array, labels: Integers, d_normed: Array | None) -> PredictionScore:
        """The loss log(sum(exp(z))) - z[label], with z = output · normed.

        Its gradient is softmax(z) · output - output[label]. In place, for it is the largest array of a step.
        """
        logits = normed @ self._output.T
        places = np.arange(len(labels))
        correct = int((logits.argmax(axis=1) == labels).sum())
        logits -= logits.max(axis=1, keepdims=True)
        of_labels = logits[places, labels]
        np.exp(logits, out=logits)
        total = logits.sum(axis=1, keepdims=True)
        loss = float((np.log(total[:, 0]) - of_labels).sum())
        if d_normed is not None:
            np.matmul(logits, self._output, out=d_normed)
            d_normed /= total
            d_normed -= self._output[labels]
        return PredictionScore(loss, correct, len(labels))


# Called with the share that is done, from 0 to 1.
OnProgress = Callable[[float], None]


class FrozenStates:
    """The output of the frozen blocks: hidden states of the prefix, and of each sample's own tokens.

    Args:
        file: open for reading and writing; keeps the samples' states.
        prefix: (tokens, width); in memory.
    """

    def __init__(self, file: IO[bytes], prefix: Array) -> None:
        self._file = file
        self._prefix = prefix
        self._places: dict[int, tuple[int, int]] = {}  # for each sample: offset and size of its states in bytes

    def keep(self, number: int, states: Array) -> None:
        """Store the states of a sample. Raises OSError, as for a full disk."""
        data = states.tobytes()
        self._places[number] = (self._file.seek(0, os.SEEK_END), len(data))
        self._file.write(data)

    def row(self, numbers: Sequence[int]) -> Array:
        """The states of a row: the prefix, then these samples, by their numbers."""
        return np.concatenate([self._prefix, *(self._sample(number) for number in numbers)])

    def _sample(self, number: int) -> Array:
        start, size = self._places[number]
        self._file.seek(start)
        states = np.frombuffer(self._file.read(size), self._prefix.dtype)
        return states.reshape(-1, self._prefix.shape[1])


class FrozenBlocks:
    """The blocks without an adapter.

    Args:
        weights: the model's.
        blocks: the frozen ones, from the first; with none, the states are the embeddings.
        threads: the threads to share the rows among.
        on_progress: called after each block.
    """

    def __init__(self, weights: Weights, blocks: range, threads: TrainingThreads, on_progress: OnProgress) -> None:
        self._weights = weights
        self._blocks = blocks
        self._threads = threads
        self._on_progress = on_progress
        self._rotations = Rotations(weights)

    def run(self, samples: Sequence[TokenSample], prefix: int, file: IO[bytes]) -> FrozenStates:
        """Compute and keep the states of all samples, which begin with the same `prefix` tokens.

        Raises:
            OSError: the file cannot be written.
        """
        embedding = self._weights.tensor(EMBEDDING)
        saved = None
        for portion in _portions(samples):
            members = share_out(samples[portion.start : portion.stop], prefix, self._threads.count)
            rows = [pack([samples[portion[number]] for number in numbers], prefix) for numbers in members]
            states = [embedding[row.tokens] for row in rows]
            for index in self._blocks:
                states = self._through_block(index, states, rows)
                share = (index + 1) / len(self._blocks)
                self._on_progress((portion.start + len(portion) * share) / len(samples))
            saved = saved or FrozenStates(file, states[0][:prefix].copy())
            for numbers, row, state in zip(members, rows, states, strict=True):
                for number, span in zip(numbers, row.samples, strict=True):
                    saved.keep(portion[number], state[span.indexes])
        assert saved is not None  # there is at least one sample
        return saved

    def _through_block(self, index: int, states: Sequence[Array], rows: Sequence[PackedRow]) -> list[Array]:
        block = Block(index, self._weights.block(index), self._weights.architecture)

        def forward(state_and_row: tuple[Array, PackedRow]) -> Array:
            state, row = state_and_row
            return block.forward(state, self._rotations.geometry(row))[0]

        return self._threads.each(forward, zip(states, rows, strict=True))


def _portions(samples: Sequence[TokenSample]) -> Iterator[range]:
    """The samples' numbers, some thousand tokens at a time."""
    start, size = 0, 0
    for number, sample in enumerate(samples):
        size += len(sample.inputs)
        if size >= _TOKENS_AT_A_TIME or number == len(samples) - 1:
            yield range(start, number + 1)
            start, size = number + 1, 0
