"""Facts about whose answers count for whom."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from aiohttp import web

from asyncgen.errors import AsyncgenError, UsageError
from asyncgen.generate.servers import consent_to_server, is_simulation, note_simulation, server_of
from asyncgen.providers.choose import EndpointFlags
from asyncgen.providers.profiles import PROFILES, ProviderChoice
from asyncgen.run.directory import RunWriter, open_run
from asyncgen.run.jsonl import read_rows
from asyncgen.run.records import decode_record, encode_line
from asyncgen.run.state import Spend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from asyncgen.run.records import Record

ONE = server_of("custom", "http://127.0.0.1:8000/v1")
OTHER = server_of("custom", "http://127.0.0.1:9000/v1")


class Asked:
    """An observer that answers every question alike."""

    def __init__(self, *, agrees: bool) -> None:
        self._agrees = agrees
        self.questions = 0

    def say(self, text: str) -> None:
        pass

    def agree(self, question: str, *, why: str, notice: str = "") -> None:
        self.questions += 1
        if not self._agrees:
            raise UsageError(why)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunWriter]:
    with open_run(tmp_path / "run", job_name="ads") as run:
        yield run


def answer(run: RunWriter, make_record: Callable[..., Record], *, simulated: bool, first: int = 0) -> None:
    """Three answers come from the server that was asked."""
    lines = [encode_line(make_record(first + number, simulated=simulated)) for number in range(3)]
    with run.directory.records.open("ab") as file:
        file.writelines(lines)
    counted = run.state.spend.records + len(lines)
    run.update(lambda state: msgspec.structs.replace(state, spend=Spend(records=counted)))


def kept(run: RunWriter) -> int:
    return sum(1 for _ in read_rows(run.directory.records, decode_record))


def consent(run: RunWriter, server: Any, observer: Any, *, simulated: bool = False) -> None:
    consent_to_server(run, server, observer, simulated=simulated)


def test_the_same_server_is_asked_without_a_question(run: RunWriter, make_record: Callable[..., Record]) -> None:
    asked = Asked(agrees=False)
    for _ in range(2):
        consent(run, ONE, asked)
        answer(run, make_record, simulated=False, first=kept(run))
    assert (asked.questions, kept(run)) == (0, 6)


def test_another_servers_answers_need_a_yes_once(run: RunWriter, make_record: Callable[..., Record]) -> None:
    consent(run, ONE, Asked(agrees=False))
    answer(run, make_record, simulated=False)
    with pytest.raises(UsageError, match=r"127\.0\.0\.1:8000"):
        consent(run, OTHER, Asked(agrees=False))
    consent(run, OTHER, Asked(agrees=True))
    consent(run, OTHER, Asked(agrees=False))
    consent(run, ONE, Asked(agrees=False))
    assert kept(run) == 3


def test_what_a_simulation_made_up_settles_nothing_for_another_server(
    run: RunWriter, make_record: Callable[..., Record]
) -> None:
    consent(run, ONE, Asked(agrees=False))
    answer(run, make_record, simulated=True)
    note_simulation(run, ONE, simulated=True)
    consent(run, ONE, Asked(agrees=False), simulated=True)
    assert kept(run) == 3  # the simulation goes on with its own
    consent(run, OTHER, Asked(agrees=False), simulated=True)
    assert kept(run) == 3  # so does one at another address
    asked = Asked(agrees=False)
    consent(run, ONE, asked)
    assert (asked.questions, kept(run)) == (0, 0), "another server may have got its address"
    assert sum(1 for _ in read_rows(run.directory.replaced, decode_record)) == 3


def test_real_answers_stay_when_a_simulations_go(run: RunWriter, make_record: Callable[..., Record]) -> None:
    consent(run, ONE, Asked(agrees=False))
    answer(run, make_record, simulated=False)
    note_simulation(run, ONE, simulated=False)
    consent(run, OTHER, Asked(agrees=True))
    answer(run, make_record, simulated=True, first=10)
    note_simulation(run, OTHER, simulated=True)
    consent(run, ONE, Asked(agrees=False))
    assert [record.simulated for _, record in read_rows(run.directory.records, decode_record)] == [False] * 3


async def models_of(owner: str, status: int = 200) -> tuple[web.AppRunner, str]:
    """A server whose models belong to `owner`, and its base URL."""

    async def answer_models(_request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m", "owned_by": owner}, "odd"]}, status=status)

    app = web.Application()
    app.router.add_get("/v1/models", answer_models)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}/v1"


@pytest.mark.parametrize(
    ("owner", "status", "expected"),
    [
        ("asyncgen-simulation", 200, True),
        ("vllm", 200, False),
        ("asyncgen-simulation-2", 200, False),
        ("x", 404, False),
    ],
)
def test_a_simulation_is_known_by_its_own_word(owner: str, status: int, expected: bool) -> None:
    async def ask() -> bool:
        runner, base_url = await models_of(owner, status)
        try:
            return await is_simulation(ProviderChoice(PROFILES["custom"], ""), EndpointFlags(base_url=base_url), "m")
        finally:
            await runner.cleanup()

    assert asyncio.run(ask()) is expected


def test_a_server_that_does_not_answer_moves_no_rows() -> None:
    async def ask() -> bool:
        runner, base_url = await models_of("x")
        await runner.cleanup()
        return await is_simulation(ProviderChoice(PROFILES["custom"], ""), EndpointFlags(base_url=base_url), "m")

    with pytest.raises(AsyncgenError) as raised:
        asyncio.run(ask())
    assert raised.value.code == "unreachable"


def test_without_a_local_server_there_is_no_simulation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert asyncio.run(is_simulation(ProviderChoice(PROFILES["local"], ""), EndpointFlags(), "m")) is False
