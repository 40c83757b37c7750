"""Facts about rows that a changed job leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from asyncgen.generate.journal.journal import open_journal
from asyncgen.generate.journal.stale import Stale, accept_stale, changed_parts, find_stale
from asyncgen.job.combinations import Combinations
from asyncgen.job.model import Generate, Job, Prompt
from asyncgen.job.requests import RequestGrid
from asyncgen.run.directory import open_run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from asyncgen.run.directory import RunWriter
    from asyncgen.run.records import Failure, Record

    MakeRecord = Callable[..., Record]
    MakeFailure = Callable[..., Failure]


def grid_of(
    *cities: str, user: str = "Sell in {city}.", repeats: int = 2, model: str = "m", **parameters: Any
) -> RequestGrid:
    job = Job(
        name="campaign",
        grid={"city": list(cities)},
        prompt=Prompt(user=user),
        generate=Generate(repeats=repeats, parameters=parameters),
    )
    return RequestGrid(job, Combinations({"city": cities}), model)


BEFORE = grid_of("Paris", "Rome")


@pytest.fixture
def run(tmp_path: Path, make_record: MakeRecord, make_failure: MakeFailure) -> Iterator[RunWriter]:
    """A run of `BEFORE` in which all requests are settled but the last, which failed."""
    with open_run(tmp_path / "run", job_name="campaign") as run:
        accept_stale(run, BEFORE, find_stale(run, BEFORE))
        with open_journal(run, cost_of=lambda _usages, _in_batch: None) as journal:
            *settled, failed = BEFORE.requests()
            for request in settled:
                fields = {"key": request.key.hex(), "variables": BEFORE.variables(request), "repeat": request.repeat}
                journal.settle([make_record(request.index, **fields)])
            fields = {"key": failed.key.hex(), "variables": BEFORE.variables(failed), "repeat": failed.repeat}
            journal.fail(make_failure(failed.index, **fields))
        yield run


def test_the_same_job_leaves_nothing_behind(run: RunWriter) -> None:
    assert find_stale(run, grid_of("Paris", "Rome")) == Stale(0, 0, 0, ())


def test_additions_leave_nothing_behind(run: RunWriter) -> None:
    assert find_stale(run, grid_of("Paris", "Rome", "Oslo", repeats=3)) == Stale(
        0, 0, 0, ("generate.repeats", "grid.city")
    )


@pytest.mark.parametrize(
    ("grid", "records", "failures", "changed"),
    [
        (grid_of("Rome"), 2, 0, "grid.city"),
        (grid_of("Paris"), 1, 1, "grid.city"),
        (grid_of("Paris", "Rome", repeats=1), 1, 1, "generate.repeats"),
        (grid_of("Paris", "Rome", user="Buy in {city}."), 3, 1, "prompt.user"),
        (grid_of("Paris", "Rome", model="other"), 3, 1, "model"),
        (grid_of("Paris", "Rome", temperature=0.5), 3, 1, "generate.parameters.temperature"),
    ],
)
def test_a_change_is_named_and_what_it_leaves_behind_is_counted(
    run: RunWriter, grid: RequestGrid, records: int, failures: int, changed: str
) -> None:
    assert find_stale(run, grid) == Stale(records, failures, records, (changed,))


def test_what_was_accepted_is_remembered_and_not_asked_about_again(run: RunWriter) -> None:
    changed = grid_of("Rome")
    accept_stale(run, changed, find_stale(run, changed))
    assert find_stale(run, changed) == Stale(2, 0, 0, ())
    grown = grid_of("Rome", "Oslo")
    assert find_stale(run, grown) == Stale(2, 0, 0, ("grid.city",))
    reworded = grid_of("Rome", user="Buy in {city}.")
    assert find_stale(run, reworded).more == 1


def test_a_failed_request_that_was_settled_later_is_not_counted_twice(run: RunWriter, make_record: MakeRecord) -> None:
    failed = list(BEFORE.requests())[-1]
    with open_journal(run, cost_of=lambda _usages, _in_batch: None, retry_failed=True) as journal:
        fields = {"key": failed.key.hex(), "variables": BEFORE.variables(failed), "repeat": failed.repeat}
        journal.settle([make_record(failed.index, **fields)])
    assert find_stale(run, grid_of("Paris", "Rome", model="other")).records == 4
    assert find_stale(run, grid_of("Paris", "Rome", model="other")).failures == 0


def test_changed_parts_names_added_removed_and_changed_ones() -> None:
    assert changed_parts({"a": "1", "b": "1", "c": "1"}, {"a": "1", "b": "2", "d": "1"}) == ("b", "c", "d")
