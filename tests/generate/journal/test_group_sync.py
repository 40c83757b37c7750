"""Facts about flushing in groups."""

from __future__ import annotations

import threading

import pytest

from asyncgen.errors import DiskError
from asyncgen.generate.journal.files import GroupSync

NEVER_S = 1000.0
MANY = 10**9


class Flushes:
    """A flush that counts its calls, and fails from call number `fails_at` on."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.calls = 0
        self.called = threading.Semaphore(0)
        self._fails_at = fails_at

    def __call__(self) -> None:
        self.calls += 1
        self.called.release()
        if self._fails_at is not None and self.calls >= self._fails_at:
            raise DiskError("no")


def test_the_hundredth_row_is_followed_by_a_flush() -> None:
    flushes = Flushes()
    sync = GroupSync(flushes, rows=100, seconds=NEVER_S)
    for _ in range(99):
        sync.mark(1)
    assert not flushes.called.acquire(timeout=0.05)
    sync.mark(1)
    assert flushes.called.acquire(timeout=10)
    sync.close()


def test_no_row_waits_longer_than_the_seconds_given() -> None:
    flushes = Flushes()
    sync = GroupSync(flushes, rows=MANY, seconds=0.01)
    for expected in (1, 2):
        sync.mark(1)
        assert flushes.called.acquire(timeout=10)
        assert flushes.calls == expected
    sync.close()


def test_without_rows_nothing_is_flushed_but_once_at_the_end() -> None:
    flushes = Flushes()
    sync = GroupSync(flushes, rows=1, seconds=0.01)
    assert not flushes.called.acquire(timeout=0.05)
    sync.close()
    assert flushes.calls == 1


def test_closing_does_not_wait_for_the_group_to_fill() -> None:
    flushes = Flushes()
    sync = GroupSync(flushes, rows=MANY, seconds=NEVER_S)
    sync.mark(1)
    sync.close()
    assert flushes.calls == 1


def test_a_failed_flush_is_reported_by_every_later_call_and_not_tried_again() -> None:
    flushes = Flushes(fails_at=1)
    sync = GroupSync(flushes, rows=1, seconds=NEVER_S)
    sync.mark(1)
    assert flushes.called.acquire(timeout=10)
    sync._thread.join()
    for _ in range(3):
        with pytest.raises(DiskError):
            sync.mark(1)
    with pytest.raises(DiskError):
        sync.close()
    assert flushes.calls == 1


def test_rows_marked_during_a_flush_get_one_of_their_own() -> None:
    entered, leave = threading.Event(), threading.Event()
    calls: list[bool] = []

    def flush() -> None:
        calls.append(entered.is_set())
        entered.set()
        leave.wait(10)

    sync = GroupSync(flush, rows=1, seconds=NEVER_S)
    sync.mark(1)
    assert entered.wait(10)
    sync.mark(1)
    leave.set()
    sync.close()
    assert calls[:2] == [False, True]


def test_whatever_a_flush_raises_is_heard_of() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    sync = GroupSync(fail, rows=1)
    sync.mark(1)
    with pytest.raises(ZeroDivisionError):
        sync.close()


def test_it_looks_round_though_nothing_is_written() -> None:
    looked = threading.Event()
    sync = GroupSync(lambda: None, check=looked.set, seconds=0.01)
    assert looked.wait(10)
    sync.close()
