"""Which process answers for which adapter, and the change-over from one process to the next.

Owns the adapters that are loaded and the share of the processor. llama.cpp reads adapters when it starts, so a further
one means a second process: it is started, takes over, and the first one ends once its answers are given; no request is
lost by it. The eight adapters that were loaded last stay. A process that died is replaced at the next request.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from asyncgen.serve.llama.process import LlamaProcess, LlamaSettings, LoadError
from asyncgen.serve.wire import ApiError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_MOST_ADAPTERS = 8
_NICENESS = 10
_log = logging.getLogger(__name__)


class ProcessSwitch:
    """The processes over one model.

    Args:
        settings: of every process but those beside a training.
        process: the first one, running.
    """

    def __init__(self, settings: LlamaSettings, process: LlamaProcess) -> None:
        self._settings = self._wanted = settings
        self._process = process
        self._changing = asyncio.Lock()
        self._retiring: dict[asyncio.Task[None], LlamaProcess] = {}

    @asynccontextmanager
    async def process_for(self, adapter: Path | None) -> AsyncIterator[LlamaProcess]:
        """The process that has the adapter, started if need be; it lives on while the block runs.

        Raises:
            ApiError: the adapter cannot be loaded.
        """
        if not self._serves(adapter):
            async with self._changing:
                if not self._serves(adapter):
                    await self._change(adapter)
        with self._process.in_use() as process:
            yield process

    def give_way(self) -> None:
        """Leave the processor to a training: from the next request on, one thread answers, with little priority.

        Several threads of llama.cpp wait for one another in tight loops, and would take from the training many times
        what they need.
        """
        self._wanted = replace(self._settings, threads=1, niceness=_NICENESS)

    def take_back(self) -> None:
        """The training is over: from the next request on, all is as before."""
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
            _log.warning("llama.cpp's process ended unexpectedly; it is started again")
        try:
            new = await LlamaProcess.start(self._wanted, adapters)
        except LoadError as error:
            raise ApiError(500, f"The model cannot be loaded: {error}.", kind="server_error") from error
        old, self._process = self._process, new
        task = asyncio.create_task(old.retire())
        self._retiring[task] = old
        task.add_done_callback(self._retiring.pop)
