"""Facts about append-only line files."""

from __future__ import annotations

import errno
import json
import os
import resource
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.errors import DiskError
from asyncgen.json_text import decode_json
from asyncgen.run import jsonl
from asyncgen.run.jsonl import BadLineError, LineFile, read_lines, read_rows

if TYPE_CHECKING:
    from pathlib import Path

ROWS = [b'{"row":1,"text":"one"}\n', b'{"row":2,"text":"two \xc3\xa9"}\n', b'{"row":3,"text":"three"}\n']
WHOLE = b"".join(ROWS)
NEW = b'{"row":4}\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


def append(path: Path, line: bytes) -> int:
    with closing(LineFile(path)) as file:
        file.append(line)
        file.sync()
        return file.torn_bytes


def lines(path: Path) -> list[bytes]:
    return [line for _, line in read_lines(path)]


def whole_rows_of(content: bytes) -> list[bytes]:
    """The rows that a prefix of `WHOLE` holds: a row without only its newline is whole."""
    return [row for row in ROWS if content.startswith(WHOLE[: WHOLE.index(row) + len(row) - 1])]


def test_appended_lines_are_read_back_with_their_numbers(path: Path) -> None:
    for row in ROWS:
        append(path, row)
    assert list(read_lines(path)) == list(enumerate(ROWS, 1))


def test_a_missing_file_has_no_lines(path: Path) -> None:
    assert lines(path) == []


@pytest.mark.parametrize("offset", range(len(WHOLE) + 1))
def test_a_file_cut_at_any_byte_keeps_its_whole_rows_and_takes_new_ones(path: Path, offset: int) -> None:
    path.write_bytes(WHOLE[:offset])
    kept = whole_rows_of(WHOLE[:offset])
    assert [line.rstrip() for line in lines(path)] == [row.rstrip() for row in kept]
    torn_bytes = append(path, NEW)
    assert lines(path) == [*kept, NEW]
    torn = path.with_name("rows.jsonl.torn")
    assert (torn.read_bytes().removesuffix(b"\n") if torn.exists() else b"") == WHOLE[offset - torn_bytes : offset]


@pytest.mark.parametrize("offset", range(len(WHOLE)))
def test_a_file_zero_filled_from_any_byte_to_its_end_loses_only_what_was_filled(path: Path, offset: int) -> None:
    path.write_bytes(WHOLE[:offset] + b"\0" * (len(WHOLE) - offset))
    append(path, NEW)
    assert lines(path) == [*lines_before(offset), NEW]


@pytest.mark.parametrize("offset", range(len(WHOLE) - 1))
def test_zeros_before_a_newline_are_a_line_that_nobody_wrote(path: Path, offset: int) -> None:
    path.write_bytes(WHOLE[:offset] + b"\0" * (len(WHOLE) - 1 - offset) + b"\n")
    append(path, NEW)
    with pytest.raises(BadLineError) as refused:
        list(read_rows(path, decode_json))
    assert refused.value.number == len(lines_before(offset)) + 1
    assert "asyncgen repair" in (refused.value.help_text or "")


def lines_before(offset: int) -> list[bytes]:
    return WHOLE[:offset].splitlines(keepends=True)[: WHOLE.count(b"\n", 0, offset)]


@given(offset=st.integers(0, len(WHOLE)), garbage=st.binary(max_size=60))
def test_garbage_from_any_byte_never_glues_a_new_line_to_it(
    tmp_path_factory: pytest.TempPathFactory, offset: int, garbage: bytes
) -> None:
    path = tmp_path_factory.mktemp("garbage") / "rows.jsonl"
    path.write_bytes(WHOLE[:offset] + garbage)
    append(path, NEW)
    content = path.read_bytes()
    assert content.endswith(b"\n" + NEW) or content == NEW
    assert content.startswith(WHOLE[:offset][: WHOLE[:offset].rfind(b"\n") + 1])


def test_a_last_row_that_lacks_only_its_newline_is_kept(path: Path) -> None:
    path.write_bytes(WHOLE[:-1])
    assert append(path, NEW) == 0
    assert lines(path) == [*ROWS, NEW]
    assert not path.with_name("rows.jsonl.torn").exists()


def test_pieces_torn_off_by_several_crashes_are_all_kept(path: Path) -> None:
    for piece in (b'{"a', b'{"bb'):
        with path.open("ab") as file:
            file.write(piece)
        assert append(path, NEW) == len(piece)
    assert path.with_name("rows.jsonl.torn").read_bytes() == b'{"a\n{"bb\n'


def test_a_long_torn_tail_is_moved_whole(path: Path) -> None:
    tail = os.urandom(300_000).replace(b"\n", b"x")
    path.write_bytes(WHOLE + tail)
    assert append(path, NEW) == len(tail)
    assert lines(path) == [*ROWS, NEW]
    assert path.with_name("rows.jsonl.torn").read_bytes() == tail + b"\n"


@given(text=st.text(), other=st.text())
def test_any_text_stays_on_its_one_line(tmp_path_factory: pytest.TempPathFactory, text: str, other: str) -> None:
    """U+2028, U+0085 and the like end lines for `str.splitlines`, not here."""
    path = tmp_path_factory.mktemp("text") / "rows.jsonl"
    rows = [{"text": text}, {"text": other}]
    for row in rows:
        append(path, json.dumps(row, ensure_ascii=False).encode() + b"\n")
    assert [row for _, row in read_rows(path, decode_json)] == rows


def test_a_byte_order_mark_blank_lines_and_windows_newlines_are_passed_over(path: Path) -> None:
    path.write_bytes(b'\xef\xbb\xbf{"row":1}\r\n\r\n{"row":2}\r\n')
    assert list(read_rows(path, decode_json)) == [(1, {"row": 1}), (3, {"row": 2})]


def test_a_bad_line_is_named_by_number_with_the_command_that_mends_it(path: Path) -> None:
    path.write_bytes(ROWS[0] + b'{"row":\n' + ROWS[2])
    with pytest.raises(BadLineError) as refused:
        list(read_rows(path, decode_json))
    assert refused.value.number == 2
    assert refused.value.exit_code == 6
    assert refused.value.what == f"{path}, line 2 cannot be read"
    assert f"asyncgen repair {path.parent}" in (refused.value.help_text or "")


def test_a_line_longer_than_any_of_ours_is_refused_before_it_fills_the_memory(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 64)
    path.write_bytes(ROWS[0] + b"x" * 200)
    with pytest.raises(BadLineError, match="line 2"):
        lines(path)


def test_reading_goes_on_while_the_file_grows(path: Path) -> None:
    with closing(LineFile(path)) as file:
        for before, row in enumerate(ROWS):
            assert len(lines(path)) == before
            file.append(row)
        with path.open("ab") as other:
            other.write(b'{"row":4,"te')
        assert lines(path) == ROWS


@pytest.mark.parametrize("make", ["link", "dangling", "folder", "pipe"])
def test_what_is_not_a_regular_file_is_refused(path: Path, make: str) -> None:
    target = path.with_name("elsewhere")
    if make == "link":
        target.write_bytes(WHOLE)
    if make in {"link", "dangling"}:
        path.symlink_to(target)
    elif make == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(DiskError, match="not a regular file"):
        LineFile(path)
    with pytest.raises(DiskError, match="not a regular file"):
        lines(path)
    assert not target.exists() or target.read_bytes() == WHOLE


class ShortWrites:
    """`os.write` that takes so many bytes a call, then fails once with `error` (0: never)."""

    def __init__(self, a_call: int, calls: int, error: int) -> None:
        self.a_call, self.calls, self.error = a_call, calls, error
        self.write = os.write

    def __call__(self, descriptor: int, data: bytes) -> int:
        self.calls -= 1
        if self.calls == 0:
            raise OSError(self.error, os.strerror(self.error))
        return self.write(descriptor, data[: self.a_call])


def test_a_short_write_is_completed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(LineFile(path)) as file:
        monkeypatch.setattr(os, "write", ShortWrites(a_call=5, calls=-1, error=0))
        for row in ROWS:
            file.append(row)
    assert path.read_bytes() == WHOLE


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG])
def test_a_line_that_does_not_fit_is_cut_off_again(path: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    append(path, ROWS[0])
    with closing(LineFile(path)) as file:
        monkeypatch.setattr(os, "write", ShortWrites(a_call=5, calls=3, error=error))
        with pytest.raises(DiskError) as refused:
            file.append(ROWS[1])
        assert path.read_bytes() == ROWS[0]
        assert refused.value.cause == os.strerror(error)
        assert refused.value.help_text is not None
        monkeypatch.undo()
        file.append(ROWS[2])  # there may be room for a shorter one
    assert lines(path) == [ROWS[0], ROWS[2]]


def test_when_a_torn_line_cannot_be_cut_off_nothing_is_glued_to_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, size: int) -> None:
        raise OSError(errno.EIO, "no")

    append(path, ROWS[0])
    with closing(LineFile(path)) as file:
        monkeypatch.setattr(os, "write", ShortWrites(a_call=5, calls=2, error=errno.EIO))
        monkeypatch.setattr(os, "ftruncate", refuse)
        with pytest.raises(DiskError):
            file.append(ROWS[1])
        monkeypatch.undo()
        with pytest.raises(DiskError):
            file.append(ROWS[2])
    assert path.read_bytes() == ROWS[0] + ROWS[1][:5]
    append(path, NEW)
    assert lines(path) == [ROWS[0], NEW]


def test_a_real_limit_on_the_size_leaves_whole_lines_only(path: Path) -> None:
    """The kernel's own short write and refusal, by RLIMIT_FSIZE."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with closing(LineFile(path)) as file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(ROWS[0]) + 7, hard))
        try:
            file.append(ROWS[0])
            with pytest.raises(DiskError, match="could not be written"):
                file.append(ROWS[1])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == ROWS[0]


def test_a_failed_fsync_is_reported_ever_after_and_never_tried_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fail(descriptor: int) -> None:
        calls.append(descriptor)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with closing(LineFile(path)) as file:
        file.append(ROWS[0])
        monkeypatch.setattr(os, "fsync", fail)
        for _ in range(3):
            with pytest.raises(DiskError, match="synced to disk"):
                file.sync()
        assert len(calls) == 1
        file.append(ROWS[1])  # an answer that is paid for is still worth writing
    assert lines(path) == ROWS[:2]


def test_nothing_new_needs_no_fsync(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    with closing(LineFile(path)) as file:
        monkeypatch.setattr(os, "fsync", calls.append)
        file.append(ROWS[0])
        for _ in range(3):
            file.sync()
    assert len(calls) == 1


@pytest.mark.parametrize("doing", ["delete", "replace", "shorten"])
def test_a_file_that_somebody_else_changes_stops_the_writer(path: Path, doing: str) -> None:
    with closing(LineFile(path)) as file:
        file.append(ROWS[0])
        if doing == "shorten":
            os.truncate(path, 3)
        else:
            path.unlink()
        if doing == "replace":
            path.write_bytes(ROWS[0])
        with pytest.raises(DiskError, match=r"replaced|synced to disk"):
            file.sync()


def test_a_file_that_may_not_be_read_is_an_error_and_not_an_empty_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(WHOLE)

    def deny(*args: object, **kwargs: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", deny)
    with pytest.raises(DiskError, match="could not be opened") as refused:
        lines(path)
    assert "permissions" in (refused.value.help_text or "")
