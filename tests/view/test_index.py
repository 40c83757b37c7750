from collections.abc import Callable
from typing import Any

from asyncgen.view.index import RowIndex, places_in

MakeRun = Callable[..., Any]


def test_rows_are_read_on_from_where_the_file_was_left(make_run: MakeRun) -> None:
    run = make_run(rows=2)
    index = RowIndex(run.directory)
    assert index.read_on()
    assert len(index) == 2
    assert not index.read_on()
    run.add(run.record(2), run.failure(3))
    assert index.read_on()
    assert [index.row(place).index for place in range(4)] == [0, 1, 2, 3]
    assert places_in(index.failures) == [3]


def test_a_line_that_is_being_written_is_left_for_the_next_time(make_run: MakeRun) -> None:
    run = make_run(rows=1)
    with run.directory.records.open("ab") as file:
        file.write(b'{"key":"00')
    index = RowIndex(run.directory)
    index.read_on()
    assert (len(index), index.bad_lines) == (1, [])


def test_a_file_that_was_replaced_is_read_anew(make_run: MakeRun) -> None:
    run = make_run(rows=3)
    index = RowIndex(run.directory)
    index.read_on()
    new = run.directory.records.with_suffix(".new")
    new.write_bytes(run.directory.records.read_bytes().splitlines(keepends=True)[2])
    new.replace(run.directory.records)
    index.read_on()
    assert [index.row(place).index for place in range(len(index))] == [2]
    assert index.generation == 1


def test_a_line_that_is_no_row_is_told_and_the_others_are_there(make_run: MakeRun) -> None:
    run = make_run(rows=1)
    with run.directory.records.open("ab") as file:
        file.write(b"nonsense\n\n" + b'{"key": "' + b"0" * 31 + b'"}\n' + b"\xff\xfe\n")
    run.add(run.record(1), run.record(2, index=-5, created=-1))
    index = RowIndex(run.directory)
    index.read_on()
    assert len(index) == 3
    assert [(name, number) for name, number, _ in index.bad_lines] == [
        ("records.jsonl", 2), ("records.jsonl", 4), ("records.jsonl", 5),
    ]  # fmt: skip


def test_a_failure_that_was_settled_later_counts_no_more_and_the_last_one_stands_for_a_row(make_run: MakeRun) -> None:
    run = make_run()
    run.add(run.failure(0), run.failure(1), run.failure(1, "again"))
    index = RowIndex(run.directory)
    index.read_on()
    assert places_in(index.failures) == [0, 2]
    run.add(run.record(0))
    index.read_on()
    assert places_in(index.failures) == [2]
    read_at_once = RowIndex(run.directory)
    read_at_once.read_on()
    assert read_at_once.failures.bit_count() == 1


def test_a_large_file_is_read_in_pieces(make_run: MakeRun) -> None:
    run = make_run(rows=18)
    index = RowIndex(run.directory)
    pieces = 0
    while index.is_behind:
        index.read_on(1000)
        pieces += 1
    assert len(index) == 18
    assert pieces > 4


def test_rows_whose_repeats_differ_are_those_of_one_combination(make_run: MakeRun) -> None:
    run = make_run()
    run.add(*(run.record(n, "the same") for n in (0, 1, 2)))
    run.add(run.record(3, "yes"), run.record(4, "no"), run.record(5, "yes"), run.failure(6))
    index = RowIndex(run.directory)
    index.read_on()
    assert places_in(index.differing()) == [3, 4, 5]


def test_a_row_is_found_by_its_key_and_a_key_that_is_none_finds_nothing(make_run: MakeRun) -> None:
    run = make_run(rows=3)
    index = RowIndex(run.directory)
    index.read_on()
    assert [index.place_of(index.key(place)) for place in range(3)] == [0, 1, 2]
    assert [index.place_of(key) for key in ("", "zz", "00" * 16, "../../etc")] == [None] * 4
