"""The frozen blocks of a model, computed once for each sample and cached.

Blocks without an adapter give the same output in every epoch, so the hidden states after the last of them are cached:
for each sample, and once for the shared prefix. The cache is a file, because the data may be larger than memory.

Computed block by block over many samples: each block's weights are read once, and only one frozen block is in memory at
a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import IO, TYPE_CHECKING

import numpy as np

from asyncgen.serve.training.architecture import EMBEDDING
from asyncgen.serve.training.model import Block, Rotations
from asyncgen.serve.training.packing import PackedRow, TokenSample, pack, share_out

if TYPE_CHECKING:
    from asyncgen.serve.training.layers import Array, Weights
    from asyncgen.serve.training.packing import TrainingThreads

_TOKENS_AT_A_TIME = 1 << 14  # whose hidden states are in memory while the blocks are gone through

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
        self._places: dict[int, tuple[int, int]] = {}  # of each sample: where its states begin, and how many bytes

    def keep(self, number: int, states: Array) -> None:
        """Keep a sample's. Raises OSError, when the disk is full for one."""
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
    """The frozen blocks.

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
        kept = None
        for portion in _portions(samples):
            members = share_out(samples[portion.start : portion.stop], prefix, self._threads.count)
            rows = [pack([samples[portion[number]] for number in numbers], prefix) for numbers in members]
            states = [embedding[row.tokens] for row in rows]
            for index in self._blocks:
                states = self._through_block(index, states, rows)
                share = (index + 1) / len(self._blocks)
                self._on_progress((portion.start + len(portion) * share) / len(samples))
            kept = kept or FrozenStates(file, states[0][:prefix].copy())
            for numbers, row, state in zip(members, rows, states, strict=True):
                for number, span in zip(numbers, row.samples, strict=True):
                    kept.keep(portion[number], state[span.own])
        assert kept is not None  # there is at least one sample
        return kept

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
