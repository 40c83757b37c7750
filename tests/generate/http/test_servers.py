"""asyncgen.generate.http.servers: which of several servers takes a request, by a clock of the test's own."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from asyncgen.generate.http.completer import NO_LIMITS, Answer, AttemptError, ErrorClass, RateLimits
from asyncgen.generate.http.servers import ServerSpread
from asyncgen.run.records import Usage

Outcome = Answer | AttemptError


def answer(limits: RateLimits = NO_LIMITS) -> Answer:
    return Answer("yes", "stop", "m", Usage(10, 0, 5, 0), limits=limits)


def error(kind: ErrorClass = ErrorClass.RETRY, **fields: object) -> AttemptError:
    return AttemptError(kind=kind, type="connection", message="down", **fields)  # type: ignore[arg-type]


@dataclass
class Fake:
    """A server that gives what `outcome` says, after `seconds` of the test's clock."""

    outcome: Callable[[bytes], Outcome]
    seen: list[bytes] = field(default_factory=list)
    most_in_flight: int = 0
    in_flight: int = 0

    async def complete(self, body: bytes) -> Outcome:
        self.seen.append(body)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0)
        self.in_flight -= 1
        return self.outcome(body)


class World:
    """Servers a, b, ... and a clock that only sleeping moves."""

    def __init__(self, *outcomes: Callable[[bytes], Outcome], share: float = 1.0) -> None:
        self.now_s = 100.0
        self.said: list[str] = []
        self.servers = [Fake(outcome) for outcome in outcomes]
        named = [(name, server) for name, server in zip("abc", self.servers, strict=False)]
        self.spread = ServerSpread(named, clock=lambda: self.now_s, sleep=self.sleep, say=self.said.append, share=share)

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def ask(self, *bodies: bytes) -> list[Outcome]:
        async def scenario() -> list[Outcome]:
            return list(await asyncio.gather(*(self.spread.complete(body) for body in bodies)))

        return asyncio.run(asyncio.wait_for(scenario(), 30))

    @property
    def asked(self) -> list[int]:
        return [len(server.seen) for server in self.servers]


def rows(count: int) -> list[bytes]:
    return [b"row %d" % number for number in range(count)]


def test_requests_go_to_the_server_with_the_fewest_in_flight() -> None:
    world = World(lambda _: answer(), lambda _: answer(), lambda _: answer())
    world.ask(*rows(9))
    assert world.asked == [3, 3, 3]
    assert {server.most_in_flight for server in world.servers} == {3}


def test_what_surely_was_not_done_is_asked_of_another_server_at_once() -> None:
    world = World(lambda _: error(), lambda _: answer())
    assert all(isinstance(each, Answer) for each in world.ask(*rows(4)))
    assert world.now_s == 100.0


def test_what_may_have_been_paid_for_goes_back_and_then_to_another_server() -> None:
    world = World(lambda _: error(maybe_paid=True), lambda _: answer())
    first = world.ask(b"row")[0]
    assert isinstance(first, AttemptError)
    assert world.asked == [1, 0]
    assert isinstance(world.ask(b"row")[0], Answer)
    assert world.asked == [1, 1]


def test_a_server_that_fails_again_and_again_is_left_out_and_comes_back_by_one_request() -> None:
    is_down = True
    world = World(lambda _: error() if is_down else answer(), lambda _: answer())
    for row in rows(10):
        world.ask(row)
    assert world.asked[0] == 3
    assert len(world.said) == 1
    assert "a is not used for now" in world.said[0]
    world.now_s += 5.1
    world.ask(*rows(4))
    assert world.asked[0] == 4, "one request tries it, and it is left out for longer"
    world.now_s += 5.1
    world.ask(*rows(2))
    assert world.asked[0] == 4
    is_down = False
    world.now_s += 60
    world.ask(*rows(6))
    assert world.said[-1] == "a responds again"
    world.ask(*rows(6))
    assert world.asked[0] >= 7


def test_with_all_servers_down_the_last_error_is_the_answer() -> None:
    world = World(lambda _: error(), lambda _: error())
    for row in rows(8):
        (outcome,) = world.ask(row)
        assert isinstance(outcome, AttemptError)
        assert outcome.kind is ErrorClass.RETRY
    assert world.now_s == 100.0, "nobody sleeps over servers that are gone: the pool backs off"


def test_a_server_that_no_row_can_be_asked_of_does_not_stop_the_others() -> None:
    world = World(lambda _: error(ErrorClass.STOP), lambda _: answer())
    assert all(isinstance(each, Answer) for each in world.ask(*rows(3)))
    assert isinstance(
        World(lambda _: error(ErrorClass.STOP), lambda _: error(ErrorClass.STOP)).ask(b"x")[0], AttemptError
    )


def test_a_row_that_is_refused_is_not_asked_of_every_server() -> None:
    world = World(lambda _: error(ErrorClass.ROW), lambda _: error(ErrorClass.ROW))
    world.ask(b"row")
    assert sum(world.asked) == 1


def test_a_server_that_asks_for_less_rests_while_the_others_work() -> None:
    refused = Counter[bytes]()

    def busy(body: bytes) -> Outcome:
        refused[body] += 1
        return error(ErrorClass.WAIT, retry_after_s=30.0) if len(refused) == 1 else answer()

    world = World(busy, lambda _: answer())
    assert all(isinstance(each, Answer) for each in world.ask(b"first"))
    for row in rows(5):
        world.ask(row)
    assert world.asked == [1, 6]
    world.now_s += 31
    world.ask(*rows(2))
    assert world.asked == [2, 7]


def test_when_every_server_asks_for_a_pause_the_shortest_is_passed_on() -> None:
    world = World(
        lambda _: error(ErrorClass.WAIT, retry_after_s=30.0), lambda _: error(ErrorClass.WAIT, retry_after_s=20.0)
    )
    for _ in range(2):
        (outcome,) = world.ask(b"row")
        assert isinstance(outcome, AttemptError)
        assert (outcome.kind, outcome.retry_after_s) == (ErrorClass.WAIT, 20.0)
    assert world.asked == [1, 1]


def test_limits_are_learnt_for_each_server_and_not_told_to_the_pool() -> None:
    slow = RateLimits(requests_per_minute=60)
    world = World(lambda _: answer(slow), lambda _: answer())
    outcomes = [outcome for row in rows(60) for outcome in world.ask(row)]
    assert all(outcome.limits == NO_LIMITS for outcome in outcomes)
    assert world.asked[0] <= 7, "its burst; the rest goes to the other one"
    assert sum(world.asked) == 60


def test_a_limit_that_all_servers_have_is_waited_for() -> None:
    limits = RateLimits(requests_per_minute=60)
    world = World(lambda _: answer(limits), lambda _: answer(limits))
    for row in rows(40):
        assert isinstance(world.ask(row)[0], Answer)
    assert 10 <= world.now_s - 100 <= 20, "40 requests at twice one a second, less the bursts"


def test_one_of_several_processes_keeps_to_its_part_of_each_servers_limit() -> None:
    limits = RateLimits(requests_per_minute=60)
    world = World(lambda _: answer(limits), lambda _: answer(limits), share=0.25)
    for row in rows(40):
        assert isinstance(world.ask(row)[0], Answer)
    assert 60 <= world.now_s - 100 <= 80, "40 requests at half a one a second, less the bursts"


def test_tokens_a_minute_are_held_to_by_what_answers_used() -> None:
    limits = RateLimits(tokens_per_minute=900)  # 15 tokens an answer: one a second
    world = World(lambda _: answer(limits))
    for row in rows(20):
        world.ask(row)
    assert world.now_s > 105
