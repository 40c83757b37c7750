"""A server's life: its folder, its lock, its address, its end."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openai
import pytest

from asyncgen.errors import AsyncgenError, DiskError, RunInUseError, UsageError
from asyncgen.providers.local_server import default_data_folder, server_info
from asyncgen.serve.data_folder import open_data_folder
from asyncgen.serve.server import ServeSettings, processors, serve
from asyncgen.serve.simulation.engine import SimulationSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncgen.providers.local_server import ServerInfo


def settings(folder: Path | None = None, **more: Any) -> ServeSettings:
    return ServeSettings(data_dir=folder, simulation=SimulationSettings(), **more)


def test_server_announces_itself_and_takes_the_announcement_back(tmp_path: Path, running: Any) -> None:
    with running(settings(tmp_path)) as server:
        assert server_info(tmp_path) == server
        assert (server.engine, server.model) == ("simulated", "simulated")
    assert server_info(tmp_path) is None


def test_second_server_on_a_folder_names_the_first(tmp_path: Path, running: Any) -> None:
    with running(settings(tmp_path)) as server:
        with pytest.raises(RunInUseError) as caught:
            asyncio.run(serve(settings(tmp_path), stop=asyncio.Event(), say=lambda _: None))
        assert server.base_url in (caught.value.cause or "")
        assert str(server.pid) in (caught.value.cause or "")
        assert server_info(tmp_path) == server


def test_folder_is_free_after_the_server(tmp_path: Path, running: Any) -> None:
    for _ in range(2):
        with running(settings(tmp_path)):
            pass


def test_folder_is_known_by_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = open_data_folder(Path("data"), "llama", print)
    folder.close()
    assert folder.root == tmp_path / "data"


def test_folder_of_the_other_engine_is_refused(tmp_path: Path) -> None:
    open_data_folder(tmp_path, "llama", print).close()
    with pytest.raises(UsageError, match="llama"):
        asyncio.run(serve(settings(tmp_path), stop=asyncio.Event(), say=lambda _: None))


def test_folder_that_cannot_be_made_is_a_disk_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(DiskError):
        open_data_folder(tmp_path / "file" / "folder", "llama", print)


def test_data_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_data_folder() == tmp_path / "asyncgen"
    monkeypatch.setenv("XDG_DATA_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_data_folder() == tmp_path / ".local" / "share" / "asyncgen"


def test_stale_announcement_is_nobodys(tmp_path: Path) -> None:
    (tmp_path / "server.json").write_text("{", encoding="utf-8")
    assert server_info(tmp_path) is None


def test_taken_port_is_told_with_the_way_out() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(AsyncgenError, match=f"port {port} .* is already in use") as caught:
            asyncio.run(serve(settings(port=port), stop=asyncio.Event(), say=lambda _: None))
    assert "--port 0" in (caught.value.help_text or "")


def test_address_for_others_is_warned_of() -> None:
    said: list[str] = []

    async def live() -> None:
        stop = asyncio.Event()
        await serve(settings(host="0.0.0.0"), stop=stop, say=said.append, started=lambda _: stop.set())

    asyncio.run(live())
    assert any("requires no key" in line for line in said)
    assert any("a simulation" in line for line in said)


def test_loopback_by_ip_6_is_served(start_server: Callable[[ServeSettings], ServerInfo], sdk: Any) -> None:
    try:
        server = start_server(settings(host="::1"))
    except AsyncgenError as error:
        pytest.skip(f"no IPv6 here: {error.cause}")
    assert server.base_url.startswith("http://[::1]:")
    assert sdk(server).models.list().data


def test_answer_in_flight_is_given_before_the_end(running: Any) -> None:
    async def scenario() -> str | None:
        stop = asyncio.Event()
        listening: asyncio.Future[ServerInfo] = asyncio.get_running_loop().create_future()
        slow = ServeSettings(simulation=SimulationSettings(latency_s=0.3))
        life = asyncio.create_task(serve(slow, stop=stop, say=lambda _: None, started=listening.set_result))
        async with openai.AsyncOpenAI(base_url=(await listening).base_url, api_key="none", max_retries=0) as client:
            asking = asyncio.create_task(
                client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hello"}])
            )
            await asyncio.sleep(0.15)
            stop.set()
            answer = await asking
        await life
        return answer.choices[0].message.content

    assert asyncio.run(scenario())


def test_error_of_the_work_behind_ends_the_server_as_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from asyncgen.serve.tuning.queue import TuningQueue  # noqa: PLC0415 - only here

    async def full_disk(_queue: TuningQueue) -> None:
        raise DiskError("the disk is full")

    monkeypatch.setattr(TuningQueue, "run", full_disk)
    with pytest.raises(DiskError, match="the disk is full"):
        asyncio.run(serve(settings(tmp_path), stop=asyncio.Event(), say=lambda _: None))
    assert server_info(tmp_path) is None


def test_idle_server_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    from asyncgen.serve import server as attach  # noqa: PLC0415 - only here

    monkeypatch.setattr(attach.AttachedClients.__init__, "__kwdefaults__", {"grace_s": 0.0, "linger_s": 0.0})
    asyncio.run(serve(settings(until_idle=True), stop=asyncio.Event(), say=lambda _: None))


@pytest.mark.parametrize(
    ("text", "most"),
    [
        ("max 100000\n", None),
        ("150000 100000\n", 1),
        ("50000 100000\n", 1),
        ("100000000 100000\n", None),
        ("", None),
        ("nonsense here\n", None),
    ],
)
def test_processors_are_those_that_a_container_may_use(tmp_path: Path, text: str, most: int | None) -> None:
    limit = tmp_path / "cpu.max"
    unlimited = processors(limit)
    assert unlimited >= 1
    limit.write_text(text, encoding="ascii")
    assert processors(limit) == (most or unlimited)
