"""Facts about whose answers count for whom. Run: pytest tests/generate/test_servers.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from asyncgen.errors import UsageError
from asyncgen.generate.servers import consent_to_server, note_simulation, server_of
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

    def agree(self, question: str, *, why: str) -> None:
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


def consent(run: RunWriter, server: Any, observer: Any) -> None:
    consent_to_server(run, server, observer)


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
    note_simulation(run, ONE)
    consent(run, ONE, Asked(agrees=False))
    assert kept(run) == 3  # the simulation goes on with its own
    asked = Asked(agrees=False)
    consent(run, OTHER, asked)
    assert (asked.questions, kept(run)) == (0, 0)
    assert sum(1 for _ in read_rows(run.directory.replaced, decode_record)) == 3


def test_real_answers_stay_when_a_simulations_go(run: RunWriter, make_record: Callable[..., Record]) -> None:
    consent(run, ONE, Asked(agrees=False))
    answer(run, make_record, simulated=False)
    note_simulation(run, ONE)
    consent(run, OTHER, Asked(agrees=True))
    answer(run, make_record, simulated=True, first=10)
    note_simulation(run, OTHER)
    consent(run, ONE, Asked(agrees=False))
    assert [record.simulated for _, record in read_rows(run.directory.records, decode_record)] == [False] * 3
