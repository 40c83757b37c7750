"""Rows through the Batch API, whatever becomes of a batch. Run: pytest tests/generate/batch/test_engine.py."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest

from asyncgen.errors import AuthError, IncompleteError, QuotaError
from asyncgen.generate.batch.send import Allowance
from asyncgen.generate.http.completer import StopReason
from asyncgen.generate.pool.budget import Budget
from asyncgen.providers.price import TokenRates

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncgen.job.opened import OpenedJob

    from .conftest import Desk


def all_answered(desk: Desk) -> None:
    assert {record.key for record in desk.records} == desk.keys
    assert len(desk.records) == len(desk.keys), "each key once"
    assert all(batch.collected for batch in desk.batches)
    assert not desk.directory.batches.exists(), "nothing is left lying about"


def test_every_row_becomes_a_record_with_all_its_fields(desk: Desk) -> None:
    outcome = desk.generate()
    assert (outcome.stopped, outcome.error) == (None, None)
    all_answered(desk)
    assert max(desk.provider.sold.values()) == 1
    first = desk.records[0]
    request = next(desk.opened.grid.requests())
    assert (first.key, first.index, first.repeat) == (request.key.hex(), 0, 0)
    assert (first.variables, first.prompt) == ({"a": "value 0"}, "value 0")
    assert (first.completion, first.model, first.finish_reason) == (f"Answer to {first.key[:6]}.", "m-1", "stop")
    assert (first.usage.prompt_tokens, first.usage.completion_tokens) == (10, 5)
    assert (first.attempts, first.latency_s, first.created, first.request_id) == (1, 0.0, 1_800_000_000, "r")


def test_records_come_in_the_order_of_the_grid_though_answers_do_not(desk: Desk) -> None:
    desk.generate()
    assert [record.index for record in desk.records] == list(range(10))


def test_a_finished_job_asks_the_provider_nothing(desk: Desk) -> None:
    desk.generate()
    desk.provider.calls.clear()
    assert desk.generate().error is None
    assert desk.provider.calls == []


def test_the_watcher_hears_of_uploads_states_and_counts(desk: Desk) -> None:
    desk.generate()
    assert desk.seen.statuses == ["validating", "in_progress", "finalizing", "completed"]
    assert [joined.answered for joined in desk.seen.joined] == [10]
    assert desk.seen.uploaded[-1][0] == desk.seen.uploaded[-1][1] > 0


def test_looks_become_rarer_while_nothing_changes(desk: Desk) -> None:
    desk.provider.script = ["validating", *["in_progress"] * 20, "completed"]
    desk.generate()
    assert desk.waits_s[0] == 0.5
    assert desk.waits_s == sorted(desk.waits_s)[:2] + desk.waits_s[2:]
    assert max(desk.waits_s) == 30.0


def test_rows_go_into_several_batches_one_after_the_other(desk: Desk) -> None:
    desk.generate(Allowance(rows_a_batch=4))
    all_answered(desk)
    assert [batch.requests for batch in desk.batches] == [4, 4, 2]
    created = [at for at, route in enumerate(desk.provider.calls) if route == "create"]
    between = desk.provider.calls[created[0] : created[1]]
    assert "retrieve" in between, "the next is sent when the one before is accepted"


def test_an_input_file_stays_below_its_bytes(desk: Desk) -> None:
    desk.generate(Allowance(bytes_a_batch=600))
    all_answered(desk)
    inputs = [desk.provider.files[batch["input_file_id"]] for batch in desk.provider.batches.values()]
    assert len(inputs) > 1
    assert all(len(content) <= 600 for content in inputs)


def test_a_request_that_no_file_can_hold_is_told(desk: Desk) -> None:
    error = desk.fails(Allowance(bytes_a_batch=100))
    assert error.code == "too_large"
    assert list(desk.directory.batches.iterdir()) == []


def test_a_limit_cuts_the_rows_of_this_invocation(desk: Desk) -> None:
    outcome = desk.generate(Allowance(rows=3))
    assert outcome.stopped is StopReason.LIMIT
    assert len(desk.records) == 3
    assert desk.generate().stopped is None
    all_answered(desk)


def test_twins_are_bought_once(desk: Desk, tmp_path: Any) -> None:
    from asyncgen.job.load import read_job_file  # noqa: PLC0415 - only here
    from asyncgen.job.opened import open_job  # noqa: PLC0415 - only here

    (tmp_path / "rows.csv").write_text("a\nx\ny\nx\n", encoding="utf-8")
    path = tmp_path / "twins.toml"
    path.write_text('name = "c"\n[rows]\nfile = "rows.csv"\n[prompt]\nuser = "{a}"\n', encoding="utf-8")
    desk.opened = open_job(read_job_file(path), generation="openai", tuning="openai", model="m")
    assert desk.generate().error is None
    assert sorted(desk.provider.sold.values()) == [1, 1]


def test_an_expired_batch_keeps_what_was_answered_and_only_the_rest_goes_again(desk: Desk, lines: Any) -> None:
    answered, _, never_done = lines
    desk.provider.scripts = [["in_progress", "expired"]]
    late = set(list(desk.keys)[:4])
    desk.provider.line_of = lambda key, asked: (
        never_done(key, "batch_expired") if key in late and asked == 1 else answered(key)
    )
    assert desk.generate().error is None
    all_answered(desk)
    assert [batch.requests for batch in desk.batches] == [10, 4]
    assert max(desk.provider.sold.values()) == 1


def test_a_cancelled_batch_keeps_what_was_answered_and_stops(desk: Desk, lines: Any) -> None:
    answered, _, never_done = lines
    desk.provider.scripts = [["in_progress", "cancelling", "cancelled"]]
    late = set(list(desk.keys)[:4])
    desk.provider.line_of = lambda key, asked: (
        never_done(key, "batch_cancelled") if key in late and asked == 1 else answered(key)
    )
    error = desk.fails()
    assert isinstance(error, IncompleteError)
    assert "4 of its rows" in error.what
    assert len(desk.records) == 6
    desk.generate()
    all_answered(desk)


def test_rows_that_the_provider_refuses_become_failures(desk: Desk, lines: Any) -> None:
    answered, refused, _ = lines
    bad = min(desk.keys)
    desk.provider.line_of = lambda key, _: refused(key, 400, "context_length_exceeded") if key == bad else answered(key)
    assert desk.generate().error is None
    assert len(desk.records) == 9
    (failure,) = desk.failures
    assert (failure.key, failure.error.code, failure.attempts) == (bad, "context_length_exceeded", 1)
    desk.provider.calls.clear()
    desk.generate()
    assert desk.provider.calls == [], "it is not asked for again"


def test_failures_are_asked_for_again_on_demand_and_count_their_attempts(desk: Desk, lines: Any) -> None:
    answered, refused, _ = lines
    bad, worse = sorted(desk.keys)[:2]
    desk.provider.line_of = lambda key, asked: (
        refused(key, 400) if key == worse or (key == bad and asked == 1) else answered(key)
    )
    desk.generate()
    desk.retry_failed = True
    desk.generate()
    assert {record.key for record in desk.records} == desk.keys - {worse}
    assert next(record.attempts for record in desk.records if record.key == bad) == 2
    assert [failure.attempts for failure in desk.failures if failure.key == worse] == [1, 2]


def test_refusals_and_empty_answers_are_failures_that_were_paid_for(desk: Desk, lines: Any) -> None:
    answered, _, _ = lines
    silent, unwilling = sorted(desk.keys)[:2]
    desk.provider.line_of = lambda key, _: (
        answered(key, "")
        if key == silent
        else answered(key, "", refusal="I will not")
        if key == unwilling
        else answered(key)
    )
    desk.generate()
    assert {failure.key: failure.error.type for failure in desk.failures} == {silent: "empty", unwilling: "refusal"}
    assert all(failure.maybe_paid == 1 for failure in desk.failures)
    assert desk.directory.read_state().spend.usage.completion_tokens == 10 * 5, "what was charged is counted"


def test_momentary_errors_go_again(desk: Desk, lines: Any) -> None:
    answered, refused, never_done = lines
    one, two, three, four = sorted(desk.keys)[:4]
    first = {one: refused(one, 429), two: refused(two, 500), three: never_done(three, "server_error"), four: None}
    desk.provider.line_of = lambda key, asked: first[key] if asked == 1 and key in first else answered(key)
    assert desk.generate().error is None
    all_answered(desk)
    assert max(desk.provider.asked.values()) == 2
    assert desk.failures == []


def test_rows_that_only_fail_are_given_up_on_as_online(desk: Desk, lines: Any) -> None:
    answered, refused, _ = lines
    bad = min(desk.keys)
    desk.provider.line_of = lambda key, _: refused(key, 500) if key == bad else answered(key)
    assert desk.generate().error is None
    (failure,) = desk.failures
    assert (failure.key, failure.attempts, failure.error.status) == (bad, 5, 500)
    assert desk.provider.asked[bad] == 5
    desk.provider.calls.clear()
    desk.generate()
    assert desk.provider.calls == []


def test_rows_refused_for_the_rate_are_not_sent_for_ever(desk: Desk, lines: Any) -> None:
    answered, refused, _ = lines
    busy = min(desk.keys)
    desk.provider.line_of = lambda key, _: refused(key, 429) if key == busy else answered(key)
    error = desk.fails()
    assert isinstance(error, IncompleteError)
    assert error.code == "unanswered"
    assert (desk.provider.asked[busy], desk.failures) == (5, [])
    assert len(desk.records) == 9


@pytest.mark.parametrize("status", ["completed", "expired"])
def test_rows_that_no_batch_answers_are_sent_twice_over_all_invocations(desk: Desk, status: str) -> None:
    desk.provider.script = ["in_progress", status]
    desk.provider.line_of = lambda _key, _asked: None
    desk.generate(Allowance(rows=10))
    assert (desk.failures, len(desk.provider.batches)) == ([], 1)
    assert desk.generate().error is None
    assert len(desk.provider.batches) == 2
    assert {failure.key for failure in desk.failures} == desk.keys
    assert {(each.error.type, each.attempts, each.maybe_paid) for each in desk.failures} == {("unanswered", 2, 2)}
    desk.provider.calls.clear()
    assert desk.generate().error is None
    assert desk.provider.calls == []
    desk.retry_failed = True
    desk.generate()
    assert len(desk.provider.batches) == 3, "once more where the user agrees"


def test_one_command_gives_up_on_rows_that_are_never_answered(desk: Desk, lines: Any) -> None:
    silent = min(desk.keys)
    desk.provider.line_of = lambda key, _: None if key == silent else lines[0](key)
    assert desk.generate().error is None
    assert [failure.key for failure in desk.failures] == [silent]
    assert [batch.requests for batch in desk.batches] == [10, 1]


def test_what_a_cancelled_batch_did_not_do_is_no_attempt(desk: Desk, lines: Any) -> None:
    desk.provider.script = ["in_progress", "cancelled"]
    desk.provider.line_of = lambda _key, _asked: None
    for _ in range(6):
        desk.fails()
    assert desk.failures == []
    desk.provider.script = ["completed"]
    desk.provider.line_of = lambda key, _asked: lines[0](key)
    desk.generate()
    assert {record.attempts for record in desk.records} == {1}


def test_a_budget_counts_rows_that_were_perhaps_charged_for(desk: Desk) -> None:
    budget = Budget(TokenRates(1e6, 1e6, 1e6), max_cost_usd=10_000, spent_usd=0.0)
    desk.provider.line_of = lambda _key, _asked: None
    desk.generate(Allowance(budget=budget))
    spend = desk.directory.read_state().spend
    assert spend.unanswered_usd > 0
    assert budget.spent_usd == pytest.approx(spend.unanswered_usd)


@pytest.mark.parametrize(
    "change",
    [
        {"errors": []},
        {"errors": ["line 1: bad"]},
        {"errors": "bad"},
        {"errors": {"data": ["bad", None, 7]}},
        {"request_counts": None},
        {"request_counts": {"total": None, "completed": None}},
        {"request_counts": [1, 2]},
        {"created_at": 1_800_000_000.3},
        {"created_at": "2026-11-29T10:00:00Z"},
        {"created_at": 10**30},
        {"metadata": "none"},
        {"metadata": ["none"]},
        {"endpoint": {"deep": [None]}},
        {"error_file_id": ""},
    ],
)
def test_a_batch_is_read_whatever_stands_beside_its_id_and_status(desk: Desk, change: dict[str, Any]) -> None:
    desk.provider.change = change
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert desk.generate().error is None
    all_answered(desk)


@pytest.mark.parametrize("name", ["succeeded", "COMPLETED", "finished", "BATCH_STATE_SUCCEEDED", "Success", "all_good"])
def test_an_ended_batch_is_known_by_other_names(desk: Desk, name: str) -> None:
    desk.provider.renamed = {"completed": name, "in_progress": "RUNNING"}
    assert desk.generate().error is None
    all_answered(desk)


@pytest.mark.parametrize(
    ("errors", "cause"),
    [
        (["line 1: bad"], "line 1: bad"),
        ("the file is too large", "the file is too large"),
        ({"message": "no such model"}, "no such model"),
        ([{"msg": "no such model", "line": 2}], "line 2: no such model"),
        ({"data": [{"code": "invalid_model"}]}, "invalid_model"),
    ],
)
def test_the_reasons_of_a_refusal_are_shown_in_any_shape(desk: Desk, errors: Any, cause: str) -> None:
    desk.provider.script = ["failed"]
    desk.provider.change = {"errors": errors}
    assert desk.fails().cause == cause


def test_what_is_no_batch_is_told_without_the_key(desk: Desk) -> None:
    desk.provider.change = {"status": None, "note": "your key is sk"}
    error = desk.fails()
    assert error.code == "bad_answer"
    assert "your key is ***" in (error.cause or "")


def test_an_odd_batch_among_others_is_passed_over(desk: Desk) -> None:
    desk.provider.faults = {"create": ["lost"]}
    desk.provider.strangers = [{"id": None}, "text", None, {"id": "b", "status": {}}]
    assert desk.generate().error is None
    assert desk.provider.calls.count("create") == 1
    all_answered(desk)


@pytest.mark.parametrize(
    ("status", "code", "kind", "stopped"),
    [
        (429, "insufficient_quota", QuotaError, StopReason.QUOTA),
        (401, "invalid_api_key", AuthError, StopReason.AUTH),
        (404, "model_not_found", AuthError, StopReason.AUTH),
    ],
)
def test_errors_that_no_row_survives_stop_and_leave_the_rows_open(
    desk: Desk, lines: Any, status: int, code: str, kind: type, stopped: StopReason
) -> None:
    _, refused, _ = lines
    desk.provider.line_of = lambda key, _: refused(key, status, code)
    outcome = desk.generate()
    assert outcome.stopped is stopped
    assert isinstance(outcome.error, kind)
    assert (desk.records, desk.failures) == ([], [])
    assert max(desk.provider.asked.values()) == 1, "nothing is sent again"
    desk.provider.line_of = lambda key, _: lines[0](key)
    desk.generate()
    all_answered(desk)


def test_a_batch_that_is_refused_as_a_whole_is_told_with_its_reasons(desk: Desk) -> None:
    desk.provider.script = ["failed"]
    error = desk.fails()
    assert error.code == "batch_refused"
    assert error.cause == "line 1: no such model"
    assert all(batch.collected for batch in desk.batches)
    desk.provider.script = ["completed"]
    desk.generate()
    all_answered(desk)


def test_a_refusal_without_a_reason_says_so(desk: Desk) -> None:
    desk.provider.script = ["failed"]
    desk.provider.refusal = []
    assert desk.fails().cause == "the provider gave no reason"


def test_a_batch_that_failed_late_keeps_what_it_has(desk: Desk) -> None:
    desk.provider.script = ["in_progress", "failed"]
    desk.provider.failed_keep_answers = True
    desk.generate()
    all_answered(desk)


def test_a_full_queue_is_waited_for_with_the_same_file(desk: Desk) -> None:
    desk.provider.queue_rows = 8
    assert desk.generate(Allowance(rows_a_batch=5)).error is None
    all_answered(desk)
    assert desk.provider.calls.count("upload") == 2
    assert max(desk.provider.asked.values()) == 1


def test_a_queue_smaller_than_a_batch_gets_smaller_ones(desk: Desk) -> None:
    desk.provider.queue_rows = 3
    assert desk.generate().error is None
    all_answered(desk)
    assert max(desk.provider.asked.values()) == 1
    assert max(batch.requests for batch in desk.batches if batch.answered) <= 3


def test_a_queue_that_takes_nothing_ends_as_a_quota(desk: Desk) -> None:
    desk.provider.queue_rows = 0
    outcome = desk.generate()
    assert outcome.stopped is StopReason.QUOTA
    assert isinstance(outcome.error, QuotaError)


def test_a_budget_stops_before_it_is_passed_and_batches_give_back_what_they_did_not_use(desk: Desk) -> None:
    # Every row is held at some 47 USD, and costs 15.
    budget = Budget(TokenRates(1e6, 1e6, 1e6), max_cost_usd=120, spent_usd=0.0)
    desk.cost_of = lambda usages, _in_batch: float(
        sum(usage.prompt_tokens + usage.completion_tokens for usage in usages)
    )
    outcome = desk.generate(Allowance(budget=budget))
    assert outcome.stopped is StopReason.BUDGET
    assert isinstance(outcome.error, QuotaError)
    assert 4 <= len(desk.records) < 8
    assert len(desk.batches) >= 2, "room that was given back is used"
    assert budget.spent_usd == 15 * len(desk.records) <= 120
    assert budget.in_flight_usd == pytest.approx(0)


def test_answers_of_a_batch_are_counted_at_half_the_price(desk: Desk) -> None:
    desk.generate()
    assert desk.directory.read_state().spend.cost_usd == pytest.approx(10 * 5 * 0.5)


def test_lines_that_belong_to_nobody_are_left_out(desk: Desk, lines: Any) -> None:
    answered, _, _ = lines
    desk.generate(Allowance(rows=1))
    strange = iter(["ff" * 16, "no key at all"])
    desk.provider.line_of = lambda key, asked: answered(next(strange, key)) if asked == 1 else answered(key)
    assert desk.generate().error is None
    all_answered(desk)
    assert sum(joined.unread for joined in desk.seen.joined) == 2


def test_an_answer_begun_by_an_opening_is_kept_whole(desk: Desk, open_rows: Callable[..., OpenedJob]) -> None:
    from asyncgen.job.opened import open_job  # noqa: PLC0415 - only here

    file = open_rows(3, '[on.local.prompt]\nopenings = ["About {a}:"]\n').file
    desk.opened = open_job(file, generation="local", tuning="local", model="m")
    desk.profile = "local"
    desk.generate()
    assert [record.completion[:15] for record in desk.records] == [f"About value {at}: A"[:15] for at in range(3)]


def test_a_prompt_with_places_of_the_answer_is_filled_when_it_comes(
    desk: Desk, open_rows: Callable[..., OpenedJob]
) -> None:
    desk.opened = open_rows(3, '[on.openai.prompt]\nsample = "{answer}!"\ntarget = "{a}"\n')
    desk.generate()
    assert len(desk.records) == 3
    assert all(record.prompt == f"{record.completion}!" for record in desk.records)


def test_checks_are_named_in_the_record(desk: Desk, lines: Any) -> None:
    answered, _, _ = lines
    wordy = min(desk.keys)
    desk.provider.line_of = lambda key, _: answered(key, "word " * 60 if key == wordy else "fine")
    desk.generate()
    assert {record.key for record in desk.records if record.check_failures == ["max_words"]} == {wordy}


def test_the_run_may_go_on_online_and_batches_elsewhere_are_left_alone(desk: Desk) -> None:
    desk.base_url = "https://one.example/v1"
    desk.provider.faults = {"retrieve": [403]}
    assert isinstance(desk.fails(Allowance(rows=4)), AuthError)
    desk.base_url = "https://two.example/v1"
    desk.generate()
    assert len(desk.records) == 6, "rows held by the batch at the first address are not sent to the second"
    desk.base_url = "https://one.example/v1"
    desk.generate()
    all_answered(desk)
    assert max(desk.provider.sold.values()) == 1


def test_this_machines_server_is_known_at_any_address(desk: Desk) -> None:
    desk.profile = "local"
    desk.base_url = "http://127.0.0.1:1/v1"
    desk.provider.faults = {"retrieve": [403]}
    desk.fails(Allowance(rows=4))
    desk.base_url = "http://127.0.0.1:2/v1"
    desk.generate()
    all_answered(desk)
    assert max(desk.provider.sold.values()) == 1
