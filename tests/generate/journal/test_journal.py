"""Facts about the journal: what is settled stays settled."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from asyncgen.errors import DiskError, RunInUseError, UsageError
from asyncgen.generate.journal import files as journal_files
from asyncgen.generate.journal.files import GroupSync
from asyncgen.generate.journal.journal import Counts, Journal, open_journal
from asyncgen.generate.journal.settled import read_settled
from asyncgen.run import directory as run_directory
from asyncgen.run.directory import RunDirectory, open_run
from asyncgen.run.jsonl import BadLineError, LineFile, NotSafeError, read_rows
from asyncgen.run.lock import locked
from asyncgen.run.records import Usage, decode_failure, decode_record, encode_line, sum_of
from asyncgen.run.state import UNTRIED, RowAttempts

NEVER_S = 1000.0
MANY = 10**9

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from asyncgen.run.records import Failure, Record

    MakeRecord = Callable[..., Record]
    MakeFailure = Callable[..., Failure]
    KeyOfRow = Callable[[int], bytes]

REST = (
    b',"index":1,"repeat":0,"variables":{},"prompt":"p","completion":"c","model":"m","finish_reason":"stop","usage":{},'
    b'"attempts":1,"check_failures":[],"latency_s":0.5,"created":1'
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def tokens_of(usages: Sequence[Usage]) -> int:
    return sum(usage.completion_tokens for usage in usages)


@contextmanager
def journal_in(folder: Path, **options: Any) -> Iterator[Journal]:
    options.setdefault("cost_of", lambda usages, in_batch: tokens_of(usages) / (200 if in_batch else 100))
    with open_run(folder, job_name="campaign") as run, open_journal(run, **options) as journal:
        yield journal


def records(folder: Path) -> list[Record]:
    return [record for _, record in read_rows(RunDirectory(folder).records, decode_record)]


def failures(folder: Path) -> list[Failure]:
    return [failure for _, failure in read_rows(RunDirectory(folder).failures, decode_failure)]


def fail_with(error: int) -> Callable[..., int]:
    def fail(*args: object) -> int:
        raise OSError(error, os.strerror(error))

    return fail


def test_a_settled_answer_is_in_the_file_when_settle_returns(folder: Path, make_record: MakeRecord) -> None:
    with journal_in(folder) as journal:
        for number in range(3):
            journal.settle([make_record(number)])
            assert records(folder) == [make_record(each) for each in range(number + 1)]


def test_answers_that_are_settled_together_are_all_in_the_file_and_counted(
    folder: Path, make_record: MakeRecord, make_failure: MakeFailure
) -> None:
    together = [make_record(number) for number in range(250)]
    with journal_in(folder) as journal:
        journal.fail(make_failure(7))
        journal.settle(together)
        assert records(folder) == together
        assert journal.counts == Counts(settled=250, failed=0)
        assert journal.spend.total.records == 250
        assert journal.spend.total.usage == sum_of([record.usage for record in together])


def test_of_answers_that_are_settled_together_and_do_not_fit_none_is_left_behind(
    folder: Path, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def write_a_part(descriptor: int, data: bytes) -> int:
        if data.count(b"\n") < 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data[: len(data) * 2 // 3])

    with journal_in(folder) as journal:
        journal.settle([make_record(0)])
        with monkeypatch.context() as full:
            full.setattr(os, "write", write_a_part)
            with pytest.raises(DiskError):
                journal.settle([make_record(number) for number in range(1, 6)])
        assert records(folder) == [make_record(0)]
        assert journal.counts == Counts(settled=1, failed=0)
        journal.settle([make_record(3)])
    assert records(folder) == [make_record(0), make_record(3)]


def test_settled_requests_are_known_to_the_next_invocation(
    folder: Path, make_record: MakeRecord, key_of_row: KeyOfRow
) -> None:
    with journal_in(folder) as journal:
        journal.settle([make_record(1)])
    with journal_in(folder) as journal:
        assert journal.is_settled(key_of_row(1))
        assert not journal.is_settled(key_of_row(2))
        assert journal.counts == Counts(settled=1, failed=0)


def test_a_request_is_taken_once_and_never_when_it_has_an_answer(
    folder: Path, make_record: MakeRecord, key_of_row: KeyOfRow
) -> None:
    with journal_in(folder) as journal:
        assert journal.claim(key_of_row(1))
        assert not journal.claim(key_of_row(1))
        journal.settle([make_record(1)])
        assert not journal.claim(key_of_row(1))
        assert journal.claim(key_of_row(2))
        assert journal.counts == Counts(settled=1, failed=0)
    with journal_in(folder) as journal:
        assert not journal.claim(key_of_row(1))
        assert journal.claim(key_of_row(2)), "what was taken and not settled is open to the next invocation"


def test_a_request_given_up_on_is_not_asked_again_until_that_is_wanted(
    folder: Path, make_failure: MakeFailure, key_of_row: KeyOfRow
) -> None:
    with journal_in(folder) as journal:
        journal.fail(make_failure(1))
        assert journal.is_settled(key_of_row(1))
    with journal_in(folder) as journal:
        assert journal.is_settled(key_of_row(1))
        assert journal.counts == Counts(settled=0, failed=1)
    with journal_in(folder, retry_failed=True) as journal:
        assert not journal.is_settled(key_of_row(1))
        assert journal.counts == Counts(settled=0, failed=1)


def test_a_failed_request_that_is_settled_later_counts_as_settled(
    folder: Path, make_record: MakeRecord, make_failure: MakeFailure, key_of_row: KeyOfRow
) -> None:
    with journal_in(folder) as journal:
        journal.fail(make_failure(1))
        journal.fail(make_failure(2))
    with journal_in(folder, retry_failed=True) as journal:
        journal.settle([make_record(1)])
        assert journal.counts == Counts(settled=1, failed=1)
    with journal_in(folder, retry_failed=True) as journal:
        assert journal.is_settled(key_of_row(1))
        assert not journal.is_settled(key_of_row(2))
        assert journal.counts == Counts(settled=1, failed=1)
        assert journal.tried_before(key_of_row(1)) == UNTRIED
    assert len(failures(folder)) == 2


def test_a_request_that_fails_again_is_one_failed_request_and_not_tried_a_third_time(
    folder: Path, make_failure: MakeFailure, key_of_row: KeyOfRow
) -> None:
    with journal_in(folder) as journal:
        journal.fail(make_failure(1))
    with journal_in(folder, retry_failed=True) as journal:
        journal.fail(make_failure(1, attempts=2))
        assert journal.is_settled(key_of_row(1))
        assert journal.counts == Counts(settled=0, failed=1)
    assert [failure.attempts for failure in failures(folder)] == [1, 2]


def test_attempts_add_up_over_invocations(folder: Path, make_failure: MakeFailure, key_of_row: KeyOfRow) -> None:
    """The caller writes sums; the journal gives back the latest."""
    for invocation, (attempts, maybe_paid) in enumerate([(5, 1), (7, 2), (12, 2)]):
        with journal_in(folder, retry_failed=True) as journal:
            assert journal.tried_before(key_of_row(2)) == UNTRIED
            assert (journal.tried_before(key_of_row(1)) == UNTRIED) == (invocation == 0)
            journal.fail(make_failure(1, attempts=attempts, maybe_paid=maybe_paid))
    with journal_in(folder, retry_failed=True) as journal:
        assert journal.tried_before(key_of_row(1)) == RowAttempts(attempts=12, maybe_paid=2, forgiven=1)


def test_what_was_done_for_a_row_without_a_line_is_known_to_the_next_invocation_until_it_has_one(
    folder: Path, make_record: MakeRecord, make_failure: MakeFailure, key_of_row: KeyOfRow
) -> None:
    tried = RowAttempts(attempts=2, failed=1, maybe_paid=1)
    charged = Usage(prompt_tokens=7)
    with journal_in(folder) as journal:
        for row in range(3):
            journal.note_attempts(key_of_row(row), tried, charged)
            assert not journal.is_settled(key_of_row(row))
    with journal_in(folder) as journal:
        assert [journal.tried_before(key_of_row(row)) for row in range(4)] == [tried, tried, tried, UNTRIED]
        assert journal.spend.total.usage == Usage(prompt_tokens=21)
        assert journal.spend.total.records == 0
        journal.settle([make_record(0)])
        journal.fail(make_failure(1, attempts=3, maybe_paid=2))
    assert RunDirectory(folder).read_state().tried == {key_of_row(2).hex(): tried}
    with journal_in(folder, retry_failed=True) as journal:
        assert journal.tried_before(key_of_row(1)) == RowAttempts(attempts=3, maybe_paid=2, forgiven=1)


def test_a_note_stays_until_the_line_in_its_place_is_safe(
    folder: Path, make_record: MakeRecord, key_of_row: KeyOfRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = RowAttempts(attempts=2, failed=1, maybe_paid=1)
    left = [make_record(0)]
    with (
        open_run(folder, job_name="campaign") as run,
        open_journal(run, cost_of=lambda usages, in_batch: 0.0) as journal,
    ):
        journal.note_attempts(key_of_row(0), tried)
        sync = LineFile.sync

        def settled_meanwhile(file: LineFile) -> None:
            sync(file)
            if left:
                journal.settle([left.pop()])  # a power loss would take this line, which came after the sync

        monkeypatch.setattr(LineFile, "sync", settled_meanwhile)
        journal.files.flush()
        assert left == []
        assert run.state.tried == {key_of_row(0).hex(): tried}
    assert RunDirectory(folder).read_state().tried == {}


def test_a_note_of_a_row_whose_line_was_written_before_a_crash_is_dropped(
    folder: Path, make_record: MakeRecord, key_of_row: KeyOfRow
) -> None:
    with journal_in(folder) as journal:
        journal.note_attempts(key_of_row(0), RowAttempts(attempts=1, failed=1), Usage())
    with RunDirectory(folder).records.open("ab") as file:
        file.write(encode_line(make_record(0)))
    with journal_in(folder):
        pass
    assert RunDirectory(folder).read_state().tried == {}


def test_spend_grows_with_every_answer_and_over_invocations(folder: Path, make_record: MakeRecord) -> None:
    for number in range(2):
        with journal_in(folder) as journal:
            journal.settle([make_record(number)])
    spend = RunDirectory(folder).read_state().spend
    assert spend.usage == Usage(prompt_tokens=20, completion_tokens=6)
    assert spend.cost_usd == pytest.approx(0.06)
    assert (spend.unpriced, spend.records) == (0, 2)


def test_a_failure_that_was_charged_for_is_in_the_spend_but_no_record(
    folder: Path, make_record: MakeRecord, make_failure: MakeFailure
) -> None:
    with journal_in(folder) as journal:
        journal.fail(make_failure(1))
        journal.fail(make_failure(2), Usage(prompt_tokens=5, completion_tokens=50))
        journal.settle([make_record(3)])
    with journal_in(folder) as journal:
        assert journal.spend.total.cost_usd == pytest.approx(0.53)
        assert journal.spend.total.usage == Usage(prompt_tokens=15, completion_tokens=53)
        assert journal.spend.total.records == 1


def test_answers_of_unknown_price_are_counted_apart(folder: Path, make_record: MakeRecord) -> None:
    with journal_in(folder, cost_of=lambda usages, in_batch: None if in_batch else 1.0 * len(usages)) as journal:
        journal.settle([make_record(1)])
        journal.settle([make_record(2)], in_batch=True)
        assert (journal.spend.total.cost_usd, journal.spend.total.unpriced) == (1.0, 1)


def test_what_attempts_without_an_answer_may_have_cost_is_kept_apart_over_invocations(
    folder: Path, make_record: MakeRecord
) -> None:
    for number in range(2):
        with journal_in(folder) as journal:
            journal.spend.add_unanswered(0.25)
            journal.settle([make_record(number)])
    spend = RunDirectory(folder).read_state().spend
    assert spend.unanswered_usd == 0.5
    assert spend.cost_usd == pytest.approx(0.06)


def test_what_a_crash_left_out_of_the_spend_is_counted_by_the_next_start(folder: Path, make_record: MakeRecord) -> None:
    with journal_in(folder) as journal:
        journal.settle([make_record(0)])
    with RunDirectory(folder).records.open("ab") as file:  # as if killed before run.json was written
        file.write(encode_line(make_record(1)) + encode_line(make_record(2)))
    for _ in range(2):
        with journal_in(folder) as journal:
            assert journal.spend.total.records == 3
            assert journal.spend.total.usage.completion_tokens == 9
            assert journal.spend.total.cost_usd == pytest.approx(0.09)


def test_records_lost_to_a_power_failure_were_paid_all_the_same(folder: Path, make_record: MakeRecord) -> None:
    with journal_in(folder) as journal:
        for number in range(3):
            journal.settle([make_record(number)])
    os.truncate(RunDirectory(folder).records, len(encode_line(make_record(0))))
    with journal_in(folder) as journal:
        assert journal.counts.settled == 1
        journal.settle([make_record(1)])
        assert journal.spend.total.cost_usd == pytest.approx(0.12)
        assert journal.spend.total.records == 2


def test_a_torn_last_line_is_put_aside_and_reported(folder: Path, make_record: MakeRecord) -> None:
    with journal_in(folder) as journal:
        journal.settle([make_record(0)])
    with RunDirectory(folder).records.open("ab") as file:
        file.write(encode_line(make_record(1))[:50])
    with journal_in(folder) as journal:
        assert journal.files.torn == {RunDirectory(folder).records: 50}
        journal.settle([make_record(1)])
    assert records(folder) == [make_record(0), make_record(1)]


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (b"\0\0\0\n", "JSON"),
        (b'{"key":1}\n', "key: expected a text"),
        (b'{"index":1}\n', "the field 'key' is missing"),
        (b'{"key":"12"%s}\n' % REST, "32 hexadecimal digits"),
        (b'{"key":"' + b"x" * 32 + b'"%s}\n' % REST, "32 hexadecimal digits"),
        (b'{"key":"' + b"0" * 32 + b'"}\n', "is missing"),
    ],
)
@pytest.mark.parametrize("name", ["records", "failures"])
def test_a_bad_line_stops_the_run_before_anything_is_written(
    folder: Path, make_record: MakeRecord, name: str, line: bytes, cause: str
) -> None:
    with journal_in(folder) as journal:
        journal.settle([make_record(0)])
    path: Path = getattr(RunDirectory(folder), name)
    before = path.read_bytes() + line + b'{"torn'
    path.write_bytes(before)
    with pytest.raises(BadLineError) as refused, journal_in(folder):
        pass
    assert refused.value.number == before.count(b"\n")
    if name == "records":  # a failure is read whole, so it may be refused for another field
        assert cause in (refused.value.cause or "")
    assert path.read_bytes() == before


def test_a_key_that_stands_twice_stops_the_run(folder: Path, make_record: MakeRecord) -> None:
    with journal_in(folder) as journal:
        journal.settle([make_record(0)])
    line = RunDirectory(folder).records.read_bytes()
    RunDirectory(folder).records.write_bytes(line + line)
    with pytest.raises(BadLineError, match="line 2") as refused, journal_in(folder):
        pass
    assert "is also in an earlier line" in (refused.value.cause or "")


def test_an_answer_that_cannot_be_written_is_not_settled(
    folder: Path, make_record: MakeRecord, key_of_row: KeyOfRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    with journal_in(folder) as journal:
        journal.settle([make_record(0)])
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", fail_with(errno.ENOSPC))
            with pytest.raises(DiskError) as refused:
                journal.settle([make_record(1)])
        assert refused.value.exit_code == 6
        assert not journal.is_settled(key_of_row(1))
        assert journal.counts == Counts(settled=1, failed=0)
        assert journal.spend.total.records == 1
    assert records(folder) == [make_record(0)]


def test_after_a_failed_fsync_answers_are_still_written_but_every_call_stops_the_run(
    folder: Path, make_record: MakeRecord, make_failure: MakeFailure, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fail(descriptor: int) -> None:
        calls.append(descriptor)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(journal_files, "GroupSync", partial(GroupSync, rows=1))
    with pytest.raises(DiskError, match="synced to disk"), journal_in(folder) as journal:  # noqa: PT012 - the steps are one
        monkeypatch.setattr(os, "fsync", fail)
        journal.settle([make_record(0)])
        journal.files._sync._thread.join()
        with pytest.raises(NotSafeError, match="synced to disk"):
            journal.settle([make_record(1)])
        with pytest.raises(NotSafeError, match="synced to disk"):
            journal.fail(make_failure(2))
    assert len(calls) == 1, "an fsync is never tried again"
    assert records(folder) == [make_record(0), make_record(1)]


def test_when_the_state_cannot_be_written_the_run_stops_though_its_lines_are(
    folder: Path, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_files, "GroupSync", partial(GroupSync, rows=1))
    with pytest.raises(DiskError, match=r"run\.json"), journal_in(folder) as journal:  # noqa: PT012 - steps of one fact
        monkeypatch.setattr(os, "rename", fail_with(errno.ENOSPC))
        journal.settle([make_record(0)])
        journal.files._sync._thread.join()
        with pytest.raises(NotSafeError):
            journal.settle([make_record(1)])
    assert records(folder) == [make_record(0), make_record(1)]


def test_each_row_is_made_safe_before_settle_returns_when_that_is_wanted(
    folder: Path, make_record: MakeRecord, make_failure: MakeFailure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_files, "GroupSync", partial(GroupSync, rows=MANY, seconds=NEVER_S))
    synced: list[int] = []
    with journal_in(folder, fsync_each=True) as journal:
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", synced.append)
            for number in range(3):
                journal.settle([make_record(number)])
            journal.fail(make_failure(3))
            assert len(synced) == 4
            journal.settle([make_record(number) for number in range(4, 9)])
        assert len(synced) == 5, "answers that are settled together share one"


def test_rows_are_made_safe_in_groups_otherwise(
    folder: Path, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_files, "GroupSync", partial(GroupSync, rows=MANY, seconds=NEVER_S))
    with journal_in(folder) as journal:
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", fail_with(errno.EIO))
            for number in range(3):
                journal.settle([make_record(number)])
        assert RunDirectory(folder).read_state().spend.records == 0
    assert RunDirectory(folder).read_state().spend.records == 3


def test_an_error_in_the_block_still_leaves_everything_safe(folder: Path, make_record: MakeRecord) -> None:
    with pytest.raises(ZeroDivisionError), journal_in(folder) as journal:  # noqa: PT012 - the steps are one
        journal.settle([make_record(0)])
        raise ZeroDivisionError
    assert RunDirectory(folder).read_state().spend.records == 1


def test_reading_needs_no_lock_and_leaves_out_the_line_being_written(folder: Path, make_record: MakeRecord) -> None:
    with journal_in(folder) as journal:
        journal.settle([make_record(0)])
        with RunDirectory(folder).records.open("ab") as file:
            file.write(half := encode_line(make_record(1))[:-20])
        assert len(read_settled(RunDirectory(folder)).settled) == 1
        os.truncate(RunDirectory(folder).records, RunDirectory(folder).records.stat().st_size - len(half))


def test_records_that_run_json_counted_and_are_gone_are_told_before_anything_is_changed(
    folder: Path, make_record: MakeRecord
) -> None:
    with journal_in(folder) as journal:
        journal.settle([make_record(number) for number in range(20)])
    path = RunDirectory(folder).records
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:5]))
    lost: list[int] = []

    def refuse(count: int) -> None:
        lost.append(count)
        raise UsageError("no")

    for _ in range(2):  # a refusal changes nothing: it is asked again
        with pytest.raises(UsageError), journal_in(folder, on_lost=refuse):
            pass
    with journal_in(folder, on_lost=lost.append) as journal:
        assert journal.counts.settled == 5
    with journal_in(folder, on_lost=lost.append):  # it was agreed to
        pass
    assert lost == [15, 15, 15]


def test_a_file_that_another_program_extends_is_noticed(folder: Path, make_record: MakeRecord) -> None:
    def extend() -> None:
        with journal_in(folder) as journal:
            journal.settle([make_record(0)])
            with RunDirectory(folder).records.open("ab") as file:
                file.write(encode_line(make_record(1)))
            journal.settle([make_record(2)])

    with pytest.raises(NotSafeError, match="by another program"):
        extend()


def test_without_its_lock_a_run_still_has_one_writer(folder: Path, make_record: MakeRecord) -> None:
    with journal_in(folder) as journal:
        journal.settle([make_record(0)])
        (folder / ".lock").unlink()
        with pytest.raises(RunInUseError), journal_in(folder):
            pass
        journal.settle([make_record(1)])
    assert records(folder) == [make_record(0), make_record(1)]


def test_who_lost_the_lock_to_another_process_stops_with_its_exit_code(folder: Path, make_record: MakeRecord) -> None:
    def lose() -> None:
        with journal_in(folder) as journal:
            (folder / ".lock").unlink()
            with locked(folder):
                journal.settle([make_record(0)])
                journal.files.wrote(MANY)
                journal.files.close()

    with pytest.raises(DiskError) as stopped:
        lose()
    assert stopped.value.exit_code == RunInUseError.exit_code
    assert records(folder) == [make_record(0)]  # paid for, and kept


def test_on_a_disk_that_takes_nothing_the_journal_does_not_open(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with journal_in(folder):
        pass

    def refuse(_path: Path, _state: object) -> None:
        raise DiskError("full")

    with open_run(folder, job_name="campaign") as run:
        monkeypatch.setattr(run_directory, "write_state", refuse)
        with pytest.raises(DiskError, match="full"), open_journal(run, cost_of=lambda _usages, _in_batch: 0.0):
            pytest.fail("requests could be sent now")


def test_a_price_that_cannot_be_worked_out_stops_the_run_and_loses_no_count(
    folder: Path, make_record: MakeRecord
) -> None:
    def fail(_usages: object, _in_batch: bool) -> float:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), journal_in(folder, cost_of=fail) as journal:
        journal.settle([make_record(0)])
    with journal_in(folder) as journal:
        assert journal.spend.total.records == 1
