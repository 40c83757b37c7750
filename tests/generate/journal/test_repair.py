"""Facts about mending a damaged run."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.errors import AsyncgenError, DiskError, RunInUseError, UsageError
from asyncgen.generate.journal import repair as repair_module
from asyncgen.generate.journal.journal import Journal, open_journal
from asyncgen.generate.journal.repair import FileRepair, repair_run
from asyncgen.run import jsonl
from asyncgen.run.directory import RunDirectory, open_run
from asyncgen.run.jsonl import BadLineError, read_rows
from asyncgen.run.records import decode_record, encode_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from asyncgen.run.records import Failure, Record

    MakeRecord = Callable[..., Record]
    MakeFailure = Callable[..., Failure]


@contextmanager
def journal_in(folder: Path) -> Iterator[Journal]:
    with (
        open_run(folder, job_name="campaign") as run,
        open_journal(run, cost_of=lambda usages, _in_batch: 0.5 * len(usages)) as journal,
    ):
        yield journal


@pytest.fixture
def folder(tmp_path: Path, make_record: MakeRecord, make_failure: MakeFailure) -> Path:
    """A sound run of three records and a failure."""
    with journal_in(tmp_path / "run") as journal:
        for number in range(3):
            journal.settle([make_record(number)])
        journal.fail(make_failure(3))
    return tmp_path / "run"


def contents(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.name != ".lock"}


def records_file(folder: Path) -> Path:
    return RunDirectory(folder).records


def settled(folder: Path) -> list[int]:
    return [record.index for _, record in read_rows(records_file(folder), decode_record)]


def put_line(folder: Path, number: int, line: bytes) -> None:
    lines = records_file(folder).read_bytes().splitlines(keepends=True)
    lines.insert(number - 1, line)
    records_file(folder).write_bytes(b"".join(lines))


def test_a_sound_run_is_not_changed(folder: Path) -> None:
    before = contents(folder)
    inode = records_file(folder).stat().st_ino
    repaired = repair_run(folder)
    assert [(file.path.name, file.kept, file.bad) for file in repaired.files] == [
        ("records.jsonl", 3, ()),
        ("failures.jsonl", 1, ()),
    ]
    assert not repaired.state_made_anew
    assert contents(folder) == before
    assert records_file(folder).stat().st_ino == inode


@pytest.mark.parametrize(
    "line",
    [
        b"\0\0\0\n",
        b"{}\n",
        b'{"key":"xy"}\n',
        b'{"key":"0123456789abcdef0123456789abcdef"}\n',
        b"\xff\xfe\n",
        b'{"ke\n',
    ],
)
def test_a_bad_line_is_moved_aside_with_its_number_and_the_run_goes_on(folder: Path, line: bytes) -> None:
    put_line(folder, 2, line)
    repaired = repair_run(folder)
    assert repaired.files[0] == FileRepair(records_file(folder), 3, (2,), 0)
    assert settled(folder) == [0, 1, 2]
    aside = records_file(folder).with_name("records.jsonl.bad").read_bytes()
    assert aside.startswith(b"# line 2: ")
    assert aside.endswith(b"\n" + line)
    with journal_in(folder) as journal:
        assert journal.counts.settled == 3


def test_bad_lines_of_several_repairs_are_all_kept(folder: Path) -> None:
    for number, line in ((1, b"one\n"), (3, b"two\n")):
        put_line(folder, number, line)
        assert repair_run(folder).files[0].bad == (number,)
    aside = records_file(folder).with_name("records.jsonl.bad").read_bytes()
    assert [line for line in aside.splitlines() if not line.startswith(b"#")] == [b"one", b"two"]


def test_a_key_that_stands_twice_keeps_its_first_line(folder: Path, make_record: MakeRecord) -> None:
    put_line(folder, 4, encode_line(make_record(1, completion="Another answer.")))
    assert repair_run(folder).files[0].bad == (4,)
    assert settled(folder) == [0, 1, 2]
    assert b"Another answer." in records_file(folder).with_name("records.jsonl.bad").read_bytes()


@pytest.mark.parametrize("prefix", [b"\0" * 300, b'{"key":"0123', b"\xef\xbb\xbf"])
def test_a_whole_row_behind_zeros_or_half_a_row_is_saved(folder: Path, make_record: MakeRecord, prefix: bytes) -> None:
    put_line(folder, 3, prefix + encode_line(make_record(7)))
    assert repair_run(folder).files[0] == FileRepair(records_file(folder), 4, (3,), 0)
    assert settled(folder) == [0, 1, 7, 2]
    assert prefix in records_file(folder).with_name("records.jsonl.bad").read_bytes()


def test_a_torn_last_line_is_put_aside_too(folder: Path) -> None:
    with records_file(folder).open("ab") as file:
        file.write(b'{"torn')
    assert repair_run(folder).files[0].torn_bytes == 6
    assert settled(folder) == [0, 1, 2]


def test_a_line_too_long_for_the_memory_is_one_bad_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (jsonl, repair_module):
        monkeypatch.setattr(module, "MAX_LINE_BYTES", 1000)
    put_line(folder, 2, b"x" * 5500 + b"\n")
    assert repair_run(folder).files[0].bad == (2,)
    assert settled(folder) == [0, 1, 2]


@given(data=st.data())
def test_after_any_damage_and_a_repair_the_run_opens_and_untouched_rows_are_there(
    tmp_path_factory: pytest.TempPathFactory, make_record: MakeRecord, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damage")
    with journal_in(folder) as journal:
        for number in range(4):
            journal.settle([make_record(number)])
    content = bytearray(records_file(folder).read_bytes())
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 700)))
    content[start:end] = data.draw(st.binary(max_size=60))
    records_file(folder).write_bytes(content)
    untouched = set(range(4))
    offset = 0
    for number in range(4):
        length = len(encode_line(make_record(number)))
        if start <= offset + length and end >= offset:
            untouched.discard(number)
        offset += length
    repair_run(folder)
    with journal_in(folder) as journal:
        assert journal.counts.settled == len(settled(folder))
    assert untouched <= set(settled(folder))


@pytest.mark.parametrize("content", [b"", b"{", b"\0\0"])
def test_a_damaged_state_is_set_aside_and_made_anew(folder: Path, content: bytes) -> None:
    (folder / "job.toml").write_text('name = "campaign"\n', encoding="utf-8")
    (folder / "run.json").write_bytes(content)
    assert repair_run(folder).state_made_anew
    assert (folder / "run.json.bad").read_bytes() == content
    with journal_in(folder) as journal:
        assert journal.counts.settled == 3
        assert journal.spend.total.cost_usd == pytest.approx(1.5), "spend is counted anew from the records"
    assert RunDirectory(folder).read_state().job.name == "campaign"


def test_a_missing_state_is_made_anew_without_a_name_where_no_job_tells_it(folder: Path) -> None:
    (folder / "run.json").unlink()
    assert repair_run(folder).state_made_anew
    assert RunDirectory(folder).read_state().job.name == ""
    with journal_in(folder) as journal:
        assert journal.counts.settled == 3


def test_two_damaged_states_are_both_kept(folder: Path) -> None:
    for content in (b"one", b"two"):
        (folder / "run.json").write_bytes(content)
        repair_run(folder)
    assert (folder / "run.json.bad").read_bytes() == b"one"
    assert (folder / "run.json.bad2").read_bytes() == b"two"


def test_a_newer_runs_state_is_no_damage(folder: Path) -> None:
    state = msgspec.json.decode((folder / "run.json").read_bytes())
    (folder / "run.json").write_bytes(msgspec.json.encode(state | {"version": 99}))
    before = contents(folder)
    with pytest.raises(AsyncgenError, match="newer asyncgen"):
        repair_run(folder)
    assert contents(folder) == before


def test_stale_rows_are_counted_again_after_lines_were_lost(folder: Path) -> None:
    with open_run(folder) as run:
        run.update(
            lambda state: msgspec.structs.replace(
                state, job=msgspec.structs.replace(state.job, fingerprint={"model": "1f"})
            )
        )
    repair_run(folder)
    assert RunDirectory(folder).read_state().job.fingerprint == {"model": "1f"}
    put_line(folder, 1, b"bad\n")
    repair_run(folder)
    assert RunDirectory(folder).read_state().job.fingerprint == {}


def test_a_run_in_use_is_not_repaired(folder: Path) -> None:
    put_line(folder, 2, b"bad\n")
    before = contents(folder)
    with open_run(folder), pytest.raises(RunInUseError):
        repair_run(folder)
    assert contents(folder) == before


def test_a_repair_that_cannot_be_written_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_line(folder, 2, b"bad\n")
    before = contents(folder)

    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(DiskError):
        repair_run(folder)
    monkeypatch.undo()
    after = contents(folder)
    assert after.pop("records.jsonl.bad")
    assert after == before
    with pytest.raises(BadLineError), journal_in(folder):
        pass


def test_what_is_no_run_is_not_touched(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no run at"):
        repair_run(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.replace(b"\n", b"\r"),
        lambda content: content.replace(b"\n", b""),
        lambda content: content.replace(b"\n", b"\0\0", 7),
    ],
    ids=["carriage returns", "no line ends", "zeros for line ends"],
)
def test_rows_without_line_breaks_are_no_torn_line_and_repair_keeps_each(
    folder: Path, make_record: Callable[..., Record], damage: Callable[[bytes], bytes]
) -> None:
    rows = [make_record(number, variables={"key": "a"}) for number in range(20)]
    with open_run(folder, job_name="campaign"):
        pass
    directory = RunDirectory(folder)
    content = damage(b"".join(map(encode_line, rows)))
    directory.records.write_bytes(content)
    with (
        open_run(folder, job_name="campaign") as run,
        pytest.raises(DiskError),
        open_journal(run, cost_of=lambda _usages, _in_batch: None),
    ):
        pass
    assert directory.records.read_bytes() == content
    repair_run(folder)
    assert [record for _, record in read_rows(directory.records, decode_record)] == rows
