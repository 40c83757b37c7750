"""A whole training: read model and samples, cache the outputs of the frozen blocks, run the epochs.

Samples are one JSON object a line: {"tokens": [ids], "targets": [0 or 1 for each]}. Epochs are left to `loop`,
tokenising to the callers.

numpy releases the interpreter lock in every large operation, so that rows are computed in parallel, one a core,
including the many small steps between matrix products. Threads within BLAS instead were a third slower on two idle
cores, and several times slower on busy ones, because they wait for each other in busy loops. So BLAS gets one thread
(see `__main__`). A training that cannot fit in memory is refused: a process that the system kills tells nobody why.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from asyncgen.json_text import decode_json
from asyncgen.serve.training.architecture import PROJECTIONS, Architecture, block_shapes, read_architecture
from asyncgen.serve.training.gguf import read_gguf
from asyncgen.serve.training.layers import Weights
from asyncgen.serve.training.loop import Clock, Emit, TrainingData, TrainingLoop, TrainingPlan
from asyncgen.serve.training.lora import new_adapter, save_adapter
from asyncgen.serve.training.model import LOGITS_AT_A_TIME, FrozenBlocks, TunedPart
from asyncgen.serve.training.packing import TokenSample, TrainingThreads, shared_prefix
from asyncgen.serve.training.protocol import (
    Config,
    ResolvedHyperparameters,
    TrainingEnded,
    TrainingError,
    TrainingProgress,
    TrainingStarted,
    base_learning_rate,
)
from asyncgen.terminal import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


LONGEST = 1024  # tokens; longer samples are cut at their end
_BYTES = 4  # per number
_SAMPLE_BYTES = 5  # per token of the samples: its id, and whether it is a target
_LONGEST_ROW_TOKENS = 1024  # of the longest row: a longest sample alone, or several shorter ones
_PROCESS = 100 << 20  # interpreter, numpy and small objects


@dataclass(frozen=True, slots=True)
class SampleFile:
    """The samples of a file.

    Attributes:
        samples: samples with tokens to learn.
        cut: number of samples longer than allowed.
        idle: number of samples without tokens to learn in what is left of them, which are not used.
    """

    samples: tuple[TokenSample, ...] = ()
    cut: int = 0
    idle: int = 0


class _Line(msgspec.Struct, frozen=True):
    tokens: list[int]
    targets: list[int]


def read_samples(path: Path, *, param: str, vocabulary: int, longest: int = LONGEST) -> SampleFile:
    """Read a file of samples.

    Args:
        path: the file.
        param: the API's name for the file, for errors.
        vocabulary: size of the vocabulary.
        longest: maximum tokens of a sample.

    Returns:
        The samples.

    Raises:
        TrainingError: the file is missing, or a line is invalid; the message has its number.
    """
    samples, cut, idle = [], 0, 0
    for number, line in enumerate(_lines(path, param), start=1):
        try:
            sample = _sample(line, vocabulary)
        except ValueError as error:
            raise TrainingError(
                f"line {number} of the tokenised {_file_label(param)} is not a sample",
                code=f"invalid_{param}",
                param=param,
                cause=str(error),
            ) from error
        cut += len(sample.tokens) > longest
        sample = TokenSample(sample.tokens[:longest], sample.targets[:longest])
        if sample.target_count:
            samples.append(sample)
        else:
            idle += 1
    return SampleFile(tuple(samples), cut, idle)


def _lines(path: Path, param: str) -> Iterator[bytes]:
    """Read line by line, so that only the samples are in memory."""
    try:
        with path.open("rb") as stream:
            yield from stream
    except OSError as error:
        raise TrainingError(
            f"the tokenised {_file_label(param)} cannot be read",
            code=f"invalid_{param}",
            param=param,
            cause=error.strerror,
        ) from error


def _file_label(param: str) -> str:
    """The name of the file for messages; the user does not know its path on the server."""
    return param.replace("_", " ")


def _sample(line: bytes, vocabulary: int) -> TokenSample:
    fields = decode_json(line, _Line)
    if len(fields.tokens) != len(fields.targets):
        raise ValueError(f"{counted(len(fields.tokens), 'token')} but {len(fields.targets)} targets")
    if fields.tokens and not 0 <= min(fields.tokens) <= max(fields.tokens) < vocabulary:
        raise ValueError(f"it has token IDs beyond the vocabulary of {vocabulary}")
    if not set(fields.targets) <= {0, 1}:
        raise ValueError("targets are 0 or 1")
    targets = np.array(fields.targets, np.bool_)
    targets[:1] = False  # the first token cannot be predicted: no token precedes it
    return TokenSample(np.array(fields.tokens, np.int32), targets)


@dataclass(frozen=True, slots=True)
class _Inputs:
    """The samples of both files."""

    train: SampleFile
    validation: SampleFile

    @property
    def samples(self) -> tuple[TokenSample, ...]:
        return self.train.samples + self.validation.samples


def train(config: Config, emit: Emit, clock: Clock) -> None:
    """Run a training.

    Args:
        config: model, samples and hyperparameters.
        emit: called with each message in order; the last is `TrainingEnded`.
        clock: seconds; only differences count.

    Raises:
        TrainingError: a foreseen reason not to train or to continue.
        OSError: the output folder cannot be written.
    """
    began = clock()
    weights = _open(config)
    inputs = _read(config, weights)
    chosen = config.decided(len(inputs.train.samples))
    thread_count = min(config.threads, chosen.batch_size)  # more threads would be idle, and each needs memory
    tokens = sum(len(sample.tokens) for sample in inputs.samples)
    needed = memory_needed(
        weights.architecture, layers=config.layers, rank=config.rank, threads=thread_count, sample_tokens=tokens
    )
    check_memory(needed, installed_memory())
    plan = _plan(chosen, inputs, weights)
    emit(_start(chosen, plan, inputs))
    if idle := inputs.train.idle + inputs.validation.idle:
        emit(TrainingProgress(message=_left_out(idle)))
    Path(config.output_dir).mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=config.output_dir) as file, TrainingThreads(thread_count) as threads:
        prefix = shared_prefix(inputs.samples)
        frozen = FrozenBlocks(weights, range(_first_tuned(config, weights)), threads, _report_tenths(emit))
        states = frozen.run(inputs.samples, prefix, file)
        data = TrainingData(inputs.samples, len(inputs.train.samples), prefix, states)
        loop = _loop(config, weights, data, plan, threads=threads, emit=emit, elapsed=lambda: clock() - began)
        path = loop.run()
    emit(TrainingEnded(trained_tokens=loop.trained_tokens, path=str(path), elapsed_s=clock() - began))


def _open(config: Config) -> Weights:
    model = read_gguf(Path(config.model))
    architecture = read_architecture(model)
    return Weights(model, architecture)


def _read(config: Config, weights: Weights) -> _Inputs:
    architecture = weights.architecture

    def read(path: str, param: str) -> SampleFile:
        longest = min(LONGEST, architecture.context)
        return read_samples(Path(path), param=param, vocabulary=architecture.vocabulary, longest=longest)

    train_file = read(config.train, "training_file")
    if not train_file.samples:
        raise TrainingError(
            "no sample of the training file has a target to learn",
            code="invalid_training_file",
            param="training_file",
            cause=f"{train_file.idle} samples without a target among their first {LONGEST} tokens",
        )
    return _Inputs(train_file, read(config.validation, "validation_file") if config.validation else SampleFile())


def _plan(chosen: ResolvedHyperparameters, inputs: _Inputs, weights: Weights) -> TrainingPlan:
    return TrainingPlan(
        epochs=chosen.n_epochs,
        steps_per_epoch=-(-len(inputs.train.samples) // chosen.batch_size),
        peak_learning_rate=chosen.learning_rate_multiplier * base_learning_rate(weights.architecture.width),
    )


def _start(chosen: ResolvedHyperparameters, plan: TrainingPlan, inputs: _Inputs) -> TrainingStarted:
    return TrainingStarted(
        total_steps=plan.total_steps,
        **msgspec.structs.asdict(chosen),
        train_samples=len(inputs.train.samples),
        validation_samples=len(inputs.validation.samples),
        cut_samples=inputs.train.cut + inputs.validation.cut,
    )


def _left_out(idle: int) -> str:
    samples = "1 sample has" if idle == 1 else f"{idle} samples have"
    return f"{samples} nothing to learn and will not be used"


def _first_tuned(config: Config, weights: Weights) -> int:
    return max(0, weights.architecture.blocks - config.layers)


def _report_tenths(emit: Emit) -> Callable[[float], None]:
    """Report progress at each tenth."""
    reported = 0

    def on_progress(done: float) -> None:
        nonlocal reported
        if (tenth := int(done * 10)) > reported:
            reported = tenth
            emit(TrainingProgress(message=f"frozen layers: {tenth * 10} % of the samples' tokens done"))

    return on_progress


def _loop(
    config: Config,
    weights: Weights,
    data: TrainingData,
    plan: TrainingPlan,
    *,
    threads: TrainingThreads,
    emit: Emit,
    elapsed: Clock,
) -> TrainingLoop:
    architecture = weights.architecture
    blocks = range(_first_tuned(config, weights), architecture.blocks)
    start, order = (np.random.default_rng(seed) for seed in np.random.SeedSequence(config.seed).spawn(2))
    adapter = new_adapter(architecture, blocks=blocks, rank=config.rank, alpha=config.alpha, rng=start)

    def save(epoch: int) -> Path:
        path = Path(config.output_dir) / f"epoch-{epoch}.gguf"
        save_adapter(path, adapter, architecture=architecture, alpha=config.alpha)
        return path

    part = TunedPart(weights, blocks, adapter)
    return TrainingLoop(data, part, adapter, plan, threads=threads, order=order, save=save, emit=emit, elapsed=elapsed)


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
            f"fine-tuning this model may need {needed / 2**30:.1f} GiB of memory; the machine has "
            f"{installed / 2**30:.1f}",
            code="out_of_memory",
            param="model",
            help_text="start the server with fewer --lora-layers or --threads, or with a smaller model",
        )
