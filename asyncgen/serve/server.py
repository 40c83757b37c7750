"""Run the server: lock the folder, start the engine, listen, announce; and in reverse order at the end.

Also counts attached clients for the idle end: each keeps a streaming answer of `/asyncgen/attach` open, so that a
killed client is noticed at once. Signals (`stop`) and output (`say`) are left to the caller.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

from asyncgen import __version__
from asyncgen.local_http import RequestGuard, is_loopback_host, json_response, listen
from asyncgen.providers.local_server import ServerInfo, default_data_folder
from asyncgen.serve.app import AccessLog, ServerAccess, Service, build_app, build_service, request_log
from asyncgen.serve.data_folder import DataFolder, open_data_folder
from asyncgen.serve.llama.engine import LlamaEngine
from asyncgen.serve.llama.model_files import find_model
from asyncgen.serve.llama.process import THREADS_SLEEP, LlamaSettings
from asyncgen.serve.simulation.engine import SimulatedEngine, SimulationSettings
from asyncgen.serve.simulation.faults import SimulatedLimits, fault_middleware
from asyncgen.serve.simulation.values import prompt_tokens
from asyncgen.serve.training.protocol import LAYERS, RANK
from asyncgen.serve.tuning.trainers import OtherTrainer

if TYPE_CHECKING:
    from asyncgen.providers.endpoint import Secret
    from asyncgen.serve.engine import EngineTraits, ModelCall, ModelEngine


_HEARTBEAT_S = 10.0
_TICK_S = 0.25


class AttachedClients:
    """The clients that are attached to a server, which ends when none is left.

    Args:
        traits: for `/health`.
        is_busy: whether there is work that no client waits for.
        clock: monotonic seconds.
        grace_s: seconds to wait for the first client.
        linger_s: seconds to wait after the last client has left.
    """

    def __init__(
        self,
        traits: EngineTraits,
        is_busy: Callable[[], bool],
        clock: Callable[[], float],
        *,
        grace_s: float = 60.0,
        linger_s: float = 3.0,
    ) -> None:
        self._traits = traits
        self._is_busy = is_busy
        self._clock = clock
        self._grace_s = grace_s
        self._linger_s = linger_s
        self._attached = 0
        self._left_at: float | None = None
        self._ending = asyncio.Event()

    def table(self) -> list[web.RouteDef]:
        return [web.get("/health", self._health), web.get("/asyncgen/attach", self._attach)]

    def end(self) -> None:
        """End all attachments, because the server ends."""
        self._ending.set()

    async def until_idle(self) -> None:
        """Return once no client has been attached for a while and no work is left."""
        begun_at = worked_at = self._clock()
        while True:
            await asyncio.sleep(_TICK_S)
            now = self._clock()
            if self._is_busy():
                worked_at = now
            elif not self._attached and now - worked_at >= self._linger_s:
                came_and_went = self._left_at is not None and now - self._left_at >= self._linger_s
                if came_and_went or (self._left_at is None and now - begun_at >= self._grace_s):
                    return

    async def _health(self, _request: web.Request) -> web.Response:
        return json_response(
            {
                "status": "ok",
                "engine": self._traits.name,
                "model": self._traits.base_model,
                "attached": self._attached,
                "busy": self._is_busy(),
            }
        )

    async def _attach(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/plain", "Cache-Control": "no-cache"})
        self._attached += 1
        try:
            await response.prepare(request)
            while not self._ending.is_set():
                await response.write(b"attached\n")  # also detects a client that disappeared without closing
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._ending.wait(), _HEARTBEAT_S)
        finally:
            self._attached -= 1
            self._left_at = self._clock()
        return response


_DRAIN_S = 5.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """Settings of a server.

    Attributes:
        host: address to listen on.
        port: port to listen on; 0 for a free one.
        data_dir: data folder; None for the user's own or, in a simulation, a temporary one.
        allowed_hosts: further names of the server, from `local_http.checked_host`.
        allowed_origins: pages that may use it, from `local_http.checked_origin`.
        key: API key that every request needs; None for none.
        until_idle: end when no client is attached and no work is left.
        log_requests: log a line per request.
        simulation: settings of a simulation; None for the engine `llama`.
        trainer: command that trains, from `tuning.trainers`; None for the engine's own trainer.
        model_path: a GGUF file; None for the small model.
        slots: number of parallel answers.
        threads: number of processor threads; None for all.
        lora_rank: rank of new adapters.
        lora_layers: number of the model's last layers that are tuned.
    """

    host: str = "127.0.0.1"
    port: int = 0
    allowed_hosts: frozenset[str] = frozenset()
    allowed_origins: frozenset[str] = frozenset()
    key: Secret | None = None
    data_dir: Path | None = None
    until_idle: bool = False
    log_requests: bool = False
    simulation: SimulationSettings | None = None
    trainer: tuple[str, ...] | None = None
    model_path: Path | None = None
    slots: int = 8
    threads: int | None = None
    lora_rank: int = RANK
    lora_layers: int = LAYERS


async def serve(
    settings: ServeSettings,
    *,
    stop: asyncio.Event,
    say: Say,
    started: Callable[[ServerInfo], None] = lambda _: None,
) -> None:
    """Run a server until `stop` is set or, if the settings say so, until it is idle.

    Args:
        settings: of the server.
        stop: set it to shut down.
        say: called with lines for the user.
        started: called once it listens.

    Raises:
        AsyncgenError: it cannot start.
    """
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(_opened_folder(settings, say))
        # Threads that still write into the folder end before its lock is released.
        stack.push_async_callback(asyncio.get_running_loop().shutdown_default_executor)
        engine = await stack.enter_async_context(_running_engine(settings, say))
        service = build_service(engine, folder, _admission(settings.simulation), time.time)
        attachment = AttachedClients(engine.traits, lambda: service.is_busy, time.monotonic)
        async with _first_error(), asyncio.TaskGroup() as group:
            work = [group.create_task(queue.run()) for queue in (service.tuning, service.batching)]
            async with _listening(settings, service, attachment, say) as base_url:
                info = _info(base_url, engine, settings)
                folder.announce(info)
                _greet(info, settings, say)
                started(info)
                await _ended(stop, attachment if settings.until_idle else None)
            for task in work:
                task.cancel()


@asynccontextmanager
async def _first_error() -> AsyncIterator[None]:
    """Raise the first error of a task group without the group around it."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from group


def _info(base_url: str, engine: ModelEngine, settings: ServeSettings) -> ServerInfo:
    return ServerInfo(
        base_url=base_url,
        pid=os.getpid(),
        version=__version__,
        engine=engine.traits.name,
        model=engine.traits.base_model,
        model_path=str(settings.model_path.absolute()) if settings.model_path and not settings.simulation else "",
        until_idle=settings.until_idle,
    )


def _greet(info: ServerInfo, settings: ServeSettings, say: Say) -> None:
    what = "a simulation (no model)" if settings.simulation else f"the model {info.model}"
    say(f"asyncgen {info.version} serves {what} at {info.base_url}")
    if not is_loopback_host(settings.host) and settings.key is None:
        say(
            "warning: other machines can reach this address, and the server requires no key; set one with "
            "--api-key-file FILE"
        )


@contextmanager
def _opened_folder(settings: ServeSettings, say: Say) -> Iterator[DataFolder]:
    with ExitStack() as stack:
        root = settings.data_dir
        if root is None and settings.simulation:
            root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="asyncgen-simulated-")))
        folder = open_data_folder(root or default_data_folder(), "simulated" if settings.simulation else "llama", say)
        stack.callback(folder.close)
        yield folder


@asynccontextmanager
async def _running_engine(settings: ServeSettings, say: Say) -> AsyncIterator[ModelEngine]:
    engine: ModelEngine
    if settings.simulation:
        engine = SimulatedEngine(settings.simulation, created=int(time.time()))
    else:
        model = await find_model(settings.model_path, say)
        engine = await LlamaEngine.start(_llama_settings(settings, model))
    try:
        yield OtherTrainer(engine, settings.trainer) if settings.trainer else engine
    finally:
        await engine.close()


def _llama_settings(settings: ServeSettings, model: Path) -> LlamaSettings:
    """Divide the processors: answering and training both get all, and a training has priority.

    If llama.cpp's threads wait in busy loops, answers only get the processors that are idle at the start: a thread that
    shares its processor delays all others.
    """
    return LlamaSettings(
        model=model,
        slots=settings.slots,
        threads=settings.threads or (processors() if THREADS_SLEEP else _idle_processors()),
        training_threads=settings.threads or processors(),
        lora_rank=settings.lora_rank,
        lora_layers=settings.lora_layers,
    )


def _idle_processors() -> int:
    """Number of processors that were idle over the last minute; at least one."""
    return max(1, min(processors(), round(processors() - os.getloadavg()[0])))


def processors(limit: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Number of processors that this process may use; at least one.

    Args:
        limit: a container's, as cgroups v2 have it: microseconds of work, or "max", in a period of so many.
    """
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        work, period = limit.read_text(encoding="ascii").split()
        usable = min(usable, int(work) // int(period))  # no number: no limit
    return max(1, usable)


def _admission(simulation: SimulationSettings | None) -> Callable[[ModelCall], dict[str, str]]:
    """A function that counts a call against the rate limits; it does nothing without limits."""
    if simulation is None or not (simulation.requests_per_minute or simulation.tokens_per_minute):
        return lambda _call: {}
    limits = SimulatedLimits(simulation.requests_per_minute, simulation.tokens_per_minute, time.monotonic)

    def admit(call: ModelCall) -> dict[str, str]:
        return limits.admit(call.model, prompt_tokens(call) + (call.max_tokens or 0) * call.count)

    return admit


def _access(settings: ServeSettings) -> ServerAccess:
    guard = RequestGuard(
        host=settings.host, allowed_hosts=settings.allowed_hosts, allowed_origins=settings.allowed_origins
    )
    return ServerAccess(guard=guard, key=settings.key)


@asynccontextmanager
async def _listening(
    settings: ServeSettings, service: Service, attachment: AttachedClients, say: Say
) -> AsyncIterator[str]:
    """Listen; at the end, accept no more connections and give requests in flight a few seconds."""
    simulation = settings.simulation
    faults = fault_middleware(simulation.faults, simulation.seed) if simulation else None
    app = build_app([*service.routes, *attachment.table()], _access(settings), faults, time.monotonic)
    log = request_log(say) if settings.log_requests else None
    runner = web.AppRunner(
        app,
        access_log=log,
        access_log_class=AccessLog,
        handler_cancellation=True,
        shutdown_timeout=_DRAIN_S,
    )
    await runner.setup()
    try:
        yield await listen(runner, settings.host, settings.port) + "/v1"
    finally:
        attachment.end()
        await runner.cleanup()


async def _ended(stop: asyncio.Event, attachment: AttachedClients | None) -> None:
    """Wait for the stop, or for idleness where an attachment is given."""
    waits: list[asyncio.Task[Any]] = [asyncio.create_task(stop.wait())]
    if attachment:
        waits.append(asyncio.create_task(attachment.until_idle()))
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
