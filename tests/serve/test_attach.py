"""Attached clients, and the end of a server that nobody uses."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp.test_utils import TestClient, TestServer

from asyncgen.local_http import RequestGuard
from asyncgen.serve.app import ServerAccess, build_app
from asyncgen.serve.server import AttachedClients
from asyncgen.serve.simulation.engine import SimulatedEngine, SimulationSettings

TRAITS = SimulatedEngine(SimulationSettings(), created=0).traits


class Service:
    """An attachment behind a server, its time in the test's hands."""

    def __init__(self, *, busy: bool = False) -> None:
        self.now = 0.0
        self.busy = busy
        self.attachment = AttachedClients(TRAITS, lambda: self.busy, lambda: self.now)

    def client(self) -> TestClient[Any, Any]:
        app = build_app(
            self.attachment.table(), ServerAccess(guard=RequestGuard(host="127.0.0.1")), None, lambda: self.now
        )
        return TestClient(TestServer(app, handler_cancellation=True))

    async def is_idle(self) -> bool:
        """Whether the server would end within a second of real time."""
        try:
            await asyncio.wait_for(self.attachment.until_idle(), 1)
        except TimeoutError:
            return False
        return True

    async def goes_on(self, seconds: float) -> None:
        """Let the watch look once, then let time pass."""
        await asyncio.sleep(0.3)
        self.now += seconds


async def attached(client: TestClient[Any, Any]) -> int:
    answer = await (await client.get("/health")).json()
    count: int = answer["attached"]
    return count


async def until_attached(client: TestClient[Any, Any], wanted: int) -> None:
    async with asyncio.timeout(5):
        while await attached(client) != wanted:  # noqa: ASYNC110 - the server cannot tell the test
            await asyncio.sleep(0.01)


def test_health_tells_engine_model_and_clients() -> None:
    async def scenario() -> None:
        async with Service().client() as client:
            assert await (await client.get("/health")).json() == {
                "status": "ok",
                "engine": "simulated",
                "model": "simulated",
                "busy": False,
                "attached": 0,
            }

    asyncio.run(scenario())


def test_client_is_counted_until_its_connection_is_gone() -> None:
    async def scenario() -> None:
        async with Service().client() as client:
            first = await client.get("/asyncgen/attach")
            second = await client.get("/asyncgen/attach")
            assert await first.content.readline() == b"attached\n"
            assert await attached(client) == 2
            first.close()
            await until_attached(client, 1)
            second.close()

    asyncio.run(scenario())


def test_attached_client_is_let_go_when_the_server_ends() -> None:
    async def scenario() -> None:
        service = Service()
        async with service.client() as client:
            response = await client.get("/asyncgen/attach")
            service.attachment.end()
            assert await response.read() == b"attached\n"

    asyncio.run(scenario())


def test_server_waits_a_minute_for_its_first_client() -> None:
    async def scenario() -> None:
        service = Service()
        watch = asyncio.create_task(service.attachment.until_idle())
        await service.goes_on(59)
        await service.goes_on(2)
        assert not watch.done()
        async with asyncio.timeout(5):
            await watch

    asyncio.run(scenario())


def test_server_is_idle_shortly_after_its_last_client_left() -> None:
    async def scenario() -> None:
        service = Service()
        async with service.client() as client:
            response = await client.get("/asyncgen/attach")
            watch = asyncio.create_task(service.attachment.until_idle())
            await service.goes_on(1000)
            await service.goes_on(1000)
            assert not watch.done()
            response.close()
            await until_attached(client, 0)
            await service.goes_on(1)
            assert not watch.done()
            service.now += 3
            async with asyncio.timeout(5):
                await watch

    asyncio.run(scenario())


def test_server_with_work_is_not_idle_though_nobody_is_attached() -> None:
    async def scenario() -> None:
        service = Service(busy=True)
        watch = asyncio.create_task(service.attachment.until_idle())
        await service.goes_on(1000)
        await service.goes_on(1000)
        assert not watch.done()
        service.busy = False
        await service.goes_on(61)
        async with asyncio.timeout(5):
            await watch

    asyncio.run(scenario())
