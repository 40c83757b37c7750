"""Train llama.cpp's model: tokenise the samples, run the trainer's process, pass on its messages.

The process ends when its work is done, within 2 s of a cancellation, and when this server dies (its stdin closes). The
training itself is left to `serve.training`.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from asyncgen.serve.llama.translate import Encoder
from asyncgen.serve.training import TrainingError, describe
from asyncgen.serve.training.protocol import Config, TrainerMessage, TrainingFailed, TrainingProgress
from asyncgen.serve.tuning.samples import ChatSample, CompletionSample, Sample, read_samples
from asyncgen.serve.tuning.trainers import trainer_messages
from asyncgen.serve.wire import ApiError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from asyncgen.serve.engine import TrainingTask
    from asyncgen.serve.llama.process import LlamaSettings
    from asyncgen.serve.llama.translate import Ask, Tokens

_TRAINER = (sys.executable, "-m", "asyncgen.serve.training")
_CONFIG, _TRAIN, _VALIDATION = "config.json", "train.jsonl", "validation.jsonl"
_ALPHA_PER_RANK = 2  # so that the learning rate fits every rank alike
_AT_ONCE = 16


class _BadSampleError(Exception):
    """A sample that cannot be tokenised; the message says which."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


def untunable(model: Path) -> str | None:
    """Why a model file cannot be tuned here; None when it can."""
    try:
        return describe(model).untunable
    except TrainingError as error:
        return error.sentence


async def train(task: TrainingTask, settings: LlamaSettings, ask: Ask) -> AsyncGenerator[TrainerMessage, None]:
    """Tokenise, train, and yield messages. Closing the generator ends the trainer's process.

    Args:
        task: the training.
        settings: the model and the threads.
        ask: POST to the llama.cpp that serves the model.

    Yields:
        The trainer's messages.

    Raises:
        OSError: a file cannot be written or read.
    """
    path = task.folder / _CONFIG
    try:
        path.write_bytes(msgspec.json.encode(await _prepared(task, settings, ask)))
        yield TrainingProgress(message="Samples tokenised with the model's own template")
        async with contextlib.aclosing(trainer_messages((*_TRAINER, str(path)))) as messages:
            async for message in messages:
                yield message
    except _BadSampleError as error:
        yield TrainingFailed(code=f"invalid_{error.param}", message=str(error), param=error.param)
    finally:  # what was only for the trainer can be made again from the upload
        for name in (_CONFIG, _TRAIN, _VALIDATION):
            (task.folder / name).unlink(missing_ok=True)


async def _prepared(task: TrainingTask, settings: LlamaSettings, ask: Ask) -> Config:
    """Write the tokenised samples and make the configuration. Raises _BadSampleError."""
    encoder = await Encoder.for_model(ask)
    adapters = task.folder / "adapters"
    shutil.rmtree(adapters, ignore_errors=True)  # of a training that was interrupted
    adapters.mkdir()
    train_path = task.folder / _TRAIN
    await _encode_file(task.train, train_path, encoder, "training_file")
    validation_path = task.folder / _VALIDATION if task.validation else None
    if task.validation and validation_path:
        await _encode_file(task.validation, validation_path, encoder, "validation_file")
    return Config(
        model=str(settings.model),
        train=str(train_path),
        validation=str(validation_path) if validation_path else None,
        output_dir=str(adapters),
        **msgspec.structs.asdict(task.hyperparameters),
        seed=task.seed,
        threads=settings.training_threads,
        rank=settings.lora_rank,
        alpha=_ALPHA_PER_RANK * settings.lora_rank,
        layers=settings.lora_layers,
    )


async def _encode_file(source: Path, target: Path, encoder: Encoder, param: str) -> None:
    samples = read_samples(source, "supervised")
    with target.open("wb") as stream:
        while group := list(islice(samples, _AT_ONCE)):
            encoding = (_encode(*item, encoder, param) for item in group)
            for encoded in await asyncio.gather(*encoding, return_exceptions=True):
                if isinstance(encoded, BaseException):  # the first in the file, not the first that was found
                    raise encoded
                stream.writelines(msgspec.json.encode(tokens) + b"\n" for tokens in encoded)


async def _encode(line: int, sample: Sample | str, encoder: Encoder, param: str) -> list[Tokens]:
    assert isinstance(sample, ChatSample | CompletionSample), "the file was found valid"
    try:
        return await encoder.encode(sample)
    except ApiError as error:
        raise _BadSampleError(f"Line {line} cannot be tokenised: {error}", param) from error
