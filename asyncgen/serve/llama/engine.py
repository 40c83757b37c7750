"""The llama.cpp engine: which process answers for which adapter, and its trainings.

llama.cpp reads adapters only when it starts. A new adapter therefore starts a second process, which takes over; the
first one drains and ends, and no request is lost. The eight adapters that were loaded last stay loaded. A dead process
is replaced at the next request. The names of tuned models are left to `stores.models`.

For a training, tokenises the samples, runs the trainer's process and passes on its messages. That process ends when its
work is done, within 2 s of a cancellation, and when this server dies (its stdin closes). The training itself is left to
`serve.training`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import sys
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from asyncgen.errors import AsyncgenError
from asyncgen.json_text import decode_loosely
from asyncgen.providers.local_server import model_name_of_file
from asyncgen.serve.engine import (
    AnswerPiece,
    AnswerTokens,
    EngineAnswer,
    EngineChoice,
    EngineTraits,
    ModelCall,
    TrainingTask,
)
from asyncgen.serve.llama.forced_calls import forced_call, is_forced
from asyncgen.serve.llama.process import THREADS_SLEEP, LlamaProcess, LlamaSettings, LoadError
from asyncgen.serve.llama.translate import Encoder, answer_of, path_of, pieces_of, request_of, sum_of
from asyncgen.serve.training import TrainingError, describe
from asyncgen.serve.training.protocol import Config, TrainerMessage, TrainingEnded, TrainingFailed, TrainingProgress
from asyncgen.serve.tuning.samples import ChatSample, CompletionSample, Sample, read_samples
from asyncgen.serve.tuning.trainers import trainer_messages
from asyncgen.serve.wire import ApiError
from asyncgen.terminal import counted

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from pathlib import Path

    from asyncgen.serve.llama.translate import Ask, Tokens


_MOST_ADAPTERS = 8
_NICENESS = 10
_log = logging.getLogger(__name__)
_TRAINER = (sys.executable, "-P", "-m", "asyncgen.serve.training")
_CONFIG, _TRAIN, _VALIDATION = "config.json", "train.jsonl", "validation.jsonl"
_ALPHA_PER_RANK = 2  # so that one learning rate suits every rank
_AT_ONCE = 16


class ProcessSwitch:
    """Starts and replaces the processes that serve one model.

    Args:
        settings: of every process, except during a training.
        process: the first one, running.
    """

    def __init__(self, settings: LlamaSettings, process: LlamaProcess) -> None:
        self._settings = self._wanted = settings
        self._process = process
        self._changing = asyncio.Lock()
        self._retiring: dict[asyncio.Task[None], LlamaProcess] = {}

    @asynccontextmanager
    async def process_for(self, adapter: Path | None) -> AsyncIterator[LlamaProcess]:
        """Open the process that has the adapter, started if necessary; it lives at least until the block ends.

        Args:
            adapter: the adapter's file; None for the base model.

        Yields:
            The process.

        Raises:
            ApiError: the adapter cannot be loaded.
        """
        if not self._serves(adapter):
            async with self._changing:
                if not self._serves(adapter):
                    await self._change(adapter)
        with self._process.in_use() as process:
            yield process

    @asynccontextmanager
    async def any_process(self) -> AsyncIterator[LlamaProcess]:
        """Open any process, for cheap calls. A changed priority is no reason to load the model again."""
        if self._process.is_alive:
            with self._process.in_use() as process:
                yield process
        else:
            async with self.process_for(None) as process:
                yield process

    def lower_priority(self) -> None:
        """Run llama.cpp at low priority from the next answer on, so that a training gets the processor.

        If its threads wait in busy loops it gets only one: several would take far more from the training than they
        need.
        """
        threads = self._settings.threads if THREADS_SLEEP else 1
        self._wanted = replace(self._settings, threads=threads, niceness=_NICENESS)

    def restore_priority(self) -> None:
        """Return to normal priority after a training, from the next request on."""
        self._wanted = self._settings

    async def close(self) -> None:
        for process in self._retiring.values():
            process.abandon()
        await asyncio.gather(*self._retiring)
        await self._process.close()

    def _serves(self, adapter: Path | None) -> bool:
        process = self._process
        has_adapter = adapter is None or adapter in process.adapters
        return process.is_alive and process.settings == self._wanted and has_adapter

    async def _change(self, adapter: Path | None) -> None:
        loaded = [path for path in self._process.adapters if path != adapter and path.exists()]
        adapters = (*loaded, *([adapter] if adapter else []))[-_MOST_ADAPTERS:]
        if not self._process.is_alive:
            _log.warning("the llama.cpp process ended unexpectedly and is restarted")
        try:
            new = await LlamaProcess.start(self._wanted, adapters)
        except LoadError as error:
            raise ApiError(500, f"The model cannot be loaded: {error}.", kind="server_error") from error
        old, self._process = self._process, new
        task = asyncio.create_task(old.retire())
        self._retiring[task] = old
        task.add_done_callback(self._retiring.pop)


class LlamaEngine:
    """An `Engine` over one model; made by `start`."""

    def __init__(self, settings: LlamaSettings, switch: ProcessSwitch) -> None:
        self._settings = settings
        self._switch = switch
        self._has_tools: bool | None = None
        self._traits = EngineTraits(
            name="llama",
            base_model=model_name_of_file(settings.model),
            any_model=False,
            owner="asyncgen",
            organization="local",
            fingerprint="llama.cpp",
            created=int(settings.model.stat().st_mtime),
            methods=frozenset({"supervised"}),
            integrations=False,
            parallel=settings.slots,
            notice="",
            strict=True,
            base_path=str(settings.model),
        )

    @classmethod
    async def start(cls, settings: LlamaSettings) -> LlamaEngine:
        """Load the base model.

        Raises:
            AsyncgenError: it cannot be loaded.
        """
        try:
            process = await LlamaProcess.start(settings, ())
        except LoadError as error:
            raise AsyncgenError(
                f"llama.cpp cannot load {settings.model}",
                cause=str(error),
                help_text="use another GGUF file with --model-path",
                code="model_not_loaded",
            ) from error
        return cls(settings, ProcessSwitch(settings, process))

    @property
    def traits(self) -> EngineTraits:
        return self._traits

    async def complete(self, call: ModelCall) -> EngineAnswer:
        if is_forced(call) and not await self._template_has_tools():
            forced = await forced_call(call, self._complete)
            return forced.answer_of(await self._complete(forced.call))
        return await self._complete(call)

    async def _complete(self, call: ModelCall) -> EngineAnswer:
        self._check(call)
        if call.max_tokens == 0:
            return await self._empty_answer(call)
        async with self._switch.process_for(call.adapter) as process:
            bodies = [request_of(call, process.adapters, choice) for choice in range(call.count)]
            answers = await asyncio.gather(*(process.ask(path_of(call), body) for body in bodies))
        return answer_of(call, answers)

    async def stream(self, call: ModelCall) -> AsyncIterator[AnswerPiece | AnswerTokens]:
        """The choices one after the other."""
        if is_forced(call) and not await self._template_has_tools():
            forced = await forced_call(call, self._complete)
            pieces = forced.pieces_of(self._stream(forced.call))
        else:
            pieces = self._stream(call)
        async for piece in pieces:
            yield piece

    async def _stream(self, call: ModelCall) -> AsyncIterator[AnswerPiece | AnswerTokens]:
        self._check(call)
        if call.max_tokens == 0:
            answer = await self._empty_answer(call)
            for index, choice in enumerate(answer.choices):
                yield AnswerPiece(index, choice.text, finish_reason=choice.finish_reason)
            yield answer.answer_tokens
            return
        token_counts: list[AnswerTokens] = []
        async with self._switch.process_for(call.adapter) as process:
            for index in range(call.count):
                body = request_of(call, process.adapters, index)
                async with aclosing(_events(process, path_of(call), body)) as chunks:
                    async for piece in pieces_of(index, call, chunks):
                        if isinstance(piece, AnswerPiece):
                            yield piece
                        else:
                            token_counts.append(piece)
        yield sum_of(token_counts)

    async def train(self, task: TrainingTask) -> AsyncGenerator[TrainerMessage, None]:
        self._switch.lower_priority()
        try:
            async with aclosing(train(task, self._settings, self._ask)) as messages:
                async for message in messages:
                    if isinstance(message, TrainingEnded):  # before its adapter is loaded into a process
                        self._switch.restore_priority()
                    yield message
        finally:
            self._switch.restore_priority()

    async def _template_has_tools(self) -> bool:
        """Whether the model's chat template renders tools; llama.cpp ignores them otherwise."""
        if self._has_tools is None:
            found = (await self._ask("/props", None)).get("chat_template_caps") or {}
            self._has_tools = bool(found.get("supports_tools", True))
        return self._has_tools

    async def _empty_answer(self, call: ModelCall) -> EngineAnswer:
        """The answer for a limit of 0 tokens, for which llama.cpp would generate one."""
        tokens = (await self._ask("/tokenize", {"content": call.prompt, "add_special": True}))["tokens"]
        return EngineAnswer((EngineChoice(call.opening, "length"),) * call.count, AnswerTokens(len(tokens), 0))

    def _check(self, call: ModelCall) -> None:
        """Refuse calls that cannot be answered before llama.cpp sees them.

        Raises:
            ApiError: 400. A chat with more messages than tokens is refused, because a template's time grows with their
                square, and would continue after the client has left.
        """
        tokens = self._settings.context // self._settings.slots
        if call.messages and len(call.messages) > tokens:
            message = (
                f"The request has {counted(len(call.messages), 'message')}, but this server supports "
                f"{counted(tokens, 'token')}."
            )
            raise ApiError(400, message, param="messages", code="context_length_exceeded")
        if call.echo and call.sampling.get("logprobs"):
            message = (
                "'echo' with 'logprobs' is not supported by this server: it does not return the probabilities of "
                "prompts."
            )
            raise ApiError(400, message, param="echo", code="unsupported_parameter")

    async def untunable(self) -> str | None:
        return await asyncio.to_thread(untunable, self._settings.model)

    async def adopt(self, adapter: Path, /) -> None:
        async with self._switch.process_for(adapter):
            pass

    async def close(self) -> None:
        await self._switch.close()

    async def _ask(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        async with self._switch.any_process() as process:
            return await process.ask(path, body)


async def _events(process: LlamaProcess, path: str, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
    """The JSON of a stream's events."""
    streaming = {**body, "stream": True, "stream_options": {"include_usage": True}}
    async with process.opened(path, streaming) as response:
        async for line in response.content:
            data = line.removeprefix(b"data: ").strip()
            if not line.startswith(b"data: ") or data == b"[DONE]":
                continue
            chunk: dict[str, Any] = decode_loosely(data)
            if "error" in chunk:
                raise ApiError(500, str(chunk["error"].get("message")), kind="server_error")
            yield chunk


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
        yield TrainingProgress(message="Samples tokenised with the model's chat template")
        async with contextlib.aclosing(trainer_messages((*_TRAINER, str(path)))) as messages:
            async for message in messages:
                yield message
    except _BadSampleError as error:
        yield TrainingFailed(code=f"invalid_{error.param}", message=str(error), param=error.param)
    finally:  # the trainer's input can be made again from the upload
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
                if isinstance(encoded, BaseException):  # the first error in the file, not the first one in time
                    raise encoded
                stream.writelines(msgspec.json.encode(tokens) + b"\n" for tokens in encoded)


async def _encode(line: int, sample: Sample | str, encoder: Encoder, param: str) -> list[Tokens]:
    assert isinstance(sample, ChatSample | CompletionSample), "the file was found valid"
    try:
        return await encoder.encode(sample)
    except ApiError as error:
        raise _BadSampleError(f"Line {line} cannot be tokenised: {error}", param) from error
