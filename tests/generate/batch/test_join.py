"""Lines of any length and order joined with their rows. Run: pytest tests/generate/batch/test_join.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import pytest

from asyncgen.generate.batch import join as join_module
from asyncgen.generate.batch.send import Allowance
from asyncgen.run.jsonl import read_lines

if TYPE_CHECKING:
    from .conftest import Desk


def test_a_line_that_is_too_long_is_left_out_and_the_others_are_kept(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(join_module, "_LONGEST_LINE", 2000)
    long = min(desk.keys)
    answered = desk.provider.line_of
    desk.provider.line_of = lambda key, asked: (
        answered(key, asked) if key != long or asked > 1 else (answered(key, asked) or {}) | {"padding": "x" * 10_000}
    )
    assert desk.generate().error is None
    assert {record.key for record in desk.records} == desk.keys
    assert sum(joined.unread for joined in desk.seen.joined) == 1
    assert desk.provider.asked[long] == 2


def test_a_line_just_as_long_as_may_be_is_read(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    only = next(iter(desk.opened.grid.requests())).key.hex()
    line = orjson.dumps(desk.provider.line_of(only, 1)) + b"\n"
    monkeypatch.setattr(join_module, "_LONGEST_LINE", len(line))
    assert desk.generate(Allowance(rows=1)).error is None
    assert [record.key for record in desk.records] == [only]


def test_a_last_line_without_its_newline_counts(desk: Desk) -> None:
    finish = desk.provider.line_of

    def chop(_route: str) -> None:
        for batch in desk.provider.batches.values():
            if output := batch.get("output_file_id"):
                desk.provider.files[output] = desk.provider.files[output].rstrip(b"\n")

    desk.provider.called = chop
    assert desk.generate().error is None
    assert len(desk.records) == 10
    assert finish is desk.provider.line_of


def test_a_key_that_is_answered_twice_is_kept_once(desk: Desk) -> None:
    def double(_route: str) -> None:
        for batch in desk.provider.batches.values():
            if output := batch.get("output_file_id"):
                lines = desk.provider.files[output].splitlines(keepends=True)
                desk.provider.files[output] = b"".join([*lines, lines[0]]) if len(lines) == 10 else b"".join(lines)

    desk.provider.called = double
    assert desk.generate().error is None
    assert len(desk.records) == len({record.key for record in desk.records}) == 10


def test_blank_lines_are_nothing(desk: Desk) -> None:
    def space(_route: str) -> None:
        for batch in desk.provider.batches.values():
            if output := batch.get("output_file_id"):
                desk.provider.files[output] = b"\n \n".join(desk.provider.files[output].split(b"\n"))

    desk.provider.called = space
    assert desk.generate().error is None
    assert sum(1 for _ in read_lines(desk.directory.records)) == 10
    assert desk.seen.joined[0].unread == 0


def test_a_mark_at_the_beginning_of_a_file_is_no_part_of_its_first_line(desk: Desk) -> None:
    def mark(_route: str) -> None:
        for batch in desk.provider.batches.values():
            if output := batch.get("output_file_id"):
                desk.provider.files[output] = b"\xef\xbb\xbf" + desk.provider.files[output].removeprefix(
                    b"\xef\xbb\xbf"
                )

    desk.provider.called = mark
    assert desk.generate().error is None
    assert (len(desk.records), len(desk.provider.batches)) == (10, 1)


@pytest.mark.parametrize("odd", [b"[" * 100_000, b'"\\ud800"', b"1e400", b"9" * 5_000, b'"\xff"', b"{torn"])
def test_one_odd_line_blocks_no_other(desk: Desk, odd: bytes) -> None:
    only = min(desk.keys).encode()

    def spoil(_route: str) -> None:
        for batch in desk.provider.batches.values():
            if output := batch.get("output_file_id"):
                lines = desk.provider.files[output].splitlines()
                spoilt = [line[:-1] + b',"x":' + odd + b"}" if only in line[:60] else line for line in lines]
                desk.provider.files[output] = b"\n".join(spoilt) + b"\n"

    desk.provider.called = spoil
    assert desk.generate().error is None
    assert len(desk.records) + len(desk.failures) == 10
    assert len(desk.records) >= 9
    assert len(desk.provider.batches) == 1, "nothing is bought again"


def test_what_came_beside_the_text_is_kept(desk: Desk) -> None:
    answered = desk.provider.line_of

    def with_thoughts(key: str, asked: int) -> dict[str, Any]:
        line = answered(key, asked) or {}
        line["response"]["body"]["choices"][0]["message"]["reasoning_content"] = "It should be short."
        return line

    desk.provider.line_of = with_thoughts
    desk.generate()
    assert {record.reasoning for record in desk.records} == {"It should be short."}
