import asyncio
from collections.abc import Iterable, Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.generate.http.completer import AttemptError, ErrorClass
from asyncgen.generate.pool.queue import RowQueue
from asyncgen.generate.pool.retry import Row, given_up, may_retry, note_error, retry_wait_s, row_again
from asyncgen.generate.pool.settle import whole
from asyncgen.job.requests import Request

REQUEST = Request(0, 0, ("Paris",), b"k" * 16, b"{}")
LIMITED = AttemptError(kind=ErrorClass.WAIT, type="rate_limit")
FAILED = AttemptError(kind=ErrorClass.RETRY, type="server_error")
LOST = AttemptError(kind=ErrorClass.RETRY, type="disconnected", maybe_paid=True)
REFUSED = AttemptError(kind=ErrorClass.ROW, type="bad_request")


@given(st.lists(st.sampled_from([LIMITED, FAILED, LOST]), max_size=60), st.integers(0, 9))
def test_no_order_of_errors_passes_the_bounds(errors: list[AttemptError], paid_before: int) -> None:
    row = row_again(REQUEST, given_up(paid_before, paid_before))
    for error in errors:
        note_error(row, error)
        if not may_retry(row, error):
            break
    assert row.failed <= 5
    assert row.maybe_paid - paid_before <= (2 if not paid_before else 1)


def test_waiting_for_a_limit_uses_up_no_attempt() -> None:
    row = Row(REQUEST)
    for _ in range(1000):
        note_error(row, LIMITED)
    assert may_retry(row, LIMITED)
    assert retry_wait_s(row, LIMITED, Random(0)) == 0.0


def test_a_row_at_fault_is_not_tried_again() -> None:
    row = Row(REQUEST)
    note_error(row, REFUSED)
    assert not may_retry(row, REFUSED)


def test_waits_are_drawn_from_a_span_that_doubles() -> None:
    row = Row(REQUEST)
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
    assert whole(opening, text) == expected


def queue_of(rows: Iterable[Row | None], *, workers: int = 1) -> RowQueue:
    return RowQueue(iter(rows), workers, lambda: None, lambda _row: None)


def test_a_row_is_made_only_when_a_worker_takes_it(world: Any) -> None:
    made = 0

    def rows() -> Iterator[Row]:
        nonlocal made
        for _ in range(100):
            made += 1
            yield Row(REQUEST)

    async def scene() -> None:
        queue = queue_of(rows())
        for taken in range(1, 50):
            assert await queue.get() is not None
            assert made == taken

    with asyncio.Runner(loop_factory=world.Loop) as runner:
        runner.run(scene())


def test_while_one_worker_gives_the_loop_a_turn_the_others_wait_and_then_all_get_their_rows(world: Any) -> None:
    pulls = 0

    def rows() -> Iterator[Row | None]:
        nonlocal pulls
        for _ in range(50):
            pulls += 1
            yield None
        for _ in range(20):
            pulls += 1
            yield Row(REQUEST)

    async def scene() -> None:
        queue = queue_of(rows(), workers=10)
        taken: list[Row] = []

        async def work() -> None:
            while (row := await queue.get()) is not None:
                taken.append(row)
                await asyncio.sleep(1.0)

        workers = [asyncio.create_task(work()) for _ in range(10)]
        await asyncio.sleep(0)
        assert pulls <= 2, "a turn of the loop pulls once, however many workers there are"
        await asyncio.gather(*workers)
        assert len(set(map(id, taken))) == 20
        assert asyncio.get_running_loop().time() == pytest.approx(2.0, abs=0.01)

    with asyncio.Runner(loop_factory=world.Loop) as runner:
        runner.run(scene())


def test_all_who_ask_within_a_turn_get_their_rows_in_one_round(world: Any) -> None:
    async def scene() -> None:
        rounds = 0
        handed: list[Row] = []

        def begin() -> None:
            nonlocal rounds
            rounds += 1

        queue = RowQueue((Row(REQUEST) for _ in range(30)), 10, begin, handed.append)
        for expected in (1, 2, 3):
            assert await asyncio.gather(*(queue.get() for _ in range(10))) == handed[-10:]
            assert rounds == expected

    with asyncio.Runner(loop_factory=world.Loop) as runner:
        runner.run(scene())


def test_what_is_put_back_before_a_round_is_handed_out_in_it(world: Any) -> None:
    async def scene() -> None:
        brought = [again := Row(REQUEST)]

        def put_back() -> None:
            while brought:
                queue.put_back(brought.pop(), 0.0)

        queue = RowQueue(iter([Row(REQUEST)]), 1, put_back, lambda _row: None)
        assert await queue.get() is again

    with asyncio.Runner(loop_factory=world.Loop) as runner:
        runner.run(scene())


def test_what_goes_wrong_before_a_round_is_raised_in_one_worker_and_the_others_get_their_rows(world: Any) -> None:
    async def scene() -> None:
        bugs = [ArithmeticError("a bug")]

        def fail_once() -> None:
            if bugs:
                raise bugs.pop()

        queue = RowQueue((Row(REQUEST) for _ in range(3)), 3, fail_once, lambda _row: None)
        workers = [asyncio.create_task(queue.get()) for _ in range(3)]
        await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
        [failed] = [task for task in workers if task.done()]
        assert str(failed.exception()) == "a bug"
        rows = await asyncio.gather(queue.get(), *(task for task in workers if task is not failed))
        assert all(rows)

    with asyncio.Runner(loop_factory=world.Loop) as runner:
        runner.run(scene())


def test_what_the_source_raises_ends_it_and_is_raised_in_one_worker(world: Any) -> None:
    def rows() -> Iterator[Row]:
        yield Row(REQUEST)
        raise ArithmeticError("a bug")

    async def scene() -> None:
        queue = queue_of(rows(), workers=3)
        row, bug, *_ = await asyncio.gather(*(queue.get() for _ in range(2)), return_exceptions=True)
        assert isinstance(row, Row)
        assert str(bug) == "a bug"
        assert await asyncio.gather(*(queue.get() for _ in range(3))) == [None] * 3

    with asyncio.Runner(loop_factory=world.Loop) as runner:
        runner.run(scene())


@pytest.mark.parametrize("turns", [0, 1, 2])
def test_a_row_for_a_worker_that_is_cancelled_goes_to_another(world: Any, turns: int) -> None:
    async def scene() -> None:
        first = Row(REQUEST)
        queue = queue_of([first], workers=2)
        worker = asyncio.create_task(queue.get())
        for _ in range(turns):
            await asyncio.sleep(0)
        worker.cancel()
        await asyncio.wait([worker])
        assert await queue.get() is first

    with asyncio.Runner(loop_factory=world.Loop) as runner:
        runner.run(scene())


def test_rows_to_be_tried_again_go_first_and_after_their_wait(world: Any) -> None:
    async def scene() -> None:
        first, second, third = Row(REQUEST), Row(REQUEST), Row(REQUEST)
        queue = queue_of([first, second, third])
        assert await queue.get() is first
        queue.put_back(first, 5.0)
        assert await queue.get() is second
        queue.put_back(second, 0.0)
        assert await queue.get() is second
        assert await queue.get() is third
        assert await queue.get() is first
        assert asyncio.get_running_loop().time() == pytest.approx(5.0, abs=0.01)
        assert await queue.get() is None

    with asyncio.Runner(loop_factory=world.Loop) as runner:
        runner.run(scene())


def test_dropping_returns_the_rows_that_were_tried_and_ends_the_wait_of_workers(world: Any) -> None:
    async def scene() -> None:
        tried, delayed, fresh = Row(REQUEST), Row(REQUEST), Row(REQUEST)
        queue = queue_of([tried, delayed, fresh])
        assert [await queue.get(), await queue.get()] == [tried, delayed]
        queue.put_back(delayed, 9.0)
        queue.put_back(tried, 0.0)
        assert queue.drop_waiting() == [tried, delayed]
        assert await queue.get() is None
        assert asyncio.get_running_loop().time() < 1.0

    with asyncio.Runner(loop_factory=world.Loop) as runner:
        runner.run(scene())
