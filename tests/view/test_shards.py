"""The shards of a run on its page: how far each is, and which one holds the others up."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from asyncgen.generate.distributed.plan import Shard, ShardPlan, shard_statuses, write_plan
from asyncgen.generate.live_file import LiveFile, LiveState
from asyncgen.run.directory import RunDirectory
from asyncgen.run.lock import locked
from asyncgen.run.records import encode_line
from asyncgen.run.state import RunState, write_state
from asyncgen.view.overview import overview
from asyncgen.view.runs import RunView

SHARDS = 3


@pytest.fixture
def sharded(make_run: Callable[..., Any]) -> Any:
    """A run of 18 rows in three shards: the first is done, the second at work, the third was killed."""
    run = make_run()
    keys = [run.record(number).key for number in range(18)]
    rows_of = [sum(int(key[:16], 16) % SHARDS == index for key in keys) for index in range(SHARDS)]
    plan = ShardPlan(generation=1, shards=SHARDS, rows=18, rows_of=rows_of, digest="", job="", made=1)
    write_plan(run.directory, plan)
    assert min(rows_of) >= 3, "every shard has rows for the states below"
    for index, most in enumerate((18, 1, 1)):
        directory = Shard(index, SHARDS).directory(run.directory)
        write_state(directory.state, RunState(job=run.directory.read_state().job))
        own = [number for number, key in enumerate(keys) if int(key[:16], 16) % SHARDS == index][:most]
        directory.records.write_bytes(b"".join(encode_line(run.record(number)) for number in own))
        if index == 1:
            failed = next(n for n, key in enumerate(keys) if int(key[:16], 16) % SHARDS == 1 and n not in own)
            lines = [run.failure(own[0]), run.failure(failed)]  # the first of them was asked for again, with success
            directory.failures.write_bytes(b"".join(map(encode_line, lines)))
            write_live(directory)
    return run


def write_live(directory: RunDirectory) -> None:
    now = time.time()
    state = LiveState(
        updated=now, began=now - 5, requests=6, done=3, failed=1, left=2, in_flight=2, concurrency=8, per_second=0.5,
        eta_s=4.0, retries=0, rate_limited=0,
    )  # fmt: skip
    LiveFile(directory.path, directory.live.name).write(state)


def test_the_page_counts_shards_as_status_does_without_reading_their_files_again(sharded: Any) -> None:
    view = RunView(sharded.directory, "adverts")
    view.read_all()
    with ExitStack() as at_work:
        at_work.enter_context(locked(sharded.path, Shard(1, SHARDS).directory(sharded.directory).lock_name))
        expected = [each.as_json() for each in shard_statuses(sharded.directory)]
        with view.in_turn():
            found = overview(view)["shards"]
    assert found["shown"] == expected
    assert (found["count"], found["running"], found["done"]) == (3, 1, 1)
    assert [shard["straggler"] for shard in found["shown"]] == [False, False, True]
    assert [shard["failed"] for shard in found["shown"]] == [0, 1, 0]
    assert found["shown"][1]["per_second"] == 0.5


def test_a_run_without_shards_has_no_table_of_them(make_run: Callable[..., Any]) -> None:
    view = RunView(make_run(rows=3).directory, "adverts")
    view.read_all()
    assert overview(view)["shards"] is None


@pytest.mark.browser
def test_the_table_of_shards_marks_the_one_that_holds_the_others_up(sharded: Any, page_of: Callable[..., Any]) -> None:
    from playwright.sync_api import expect  # noqa: PLC0415 - not on every machine

    page = page_of(sharded)
    table = page.locator("section", has=page.get_by_role("heading", name="Shards")).locator("tbody")
    expect(table.get_by_role("row")).to_have_count(3)
    expect(table.get_by_role("row", name="0/3")).to_contain_text("done")
    expect(table.get_by_role("row", name="2/3")).to_contain_text("straggler")
