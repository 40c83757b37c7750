"""The frozen part of a model, computed once for each sample.

Owns the cache: blocks without an adapter answer the same in every epoch, so what leaves the last of them is kept for
each sample, and once for the prefix that all samples share. It is kept in a file, for the data may be larger than the
memory. Does not know what follows.

Block by block over many samples, not sample by sample over all blocks: so each block's weights are read once, and
only one frozen block is in memory at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import IO

import numpy as np

from asyncgen.serve.training.architecture import EMBEDDING
from asyncgen.serve.training.block import Block
from asyncgen.serve.training.model import Rotations
from asyncgen.serve.training.packing import Row, Sample, cut_into_rows, pack
from asyncgen.serve.training.weights import Array, Weights

_TOKENS_AT_A_TIME = 1 << 14  # whose hidden states are in memory while the blocks are gone through

# Told how much is done, from 0 to 1.
OnProgress = Callable[[float], None]


class FrozenStates:
    """The hidden states that leave the frozen blocks: of the prefix, and of each sample's own tokens.

    Args:
        file: open for reading and writing; the samples' states are kept there.
        prefix: (tokens, width); in memory.
    """

    def __init__(self, file: IO[bytes], prefix: Array) -> None:
        self._file = file
        self._prefix = prefix
        self._places: list[tuple[int, int]] = []  # of each sample: where its states begin, and how many bytes

    def append(self, states: Array) -> None:
        """Add the next sample's. Raises OSError, when the disk is full for one."""
        data = states.tobytes()
        self._places.append((self._file.seek(0, os.SEEK_END), len(data)))
        self._file.write(data)

    def row(self, numbers: Sequence[int]) -> Array:
        """The states of a row: the prefix, then these samples, by their numbers."""
        return np.concatenate([self._prefix, *(self._sample(number) for number in numbers)])

    def _sample(self, number: int) -> Array:
        start, size = self._places[number]
        self._file.seek(start)
        states = np.frombuffer(self._file.read(size), self._prefix.dtype)
        return states.reshape(-1, self._prefix.shape[1])


class Trunk:
    """The frozen blocks.

    Args:
        weights: the model's.
        blocks: the frozen ones, from the first; with none, the states are the embeddings.
        on_progress: told after each block.
    """

    def __init__(self, weights: Weights, blocks: range, on_progress: OnProgress) -> None:
        self._weights = weights
        self._blocks = blocks
        self._on_progress = on_progress
        self._rotations = Rotations(weights)

    def run(self, samples: Sequence[Sample], prefix: int, file: IO[bytes]) -> FrozenStates:
        """Compute and keep the states of all samples, which begin with the same `prefix` tokens.

        Raises:
            OSError: the file cannot be written.
        """
        embedding = self._weights.tensor(EMBEDDING)
        rows = [pack(samples[part], prefix) for part in cut_into_rows(samples, prefix)]
        kept = None
        done, tokens = 0, sum(len(row.tokens) for row in rows)
        for portion in _portions(rows):
            states = [embedding[row.tokens] for row in portion]
            size = sum(len(row.tokens) for row in portion)
            for index in self._blocks:
                states = self._through_block(index, states, portion)
                share = (index + 1) / len(self._blocks)
                self._on_progress((done + size * share) / tokens)
            done += size
            kept = kept or FrozenStates(file, states[0][:prefix].copy())
            _keep(kept, portion, states)
        assert kept is not None  # there is at least one sample
        return kept

    def _through_block(self, index: int, states: Sequence[Array], rows: Sequence[Row]) -> list[Array]:
        block = Block(index, self._weights.block(index), self._weights.architecture)
        return [block.forward(state, self._rotations.geometry(row))[0] for state, row in zip(states, rows, strict=True)]


def _portions(rows: Sequence[Row]) -> Iterator[list[Row]]:
    portion: list[Row] = []
    size = 0
    for row in rows:
        portion.append(row)
        size += len(row.tokens)
        if size >= _TOKENS_AT_A_TIME:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


def _keep(kept: FrozenStates, rows: Sequence[Row], states: Sequence[Array]) -> None:
    for row, state in zip(rows, states, strict=True):
        for span in row.samples:
            kept.append(state[span.own])
