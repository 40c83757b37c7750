"""asyncgen.finetune.follow: every event once, oldest first, whatever breaks."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncgen.errors import AsyncgenError, AuthError
from asyncgen.finetune.api import AbsentError, Event, EventPage, OutageError, TuningJob
from asyncgen.finetune.follow import EventLog, FollowPace, MemoryLog, follow, open_run_log, past_events
from asyncgen.finetune.target import with_intent
from asyncgen.run.jsonl import BadLineError
from asyncgen.run.state import FinetuningState

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncgen.run.directory import RunWriter

JOB = "/v1/fine_tuning/jobs/ftjob-1$"
EVENTS = "/v1/fine_tuning/jobs/ftjob-1/events$"
PATH = "/fine_tuning/jobs/ftjob-1"


class Listener:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.states: list[str] = []
        self.misses: list[AsyncgenError] = []

    def on_event(self, event: Event) -> None:
        self.messages.append(event.message)

    def on_job(self, job: TuningJob) -> None:
        self.states.append(job.status)

    def on_outage(self, error: AsyncgenError) -> None:
        self.misses.append(error)


def quick(waits_s: list[float] | None = None) -> FollowPace:
    async def sleep(seconds: float) -> None:
        if waits_s is not None:
            waits_s.append(seconds)
        await asyncio.sleep(0)

    return FollowPace(sleep=sleep, rng=Random(1))


def attend(
    open_provider: Any,
    log: EventLog | None = None,
    *,
    name: str = "openai",
    waits_s: list[float] | None = None,
    job_id: str = "ftjob-1",
) -> tuple[TuningJob | None, Listener]:
    listener = Listener()

    async def scenario() -> TuningJob | None:
        async with open_provider(name, attempts=1) as tuner:
            stop = asyncio.Event()
            job: TuningJob | None = await follow(
                tuner.jobs, job_id, log or MemoryLog(), listener, stop=stop, pace=quick(waits_s)
            )
            return job

    return asyncio.run(scenario()), listener


def telling(provider: Any, *messages: str, status: str = "running") -> Callable[[dict[str, Any], Any], None]:
    """A step of the script: the job tells these, and has this status."""

    def step(job: dict[str, Any], _events: Any) -> None:
        job["status"] = status
        for message in messages:
            provider.tell(job["id"], message)
        if status in ("succeeded", "failed"):
            provider.finish(job, status)

    return step


def test_events_are_told_oldest_first_and_once_though_pages_come_newest_first(
    provider: Any, open_provider: Any
) -> None:
    provider.page_size = 3
    provider.add_job()
    first = [f"a{number}" for number in range(10)]
    provider.script = [
        telling(provider, *first),
        telling(provider, "b0", "b1"),
        telling(provider),
        telling(provider, "c0", "c1", "c2", "c3", status="succeeded"),
    ]
    job, listener = attend(open_provider)
    assert listener.messages == [*first, "b0", "b1", "c0", "c1", "c2", "c3"]
    assert listener.states == ["running", "running", "running", "succeeded"]
    assert job is not None
    assert (job.outcome, job.tuned_model) == ("succeeded", "ft:gpt-4.1-mini-2025-04-14:org:ftjob-1")


def test_only_the_pages_with_news_are_asked_for(provider: Any, open_provider: Any) -> None:
    provider.page_size = 3
    provider.add_job()
    provider.script = [
        telling(provider, *(f"a{number}" for number in range(9))),
        telling(provider, "b0"),
        telling(provider, "b1", status="succeeded"),
    ]
    attend(open_provider)
    assert provider.count("GET", f"{PATH}/events") == 3 + 1 + 1


def test_a_job_that_has_ended_is_told_whole(provider: Any, open_provider: Any) -> None:
    job = provider.add_job()
    provider.tell("ftjob-1", "one")
    provider.tell("ftjob-1", "two")
    provider.finish(job, "failed", error={"code": "invalid_training_file", "message": "bad", "param": "training_file"})
    found, listener = attend(open_provider)
    assert listener.messages == ["one", "two"]
    assert found is not None
    assert found.outcome == "failed"
    assert found.error is not None
    assert (found.error.code, found.error.message, found.error.param) == (
        "invalid_training_file",
        "bad",
        "training_file",
    )


def test_a_server_that_lists_the_oldest_first_is_understood(provider: Any, open_provider: Any) -> None:
    job = provider.add_job()
    for number in range(7):
        provider.tell("ftjob-1", f"m{number}", at=100 + number)
    provider.events["ftjob-1"].reverse()
    provider.page_size = 3
    provider.finish(job)
    _, listener = attend(open_provider)
    assert listener.messages == [f"m{number}" for number in range(7)]


@pytest.mark.parametrize("how", ["reset", "reset-after", "html", "half", 500, 502, 503, 429, 408])
@pytest.mark.parametrize("path", [JOB, EVENTS])
def test_failures_on_the_way_are_waited_out_and_nothing_is_told_twice(
    path: str, how: int | str, provider: Any, open_provider: Any
) -> None:
    provider.add_job()
    provider.page_size = 2
    provider.script = [
        telling(provider, "a", "b", "c"),
        telling(provider, "d"),
        telling(provider, "e", "f", "g", status="succeeded"),
    ]
    provider.fail("GET", path, how, times=7, skip=1)
    job, listener = attend(open_provider)
    assert listener.messages == list("abcdefg")
    assert job is not None
    assert job.outcome == "succeeded"
    # aiohttp itself asks a second time over a fresh connection when a kept one turns out to be closed.
    assert 3 <= len(listener.misses) <= 7


def test_a_long_outage_is_asked_about_more_and_more_seldom_but_always_again(provider: Any, open_provider: Any) -> None:
    provider.add_job()
    provider.script = [telling(provider, "a"), telling(provider, "b", status="succeeded")]
    provider.fail("GET", JOB, 500, times=40, skip=1)
    waits_s: list[float] = []
    _, listener = attend(open_provider, waits_s=waits_s)
    assert listener.messages == ["a", "b"]
    outage = waits_s[1:41]
    assert max(outage[:3]) < 12
    assert max(outage) <= 61


def test_waits_grow_while_there_is_no_news_and_shrink_with_it(provider: Any, open_provider: Any) -> None:
    provider.add_job()
    quiet = [telling(provider)] * 12
    provider.script = [telling(provider, "a"), *quiet, telling(provider, "b"), telling(provider, status="succeeded")]
    waits_s: list[float] = []
    attend(open_provider, waits_s=waits_s)
    assert waits_s[0] == 1.0
    assert waits_s[1:13] == sorted(waits_s[1:13])
    assert waits_s[12] == 30.0
    assert waits_s[13] == 1.0


def test_the_first_question_of_all_must_be_answered(provider: Any, open_provider: Any) -> None:
    provider.add_job()
    provider.fail("GET", JOB, "reset", times=9)
    with pytest.raises(OutageError):
        attend(open_provider)


def test_a_job_that_is_not_there_and_a_key_that_is_refused_are_not_waited_for(
    provider: Any, open_provider: Any
) -> None:
    with pytest.raises(AbsentError, match="could not look up the job ftjob-1"):
        attend(open_provider)
    provider.add_job(id="ftjob-1")
    provider.script = [telling(provider, "a"), telling(provider, "b")]
    provider.fail("GET", JOB, 401, skip=1)
    with pytest.raises(AuthError):
        attend(open_provider)


def test_an_unknown_state_is_a_running_one(provider: Any, open_provider: Any) -> None:
    provider.add_job()
    provider.script = [telling(provider, status=status) for status in ("paused", "snoozing", "succeeded")]
    job, listener = attend(open_provider)
    assert listener.states == ["paused", "snoozing", "succeeded"]
    assert job is not None
    assert job.outcome == "succeeded"


def test_a_stop_leaves_the_job_alone_and_gives_what_was_seen(provider: Any, open_provider: Any) -> None:
    provider.add_job(status="running")
    provider.tell("ftjob-1", "a")

    async def scenario() -> TuningJob | None:
        stop = asyncio.Event()

        async def sleep(_seconds: float) -> None:
            stop.set()
            await asyncio.Event().wait()

        async with open_provider() as tuner:
            job: TuningJob | None = await follow(
                tuner.jobs, "ftjob-1", MemoryLog(), Listener(), stop=stop, pace=FollowPace(sleep=sleep)
            )
            return job

    job = asyncio.run(scenario())
    assert job is not None
    assert (job.status, job.outcome) == ("running", None)
    assert provider.count("POST", ".*") == 0
    assert provider.jobs["ftjob-1"]["status"] == "running"


def test_a_stop_before_the_first_answer_gives_nothing(provider: Any, open_provider: Any) -> None:
    provider.add_job()

    async def scenario() -> TuningJob | None:
        stop = asyncio.Event()
        stop.set()
        async with open_provider() as tuner:
            job: TuningJob | None = await follow(tuner.jobs, "ftjob-1", MemoryLog(), Listener(), stop=stop)
            return job

    assert asyncio.run(scenario()) is None


def note_job(run: RunWriter) -> None:
    noted = FinetuningState(
        intent="w", provider="openai", base_url="", model="m", training_file="file-0", job_id="ftjob-1"
    )
    run.update(lambda state: with_intent(state, noted))


def test_events_told_before_a_restart_are_not_told_again_after_it(
    provider: Any, open_provider: Any, run: RunWriter
) -> None:
    note_job(run)
    provider.page_size = 2
    provider.add_job()
    provider.script = [telling(provider, "a", "b", "c"), telling(provider, "d")]
    provider.fail("GET", JOB, 401, skip=2)
    with pytest.raises(AuthError), open_run_log(run, "ftjob-1") as log:
        attend(open_provider, log)
    provider.script = [telling(provider, "e"), telling(provider, "f", "g", status="succeeded")]
    with open_run_log(run, "ftjob-1") as log:
        _, listener = attend(open_provider, log)
        assert [event.message for event in log.history] == list("abcd")
    assert listener.messages == list("efg")
    assert [event.message for event in past_events(run.directory.events, "ftjob-1")] == list("abcdefg")


def test_the_run_notes_state_model_and_last_event(provider: Any, open_provider: Any, run: RunWriter) -> None:
    note_job(run)
    provider.add_job()
    provider.script = [telling(provider, "a"), telling(provider, "b", status="succeeded")]
    with open_run_log(run, "ftjob-1") as log:
        attend(open_provider, log)
    (noted,) = run.directory.read_state().finetuning
    assert noted.status == "succeeded"
    assert noted.tuned_model == "ft:gpt-4.1-mini-2025-04-14:org:ftjob-1"
    assert noted.last_event == provider.events["ftjob-1"][0]["id"]


def test_a_crash_that_tore_the_last_event_has_it_told_again(provider: Any, open_provider: Any, run: RunWriter) -> None:
    note_job(run)
    provider.add_job()
    provider.script = [telling(provider, "a", "b", "c", status="succeeded")]
    with open_run_log(run, "ftjob-1") as log:
        attend(open_provider, log)
    content = run.directory.events.read_bytes()
    for end in range(0, len(content), 23):
        run.directory.events.write_bytes(content[:end])
        with open_run_log(run, "ftjob-1") as log:
            kept = [event.message for event in log.history]
            _, listener = attend(open_provider, log)
        assert kept + listener.messages == list("abc")


def test_events_of_another_job_of_the_run_do_not_hide_any(provider: Any, open_provider: Any, run: RunWriter) -> None:
    note_job(run)
    run.directory.events.write_bytes(b'{"job":"ftjob-0","id":"ftevent-2","created_at":1,"message":"old"}\n')
    provider.add_job()
    provider.script = [telling(provider, "a", status="succeeded")]
    with open_run_log(run, "ftjob-1") as log:
        _, listener = attend(open_provider, log)
    assert listener.messages == ["a"]


def test_a_damaged_line_of_events_is_named(run: RunWriter) -> None:
    run.directory.events.write_bytes(b'{"job":"x","id":"y","created_at":"never"}\n')
    with pytest.raises(BadLineError, match=r"events\.jsonl, line 1"):
        past_events(run.directory.events, "x")


class PagedEvents:
    """A job whose events grow between pages, as the Hypothesis test says."""

    def __init__(self, batches: list[list[int]], page_size: int) -> None:
        self._batches = batches
        self._page_size = page_size
        self._events: list[Event] = []  # newest first

    async def get(self, job_id: str) -> TuningJob:
        self._grow()
        return TuningJob(id=job_id, status="x", outcome=None if self._batches else "succeeded")

    def _grow(self) -> None:
        for at in self._batches.pop(0) if self._batches else []:
            event = Event(job="j", id=f"e{len(self._events)}", created_at=at, message=str(len(self._events)))
            self._events.insert(0, event)

    async def events(self, _job_id: str, after: str | None) -> EventPage:
        start = next((place + 1 for place, event in enumerate(self._events) if event.id == after), 0)
        end = start + self._page_size
        return EventPage(tuple(self._events[start:end]), has_more=end < len(self._events))


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), max_size=9), max_size=6), st.integers(1, 5))
def test_whatever_the_pages_every_event_is_told_once_in_order(steps: list[list[int]], page_size: int) -> None:
    clock = 0
    batches = []
    for step in steps:
        batch = []
        for pause in step:  # many pauses are 0: times are equal
            clock += pause // 3
            batch.append(clock)
        batches.append(batch)
    listener = Listener()
    jobs: Any = PagedEvents(batches, page_size)
    asyncio.run(follow(jobs, "j", MemoryLog(), listener, stop=asyncio.Event(), pace=quick()))
    assert listener.messages == [str(number) for number in range(sum(map(len, steps)))]
