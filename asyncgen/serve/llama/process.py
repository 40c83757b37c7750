"""One llama.cpp process: start, request, drain, end.

Requests are passed through; adapters are chosen by `engine`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sys
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec

from asyncgen.json_text import NotJsonError, decode_loosely
from asyncgen.serve.llama.child import ChildConfig
from asyncgen.serve.training.protocol import LAYERS, RANK
from asyncgen.serve.wire import ApiError
from asyncgen.terminal import counted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

_GRACE_S = 2.0
# llama.cpp's threads wait for one another thousands of times a second, by default in busy loops: of two threads on two
# processors with other work, an answer took 3 to 9 times the CPU time of one thread. Threads that sleep at once are
# slow on idle processors: the built-in job's 162 rows took 50 s on two of them, 36 s in busy loops, and 32 s where a
# thread looks 3,000 times before it sleeps. GNU's OpenMP reads this as it is loaded; macOS builds do without OpenMP.
_ENVIRONMENT = {"GOMP_SPINCOUNT": "3000"}
THREADS_SLEEP = sys.platform == "linux"


class LoadError(Exception):
    """The model or an adapter could not be loaded; the message is llama.cpp's."""


@dataclass(frozen=True, slots=True)
class LlamaSettings:
    """Settings of llama.cpp, and of trainings on the same machine.

    Attributes:
        model: the GGUF file.
        slots: number of parallel answers.
        threads: number of threads that answer.
        training_threads: number of threads that train.
        context: tokens of all slots together.
        niceness: as in `nice`: 0 for normal priority.
        lora_rank: rank of new adapters.
        lora_layers: number of the model's last layers that a training tunes.
    """

    model: Path
    slots: int
    threads: int
    training_threads: int
    context: int = 16_384
    niceness: int = 0
    lora_rank: int = RANK
    lora_layers: int = LAYERS


class LlamaProcess:
    """A running process; made by `start`."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        session: aiohttp.ClientSession,
        settings: LlamaSettings,
        adapters: tuple[Path, ...],
    ) -> None:
        self.settings = settings
        self.adapters = adapters
        self._process = process
        self._session = session
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()

    @classmethod
    async def start(cls, settings: LlamaSettings, adapters: tuple[Path, ...]) -> LlamaProcess:
        """Load the model and the adapters.

        Raises:
            LoadError: llama.cpp cannot load them, or is not installed.
        """
        key = secrets.token_urlsafe(24)
        # -P: modules in the current folder do not replace those that asyncgen imports. A new session: Ctrl-C on the
        # terminal is for the server, which stops this process after draining.
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "asyncgen.serve.llama.child",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True,
            env=_ENVIRONMENT | os.environ,
        )  # fmt: skip
        try:
            address = await _address(process, settings, adapters, key)
        except BaseException:
            await _end(process)
            raise
        session = aiohttp.ClientSession(
            address,
            headers={"Authorization": f"Bearer {key}"},
            timeout=aiohttp.ClientTimeout(total=None, connect=10),
            # llama.cpp's server keeps a thread for each connection, also for one that only waits for its next use.
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
        )
        return cls(process, session, settings, adapters)

    @property
    def is_alive(self) -> bool:
        return self._process.returncode is None

    async def ask(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """POST, or GET without a body, and wait for the whole answer.

        Raises:
            ApiError: llama.cpp's refusal in the API's form, or 503 if the process died.
        """
        async with self.opened(path, body) as response:
            answer: dict[str, Any] = decode_loosely(await response.read())
            return answer

    @asynccontextmanager
    async def opened(self, path: str, body: dict[str, Any] | None) -> AsyncIterator[aiohttp.ClientResponse]:
        """POST, and stream the answer. Leaving the block early makes llama.cpp stop. Raises as `ask`."""
        try:
            method, data = ("GET", None) if body is None else ("POST", msgspec.json.encode(body))
            async with self._session.request(method, path, data=data) as response:
                if response.status != HTTPStatus.OK:
                    raise _refusal(response.status, await response.read())
                yield response
        except aiohttp.ClientError as error:
            message = f"The model process failed ({type(error).__name__}) and is restarted."
            raise ApiError(503, message, kind="server_error") from error

    @contextmanager
    def in_use(self) -> Iterator[LlamaProcess]:
        """Keep the process from being retired while the block runs."""
        self._users += 1
        self._unused.clear()
        try:
            yield self
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    async def retire(self) -> None:
        """Stop the process once nobody uses it."""
        await self._unused.wait()
        await self.close()

    def abandon(self) -> None:
        """Let `retire` continue although the process is still in use."""
        self._unused.set()

    async def close(self) -> None:
        """Stop the process at once."""
        await self._session.close()
        await _end(self._process)


async def _address(
    process: asyncio.subprocess.Process, settings: LlamaSettings, adapters: tuple[Path, ...], key: str
) -> str:
    config = ChildConfig(
        model=str(settings.model),
        adapters=[str(path) for path in adapters],
        slots=settings.slots,
        context=settings.context,
        threads=settings.threads,
        niceness=settings.niceness,
        key=key,
    )
    assert process.stdin is not None, "it is a pipe"
    assert process.stdout is not None, "it is a pipe"
    with contextlib.suppress(
        BrokenPipeError, ConnectionResetError
    ):  # it ended during start-up; its last output is the reason
        process.stdin.write(msgspec.json.encode(config) + b"\n")
        await process.stdin.drain()
    line = await process.stdout.readline()
    if not line:
        raise LoadError(f"llama.cpp ended while loading the model (exit {await process.wait()})")
    answer: dict[str, str] = decode_loosely(line)
    if "error" in answer:
        raise LoadError(answer["error"])
    return answer["address"]


async def _end(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None, "it is a pipe"
    process.stdin.close()
    with contextlib.suppress(TimeoutError, ProcessLookupError):
        await asyncio.wait_for(process.wait(), _GRACE_S)
    if process.returncode is None:
        process.kill()
        await process.wait()


def _refusal(status: int, body: bytes) -> ApiError:
    """llama.cpp's error in the API's form."""
    try:
        error = decode_loosely(body)["error"]
        message, kind = str(error["message"]), str(error["type"])
    except (NotJsonError, KeyError, TypeError):
        return ApiError(500, body[:500].decode("utf-8", "replace"), kind="server_error")
    if kind == "exceed_context_size_error":
        message = (
            f"The request has {counted(error['n_prompt_tokens'], 'token')}, but this server supports "
            f"{error['n_ctx']} per answer; fewer --slots allow more."
        )
        return ApiError(400, message, param="messages", code="context_length_exceeded")
    if status == HTTPStatus.BAD_REQUEST:
        return ApiError(400, message, code="invalid_value")
    return ApiError(500, message, kind="server_error")
