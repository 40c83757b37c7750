"""A run whose requests are sent by workers elsewhere, on a clock of its own: deaths, rates, money, signals.

The workers are real ones; what carries the messages is made up, and so is the server.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import structs

from asyncgen.errors import AuthError, DiskError
from asyncgen.generate.distributed.dispatch import LEASE_S, Dispatcher
from asyncgen.generate.distributed.leases import WorkerLostError
from asyncgen.generate.distributed.messages import SentRow, WorkOrder, WorkSpec, decode_report, encode
from asyncgen.generate.distributed.row_worker import RowWorker
from asyncgen.generate.engine import GenerateOptions
from asyncgen.generate.http.completer import AttemptError, ErrorClass, RateLimits, StopReason
from asyncgen.generate.pool.budget import Budget
from asyncgen.generate.pool.pool import USELESS, Outcome
from asyncgen.generate.pool.progress import Progress
from asyncgen.job.model import Checks, Limits
from asyncgen.providers.price import TokenRates
from asyncgen.providers.profiles import PROFILES, ProviderChoice
from asyncgen.run.records import Record, Usage, decode_record, encode_line

CONCURRENCY = 8
_MESSAGE_S = 0.001
_RESTART_S = 1.0


@dataclass
class Port:
    """A worker in this process, which can be killed, and be out of reach."""

    opener: Callable[..., Any]
    worker: RowWorker | None = None
    opened: int = 0
    calls: int = 0
    back_at: float = 0.0
    cut_off_until: float = 0.0
    message_s: float = _MESSAGE_S
    messages: list[bytes] = field(default_factory=list)

    async def _reach(self) -> RowWorker:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self.message_s)
        if loop.time() < self.back_at:
            raise WorkerLostError("dead")
        await asyncio.sleep(max(self.cut_off_until - loop.time(), 0.0))  # a message on a network that is gone
        self.worker = self.worker or RowWorker(self.opener, "here")
        return self.worker

    async def _come_back(self, worker: RowWorker, reply: Any) -> Any:
        await asyncio.sleep(self.message_s)
        if worker is not self.worker:
            raise WorkerLostError("died meanwhile")
        return reply

    async def open(self, spec: WorkSpec) -> bytes:
        worker = await self._reach()
        self.opened += 1
        sent = pickle.dumps(spec)
        self.messages.append(sent)
        reply: bytes = await self._come_back(worker, await worker.open(pickle.loads(sent)))
        return reply

    async def exchange(self, order: bytes) -> bytes:
        worker = await self._reach()
        self.calls += 1
        self.messages.append(order)
        work = asyncio.ensure_future(worker.exchange(order))
        while not work.done():
            await asyncio.wait([work], timeout=0.05)
            if worker is not self.worker:
                work.cancel()
                raise WorkerLostError("died meanwhile")
        reply: bytes = await self._come_back(worker, work.result())
        self.messages.append(reply)
        return reply

    async def drain(self, drops: bool) -> None:
        await (await self._reach()).drain(drops)

    def kill(self) -> None:
        worker, self.worker = self.worker, None
        self.back_at = asyncio.get_running_loop().time() + _RESTART_S
        if worker is not None and worker._closing is not None:
            worker._closing.cancel()


@dataclass
class Played:
    """A run, from what it was given to what is to be looked at."""

    completer: Any
    journal: Any
    progress: Progress
    ports: list[Port]
    said: list[str]
    budget: Budget | None
    outcome: Outcome | None = None
    ended: float = 0.0
    unanswered: int = 0
    tasks_left: int = 0

    @property
    def keys(self) -> list[str]:
        return [record.key for record in self.journal.records.values()]

    @property
    def sent(self) -> int:
        return len(self.completer.calls)

    def starts(self) -> list[float]:
        return sorted(call.began for call in self.completer.calls)


@pytest.fixture
def play(world: Any) -> Callable[..., Played]:
    """Run the dispatcher on a virtual clock; `then` is called with the ports a moment after the run begins."""

    class Journal(world.Journal):  # type: ignore[misc]  # it comes as a fixture
        def settle_lines(self, lines: bytes, keys: Sequence[str], usages: Sequence[Usage]) -> None:
            records = [decode_record(line) for line in lines.splitlines(keepends=True)]
            assert [record.key for record in records] == list(keys)
            assert b"".join(map(encode_line, records)) == lines
            self.settle(records)

        def note_usage(self, usage: Usage) -> None:
            self.usage += usage

    def run(
        server: Callable[..., Any],
        *,
        rows: int = 200,
        workers: int = 2,
        limits: Limits | None = None,
        budget: Budget | None = None,
        journal: Any = None,
        then: Callable[[Played], Any] | None = None,
        stop_at: float | None = None,
        abandon_at: float | None = None,
        concurrency: int = CONCURRENCY,
        opener: Callable[..., Any] | None = None,
        choice: ProviderChoice | None = None,
        limit: int | None = None,
        checks: Checks | None = None,
        share: float = 1.0,
        message_s: float = _MESSAGE_S,
    ) -> Played:
        grid, completer, limits = world.make_grid(rows), world.Completer(server), limits or Limits()
        journal = journal or Journal()
        journal.taken.clear()
        said: list[str] = []

        @asynccontextmanager
        async def open_fake(spec: WorkSpec, say: Any) -> Any:
            yield completer

        ports = [Port(opener or open_fake, message_s=message_s) for _ in range(workers)]
        progress = Progress(requests=rows, already_done=len(journal.earlier))
        played = Played(completer, journal, progress, ports, said, budget)
        spec = WorkSpec(
            form=replace(grid.form, job=structs.replace(grid.form.job, checks=checks or Checks())),
            choice=choice or ProviderChoice(PROFILES["custom"], "a test"),
            addresses=("http://127.0.0.1:9/v1",),
            key_file=None,
            concurrency=concurrency,
            part=share / workers,
            requests_per_minute=limits.requests_per_minute,
            tokens_per_minute=limits.tokens_per_minute,
            has_budget=budget is not None,
            rates=budget.rates if budget else None,
        )
        session: Any = SimpleNamespace(
            opened=SimpleNamespace(grid=grid), journal=journal, progress=progress, limits=limits, budget=budget,
            options=GenerateOptions(limit=limit), endpoint=None, share=share, stops_when_useless=True,
            observer=SimpleNamespace(say=said.append, agrees_to_all=False),
        )  # fmt: skip
        loop = world.Loop()

        async def tell() -> None:
            stop, abandon = asyncio.Event(), asyncio.Event()
            if stop_at is not None:
                loop.call_at(stop_at, stop.set)
            if abandon_at is not None:
                loop.call_at(abandon_at, abandon.set)
            dispatcher = Dispatcher(session, [(port, spec) for port in ports], clock=loop.time)
            story = asyncio.create_task(then(played)) if then else None
            played.outcome = await dispatcher.run(stop, abandon)
            played.ended = loop.time()
            if story is not None:
                story.cancel()
                await asyncio.gather(story, return_exceptions=True)
            await asyncio.sleep(2)
            played.tasks_left = len(asyncio.all_tasks()) - 1

        try:
            loop.run_until_complete(tell())
        finally:
            loop.close()
        return played

    run.Journal = Journal  # type: ignore[attr-defined]
    return run


def answers(world: Any, latency_s: float = 0.5, **fields: Any) -> Callable[..., Any]:
    return lambda _now, _body, _times: (latency_s, world.good_answer(**fields))


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_every_row_is_asked_for_and_written_once(play: Any, world: Any, workers: int) -> None:
    played = play(answers(world), workers=workers)
    assert played.outcome == Outcome(None, None)
    assert len(set(played.keys)) == len(played.keys) == played.sent == 200
    assert (played.progress.settled, played.progress.left, played.progress.in_flight) == (200, 0, 0)
    assert played.progress.usable == 200
    assert played.journal.usage == Usage(prompt_tokens=4000, completion_tokens=1000)
    assert played.completer.most_in_flight <= workers * CONCURRENCY
    assert played.tasks_left == 0


async def killed_in_turn(played: Played) -> None:
    for port in played.ports:
        await asyncio.sleep(2.2)
        port.kill()


def test_a_killed_worker_costs_at_most_what_it_had_in_flight(play: Any, world: Any) -> None:
    played = play(answers(world, 1.0), then=killed_in_turn)
    assert played.outcome == Outcome(None, None)
    assert len(set(played.keys)) == len(played.keys) == 200
    assert 200 < played.sent <= 200 + 2 * CONCURRENCY
    assert played.progress.maybe_paid_twice <= 2 * CONCURRENCY
    assert sum(line.startswith("lost ") for line in played.said) == 2
    assert [port.opened for port in played.ports] == [2, 2]
    assert played.progress.in_flight == 0


def test_answers_on_a_slow_way_home_count_as_in_flight(play: Any, world: Any) -> None:
    async def kill(played: Played) -> None:
        await asyncio.sleep(3.0)  # the first answers are there since 2.5, and the driver does not know of them
        played.ports[0].kill()

    played = play(answers(world, 0.1), then=kill, message_s=0.8)
    assert len(set(played.keys)) == len(played.keys) == 200
    assert played.ports[0].opened == 2
    assert 200 < played.sent <= 200 + CONCURRENCY


def test_an_answer_of_a_worker_that_was_out_of_reach_is_accepted_once(play: Any, world: Any) -> None:
    async def cut_off(played: Played) -> None:
        await asyncio.sleep(2.05)
        played.ports[0].cut_off_until = asyncio.get_running_loop().time() + 3 * LEASE_S

    played = play(answers(world, 1.0), rows=400, then=cut_off)
    assert played.outcome == Outcome(None, None)
    assert len(set(played.keys)) == len(played.keys) == 400
    assert played.ports[0].opened == 1, "it goes on as it was"
    assert 400 <= played.sent <= 400 + 3 * CONCURRENCY
    assert played.journal.usage.prompt_tokens == 20 * played.sent, "what was paid twice is counted twice"


def test_a_driver_that_was_held_up_itself_takes_no_worker_for_lost(play: Any, world: Any) -> None:
    class HeldUp(play.Journal):  # type: ignore[misc]  # it comes as a fixture
        def settle(self, records: Sequence[Record]) -> None:
            super().settle(records)
            if len(self.records) > 50 and not self.has_waited:
                self.has_waited = True
                asyncio.get_running_loop()._jumping.now += 3 * LEASE_S  # type: ignore[attr-defined]

        has_waited = False

    journal = HeldUp()
    played = play(answers(world, 1.0), journal=journal)
    assert journal.has_waited
    assert played.outcome == Outcome(None, None)
    assert (played.sent, len(played.keys), played.said) == (200, 200, [])


def test_a_worker_that_hears_nothing_sends_nothing_when_its_lease_has_ended(world: Any) -> None:
    grid, completer = world.make_grid(10), world.Completer(answers(world, 0.1))

    @asynccontextmanager
    async def opener(spec: WorkSpec, say: Any) -> Any:
        yield completer

    spec = WorkSpec(
        form=grid.form, choice=ProviderChoice(PROFILES["custom"], "a test"), addresses=(), key_file=None,
        concurrency=10, requests_per_minute=60.0,
    )  # fmt: skip
    rows = tuple(SentRow(request.index, request.repeat, request.values) for request in grid.requests())
    loop = world.Loop()

    async def tell() -> None:
        worker = RowWorker(opener)
        session = decode_report(await worker.open(spec)).session
        one = WorkOrder(
            session=session, number=1, written=0, share=1.0, usd=None, until=3.5, requests_per_minute=60.0, rows=rows
        )
        report = decode_report(await worker.exchange(encode(one)))
        await asyncio.sleep(20)
        assert max(call.began for call in completer.calls) < 3.5
        assert len(completer.calls) >= 2
        number = 1
        while len(completer.calls) < 10:
            number += 1
            again = structs.replace(one, number=number, written=report.number, until=loop.time() + 60, rows=())
            report = decode_report(await worker.exchange(encode(again)))
        assert loop.time() < 35, "it goes on at its rate"
        await worker.drain(drops=True)
        await asyncio.sleep(2)

    loop.run_until_complete(tell())
    loop.close()


def passes(starts: Sequence[float], per_second: float) -> list[float]:
    """When a server would refuse that refills a bucket of a second's requests all the time."""
    level, at, refused = per_second, 0.0, []
    for start in starts:
        level, at = min(level + (start - at) * per_second, per_second), start
        level -= 1
        if level < -1e-6:
            refused.append(start)
            level += 1
    return refused


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("per_second", [1.0, 5.0, 40.0])
def test_all_workers_together_keep_the_rate_and_use_it_even_through_a_death(
    play: Any, world: Any, workers: int, per_second: float
) -> None:
    rows = int(per_second * 40)
    played = play(
        answers(world, 0.3), rows=rows, workers=workers, then=killed_in_turn, concurrency=32,
        limits=Limits(requests_per_minute=per_second * 60),
    )  # fmt: skip
    assert len(set(played.keys)) == rows
    assert passes(played.starts(), per_second) == []
    # While the only worker that has a share is dead, nothing can be sent: its lease, and its new start.
    assert played.ended <= 40 * 1.15 + workers * (LEASE_S + 2 * _RESTART_S)


def test_a_rate_that_the_server_tells_is_the_rate_of_all(play: Any, world: Any) -> None:
    limits = RateLimits(requests_per_minute=600)
    played = play(answers(world, 0.3, limits=limits), rows=400, workers=4, concurrency=32)
    assert played.outcome == Outcome(None, None)
    assert passes([start for start in played.starts() if start > 3], 10.0) == []
    assert played.ended <= 44


def test_a_shard_keeps_to_its_part_of_a_rate_that_the_server_tells(play: Any, world: Any) -> None:
    limits = RateLimits(requests_per_minute=600)
    played = play(answers(world, 0.3, limits=limits), rows=200, workers=2, concurrency=32, share=0.5)
    assert passes([start for start in played.starts() if start > 3], 5.0) == []
    assert 36 <= played.ended <= 44


def test_tokens_are_shared_too(play: Any, world: Any) -> None:
    played = play(
        answers(world, 0.3, prompt=80, completion=20), rows=300, workers=3, concurrency=32,
        limits=Limits(tokens_per_minute=60_000),
    )  # fmt: skip
    used = [100 * sum(1 for start in played.starts() if at <= start < at + 10) for at in range(5, 20)]
    assert max(used) <= 10_000 * 1.2
    assert len(played.keys) == 300


def test_a_server_that_asks_one_worker_to_wait_is_left_alone_by_all(play: Any, world: Any) -> None:
    def server(now: float, body: bytes, times: int) -> tuple[float, Any]:
        if 4 <= now < 4.3:
            return 0.05, AttemptError(kind=ErrorClass.WAIT, type="rate_limit", status=429, retry_after_s=20.0)
        return 0.5, world.good_answer()

    played = play(server, rows=600, workers=3)
    assert len(played.keys) == 600
    between = [start for start in played.starts() if 5.5 <= start < 23]
    assert between == []


def test_the_budget_is_that_of_all_workers_and_never_passed(play: Any, world: Any) -> None:
    rates = TokenRates(input=2500.0, cached=2500.0, output=2500.0)  # 0.1 USD an answer
    budget = Budget(rates, 30.0, 0.0)
    played = play(
        answers(world, 2.0, prompt=20, completion=20), rows=500, workers=3, budget=budget, then=killed_in_turn
    )
    assert [port.opened for port in played.ports] == [2, 2, 2]
    assert played.outcome is not None
    assert played.outcome.stopped is StopReason.BUDGET
    assert played.outcome.error is not None
    assert played.outcome.error.code == "budget"
    assert len(played.keys) < played.sent <= 300, "what was paid for and lost counts too"
    assert len(played.keys) * 0.1 + budget.unanswered_usd <= 30.0 + 1e-9
    assert played.sent >= 280, "and what there is, is used"


def test_a_budget_without_a_death_is_used_up(play: Any, world: Any) -> None:
    budget = Budget(TokenRates(input=2500.0, cached=2500.0, output=2500.0), 5.0, 0.0)
    played = play(answers(world, 0.3, prompt=20, completion=20), rows=200, workers=3, budget=budget)
    assert 48 <= len(played.keys) <= 50
    assert budget.unanswered_usd == pytest.approx(0.0)


def test_a_signal_finishes_what_is_in_flight_and_sends_nothing_more(play: Any, world: Any) -> None:
    played = play(answers(world, 2.0), stop_at=5.0)
    assert played.outcome == Outcome(StopReason.INTERRUPTED, None)
    assert max(played.starts()) <= 5.1
    assert len(played.keys) == played.sent < 200
    again = play(answers(world, 2.0), journal=played.journal)
    assert again.outcome == Outcome(None, None)
    assert played.sent + again.sent == 200


def test_a_second_signal_drops_what_is_in_flight_and_notes_it(play: Any, world: Any) -> None:
    played = play(answers(world, 30.0), stop_at=5.0, abandon_at=6.0)
    assert played.outcome is not None
    assert played.outcome.stopped is StopReason.INTERRUPTED
    assert played.outcome.abandoned == played.sent == len(played.journal.tried) > 0
    assert all(tried.maybe_paid == 1 for tried in played.journal.tried.values())
    assert played.ended < 8


def test_a_drain_does_not_wait_for_a_dead_worker(play: Any, world: Any) -> None:
    async def kill(played: Played) -> None:
        await asyncio.sleep(4.9)
        played.ports[0].kill()
        played.ports[0].back_at += 1000

    played = play(answers(world, 1.0), stop_at=5.0, then=kill)
    assert played.outcome is not None
    assert played.outcome.stopped is StopReason.INTERRUPTED
    assert played.ended < 5 + 2 * LEASE_S


def test_a_full_disk_stops_all_workers_and_counts_what_is_lost(play: Any, world: Any) -> None:
    journal = play.Journal()
    journal.writes_left = 50
    played = play(answers(world), journal=journal)
    assert isinstance(played.outcome and played.outcome.error, DiskError)
    assert len(played.keys) == 50
    assert played.sent < 200
    assert f"{played.sent - 50}" in str(played.outcome.error.cause) + played.outcome.error.what


def test_a_refused_key_stops_the_run(play: Any, world: Any) -> None:
    error = AttemptError(kind=ErrorClass.STOP, type="auth", status=401, stop=StopReason.AUTH, message="no such key")
    played = play(lambda _now, _body, _times: (0.1, error))
    assert played.outcome is not None
    assert played.outcome.stopped is StopReason.AUTH
    assert isinstance(played.outcome.error, AuthError)
    assert played.keys == []


def test_rows_that_fail_are_failures_and_transient_errors_are_tried_again(play: Any, world: Any) -> None:
    def server(_now: float, body: bytes, times: int) -> tuple[float, Any]:
        if b"city 7 " in body:
            return 0.1, AttemptError(kind=ErrorClass.ROW, type="bad_request", status=400, message="no")
        if b"city 1" in body and times == 1:
            return 0.1, AttemptError(kind=ErrorClass.RETRY, type="server", status=500, message="oops")
        return 0.1, world.good_answer()

    played = play(server)
    assert (len(played.keys), len(played.journal.failures), played.progress.failed) == (199, 1, 1)
    assert played.progress.failures == {"no": 1}
    assert played.progress.retries == 111


def test_a_worker_whose_network_fails_is_left_out_and_its_rows_go_to_another(play: Any, world: Any) -> None:
    good = world.Completer(answers(world, 0.2))
    bad = world.Completer(
        lambda _now, _body, _times: (0.01, AttemptError(kind=ErrorClass.RETRY, type="connection", message="no route"))
    )
    turns = iter([bad, good])

    @asynccontextmanager
    async def opener(spec: WorkSpec, say: Any) -> Any:
        yield next(turns)

    played = play(answers(world), opener=opener, rows=2000)
    assert played.outcome == Outcome(None, None)
    assert len(set(played.keys)) == 2000
    assert any("is not used: no route" in line for line in played.said)


def test_settled_rows_are_passed_over_and_twins_are_asked_for_once(play: Any, world: Any) -> None:
    first = play(answers(world), limit=60)
    assert first.outcome == Outcome(StopReason.LIMIT, None)
    assert len(first.keys) == first.sent == 60
    again = play(answers(world), journal=first.journal)
    assert (again.sent, len(again.keys)) == (140, 200)


def test_no_key_is_in_what_is_sent_to_a_worker(play: Any, world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pickle.loads(pickle.dumps(dict(PROFILES))) == dict(PROFILES), "each of them can be sent"
    canary = "sk-canary-0123456789abcdef"
    monkeypatch.setenv("OPENAI_API_KEY", canary)
    played = play(answers(world), choice=ProviderChoice(PROFILES["openai"], "a test"))
    assert played.ports[0].messages
    for port in played.ports:
        assert not any(canary.encode() in message for message in port.messages)


def test_a_worker_without_the_key_says_on_which_machine_it_is_missing(
    play: Any, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asyncgen.generate.distributed.row_worker import completer_here  # noqa: PLC0415 - the real one

    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    @asynccontextmanager
    async def opener(spec: WorkSpec, say: Any) -> Any:
        elsewhere = WorkSpec(
            form=spec.form, choice=spec.choice, addresses=("https://api.openai.com/v1",), key_file=None, concurrency=1
        )
        async with completer_here(elsewhere, say) as completer:
            yield completer

    played = play(answers(world), opener=opener, choice=ProviderChoice(PROFILES["openai"], "a test"))
    assert played.outcome is not None
    assert isinstance(played.outcome.error, AuthError)
    assert "on here: there is no API key for openai: OPENAI_API_KEY is not set" in played.outcome.error.what


def test_answers_that_fail_the_jobs_checks_say_so_and_stop_a_useless_run(play: Any, world: Any) -> None:
    played = play(answers(world), rows=400, checks=Checks(max_words=1))
    assert played.outcome is not None
    assert played.outcome.error is not None
    assert played.outcome.error.code == "useless"
    assert USELESS <= len(played.keys) == played.sent < 200
    assert {tuple(record.check_failures) for record in played.journal.records.values()} == {("max_words",)}
    assert played.progress.failed_checks == {"max_words": played.sent}
