"""Facts about requests that wait in a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from asyncgen.errors import DiskError
from asyncgen.generate.batch.batched_keys import BatchRow, open_batched_keys, rows_path
from asyncgen.generate.journal.journal import Journal, open_journal
from asyncgen.run.directory import RunDirectory, RunWriter, open_run
from asyncgen.run.jsonl import BadLineError
from asyncgen.run.key_set import KeySet, number_of
from asyncgen.run.records import Record, Usage, encode_line
from asyncgen.run.state import BatchState

MakeRecord = Callable[..., Record]
KeyOfRow = Callable[[int], bytes]


def cost_of(usages: Sequence[Usage], in_batch: bool) -> float:
    return sum(usage.completion_tokens for usage in usages) / (200 if in_batch else 100)


@contextmanager
def journal_in(folder: Path) -> Iterator[tuple[RunWriter, Journal]]:
    with open_run(folder, job_name="campaign") as run, open_journal(run, cost_of=cost_of) as journal:
        yield run, journal


@pytest.fixture
def folder(tmp_path: Path, key_of_row: KeyOfRow) -> Path:
    """A run with a batch "one" of rows 0 and 1, and a collected batch "two" of row 2."""
    directory = RunDirectory(tmp_path / "run")
    with open_run(directory.path, job_name="campaign") as run:
        directory.batches.mkdir()
        for intent, rows in (("one", (0, 1)), ("two", (2,))):
            lines = (BatchRow(key=key_of_row(row).hex(), index=row, repeat=0, variables={}, prompt="p") for row in rows)
            path = rows_path(directory, intent)
            path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
        batches = [
            BatchState(intent=name, provider="p", base_url="u", model="m", requests=2, collected=name == "two")
            for name in ("one", "two")
        ]
        run.update(lambda state: msgspec.structs.replace(state, batches=batches))
    return directory.path


def test_rows_of_an_open_batch_are_not_asked_for_and_have_no_answer(folder: Path, key_of_row: KeyOfRow) -> None:
    with journal_in(folder) as (_, journal):
        assert [journal.is_settled(key_of_row(row)) for row in range(4)] == [True, True, False, False]
        assert not journal.has_record(key_of_row(0))
        assert len(journal.batched) == 2
        assert journal.counts.settled == 0


def test_a_batch_that_is_let_go_leaves_its_unanswered_rows_open(
    folder: Path, key_of_row: KeyOfRow, make_record: MakeRecord
) -> None:
    with journal_in(folder) as (_, journal):
        assert journal.claim(key_of_row(0))
        journal.settle([make_record(0)], in_batch=True)
        journal.batched.release("one")
        journal.batched.release("never heard of")
        assert [journal.is_settled(key_of_row(row)) for row in range(2)] == [True, False]


def test_keys_that_are_added_while_a_batch_is_written_are_held_at_once(folder: Path, key_of_row: KeyOfRow) -> None:
    with journal_in(folder) as (_, journal):
        keys = KeySet()
        journal.batched.claim("three", keys)
        assert not journal.is_settled(key_of_row(9))
        keys.add(key_of_row(9))
        assert journal.is_settled(key_of_row(9))


def test_answers_of_a_batch_are_counted_at_its_price(folder: Path, make_record: MakeRecord) -> None:
    usage = Usage(completion_tokens=100)
    with journal_in(folder) as (_, journal):
        journal.settle([make_record(0, usage=usage)], in_batch=True)
        journal.settle([make_record(5, usage=usage)])
        assert journal.spend.total.cost_usd == pytest.approx(0.5 + 1.0)


def test_answers_of_a_batch_that_a_crash_left_uncounted_have_its_price_too(
    folder: Path, make_record: MakeRecord
) -> None:
    with RunDirectory(folder).records.open("ab") as file:
        file.write(encode_line(make_record(0, usage=Usage(completion_tokens=100))))
    with journal_in(folder) as (_, journal):
        assert journal.spend.total.cost_usd == pytest.approx(0.5)


def test_a_flush_counts_what_was_written_so_far(folder: Path, make_record: MakeRecord) -> None:
    with journal_in(folder) as (run, journal):
        journal.settle([make_record(0)])
        journal.files.flush()
        assert run.state.spend.records == RunDirectory(folder).read_state().spend.records == 1


def test_an_open_batch_without_its_rows_stops_everything(folder: Path) -> None:
    rows_path(RunDirectory(folder), "one").unlink()
    with pytest.raises(DiskError, match="lists the rows of an open batch"), journal_in(folder):
        pass


def test_damaged_rows_of_an_open_batch_stop_everything(folder: Path) -> None:
    rows_path(RunDirectory(folder), "one").write_bytes(b"{}\n{}\n")
    with pytest.raises(BadLineError), journal_in(folder):
        pass


def test_the_rows_of_a_collected_batch_are_not_needed(folder: Path) -> None:
    rows_path(RunDirectory(folder), "two").unlink()
    with journal_in(folder) as (_, journal):
        assert len(journal.batched) == 2


def test_where_a_link_stands_for_the_folder_of_batches_nothing_behind_it_is_touched(tmp_path: Path) -> None:
    mine = tmp_path / "documents"
    mine.mkdir()
    (mine / "1-00000000.rows.jsonl").write_text("mine")
    with open_run(tmp_path / "run", job_name="campaign") as run:
        run.directory.batches.symlink_to(mine)
        with pytest.raises(DiskError, match="is not a folder inside the run"):
            open_batched_keys(run)
    assert [path.read_text() for path in mine.iterdir()] == ["mine"]


def test_files_of_others_among_the_batches_survive(tmp_path: Path) -> None:
    names = ["notes.txt", "rows.jsonl", "1-00000000.input.jsonl.bak", ".mine.12.tmp"]
    with open_run(tmp_path / "run", job_name="campaign") as run:
        run.directory.batches.mkdir()
        for name in [*names, "1-0123abcd.output.jsonl", ".1-0123abcd.rows.jsonl.12.tmp"]:
            (run.directory.batches / name).touch()
        open_batched_keys(run)
        assert sorted(path.name for path in run.directory.batches.iterdir()) == sorted(names)


def test_a_batch_that_run_json_does_not_know_keeps_its_rows(tmp_path: Path, key_of_row: Callable[[int], bytes]) -> None:
    key = key_of_row(1)
    row = BatchRow(key=key.hex(), index=1, repeat=0, variables={}, prompt="p")
    with open_run(tmp_path / "run", job_name="campaign") as run:
        run.directory.batches.mkdir()
        (run.directory.batches / "7-0123abcd.rows.jsonl").write_bytes(msgspec.json.encode(row) + b"\n")
        held = open_batched_keys(run)
        assert held.has(number_of(key))
        assert [(each.intent, each.requests, each.created) for each in run.state.batches] == [("7-0123abcd", 1, 7)]
