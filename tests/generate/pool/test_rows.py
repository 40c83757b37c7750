import asyncio
from collections.abc import Iterator
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.errors import UsageError
from asyncgen.generate.http.completer import AttemptError, ErrorClass
from asyncgen.generate.pool.progress import Progress
from asyncgen.generate.pool.rate import RequestRates
from asyncgen.generate.pool.settle import (
    RowInWork,
    given_up,
    may_retry,
    note_error,
    retried_row,
    retry_wait_s,
    with_opening,
)
from asyncgen.generate.pool.source import RowQueue, RowSource
from asyncgen.job.requests import Request
from asyncgen.run.jsonl import MAX_LINE_BYTES

REQUEST = Request(0, 0, ("Paris",), b"k" * 16, b"{}")
LIMITED = AttemptError(kind=ErrorClass.WAIT, type="rate_limit")
FAILED = AttemptError(kind=ErrorClass.RETRY, type="server_error")
LOST = AttemptError(kind=ErrorClass.RETRY, type="disconnected", maybe_paid=True)
REFUSED = AttemptError(kind=ErrorClass.ROW, type="bad_request")


@given(st.lists(st.sampled_from([LIMITED, FAILED, LOST]), max_size=60), st.integers(0, 9))
def test_no_order_of_errors_passes_the_bounds(errors: list[AttemptError], paid_before: int) -> None:
    row = retried_row(REQUEST, given_up(paid_before, paid_before))
    for error in errors:
        note_error(row, error)
        if not may_retry(row, error):
            break
    assert row.failed <= 5
    assert row.maybe_paid - paid_before <= (2 if not paid_before else 1)


def test_waiting_for_a_limit_uses_up_no_attempt() -> None:
    row = RowInWork(REQUEST)
    for _ in range(1000):
        note_error(row, LIMITED)
    assert may_retry(row, LIMITED)
    assert retry_wait_s(row, LIMITED, Random(0)) == 0.0


def test_a_row_at_fault_is_not_tried_again() -> None:
    row = RowInWork(REQUEST)
    note_error(row, REFUSED)
    assert not may_retry(row, REFUSED)


def test_waits_are_drawn_from_a_span_that_doubles() -> None:
    row = RowInWork(REQUEST)
    for most_s in (0.5, 1.0, 2.0, 4.0):
        note_error(row, FAILED)
        waits = [retry_wait_s(row, FAILED, Random(seed)) for seed in range(300)]
        assert min(waits) < most_s * 0.05
        assert most_s * 0.95 < max(waits) <= most_s


@pytest.mark.parametrize(
    ("opening", "text", "expected"),
    [
        ("", " as it came\n", " as it came\n"),
        ("Hotels in Rome", "can now take cards.", "Hotels in Rome can now take cards."),
        ("Hotels in Rome", " can now take cards.\n", "Hotels in Rome can now take cards."),
        ("Hotels in Rome", ", take cards!", "Hotels in Rome, take cards!"),
        ("Hotels in Rome", "Hotels in Rome take cards.", "Hotels in Rome take cards."),
        ("Hotels in Rome", "\nHotels in Rome take cards.", "Hotels in Rome take cards."),
        ("Hotels in Rome ", "take cards.", "Hotels in Rome take cards."),
    ],
)
def test_an_answer_stands_with_its_opening_once(opening: str, text: str, expected: str) -> None:
    assert with_opening(opening, text) == expected


def test_a_row_is_made_only_when_it_is_asked_for() -> None:
    made = 0

    def rows() -> Iterator[RowInWork]:
        nonlocal made
        for _ in range(100):
            made += 1
            yield RowInWork(REQUEST)

    queue = RowQueue(rows())
    for asked in range(1, 50):
        assert queue.next() is not None
        assert made == asked


def test_a_source_that_asks_for_a_turn_is_not_over() -> None:
    row = RowInWork(REQUEST)
    queue = RowQueue(iter([None, row, None]))
    assert (queue.next(), queue.is_looking, queue.is_over) == (None, True, False)
    assert (queue.next(), queue.is_looking, queue.is_over) == (row, False, False)
    assert (queue.next(), queue.is_looking, queue.is_over) == (None, True, False)
    assert (queue.next(), queue.is_looking, queue.is_over) == (None, False, True)


def test_what_the_source_raises_ends_it() -> None:
    def rows() -> Iterator[RowInWork]:
        yield RowInWork(REQUEST)
        raise ArithmeticError("a bug")

    queue = RowQueue(rows())
    assert queue.next() is not None
    with pytest.raises(ArithmeticError):
        queue.next()
    assert queue.next() is None
    assert queue.is_over


def test_rows_to_be_tried_again_go_first_and_after_their_delay(world: Any) -> None:
    async def scene() -> None:
        first, second, third = RowInWork(REQUEST), RowInWork(REQUEST), RowInWork(REQUEST)
        queue = RowQueue(iter([first, second, third]))
        assert queue.next() is first
        queue.delay(first, asyncio.get_running_loop().call_later(5.0, queue.due, first))
        assert queue.next() is second
        queue.put_back(second)
        assert [queue.next(), queue.next(), queue.next()] == [second, third, None]
        assert not queue.is_over
        await asyncio.sleep(5.1)
        assert queue.next() is first
        queue.put_back(second)
        queue.put_first(third)
        assert [queue.next(), queue.next(), queue.next()] == [third, second, None]
        assert queue.is_over

    with asyncio.Runner(loop_factory=world.Loop) as runner:
        runner.run(scene())


def test_closing_returns_the_rows_that_were_tried_and_leaves_no_timer(world: Any) -> None:
    async def scene() -> None:
        tried, delayed, fresh = RowInWork(REQUEST), RowInWork(REQUEST), RowInWork(REQUEST)
        queue = RowQueue(iter([fresh]))
        queue.put_back(tried)
        queue.delay(delayed, asyncio.get_running_loop().call_later(9.0, queue.due, delayed))
        assert queue.close() == [tried, delayed]
        assert (queue.next(), queue.is_over) == (None, True)
        await asyncio.sleep(10.0)
        assert queue.next() is None

    with asyncio.Runner(loop_factory=world.Loop) as runner:
        runner.run(scene())


def test_a_row_too_long_for_a_line_of_the_records_is_refused_in_its_place_and_not_handed_out() -> None:
    long = Request(1, 0, ("x" * (MAX_LINE_BYTES // 2 + 1),), b"l" * 16, b"{}")
    grid: Any = SimpleNamespace(
        longest_body=lambda: 0,
        prompt=lambda request: request.values[0],
        walk=lambda _: iter([REQUEST, long]),
    )
    journal: Any = SimpleNamespace(claim=lambda _: True, tried_any=False, leaves_any=False)
    source = iter(RowSource(grid, journal, RequestRates(None, None, None), Progress(), None))
    assert [row.request for row in [next(source)] if row is not None] == [REQUEST]
    with pytest.raises(UsageError, match="row 2"):
        next(source)
