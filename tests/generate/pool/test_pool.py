"""Facts about the pool, each in a story of its own on the virtual clock."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from asyncgen.errors import DiskError, QuotaError, UsageError
from asyncgen.generate.http.completer import Answer, ErrorClass, RateLimits, StopReason
from asyncgen.generate.pool.admission import Admission, Ticket
from asyncgen.generate.pool.budget import Budget, BudgetGate
from asyncgen.job.answers import AnswerChecks
from asyncgen.job.model import Checks, Limits
from asyncgen.providers.price import TokenRates as Prices


@dataclass
class Bucket:
    """A server's own, full at the beginning."""

    per_second: float
    size: float
    level: float = 0.0
    at: float = float("-inf")

    def takes(self, now: float) -> bool:
        self.level = min(self.level + (now - self.at) * self.per_second, self.size)
        self.at = now
        if self.level < 1:
            return False
        self.level -= 1
        return True


WAIT, RETRY, ROW, STOP = ErrorClass.WAIT, ErrorClass.RETRY, ErrorClass.ROW, ErrorClass.STOP


@pytest.fixture(scope="session")
def ok(world: Any) -> Answer:
    return world.good_answer()  # type: ignore[no-any-return]


def test_all_places_are_in_flight_at_once(world: Any, ok: Answer) -> None:
    story = world.play(lambda *_: (1.0, ok), rows=4000, limits=Limits(concurrency=1000))
    assert story.completer.most_in_flight == 1000
    assert story.progress.settled == 4000


def test_a_request_leaves_its_place_while_it_waits_for_another_try(world: Any, ok: Answer) -> None:
    failed = world.error(RETRY, "server_error", status=500)
    story = world.play(lambda now, body, asked: (0.01, failed if asked == 1 else ok), limits=Limits(concurrency=1))
    bodies = [call.body for call in story.calls]
    assert len(set(bodies[:2])) == 2
    assert story.progress.settled == 20


def test_a_break_of_everything_in_flight_does_not_end_the_run(world: Any, ok: Answer) -> None:
    reset = world.error(RETRY, "disconnected", maybe_paid=True)

    def server(now: float, body: bytes, asked: int) -> tuple[float, Any]:
        return (1.0, ok) if now < 10 or now > 11 else (11.5 - now, reset)

    story = world.play(server, rows=2000, limits=Limits(concurrency=64))
    assert story.reason is None
    assert story.progress.settled == 2000


def test_a_broken_service_is_tried_by_one_request_at_a_time(world: Any, ok: Answer) -> None:
    failed = world.error(RETRY, "server_error", status=500)
    story = world.play(lambda now, body, asked: (0.2, ok if now < 5 or now > 15 else failed), rows=5000)
    during = [call.began for call in story.calls if 6 < call.began < 15]
    assert 1 <= len(during) <= 8
    assert all(later - earlier > 0.2 for earlier, later in pairwise(during))
    assert story.reason is None


def test_a_service_of_which_nothing_ever_came_ends_the_run_within_seconds(world: Any) -> None:
    refused = world.error(RETRY, "connection", message="no connection")
    for rows in (1, 3, 500):
        story = world.play(lambda *_: (0.001, refused), rows=rows)
        assert story.ended < 20
        assert len(story.calls) <= 40
        assert story.outcome.error.exit_code == 1
        assert "connection" in story.outcome.error.what
        assert not story.journal.failures, "the rows are not at fault"
        assert story.progress.left == rows


def test_a_row_that_fails_while_others_succeed_is_given_up_on(world: Any, ok: Answer) -> None:
    failed = world.error(RETRY, "server_error", status=500)
    story = world.play(lambda now, body, asked: (0.1, failed if b"city 7 " in body else ok))
    assert story.reason is None
    [failure] = story.journal.failures.values()
    assert failure.attempts == 5
    assert story.progress.settled == 19


def test_a_limit_pauses_everybody_and_costs_no_row_an_attempt(world: Any, ok: Answer) -> None:
    limited = world.error(WAIT, "rate_limit", status=429, retry_after_s=7.0)
    story = world.play(lambda now, body, asked: (0.05, limited if now < 60 else ok), rows=100)
    first = min(call.ended for call in story.calls)
    assert not [call for call in story.calls if first < call.began < first + 7.0]
    assert story.progress.settled == 100
    assert not story.journal.failures


def test_requests_that_are_refused_together_are_one_sign(world: Any, ok: Answer) -> None:
    limited = world.error(WAIT, "rate_limit", status=429)
    story = world.play(lambda now, body, asked: (0.05, limited if now < 0.01 else ok), rows=10)
    again = [call.began for call in story.calls if call.began > 0.01]
    assert 0.5 <= min(again) <= 0.65


def test_a_server_that_names_no_time_worth_the_name_is_not_hammered(world: Any, ok: Answer) -> None:
    limited = world.error(WAIT, "rate_limit", status=429, retry_after_s=0.0)
    story = world.play(lambda now, body, asked: (0.01, limited if now < 60 else ok), rows=100)
    assert sum(call.began < 60 for call in story.calls) <= 60
    assert story.progress.settled == 100


@pytest.mark.parametrize("retry_after_s", [None, 10.0, 3600.0])
def test_a_limit_that_does_not_clear_ends_the_run_as_a_quota(world: Any, retry_after_s: float | None) -> None:
    limited = world.error(WAIT, "rate_limit", status=429, retry_after_s=retry_after_s)
    story = world.play(lambda *_: (0.05, limited), rows=100)
    assert story.reason is StopReason.QUOTA
    assert isinstance(story.outcome.error, QuotaError)
    assert story.ended < 1000
    assert story.progress.left == 100


def test_requests_that_time_out_together_cut_the_places_once(world: Any, ok: Answer) -> None:
    late = world.error(RETRY, "timeout", maybe_paid=True)
    story = world.play(lambda now, body, asked: (60.0, late) if now < 1 else (1.0, ok), rows=100)
    assert sum(60 <= call.began < 60.5 for call in story.calls) == 7
    assert story.progress.settled == 100


@pytest.mark.parametrize(
    ("name", "reason", "exit_code"),
    [("auth", StopReason.AUTH, 4), ("not_found", StopReason.AUTH, 4), ("quota", StopReason.QUOTA, 5)],
)
def test_what_no_row_survives_stops_at_once(world: Any, name: str, reason: StopReason, exit_code: int) -> None:
    fatal = world.error(STOP, name, status=401, stop=reason)
    story = world.play(lambda *_: (0.1, fatal), rows=500)
    assert story.reason is reason
    assert story.outcome.error.exit_code == exit_code
    assert len(story.calls) <= 10
    assert not story.journal.failures


def test_answers_in_flight_at_a_fatal_error_are_kept(world: Any, ok: Answer) -> None:
    fatal = world.error(STOP, "quota", status=429, stop=StopReason.QUOTA)
    story = world.play(lambda now, body, asked: (0.1, fatal) if b"city 3 " in body else (5.0, ok), rows=100)
    assert story.progress.settled == 9
    assert story.progress.left == 91


def test_first_rows_that_are_refused_alike_stop_the_run(world: Any) -> None:
    refused = world.error(ROW, "bad_request", status=400, code="invalid_value", param="temperature")
    story = world.play(lambda *_: (0.1, refused), rows=500)
    assert len(story.calls) <= 20
    assert story.outcome.error.exit_code == 1
    assert "temperature" in story.outcome.error.help_text


def test_quick_refusals_among_slow_answers_do_not_stop_a_healthy_run(world: Any, ok: Answer) -> None:
    refused = world.error(ROW, "bad_request", status=400)
    for seed in range(30):
        rng = Random(seed)
        bad = {number for number in range(200) if rng.random() < 0.3}

        def server(now: float, body: bytes, asked: int, bad: set[int] = bad) -> tuple[float, Any]:
            number = int(body.split(b"city ")[1].split()[0])
            return (0.05, refused) if number in bad else (30.0, ok)

        story = world.play(server, rows=200)
        first_five_are_bad = set(range(5)) <= bad
        assert (story.reason is None and story.outcome.error is None) != first_five_are_bad


def test_answers_that_are_paid_for_and_useless_stop_the_run(world: Any) -> None:
    paid = world.good_answer().usage
    useless = [
        world.error(ROW, "refusal", status=200, maybe_paid=True, usage=paid),
        world.error(ROW, "empty", status=200, maybe_paid=True, usage=paid, remedy="raise max_completion_tokens"),
        world.error(RETRY, "empty", status=200, maybe_paid=True, usage=paid),
    ]
    for outcome in useless:
        story = world.play(lambda *_, outcome=outcome: (0.1, outcome), rows=2000)
        assert len(story.calls) <= 200
        assert story.outcome.error.exit_code == 1
        assert story.journal.usage.prompt_tokens == paid.prompt_tokens * len(story.calls), "all of it is counted"
    story = world.play(lambda *_: (0.1, useless[1]), rows=2000)
    assert "max_completion_tokens" in story.outcome.error.help_text


def test_a_stretch_of_refusals_among_answers_stops_nothing_but_an_endless_one_does(world: Any, ok: Answer) -> None:
    refused = world.error(ROW, "refusal", status=200, maybe_paid=True)

    def server(now: float, body: bytes, asked: int) -> tuple[float, Any]:
        number = int(body.split(b"city ")[1].split()[0])
        return 0.1, refused if 100 <= number < length + 100 else ok

    length = 60
    assert world.play(server, rows=300).progress.failed == 60
    length = 5000
    story = world.play(server, rows=5100)
    assert story.outcome.error is not None
    assert len(story.calls) < 400


def test_a_row_that_fails_before_anything_came_is_given_up_on_once_something_did(world: Any, ok: Answer) -> None:
    failed = world.error(RETRY, "server_error", status=500)
    for seed in range(20):
        story = world.play(
            lambda now, body, asked: (0.1, failed) if b"city 4 " in body else (60.0, ok), rows=9, seed=seed
        )
        assert story.outcome.error is None
        assert (story.progress.settled, story.progress.failed) == (8, 1)


def test_the_last_row_of_a_run_may_fail_when_others_succeeded_before_but_not_while_nobody_answers(
    world: Any, ok: Answer
) -> None:
    grid = world.make_grid(9)
    earlier = [request.key for request in grid.requests()][:-1]
    broken = world.error(RETRY, "server_error", status=500)
    story = world.play(lambda *_: (0.1, broken), grid=grid, journal=world.Journal(earlier=earlier))
    assert (story.outcome.error, story.progress.failed) == (None, 1)
    gone = world.error(RETRY, "connection")
    story = world.play(lambda *_: (0.1, gone), grid=grid, journal=world.Journal(earlier=earlier))
    assert story.outcome.error.exit_code == 1
    assert (story.progress.failed, story.progress.left) == (0, 1)


def test_a_limit_told_within_an_answer_that_may_be_paid_for_is_not_waited_for_without_end(world: Any) -> None:
    inner = world.error(WAIT, "rate_limit", status=429, maybe_paid=True)
    ok = world.good_answer()
    story = world.play(lambda now, body, asked: (0.1, inner if b"city 7 " in body else ok), rows=20)
    assert story.progress.failed == 1
    assert sum(b"city 7 " in call.body for call in story.calls) == 2


def test_attempts_that_may_be_paid_stay_bounded_over_interruptions(world: Any, ok: Answer) -> None:
    """Whoever interrupts a run again and again does not have the same row charged again and again."""
    lost = world.error(RETRY, "disconnected", maybe_paid=True)
    grid, journal = world.make_grid(1), world.Journal()
    calls = twice = 0
    for _ in range(6):
        story = world.play(lambda *_: (1.0, lost), grid=grid, journal=journal, stop_at=0.5)
        calls += len(story.calls)
        twice += story.progress.maybe_paid_twice
        journal = story.journal
    assert (calls, twice) == (2, 1)
    [failure] = journal.failures.values()
    assert (failure.attempts, failure.maybe_paid) == (2, 2)


def test_what_was_charged_for_a_row_that_waits_for_another_try_is_counted_at_a_stop(world: Any) -> None:
    usage = world.good_answer().usage
    empty = world.error(RETRY, "empty", status=200, maybe_paid=True, usage=usage)
    story = world.play(lambda *_: (1.0, empty), rows=1, stop_at=0.5)
    assert story.journal.usage == usage
    [tried] = story.journal.tried.values()
    assert (tried.attempts, tried.failed, tried.maybe_paid) == (1, 1, 1)


def test_a_request_that_was_dropped_in_flight_counts_as_perhaps_paid(world: Any, ok: Answer) -> None:
    story = world.play(lambda *_: (500.0, ok), rows=1, stop_at=1.0, abandon_at=2.0)
    assert [each.maybe_paid for each in story.journal.tried.values()] == [1]
    again = world.play(lambda *_: (1.0, ok), grid=story.grid, journal=story.journal)
    assert (again.progress.settled, again.progress.maybe_paid_twice) == (1, 1)


def test_a_request_that_the_servers_own_limit_can_never_hold_is_refused_with_that_limit(world: Any) -> None:
    limited = world.error(WAIT, "rate_limit", status=429, limits=RateLimits(tokens_per_minute=10.0))
    story = world.play(lambda *_: (0.1, limited), rows=100)
    assert isinstance(story.outcome.error, UsageError)
    assert "the server's limit of 10 per minute" in story.outcome.error.what
    assert story.ended < 5
    assert story.progress.left == 100


def test_a_limit_that_a_server_tells_but_does_not_keep_stops_nothing(world: Any) -> None:
    generous = world.good_answer(limits=RateLimits(tokens_per_minute=10.0))
    story = world.play(lambda *_: (0.1, generous), rows=30)
    assert story.reason is None
    assert story.progress.settled == 30


def test_what_short_answers_leave_of_large_reservations_lets_others_go(world: Any, ok: Answer) -> None:
    """A request reserves 20 s of the rate and takes a quarter of a second's; else it would be 100 minutes."""
    grid = world.make_grid(300, max_tokens=2000)
    story = world.play(lambda *_: (1.0, ok), grid=grid, limits=Limits(tokens_per_minute=6000.0))
    assert story.progress.settled == 300
    assert story.ended < 190


def test_answers_of_unknown_length_do_not_pass_the_rate_of_tokens(world: Any) -> None:
    long = world.good_answer(completion=1000)
    grid = world.make_grid(300, max_tokens=None)
    story = world.play(lambda *_: (1.0, long), grid=grid, limits=Limits(tokens_per_minute=60_000.0))
    starts = story.starts()
    busiest = max(sum(began <= other < began + 60 for other in starts) for began in starts)
    assert busiest * 1020 <= 60_000 * 1.1


def test_a_server_that_counts_the_most_at_the_door_is_soon_taken_at_its_word(world: Any) -> None:
    """It takes the most that an answer may take from its bucket, and gives nothing back."""
    per_second, most = 1000.0, 220.0
    bucket = Bucket(per_second / most, per_second / most)
    refused = world.error(WAIT, "rate_limit", status=429)
    short = world.good_answer(prompt=20, completion=60)

    def server(now: float, body: bytes, asked: int) -> tuple[float, Any]:
        return (10.0, short) if bucket.takes(now) else (0.01, refused)

    grid = world.make_grid(400, max_tokens=200)
    story = world.play(server, grid=grid, limits=Limits(tokens_per_minute=60_000.0))
    assert story.progress.settled == 400
    assert story.progress.rate_limited <= 20
    assert story.ended < 400 * most / per_second * 1.4 + 10


@pytest.mark.parametrize("is_learnt", [False, True])
def test_an_enforced_rate_is_kept_to_within_five_percent_of_the_ideal(world: Any, is_learnt: bool) -> None:
    """162 requests at 600 a minute from a bucket of ten, a second each."""
    bucket = Bucket(per_second=10.0, size=10.0)
    ok = world.good_answer(limits=RateLimits(requests_per_minute=600.0))
    refused = world.error(WAIT, "rate_limit", status=429)

    def server(now: float, body: bytes, asked: int) -> tuple[float, Any]:
        return (1.0, ok) if bucket.takes(now) else (0.01, refused)

    limits = Limits() if is_learnt else Limits(requests_per_minute=600.0)
    story = world.play(server, rows=162, limits=limits)
    starts = story.starts()
    assert story.progress.rate_limited <= 2
    assert starts[-1] - starts[0] <= (162 - 10) / 10 * 1.05


def test_refused_rows_among_answers_stop_nothing(world: Any, ok: Answer) -> None:
    refused = world.error(ROW, "bad_request", status=400)
    story = world.play(lambda now, body, asked: (0.1, ok if b"city 0 " in body else refused), rows=50)
    assert story.reason is None
    assert story.progress.failed == 49


def test_an_answer_that_fails_its_checks_is_asked_for_again_and_kept_at_last(world: Any) -> None:
    poor = world.good_answer("poor")
    checks = Checks(must_match=["good"], attempts=3)
    story = world.play(lambda now, body, asked: (0.1, poor), rows=2, checks=checks)
    assert len(story.calls) == 6
    assert [record.attempts for record in story.journal.records.values()] == [3, 3]
    assert [record.usage.completion_tokens for record in story.journal.records.values()] == [15, 15]
    assert all(record.check_failures == ["must_match: good"] for record in story.journal.records.values())


def test_an_answer_is_kept_where_asking_again_failed(world: Any) -> None:
    poor, refused = world.good_answer("poor"), world.error(ROW, "refusal", status=200, maybe_paid=True)
    checks = Checks(must_match=["good"], attempts=2)
    story = world.play(lambda now, body, asked: (0.1, poor if asked == 1 else refused), rows=3, checks=checks)
    assert story.progress.settled == 3
    assert not story.journal.failures


def test_an_answer_is_kept_where_asking_again_was_abandoned(world: Any) -> None:
    poor = world.good_answer("poor")
    checks = Checks(must_match=["good"], attempts=2)
    server = lambda now, body, asked: (0.1 if asked == 1 else 500.0, poor)  # noqa: E731
    story = world.play(server, rows=3, checks=checks, stop_at=1.0, abandon_at=2.0)
    assert story.outcome.abandoned == 3
    assert story.progress.settled == 3
    assert story.ended < 2.1


def test_the_first_stop_waits_for_what_is_in_flight(world: Any, ok: Answer) -> None:
    story = world.play(lambda *_: (10.0, ok), rows=100, stop_at=3.0)
    assert story.reason is StopReason.INTERRUPTED
    assert story.progress.settled == 10
    assert story.outcome.abandoned == 0


def test_what_is_in_flight_is_waited_for_as_long_as_an_answer_may_take(world: Any, ok: Answer) -> None:
    story = world.play(lambda *_: (590.0, ok), rows=100, stop_at=3.0)
    assert (story.outcome.abandoned, story.progress.settled) == (0, 10)
    assert story.ended == pytest.approx(590.0, abs=0.1)


def test_answers_that_come_together_are_written_together(world: Any, ok: Answer) -> None:
    story = world.play(lambda *_: (1.0, ok), rows=70, limits=Limits(concurrency=7))
    assert story.journal.together == [7] * 10


def test_nobody_sends_a_request_before_the_answer_that_it_brought_is_written(world: Any, ok: Answer) -> None:
    """Else a kill could cost more answers than there are requests in flight."""
    journal, concurrency, sent = world.Journal(), 9, 0

    def server(now: float, body: bytes, asked: int) -> tuple[float, Answer]:
        nonlocal sent
        sent += 1
        assert sent - len(journal.records) <= concurrency
        return 0.1 * (sent % 3), ok

    story = world.play(server, rows=300, journal=journal, limits=Limits(concurrency=concurrency))
    assert story.progress.settled == sent == 300


def test_of_answers_that_come_together_a_disk_keeps_as_many_as_it_holds(world: Any, ok: Answer) -> None:
    journal = world.Journal()
    journal.writes_left = 13
    story = world.play(lambda *_: (1.0, ok), rows=100, journal=journal, limits=Limits(concurrency=8))
    assert story.progress.settled == len(journal.records) == 13
    assert "3 paid answers could not be saved" in story.outcome.error.what
    assert len(story.calls) == 16


def test_a_bug_in_the_handling_of_one_answer_takes_no_other_with_it(
    world: Any, ok: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange = world.good_answer("strange")

    def failures(self: AnswerChecks, text: str, *_: object) -> list[str]:
        if text == "strange" and not odd:
            odd.append(text)
            raise ArithmeticError("a bug")
        return []

    odd: list[str] = []
    monkeypatch.setattr(AnswerChecks, "failures", failures)
    story = world.play(lambda now, body, asked: (1.0, strange if b"city 4 " in body else ok), rows=8)
    assert str(story.error) == "a bug"
    assert story.progress.settled == 8, "the one with the bug is kept too"
    assert story.tasks_left == 0


def test_a_full_disk_ends_the_run_and_says_what_was_lost(world: Any, ok: Answer) -> None:
    journal = world.Journal()
    journal.writes_left = 4
    story = world.play(lambda *_: (1.0, ok), rows=100, journal=journal)
    assert story.reason is StopReason.IO
    assert isinstance(story.outcome.error, DiskError)
    assert f"{len(story.calls) - 4} paid answers could not be saved" in story.outcome.error.what
    assert story.progress.settled == 4
    assert len(story.calls) <= 18


def test_a_disk_that_fails_during_the_drain_is_the_reason(world: Any, ok: Answer) -> None:
    journal = world.Journal()
    journal.writes_left = 4
    story = world.play(lambda *_: (1.0, ok), rows=100, journal=journal, stop_at=0.5)
    assert story.reason is StopReason.IO


def test_a_request_over_the_rate_of_tokens_is_refused_before_anything_is_sent(world: Any, ok: Answer) -> None:
    story = world.play(lambda *_: (1.0, ok), grid=world.make_grid(50, words=300), limits=Limits(tokens_per_minute=200))
    assert isinstance(story.outcome.error, UsageError)
    assert not story.calls


def test_twins_are_sent_once_and_none_is_left(world: Any, ok: Answer) -> None:
    for concurrency in (1, 64):  # the twin is met after and before its answer
        story = world.play(
            lambda *_: (1.0, ok), grid=world.make_grid(30, twins=10), limits=Limits(concurrency=concurrency)
        )
        assert len(story.calls) == 30
        assert story.progress.left == 0
        again = world.play(
            lambda *_: (1.0, ok), grid=story.grid, journal=world.Journal(earlier=list(story.journal.records))
        )
        assert not again.calls
        assert again.progress.left == 0


def test_rows_asked_for_again_by_hand_may_be_paid_for_once_more(world: Any) -> None:
    grid = world.make_grid(1)
    [key] = [request.key for request in grid.requests()]
    reset = world.error(RETRY, "disconnected", maybe_paid=True)
    story = world.play(lambda *_: (0.1, reset), grid=grid, journal=world.Journal(failed={key: (3, 2)}))
    [failure] = story.journal.failures.values()
    assert (failure.attempts, failure.maybe_paid) == (4, 3)


def test_resent_requests_that_may_be_paid_twice_are_counted(world: Any, ok: Answer) -> None:
    reset = world.error(RETRY, "disconnected", maybe_paid=True)
    story = world.play(lambda now, body, asked: (0.1, reset if asked == 1 else ok), rows=12)
    assert story.progress.maybe_paid_twice == 12
    assert story.progress.retries == 12


def test_a_bug_is_raised_plainly_and_takes_no_answer_with_it(world: Any) -> None:
    poor = world.good_answer("poor")

    def server(now: float, body: bytes, asked: int) -> tuple[float, Any]:
        if b"city 5 " in body:
            return 1.0, ArithmeticError("a bug")
        return (0.1, poor) if asked == 1 else (50.0, poor)

    story = world.play(server, rows=8, checks=Checks(must_match=["good"], attempts=2))
    assert str(story.error) == "a bug"
    assert story.progress.settled == 7
    assert story.tasks_left == 0


def test_a_row_whose_worker_is_cancelled_before_it_can_send_it_counts_as_not_sent(
    world: Any, ok: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which takes a second Ctrl-C within the very turn of the loop in which the row was handed out."""
    withdrawn = 0

    def withdraw(self: Admission, ticket: Ticket) -> None:
        nonlocal withdrawn
        withdrawn += 1
        really_withdraw(self, ticket)

    really_withdraw = Admission.withdraw
    monkeypatch.setattr(Admission, "withdraw", withdraw)
    for turns in range(-6, 12):
        at = 1.0 + turns * 1e-6
        story = world.play(lambda now, body, asked: (0.5, ok), rows=100, stop_at=at, abandon_at=at)
        assert story.progress.sent == len(story.calls)
        assert story.progress.in_flight == 0
        assert story.progress.settled == sum(call.outcome is ok for call in story.calls)
        assert story.tasks_left == 0
    for turns in range(-6, 12):
        at = 1.0 + turns * 1e-6
        story = world.play(
            lambda now, body, asked: (0.5, ok),
            rows=100,
            stop_at=at,
            abandon_at=at,
            limits=Limits(requests_per_minute=60),
        )
        assert story.progress.sent == len(story.calls)
        assert story.progress.in_flight == 0
        assert story.tasks_left == 0


def test_a_refused_request_and_a_second_ctrl_c_in_one_turn_hang_nothing(world: Any, ok: Answer) -> None:
    grid = world.make_grid(50, words=300)
    for turns in range(12):
        at = turns * 1e-6
        limits = Limits(concurrency=4, tokens_per_minute=200)
        story = world.play(lambda *_: (1.0, ok), grid=grid, limits=limits, stop_at=at, abandon_at=at)
        assert story.tasks_left == 0
        assert not story.calls


def test_a_fault_in_one_row_touches_no_answer_of_the_same_turn(
    world: Any, ok: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even a fault that comes again when the row is to be kept."""
    strange = world.good_answer("strange")

    def failures(self: AnswerChecks, text: str, *_: object) -> list[str]:
        if text == "strange":
            raise ArithmeticError("a bug")
        return []

    monkeypatch.setattr(AnswerChecks, "failures", failures)
    story = world.play(lambda now, body, asked: (1.0, strange if b"city 4 " in body else ok), rows=8)
    assert str(story.error) == "a bug"
    assert story.progress.settled == 7
    assert [each.maybe_paid for each in story.journal.tried.values()] == [1], "what was paid for is known of"
    assert story.tasks_left == 0


def test_a_bug_in_the_admission_ends_the_run_and_keeps_what_is_in_flight(
    world: Any, ok: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_acquire = Admission.acquire

    async def acquire(self: Admission, body: bytes) -> Ticket | None:
        if b"city 3 " in body:
            raise ArithmeticError("a bug")
        return await really_acquire(self, body)

    monkeypatch.setattr(Admission, "acquire", acquire)
    story = world.play(lambda *_: (1.0, ok), rows=8)
    assert str(story.error) == "a bug"
    assert story.progress.settled == len(story.calls)
    assert (story.tasks_left, story.progress.in_flight) == (0, 0)


@pytest.mark.parametrize("latency_s", [(0.05,), (1.0,), (1.0, 0.2, 3.0)])
@pytest.mark.parametrize("connections", [1, 2, 3, 4, 5, 8])
def test_a_server_that_takes_few_connections_loses_no_row(
    world: Any, ok: Answer, connections: int, latency_s: tuple[float, ...]
) -> None:
    reset = world.error(RETRY, "disconnected", maybe_paid=True)
    open_until: list[float] = []

    def server(now: float, body: bytes, asked: int) -> tuple[float, Any]:
        open_until[:] = [until for until in open_until if until > now]
        if len(open_until) >= connections:
            return 0.01, reset
        answered.append(latency_s[len(answered) % len(latency_s)])
        open_until.append(now + answered[-1])
        return answered[-1], ok

    answered: list[float] = []
    story = world.play(server, rows=400)
    assert (story.progress.settled, story.progress.failed) == (400, 0)


def test_a_row_that_is_given_up_on_after_its_connection_broke_holds_the_others_for_a_while_only(
    world: Any, ok: Answer
) -> None:
    reset = world.error(RETRY, "disconnected", maybe_paid=True)
    doomed = (b"city 3 ", b"city 4 ", b"city 5 ", b"city 6 ")
    story = world.play(
        lambda now, body, asked: (0.1, reset if any(name in body for name in doomed) else ok),
        rows=2000, limits=Limits(concurrency=64),
    )  # fmt: skip
    assert (story.progress.settled, story.progress.failed) == (1996, 4)
    assert story.ended < 60


def test_one_broken_connection_among_many_answers_lowers_nothing(world: Any, ok: Answer) -> None:
    reset = world.error(RETRY, "disconnected", maybe_paid=True)
    story = world.play(
        lambda now, body, asked: (1.0, reset if asked == 1 and b"city 500 " in body else ok),
        rows=2000, limits=Limits(concurrency=64),
    )  # fmt: skip
    assert story.progress.settled == 2000
    assert story.ended < 2000 / 64 + 10


@pytest.mark.parametrize("limits", [RateLimits(tokens_per_minute=1.0), RateLimits(requests_per_minute=1e-300)])
def test_a_limit_below_one_request_is_not_believed_of_a_server_that_answers(world: Any, limits: RateLimits) -> None:
    story = world.play(lambda *_: (0.1, world.good_answer(limits=limits)), rows=40)
    assert (story.reason, story.progress.settled) == (None, 40)
    assert story.ended < 10


def test_the_cause_of_a_wait_is_told(world: Any, ok: Answer) -> None:
    limited = world.error(WAIT, "rate_limit", status=429, message="too many")
    story = world.play(lambda now, body, asked: (0.05, limited if now < 60 else ok), rows=10)
    assert story.progress.pause_cause == "too many"
    asks = world.error(WAIT, "rate_limit", status=429, message="too many", retry_after_s=30.0)
    story = world.play(lambda now, body, asked: (0.05, asks if now < 20 else ok), rows=10)
    assert story.progress.pause_cause == "at the server's request: too many"


def test_a_server_that_is_starting_is_waited_for_at_no_rows_cost(world: Any, ok: Answer) -> None:
    starting = world.error(WAIT, "starting", message="loading", retry_after_s=1.0)
    story = world.play(lambda now, body, asked: (0.01, starting if now < 55 else ok), rows=30)
    assert story.progress.settled == 30
    assert story.progress.rate_limited == 0
    assert 55 <= min(call.began for call in story.calls if call.outcome is ok) <= 57


def test_a_run_whose_first_answers_all_fail_their_checks_stops_unless_told(world: Any) -> None:
    poor = world.good_answer("poor")
    checks = Checks(must_match=["good"])
    story = world.play(lambda *_: (0.1, poor), rows=500, checks=checks, stops_when_useless=True)
    assert story.outcome.error.code == "useless"
    assert "must_match: good" in story.outcome.error.cause
    assert 20 <= story.progress.settled == len(story.calls) <= 60, "what was paid for is kept"
    assert world.play(lambda *_: (0.1, poor), rows=100, checks=checks).progress.settled == 100
    mixed = world.play(
        lambda now, body, asked: (0.1, world.good_answer("good") if b"city 3 " in body else poor),
        rows=100, checks=checks, stops_when_useless=True,
    )  # fmt: skip
    assert mixed.progress.settled == 100


def test_reasons_are_counted_with_their_remedies(world: Any, ok: Answer) -> None:
    empty = world.error(ROW, "empty", status=200, message="used up", maybe_paid=True, remedy="raise it")
    cut = world.good_answer("Cut")
    cut = type(cut)(cut.text, "length", cut.model, cut.usage)
    outcomes = {b"city 3 ": empty, b"city 4 ": empty, b"city 5 ": cut}

    def server(now: float, body: bytes, asked: int) -> tuple[float, Any]:
        return 0.1, next((outcome for city, outcome in outcomes.items() if city in body), ok)

    progress = world.play(server, rows=10).progress
    assert (progress.usable, progress.failed) == (7, 2)
    assert (progress.failures["used up"], progress.remedies["used up"]) == (2, "raise it")
    assert list(progress.unusable.values()) == [1]


def test_a_budget_is_used_up_and_not_passed(world: Any, ok: Answer) -> None:
    budget = Budget(Prices(1.0, 1.0, 1.0), max_cost_usd=40 * 25e-6, spent_usd=0.0)
    grid = world.make_grid(200)
    story = world.play(lambda *_: (0.5, ok), grid=grid, budget=BudgetGate(budget, grid.max_output_tokens))
    assert story.reason is StopReason.BUDGET
    assert isinstance(story.outcome.error, QuotaError)
    assert 36 <= story.progress.settled <= 40
    assert budget.spent_usd <= budget.max_cost_usd
    assert budget.in_flight_usd == pytest.approx(0.0, abs=1e-12)


def test_a_limit_of_requests_leaves_the_rest(world: Any, ok: Answer) -> None:
    story = world.play(lambda *_: (0.5, ok), rows=50, limit=7)
    assert story.reason is StopReason.LIMIT
    assert (len(story.calls), story.progress.settled, story.progress.left) == (7, 7, 43)
    whole = world.play(lambda *_: (0.5, ok), rows=7, limit=7)
    assert whole.reason is None


@pytest.mark.parametrize(("per_minute", "rows"), [(600.0, 162), (60_000.0, 3000), (300_000.0, 10_000)])
def test_the_rate_that_is_asked_for_is_reached(world: Any, ok: Answer, per_minute: float, rows: int) -> None:
    limits = Limits(concurrency=200, requests_per_minute=per_minute)
    story = world.play(lambda *_: (0.01, ok), rows=rows, limits=limits)
    assert story.starts()[-1] <= rows / (per_minute / 60) * 1.03 + 0.05  # the places are found out first
