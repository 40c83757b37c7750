"""What the tests of this package share: made-up rows, and surroundings of the pool with a clock of their own.

There time jumps to the next timer, so that hours take milliseconds, and nothing waits. A loop with no timer and nothing
ready is stuck, and says so.
"""

from __future__ import annotations

import asyncio
import selectors
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from random import Random
from typing import Any

import msgspec
import pytest

from asyncgen.errors import DiskError
from asyncgen.generate.http.completer import NO_LIMITS, Answer, AttemptError, ErrorClass, RateLimits, StopReason
from asyncgen.generate.pool.pool import Outcome, generate
from asyncgen.generate.pool.progress import Progress
from asyncgen.generate.pool.settle import given_up
from asyncgen.job.answers import AnswerChecks
from asyncgen.job.combinations import Combinations
from asyncgen.job.model import Checks, Generate, Job, Limits, Prompt
from asyncgen.job.requests import RequestGrid
from asyncgen.run.records import Failure, FailureError, Record, Usage
from asyncgen.run.state import RowAttempts

_TURN_S = 1e-6  # a turn of a real loop takes time too; without it, rounding may leave a timer due now for ever

Reply = Answer | AttemptError | Exception
# What the server does with a request: (seconds, reply); given the time, the body and how often it was asked for.
Server = Callable[[float, bytes, int], tuple[float, Reply]]


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("stuck: nothing is ready, and no timer is set")
        self.now += max(timeout, _TURN_S)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is made up."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    @property
    def pending_timers(self) -> int:
        return sum(not timer.cancelled() for timer in self._scheduled)  # type: ignore[attr-defined]


@dataclass
class Call:
    """One attempt, as the server saw it."""

    body: bytes
    began: float
    ended: float | None = None
    outcome: Reply | None = None


class FakeCompleter:
    """Answers as the server of the story does, and keeps the whole of it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._asked: Counter[bytes] = Counter()
        self.calls: list[Call] = []
        self.in_flight = 0
        self.most_in_flight = 0

    async def complete(self, body: bytes) -> Answer | AttemptError:
        loop = asyncio.get_running_loop()
        call = Call(body, loop.time())
        self.calls.append(call)
        self._asked[body] += 1
        seconds, reply = self._server(call.began, body, self._asked[body])
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.in_flight -= 1
            call.ended = loop.time()
        call.outcome = reply
        if isinstance(reply, Exception):
            raise reply
        return reply


class FakeJournal:
    """Lines in lists; refuses what a real journal refuses."""

    def __init__(self, *, earlier: Iterable[bytes] = (), failed: dict[bytes, tuple[int, int]] | None = None) -> None:
        self.records: dict[bytes, Record] = {}
        self.failures: dict[bytes, Failure] = {}
        self.usage = Usage()
        self.tried: dict[bytes, RowAttempts] = {}
        self.earlier = set(earlier)
        self.failed_before = failed or {}
        self.writes_left: float = float("inf")
        self.taken: set[bytes] = set()
        self.together: list[int] = []  # records written by each call

    def is_settled(self, key: bytes) -> bool:
        return key in self.earlier or key in self.records or key in self.failures

    def claim(self, key: bytes) -> bool:
        if key in self.earlier or key in self.records or key in self.taken:
            return False
        self.taken.add(key)
        return True

    def is_left(self, key: bytes) -> bool:
        return key in self.failures

    @property
    def leaves_any(self) -> bool:
        return bool(self.failures)

    @property
    def tried_any(self) -> bool:
        return bool(self.tried or self.failed_before)

    def tried_before(self, key: bytes) -> RowAttempts:
        return self.tried.get(key) or given_up(*self.failed_before.get(key, (0, 0)))

    def note_attempts(self, key: bytes, tried: RowAttempts, usage: Usage) -> None:
        self.tried[key] = tried
        self.usage += usage

    def settle(self, records: Sequence[Record]) -> None:
        self._write(len(records))
        self.together.append(len(records))
        for record in records:
            key = bytes.fromhex(record.key)
            assert key in self.taken, f"row {record.index} was not taken"
            assert not self.is_settled(key), f"row {record.index} ended twice"
            self.records[key] = record
            self.usage += record.usage

    def fail(self, failure: Failure, usage: Usage) -> None:
        key = bytes.fromhex(failure.key)
        assert not self.is_settled(key), f"row {failure.index} ended twice"
        self._write(1)
        self.failures[key] = failure
        self.usage += usage

    def _write(self, lines: int) -> None:
        if self.writes_left < lines:
            raise DiskError("records.jsonl could not be written", cause="no space left on device")
        self.writes_left -= lines


@dataclass
class Story:
    """One run, from what it is given to what is to be looked at."""

    grid: RequestGrid
    completer: FakeCompleter
    journal: FakeJournal
    progress: Progress
    limits: Limits
    outcome: Outcome | None = None
    ended: float = 0.0
    tasks_left: int = 0
    timers_left: int = 0
    stopped_at: float | None = None
    abandoned_at: float | None = None
    error: BaseException | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def calls(self) -> list[Call]:
        return self.completer.calls

    @property
    def reason(self) -> StopReason | None:
        assert self.outcome is not None
        return self.outcome.stopped

    def starts(self) -> list[float]:
        return [call.began for call in self.calls]


def make_grid(rows: int, *, twins: int = 0, words: int = 3, max_tokens: int | None = 20) -> RequestGrid:
    """`rows` different requests, the first of them again `twins` times at the end."""
    names = [f"city {number} " + "word " * words for number in range(rows)]
    parameters = {"max_completion_tokens": max_tokens} if max_tokens else {}
    job = Job(name="story", prompt=Prompt(user="Write about {city}."), generate=Generate(parameters=parameters))
    return RequestGrid(job, Combinations({"city": [*names, *names[:twins]]}), "model-1")


def good_answer(
    text: str = "An answer.", *, prompt: int = 20, completion: int = 5, limits: RateLimits = NO_LIMITS
) -> Answer:
    usage = Usage(prompt_tokens=prompt, completion_tokens=completion)
    return Answer(text, "stop", "model-1", usage, limits=limits)


def error(kind: ErrorClass, name: str, **fields: Any) -> AttemptError:
    return AttemptError(kind=kind, type=name, **fields)


def play(
    server: Server,
    *,
    rows: int = 20,
    grid: RequestGrid | None = None,
    journal: FakeJournal | None = None,
    limits: Limits | None = None,
    checks: Checks | None = None,
    stop_at: float | None = None,
    abandon_at: float | None = None,
    limit: int | None = None,
    budget: Any = None,
    stops_when_useless: bool = False,
    seed: int = 0,
    while_running: Callable[[], Coroutine[Any, Any, None]] | None = None,
) -> Story:
    """Run `generate` on a virtual loop; `stop_at` and `abandon_at` are seconds of its clock."""
    grid = grid or make_grid(rows)
    journal = journal or FakeJournal()
    journal.taken.clear()  # of an earlier invocation
    progress = Progress(requests=grid.count, already_done=len(journal.earlier))
    story = Story(grid, FakeCompleter(server), journal, progress, limits or Limits())
    loop = VirtualLoop()

    async def tell() -> None:
        stop, abandon = asyncio.Event(), asyncio.Event()

        def on_stop() -> None:
            story.stopped_at = loop.time()
            stop.set()

        def on_abandon() -> None:
            story.abandoned_at = loop.time()
            abandon.set()

        timers = [loop.call_at(stop_at, on_stop)] if stop_at is not None else []
        timers += [loop.call_at(abandon_at, on_abandon)] if abandon_at is not None else []
        try:
            story.outcome = await generate(
                grid, story.journal, story.completer, limits=story.limits, checks=AnswerChecks(checks or Checks()),
                progress=progress, stop=stop, abandon=abandon, limit=limit, budget=budget,
                stops_when_useless=stops_when_useless, rng=Random(seed),
            )  # fmt: skip
        except BaseExceptionGroup:
            raise
        except (ArithmeticError, AssertionError) as failure:
            story.error = failure
        for timer in timers:
            timer.cancel()
        story.ended = loop.time()
        story.tasks_left = len(asyncio.all_tasks()) - 1
        story.timers_left = loop.pending_timers

    try:
        loop.run_until_complete(tell())
    finally:
        loop.close()
    return story


class World:
    """What the tests of the pool use, in one fixture."""

    play = staticmethod(play)
    make_grid = staticmethod(make_grid)
    good_answer = staticmethod(good_answer)
    error = staticmethod(error)
    Journal = FakeJournal
    Completer = FakeCompleter
    Loop = VirtualLoop


@pytest.fixture(scope="session")
def world() -> type[World]:
    """Stories on a virtual clock."""
    return World


def key(number: int) -> bytes:
    return blake2b(number.to_bytes(8, "big"), digest_size=16).digest()


@pytest.fixture(scope="session")
def key_of_row() -> Callable[[int], bytes]:
    """The key of row `number` of a made-up grid."""
    return key


@pytest.fixture(scope="session")
def make_record() -> Callable[..., Record]:
    """An answer for row `number`; keyword arguments replace fields."""

    def make(number: int, **fields: Any) -> Record:
        record = Record(
            key=key(number).hex(),
            index=number,
            repeat=0,
            variables={"city": f"city {number}"},
            prompt=f"city {number}",
            completion="An answer.",
            model="model-1",
            finish_reason="stop",
            usage=Usage(prompt_tokens=10, completion_tokens=3),
            attempts=1,
            check_failures=[],
            latency_s=0.5,
            created=1_764_000_000,
        )
        return msgspec.structs.replace(record, **fields)

    return make


@pytest.fixture(scope="session")
def make_failure() -> Callable[..., Failure]:
    """The giving up of row `number`; keyword arguments replace fields."""

    def make(number: int, **fields: Any) -> Failure:
        failure = Failure(
            key=key(number).hex(),
            index=number,
            repeat=0,
            variables={"city": f"city {number}"},
            error=FailureError(type="bad_request", status=400, message="no"),
            attempts=1,
            maybe_paid=0,
            created=1_764_000_000,
        )
        return msgspec.structs.replace(failure, **fields)

    return make
