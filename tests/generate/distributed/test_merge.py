"""Facts about shards merged: nothing lost, doubled or counted twice, wherever a crash comes in between."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from asyncgen.errors import RunInUseError
from asyncgen.generate.distributed import merge as merge_module
from asyncgen.generate.distributed.merge import Merged, merge_shards
from asyncgen.generate.distributed.plan import Shard, ShardPlan, read_plan, write_plan
from asyncgen.generate.journal.journal import open_journal
from asyncgen.generate.journal.repair import repair_run
from asyncgen.generate.journal.run_status import run_status
from asyncgen.run.directory import RunDirectory, RunWriter, open_run
from asyncgen.run.jsonl import BadLineError, LineFile, read_rows, rows_in
from asyncgen.run.lock import locked
from asyncgen.run.records import Usage, decode_failure, decode_record, encode_line
from asyncgen.run.state import JobState, RowAttempts, RunState, write_state

ROWS = range(12)
SHARDS = 3


def cost_of(usages: Any, in_batch: bool) -> float:
    return 0.5 * len(usages)


def part_of(path: Path, index: int) -> RunDirectory:
    return Shard(index, SHARDS).directory(RunDirectory(path))


def fill(path: Path, make_record: Callable[..., Any], make_failure: Callable[..., Any]) -> None:
    """Rows 0 to 2 in the run, a third of the others in each shard; the last shard was killed before it counted."""
    with open_run(path, job_name="campaign") as run, open_journal(run, cost_of=cost_of) as journal:
        for number in ROWS[:3]:
            journal.settle([make_record(number)])
    plan = ShardPlan(generation=1, shards=SHARDS, rows=9, rows_of=[3, 3, 3], digest="", job="", made=0)
    write_plan(RunDirectory(path), plan)
    for index in range(SHARDS):
        directory = part_of(path, index)
        state = RunState(job=JobState(name="campaign", requests=3))
        write_state(directory.state, state)
        with (
            locked(path, directory.lock_name) as lock,
            open_journal(RunWriter(directory, state, lock), cost_of=cost_of) as journal,
        ):
            for number in ROWS[3 + index :: SHARDS]:
                journal.settle([make_record(number)])
            journal.fail(make_failure(100 + index))
            journal.note_attempts(bytes([index]) * 16, RowAttempts(attempts=2), Usage())
    with closing(LineFile(part_of(path, 2).records)) as file:
        file.append(encode_line(make_record(50)))  # as if killed before its state was written
    with part_of(path, 0).records.open("ab") as torn:
        torn.write(b'{"key":"half a li')


@pytest.fixture
def folder(tmp_path: Path, make_record: Callable[..., Any], make_failure: Callable[..., Any]) -> Path:
    fill(tmp_path / "run", make_record, make_failure)
    return tmp_path / "run"


def merged(folder: Path) -> Merged:
    with open_run(folder) as run:
        return merge_shards(run, cost_of)


def outcome(folder: Path) -> dict[str, Any]:
    directory = RunDirectory(folder)
    state = directory.read_state()
    return {
        "records": [record.index for _, record in read_rows(directory.records, decode_record)],
        "failures": [failure.index for _, failure in read_rows(directory.failures, decode_failure)],
        "spend": state.spend,
        "tried": state.tried,
        "fold": state.fold,
        "files": sorted(entry.name for entry in folder.iterdir() if "-of-" in entry.name and "torn" not in entry.name),
    }


def test_lines_spend_and_attempts_of_all_shards_are_the_runs(folder: Path) -> None:
    assert merged(folder) == Merged(shards=3, records=10, failures=3)
    found = outcome(folder)
    assert sorted(found["records"]) == [*ROWS, 50]
    assert found["failures"] == [100, 101, 102]
    assert (found["spend"].records, found["spend"].cost_usd) == (13, 6.5)
    assert len(found["tried"]) == 3
    assert (found["fold"], found["files"]) == (None, [])
    plan = read_plan(RunDirectory(folder))
    assert plan is not None
    assert plan.merged
    assert merged(folder) == Merged(0, 0, 0), "a second time there is nothing to do"
    assert outcome(folder) == found
    with open_run(folder) as run, open_journal(run, cost_of=cost_of) as journal:
        assert journal.counts.settled == 13
        assert journal.spend.lately.records == 0, "nothing is left to be counted"


class Crash(BaseException):
    """The process dies here."""


def test_a_crash_at_any_step_changes_nothing_of_what_a_merge_comes_to(
    tmp_path: Path,
    make_record: Callable[..., Any],
    make_failure: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill(tmp_path / "never", make_record, make_failure)
    merged(tmp_path / "never")
    expected = outcome(tmp_path / "never")
    steps = 0
    while True:
        folder = tmp_path / f"crash-{steps}"
        fill(folder, make_record, make_failure)
        with monkeypatch.context() as patch:
            left = [steps]
            for owner, name in (
                (LineFile, "append"),
                (LineFile, "sync"),
                (RunWriter, "update"),
                (Path, "unlink"),
                (merge_module, "write_plan"),
            ):
                patch.setattr(owner, name, dying(getattr(owner, name), left))
            try:
                merged(folder)
                has_crashed = False
            except Crash:
                has_crashed = True
        if not has_crashed:
            break
        merged(folder)
        assert outcome(folder) == expected, f"step {steps}"
        steps += 1
    assert steps > 20


def dying(call: Callable[..., Any], left: list[int]) -> Callable[..., Any]:
    """The call, which dies when its turn has come: by half where it writes lines."""

    def dies(*arguments: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] == -1:
            if call.__name__ == "append":
                file, block = arguments
                with file.path.open("ab") as torn:
                    torn.write(block[: len(block) // 2])
            raise Crash
        return call(*arguments, **named)

    return dies


def test_a_key_that_stands_in_two_files_is_refused_and_repair_sets_the_later_one_aside(
    folder: Path, make_record: Callable[..., Any]
) -> None:
    with closing(LineFile(part_of(folder, 1).records)) as file:
        file.append(encode_line(make_record(0, completion="another answer")))
    before = RunDirectory(folder).records.read_bytes()
    with pytest.raises(BadLineError) as refused:
        merged(folder)
    assert refused.value.number == 4
    assert RunDirectory(folder).records.read_bytes() == before
    repaired = repair_run(folder)
    assert [(file.path.name, file.bad) for file in repaired.files if file.bad] == [("records-1-of-3.jsonl", (4,))]
    assert merged(folder).records == 10
    assert outcome(folder)["spend"].cost_usd == 6.5


def test_nothing_is_merged_while_a_shard_is_at_work(folder: Path) -> None:
    with locked(folder, part_of(folder, 1).lock_name), pytest.raises(RunInUseError):
        merged(folder)
    assert len(list(rows_in(RunDirectory(folder).record_files(), decode_record))) == 13


def test_readers_are_told_to_wait_while_answers_stand_in_two_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(merge_module, "_take_over", dying(lambda *_: None, [0]))
        with pytest.raises(Crash):
            merged(folder)
    with pytest.raises(RunInUseError) as told:
        RunDirectory(folder).record_files()
    assert f"asyncgen merge {folder}" in (told.value.help_text or "")
    merged(folder)
    assert run_status(RunDirectory(folder)).state.spend.records == 13


def test_the_status_adds_the_shards_up(folder: Path) -> None:
    status = run_status(RunDirectory(folder))
    assert (status.done, status.state.spend.records) == (13, 12), "the last one is not counted yet"
    assert [(shard.done, shard.failed) for shard in status.shards] == [(3, 1), (3, 1), (4, 1)]
