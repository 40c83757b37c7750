"""Which records become samples, and the reasons of the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from asyncgen.dataset.samples import Selection, unusable
from asyncgen.job.model import Checks

if TYPE_CHECKING:
    from asyncgen.run.records import Record

MakeRun = Callable[..., Any]  # the fixture's class stands in conftest, which cannot be imported


def selecting(made: Any, checks: Checks) -> Selection:
    return Selection(msgspec.structs.replace(made.opened.job, checks=checks), made.opened.grid, stale=False)


@pytest.fixture
def record(make_run: MakeRun) -> Record:
    made = make_run()
    kept: Record = made.record(made.request(0))
    return kept


def changed(record: Record, **changes: Any) -> Record:
    return msgspec.structs.replace(record, **changes)


@pytest.mark.parametrize(
    ("finish_reason", "reason"),
    [
        ("stop", None),
        ("", None),
        ("eos", None),
        ("STOP", None),
        ("MAX_TOKENS", "truncated"),
        ("model_length", "truncated"),
        ("SAFETY", "filtered"),
        ("length", "truncated"),
        ("max_tokens", "truncated"),
        ("content_filter", "filtered"),
        ("refusal", "refused"),
        ("tool_calls", "finish_reason: tool_calls"),
        ("abort", "finish_reason: abort"),
    ],
)
def test_only_answers_that_ended_by_themselves_are_usable(
    record: Record, finish_reason: str, reason: str | None
) -> None:
    assert unusable(changed(record, finish_reason=finish_reason)) == reason


@pytest.mark.parametrize("completion", ["", " \n\t "])
def test_empty_answers_are_not_usable(record: Record, completion: str) -> None:
    assert unusable(changed(record, completion=completion)) == "empty"


@pytest.mark.parametrize(
    "completion",
    [
        "I'm sorry, but I can't help with that.",
        "I am very sorry, but as an AI I have no opinion.",
        "Sorry, I cannot write this.",
        "I can’t assist with that request.",
        "I'm unable to create this text.",
        "As an AI language model, I do not sell.",
    ],
)
def test_refusals_in_plain_words_are_not_usable(record: Record, completion: str) -> None:
    assert unusable(changed(record, completion=completion)) == "refused"


@pytest.mark.parametrize(
    "completion",
    [
        "I can't wait to tell you about our new service.",
        "Sorry to hear that your shop has queues? We can help.",
        "As an airport shop you need quick payments.",
        "We are sorry, but only until Sunday.",
    ],
)
def test_texts_that_only_sound_like_a_refusal_are_usable(record: Record, completion: str) -> None:
    assert unusable(changed(record, completion=completion)) is None


def test_the_jobs_checks_as_they_are_now_decide(make_run: MakeRun, record: Record) -> None:
    made = make_run()
    selection = selecting(made, Checks(max_words=3, max_characters=5))
    assert selection.judge(changed(record, check_failures=[]))[1] == "check: max_words"
    lenient = selecting(made, Checks())
    assert lenient.judge(changed(record, check_failures=["max_words"]))[1] is None


def test_the_second_of_two_equal_pairs_is_a_duplicate_but_not_of_one_that_was_left_out(
    make_run: MakeRun, record: Record
) -> None:
    made = make_run()
    selection = selecting(made, Checks())
    assert selection.judge(changed(record, finish_reason="length"))[1] == "truncated"
    assert selection.judge(record)[1] is None
    assert selection.judge(changed(record, completion=f" {record.completion}\n"))[1] == "duplicate"


def test_a_row_that_the_job_does_not_ask_for_is_stale(make_run: MakeRun, record: Record) -> None:
    made = make_run()
    selection = Selection(made.opened.job, made.opened.grid, stale=True)
    gone = changed(record, variables={"sector": "Grocery", "city": "Oslo"})
    other_axes = changed(record, variables={"sector": "Grocery"})
    other_prompt = changed(record, key="0" * 32)
    assert [selection.own(each) for each in (gone, other_axes, other_prompt, record)] == [None, None, None, record]


def test_the_sample_has_the_short_prompt_of_the_job_as_it_is_now(make_run: MakeRun, record: Record) -> None:
    made = make_run(job='name = "shops"\n[grid]\nsector = ["Grocery"]\ncity = ["Brussels"]\n'
                        '[prompt]\nuser = "Write for {sector} in {city}."\nsample = "{city}: {sector}"')  # fmt: skip
    selection = selecting(made, Checks())
    assert selection.judge(record)[0][0].prompt == "Brussels: Grocery"
