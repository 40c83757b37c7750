"""Fixtures that the tests of several packages use: a simulated server, and a check of the commands that errors name."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from asyncgen.errors import AsyncgenError
from tests.commands import refuse_broken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from asyncgen.providers.local_server import ServerInfo
    from asyncgen.serve.server import ServeSettings

# How long an example takes says more about the machine's other work than about the code.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def errors_name_commands_that_can_be_given() -> Iterator[None]:
    """Fail the test in which an error names, as the next step, a command line that cannot be given."""
    with pytest.MonkeyPatch.context() as patch:
        original = AsyncgenError.__init__

        def checked(self: AsyncgenError, what: str, **named: Any) -> None:
            original(self, what, **named)
            refuse_broken(self.help_text)

        patch.setattr(AsyncgenError, "__init__", checked)
        yield


@contextmanager
def running_server(settings: ServeSettings) -> Iterator[ServerInfo]:
    """A server in a thread of its own, so that tests may block or run loops of theirs."""
    from asyncgen.serve.server import serve  # noqa: PLC0415 - aiohttp is heavy for the tests that need no server

    listening: Future[ServerInfo] = Future()
    stopping: Future[Callable[[], object]] = Future()

    async def live() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        stopping.set_result(lambda: loop.call_soon_threadsafe(stop.set))
        try:
            await serve(settings, stop=stop, say=lambda _: None, started=listening.set_result)
        except BaseException as error:
            if listening.done():
                raise
            listening.set_exception(error)

    thread = threading.Thread(target=asyncio.run, args=(live(),))
    thread.start()
    try:
        yield listening.result(timeout=60)
    finally:
        if thread.is_alive() and not (listening.done() and listening.exception()):
            stopping.result()()
        thread.join()


@pytest.fixture
def start_server() -> Iterator[Callable[[ServeSettings], ServerInfo]]:
    """Start servers that end with the test."""
    with ExitStack() as stack:
        yield lambda settings: stack.enter_context(running_server(settings))


@pytest.fixture
def simulated_server(start_server: Callable[[ServeSettings], ServerInfo]) -> Callable[..., ServerInfo]:
    """Start simulated servers: `simulated_server(latency_s=0.05, faults={"500": 0.1}).base_url`.

    Keyword arguments are those of `SimulationSettings`, and `data_dir` for a folder that outlives the server.
    """
    from asyncgen.serve.server import ServeSettings  # noqa: PLC0415 - as above
    from asyncgen.serve.simulation.engine import SimulationSettings  # noqa: PLC0415 - as above

    def start(*, data_dir: Path | None = None, **simulation: Any) -> ServerInfo:
        return start_server(ServeSettings(data_dir=data_dir, simulation=SimulationSettings(**simulation)))

    return start


@pytest.fixture(scope="session")
def running() -> Callable[[ServeSettings], AbstractContextManager[ServerInfo]]:
    """A server for the time of a `with` block, for tests that need it gone before their end."""
    return running_server
