"""The engine over llama.cpp: one process answers for the base model and for adapters, chosen by each request.

Owns which adapters are loaded. llama.cpp reads them when it starts, so a further one means a second process: it is
started, takes over, and the first one ends once its answers are given; no request is lost by it. The eight that were
loaded last stay. Does not know names of models.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import orjson

from asyncgen.errors import AsyncgenError
from asyncgen.serve.engine import Answer, Call, Piece, Tally, TrainingTask, Traits
from asyncgen.serve.llama.model_files import model_name
from asyncgen.serve.llama.process import LlamaProcess, LlamaSettings, LoadError
from asyncgen.serve.llama.training import train, untunable
from asyncgen.serve.llama.translate import answer_of, path_of, pieces_of, request_of, sum_of
from asyncgen.serve.wire import ApiError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from pathlib import Path

    from asyncgen.serve.tuning.messages import TrainerMessage

_MOST_ADAPTERS = 8
_log = logging.getLogger(__name__)


class LlamaEngine:
    """An `Engine` over one model; made by `start`."""

    def __init__(self, settings: LlamaSettings, process: LlamaProcess) -> None:
        self._settings = settings
        self._process = process
        self._changing = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()
        self._traits = Traits(
            name="llama",
            base_model=model_name(settings.model),
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
        )

    @classmethod
    async def start(cls, settings: LlamaSettings) -> LlamaEngine:
        """Load the base model.

        Raises:
            AsyncgenError: it cannot be loaded.
        """
        try:
            return cls(settings, await LlamaProcess.start(settings, ()))
        except LoadError as error:
            raise AsyncgenError(
                f"llama.cpp cannot load {settings.model}",
                cause=str(error),
                help_text="name another GGUF file with --model-path",
                code="model_not_loaded",
            ) from error

    @property
    def traits(self) -> Traits:
        return self._traits

    async def complete(self, call: Call) -> Answer:
        process = await self._process_for(call.adapter)
        bodies = [request_of(call, process.adapters, choice) for choice in range(call.count)]
        with process.in_use():
            answers = await asyncio.gather(*(process.ask(path_of(call), body) for body in bodies))
        return answer_of(call, answers)

    async def stream(self, call: Call) -> AsyncIterator[Piece | Tally]:
        """The choices one after the other."""
        process = await self._process_for(call.adapter)
        tallies: list[Tally] = []
        with process.in_use():
            for index in range(call.count):
                body = request_of(call, process.adapters, index)
                async with aclosing(_events(process, path_of(call), body)) as chunks:
                    async for piece in pieces_of(index, call.opening, chunks):
                        if isinstance(piece, Piece):
                            yield piece
                        else:
                            tallies.append(piece)
        yield sum_of(tallies)

    def train(self, task: TrainingTask) -> AsyncGenerator[TrainerMessage, None]:
        self._process.give_way()  # the training has the cores, and what starts after it has its normal share
        return train(task, self._settings, self._ask)

    async def untunable(self) -> str | None:
        return await asyncio.to_thread(untunable, self._settings.model)

    async def adopt(self, adapter: Path, /) -> None:
        await self._process_for(adapter)

    async def close(self) -> None:
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        await self._process.close()

    async def _ask(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        process = await self._process_for(None)
        with process.in_use():
            return await process.ask(path, body)

    async def _process_for(self, adapter: Path | None) -> LlamaProcess:
        """The process that has the adapter, started if need be."""
        if self._serves(adapter):
            return self._process
        async with self._changing:
            if not self._serves(adapter):
                await self._change(adapter)
            return self._process

    def _serves(self, adapter: Path | None) -> bool:
        return self._process.is_alive and (adapter is None or adapter in self._process.adapters)

    async def _change(self, adapter: Path | None) -> None:
        loaded = [path for path in self._process.adapters if path != adapter and path.exists()]
        wanted = (*loaded, *([adapter] if adapter else []))[-_MOST_ADAPTERS:]
        if not self._process.is_alive:
            _log.warning("llama.cpp's process ended unexpectedly; it is started again")
        try:
            new = await LlamaProcess.start(self._settings, wanted)
        except LoadError as error:
            raise ApiError(500, f"The model cannot be loaded: {error}.", kind="server_error") from error
        old, self._process = self._process, new
        task = asyncio.create_task(old.retire())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)


async def _events(process: LlamaProcess, path: str, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
    """The JSON of a stream's events."""
    streaming = {**body, "stream": True, "stream_options": {"include_usage": True}}
    async with process.opened(path, streaming) as response:
        async for line in response.content:
            data = line.removeprefix(b"data: ").strip()
            if not line.startswith(b"data: ") or data == b"[DONE]":
                continue
            chunk: dict[str, Any] = orjson.loads(data)
            if "error" in chunk:
                raise ApiError(500, str(chunk["error"].get("message")), kind="server_error")
            yield chunk
