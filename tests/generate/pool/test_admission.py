import asyncio
from random import Random
from typing import Any

import pytest

from asyncgen.generate.http.completer import Answer, ErrorClass
from asyncgen.generate.pool.admission import Admission, Ticket
from asyncgen.generate.pool.progress import Progress
from asyncgen.generate.pool.rate import RequestRates


def test_a_cut_holds_back_also_those_who_wait_for_the_rate(world: Any) -> None:
    async def scene() -> None:
        progress = Progress()
        admission = Admission(RequestRates(60.0, None, None), 10, progress, None, Random(0))
        entering = [asyncio.create_task(admission.acquire(b"{}")) for _ in range(10)]
        await asyncio.sleep(3.5)
        sent = [task.result() for task in entering if task.done()]
        assert len(sent) == progress.in_flight == 4
        last = sent[-1]
        assert isinstance(last, Ticket)
        sent.pop()
        admission.release(last, world.error(ErrorClass.RETRY, "timeout"))
        await asyncio.sleep(60)
        assert progress.in_flight == 7
        for ticket in sent:
            assert ticket is not None
            admission.release(ticket, None)
        await asyncio.sleep(60)
        assert all(task.done() for task in entering)

    with asyncio.Runner(loop_factory=world.Loop) as runner:
        runner.run(scene())


def test_a_pause_that_begins_while_a_request_waits_for_the_rate_holds_it_back(world: Any) -> None:
    async def scene() -> None:
        loop = asyncio.get_running_loop()
        progress = Progress()
        admission = Admission(RequestRates(60.0, 600.0, 5), 10, progress, None, Random(0))
        first = await admission.acquire(b"{}")
        assert first is not None
        second = asyncio.create_task(admission.acquire(b"{}"))
        await asyncio.sleep(0.1)
        admission.release(first, world.error(ErrorClass.WAIT, "rate_limit", retry_after_s=30.0))
        await second
        assert 30.1 <= loop.time() <= 34.5

    with asyncio.Runner(loop_factory=world.Loop) as runner:
        runner.run(scene())


def test_places_come_back_one_for_one(world: Any) -> None:
    async def scene() -> None:
        answer: Answer = world.good_answer()
        progress = Progress()
        admission = Admission(RequestRates(None, None, None), 3, progress, None, Random(0))
        tickets = [await admission.acquire(b"{}") for _ in range(3)]
        waiting = [asyncio.create_task(admission.acquire(b"{}")) for _ in range(3)]
        for ticket in tickets:
            assert ticket is not None
            admission.release_answered(ticket, answer, progress.in_flight)
            await asyncio.sleep(0)
            assert progress.in_flight == 3
        await asyncio.wait(waiting)

    with asyncio.Runner(loop_factory=world.Loop) as runner:
        runner.run(scene())


@pytest.mark.parametrize("in_flight", [1, 5])
def test_who_is_cancelled_while_waiting_leaves_no_trace(world: Any, in_flight: int) -> None:
    async def scene() -> None:
        progress = Progress()
        admission = Admission(RequestRates(None, None, None), in_flight, progress, None, Random(0))
        tickets = [await admission.acquire(b"{}") for _ in range(in_flight)]
        task = asyncio.create_task(admission.acquire(b"{}"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        for ticket in tickets:
            assert ticket is not None
            admission.release(ticket, None)
        assert progress.in_flight == 0
        again = [await admission.acquire(b"{}") for _ in range(in_flight)]
        assert len(again) == in_flight

    with asyncio.Runner(loop_factory=world.Loop) as runner:
        runner.run(scene())
