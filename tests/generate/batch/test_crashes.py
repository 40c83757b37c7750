"""Killed at any moment, the next invocation goes on: nothing is lost, and no row is bought twice.

Run: pytest tests/generate/batch/test_crashes.py
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from asyncgen.errors import AsyncgenError, DiskError
from asyncgen.generate.batch.api import BatchApi, GoneError, RemoteBatch
from asyncgen.generate.batch.engine import release_batch
from asyncgen.generate.batch.send import Allowance
from asyncgen.generate.journal.repair import repair_run
from asyncgen.providers.openai_client import OnProgress
from asyncgen.run.directory import RunWriter, open_run

if TYPE_CHECKING:
    from asyncgen.run.state import RunState

    from .conftest import Desk

T = TypeVar("T")


class Killed(BaseException):
    """The process is gone: nothing after it runs."""


class Death:
    """Kills at the n-th step; a step lies before and after every call and every writing of `run.json`."""

    def __init__(self, at: int | None) -> None:
        self.steps = 0
        self._at = at
        self._thread = threading.get_ident()

    def may_come(self) -> None:
        if threading.get_ident() != self._thread:
            return  # the thread that flushes goes its own way; files tear elsewhere
        self.steps += 1
        if self.steps == self._at:
            raise Killed


class MortalRun(RunWriter):
    def __init__(self, run: RunWriter, death: Death) -> None:
        super().__init__(run.directory, run.state, run.lock)
        self._death = death

    def update(self, change: Callable[[RunState], RunState]) -> RunState:
        self._death.may_come()
        changed = super().update(change)
        self._death.may_come()
        return changed


def mortal_api(death: Death) -> type[BatchApi]:
    async def around(call: Awaitable[T]) -> T:
        try:
            death.may_come()
        except Killed:
            call.close()  # type: ignore[attr-defined]
            raise
        answer = await call
        death.may_come()
        return answer

    class MortalApi(BatchApi):
        async def upload(self, path: Path, on_progress: OnProgress) -> str:
            return await around(super().upload(path, on_progress))

        async def create(self, file_id: str, intent: str) -> RemoteBatch:
            return await around(super().create(file_id, intent))

        async def find(self, file_id: str | None, intent: str, created: int) -> RemoteBatch | None:
            return await around(super().find(file_id, intent, created))

        async def retrieve(self, batch_id: str) -> RemoteBatch:
            return await around(super().retrieve(batch_id))

        async def download(self, batch_id: str, file_id: str, path: Path) -> None:
            await around(super().download(batch_id, file_id, path))

    return MortalApi


def live(desk: Desk, death_at: int | None) -> int:
    """One invocation, killed at a step; how many steps it came to."""
    death = Death(death_at)
    desk.run_kind = lambda run: MortalRun(run, death)
    desk.api_kind = mortal_api(death)
    try:
        desk.generate(Allowance(rows_a_batch=6))
    except Killed:
        assert death_at is not None
    return death.steps


def assert_nothing_lost_or_doubled(desk: Desk, *refused: str) -> None:
    keys = [record.key for record in desk.records]
    assert len(keys) == len(set(keys)) == len(desk.keys) - len(refused)
    assert [failure.key for failure in desk.failures] == list(refused)
    assert set(desk.provider.asked.values()) == {1}
    ours = [batch for batch in desk.provider.batches.values() if batch["metadata"]]
    assert len(ours) == len(desk.batches), "none was created that is not known"
    assert not desk.directory.batches.exists()
    state = desk.directory.read_state()
    assert state.spend.records == len(keys)
    assert state.spend.cost_usd == pytest.approx(len(keys) * 5 * 0.5)


@pytest.fixture
def quick_desk(desk: Desk) -> Desk:
    desk.provider.script = ["in_progress", "completed"]
    return desk


def test_killed_at_every_step_once(quick_desk: Desk, folder: Path, lines: Any) -> None:
    answered, refused, _ = lines
    bad = min(quick_desk.keys)
    quick_desk.provider.line_of = lambda key, _: refused(key, 400) if key == bad else answered(key)
    steps = live(quick_desk, None)
    assert steps > 40, "before and after every call and every note, of two batches"
    for step in range(1, steps + 1):
        desk = type(quick_desk)(folder / f"run-{step}", quick_desk.opened)
        desk.provider.script = quick_desk.provider.script
        desk.provider.line_of = quick_desk.provider.line_of
        live(desk, step)
        live(desk, None)
        assert_nothing_lost_or_doubled(desk, bad)


def test_killed_again_and_again(quick_desk: Desk) -> None:
    # Each life is one step longer than what it takes to come to where the last one ended.
    for step in [*range(1, 30), None]:
        live(quick_desk, step)
    assert_nothing_lost_or_doubled(quick_desk)


@pytest.mark.parametrize("fault", ["reset", "lost", 500, 503])
@pytest.mark.parametrize("route", ["upload", "create", "retrieve", "content", "list"])
def test_a_call_that_fails_once_costs_nothing(quick_desk: Desk, route: str, fault: int | str) -> None:
    quick_desk.provider.faults = {route: [fault]}
    with suppress(AsyncgenError):  # a creation that surely was not done is told, and not repeated unasked
        quick_desk.generate(Allowance(rows_a_batch=6))
    quick_desk.generate(Allowance(rows_a_batch=6))
    assert_nothing_lost_or_doubled(quick_desk)


def test_a_creation_whose_answer_was_lost_is_found_at_once(quick_desk: Desk) -> None:
    quick_desk.provider.faults = {"create": ["lost"]}
    assert quick_desk.generate().error is None
    assert quick_desk.provider.calls.count("create") == 1
    assert_nothing_lost_or_doubled(quick_desk)


def test_a_refused_creation_is_told_where_batches_cannot_be_listed_either(quick_desk: Desk) -> None:
    quick_desk.provider.faults = {"create": [400], "list": [404]}
    assert "create a batch" in quick_desk.fails().what


def test_a_lost_creation_is_found_among_many_batches(quick_desk: Desk) -> None:
    quick_desk.provider.faults = {"create": ["lost"], "list": [500, 500, 500]}
    with pytest.raises(AsyncgenError):
        quick_desk.generate()
    ours = dict(quick_desk.provider.batches)
    others = {
        f"b{number}": {**batch, "id": f"b{number}", "metadata": {}, "input_file_id": "f", "_running": False}
        for number in range(250)
        for batch in ours.values()
    }
    quick_desk.provider.batches |= others
    assert quick_desk.generate().error is None
    assert quick_desk.provider.calls.count("create") == 1
    assert_nothing_lost_or_doubled(quick_desk)


def test_an_upload_that_breaks_off_is_sent_again_and_bought_once(quick_desk: Desk) -> None:
    quick_desk.provider.faults = {"upload": ["lost", "reset"]}
    assert quick_desk.generate().error is None
    assert_nothing_lost_or_doubled(quick_desk)


def test_a_provider_out_of_reach_leaves_everything_as_it_was(quick_desk: Desk) -> None:
    quick_desk.provider.faults = {"upload": ["reset"] * 3}
    error = quick_desk.fails()
    assert error.code == "unreachable"
    (batch,) = quick_desk.batches
    assert (batch.file_id, batch.batch_id, batch.collected) == (None, None, False)
    quick_desk.generate()
    assert_nothing_lost_or_doubled(quick_desk)


@pytest.mark.parametrize("route", ["retrieve", "content"])
def test_what_the_provider_knows_no_longer_is_told_and_bought_again_on_demand_only(
    quick_desk: Desk, route: str
) -> None:
    quick_desk.provider.faults = {route: [404]}
    with pytest.raises(GoneError, match="batch_") as caught:
        quick_desk.generate()
    assert "batch cancel" in (caught.value.help_text or "")
    assert quick_desk.generate().error is None, "it was only the wrong key"
    assert_nothing_lost_or_doubled(quick_desk)


def test_a_web_page_in_the_place_of_a_batch_is_told(quick_desk: Desk) -> None:
    quick_desk.provider.faults = {"create": ["page"]}
    error = quick_desk.fails()
    assert error.code == "bad_answer"
    quick_desk.generate()
    assert_nothing_lost_or_doubled(quick_desk)


def test_a_disk_that_fails_at_a_note_loses_nothing(quick_desk: Desk) -> None:
    class Full(RunWriter):
        notes = 0

        def update(self, change: Callable[[RunState], RunState]) -> RunState:
            Full.notes += 1
            if Full.notes == 3:
                raise DiskError("run.json could not be written")
            return super().update(change)

    quick_desk.run_kind = lambda run: Full(run.directory, run.state, run.lock)
    assert isinstance(quick_desk.fails(), DiskError)
    quick_desk.run_kind = lambda run: run
    quick_desk.generate()
    assert_nothing_lost_or_doubled(quick_desk)


def test_given_up_by_hand_its_rows_are_asked_for_again(quick_desk: Desk) -> None:
    quick_desk.provider.faults = {"retrieve": [404]}
    quick_desk.fails()
    with open_run(quick_desk.folder) as run:
        release_batch(run, run.state.batches[0], "gone")
    quick_desk.generate()
    assert {record.key for record in quick_desk.records} == quick_desk.keys
    assert quick_desk.provider.calls.count("create") == 2


def lose_state(desk: Desk) -> None:
    desk.directory.state.unlink()
    assert repair_run(desk.folder).state_made_anew


def test_a_run_that_lost_its_state_finds_its_open_batch_again(quick_desk: Desk) -> None:
    quick_desk.provider.faults = {"retrieve": [403]}
    quick_desk.fails()
    lose_state(quick_desk)
    assert quick_desk.generate().error is None
    assert quick_desk.provider.calls.count("create") == 1
    assert_nothing_lost_or_doubled(quick_desk)


def test_a_batch_that_no_provider_knows_is_not_sent_unasked_after_the_state_was_lost(quick_desk: Desk) -> None:
    quick_desk.provider.faults = {"retrieve": [403]}
    quick_desk.fails()
    quick_desk.provider.batches.clear()
    lose_state(quick_desk)
    error = quick_desk.fails()
    assert error.code == "batch_elsewhere"
    assert "batch cancel" in (error.help_text or "")
    assert quick_desk.provider.calls.count("create") == 1
