"""Threads over the rows of a step, and the memory that a training needs, estimated before it begins.

numpy releases the interpreter lock in every large operation, so that rows are computed in parallel, one a core,
including the many small steps between matrix products. Threads within BLAS instead were a third slower on two idle
cores, and several times slower on busy ones, because they wait for each other in busy loops. So BLAS gets one thread
(see `__main__`). A training that cannot fit is refused: a process that the system kills tells nobody why.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self, TypeVar

from asyncgen.serve.training.architecture import PROJECTIONS, Architecture, block_shapes
from asyncgen.serve.training.config import TrainingError
from asyncgen.serve.training.model import LOGITS_AT_A_TIME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

Item = TypeVar("Item")
Result = TypeVar("Result")


class TrainingThreads:
    """A pool of threads that train side by side.

    Args:
        count: number of threads.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count)

    def each(self, work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """The results for all items, in their order. The first error is raised."""
        return list(self._pool.map(work, items))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)


_BYTES = 4  # of a number
_SAMPLE_BYTES = 5  # of a token of the samples: its id, and whether it is learnt
_LONGEST_ROW_TOKENS = 1024  # of the longest row: a longest sample alone, or several shorter ones
_PROCESS = 100 << 20  # interpreter, numpy, and what is small


def memory_needed(architecture: Architecture, *, layers: int, rank: int, threads: int, sample_tokens: int = 0) -> int:
    """Upper bound of the memory that a training needs, in bytes.

    It counts the tokens of the samples, the tuned blocks, the vocabulary's matrix, the optimiser's means, and for each
    thread a gradient of the adapter, the activations that the backward pass needs, the logits, and the scores of one
    attention with their gradients. Measured with samples of 1,024 tokens in two threads: 1.23 GB of 1.29 GB estimated.

    Args:
        architecture: of the model.
        layers: number of tuned blocks.
        rank: of the adapter.
        threads: number of threads that train.
        sample_tokens: tokens of all samples.
    """
    blocks = min(layers, architecture.blocks)
    shapes = block_shapes(architecture)
    block = sum(math.prod(shape) for shape in shapes.values())
    pairs = sum(rank * sum(shapes[f"{projection}.weight"]) for projection in PROJECTIONS)
    adapters = blocks * pairs * (3 + threads)
    vocabulary = architecture.vocabulary * architecture.width
    heads = 2 * (architecture.heads + architecture.kv_heads) * architecture.head_length
    kept = _LONGEST_ROW_TOKENS * blocks * (2 * architecture.width + heads + 2 * architecture.hidden)
    scores = 3 * architecture.heads * _LONGEST_ROW_TOKENS**2
    samples = sample_tokens * _SAMPLE_BYTES
    return (
        samples
        + _BYTES * (blocks * block + vocabulary + adapters + threads * (kept + scores + LOGITS_AT_A_TIME))
        + _PROCESS
    )


def installed_memory() -> int:
    """Bytes in this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_memory(needed: int, installed: int) -> None:
    """Refuse a training that needs more than there is.

    Raises:
        TrainingError: it does.
    """
    if needed > installed:
        raise TrainingError(
            f"tuning this model may take {needed / 2**30:.1f} GiB of memory; the machine has {installed / 2**30:.1f}",
            code="out_of_memory",
            param="model",
            help_text="start the server with fewer --lora-layers or --threads, or with a smaller model",
        )
