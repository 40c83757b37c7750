"""What a person rejected in the page of a run is not a sample, wherever samples are made."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from asyncgen.dataset.prepare_run import Prepared, prepare_run
from asyncgen.dataset.report.collect import make_report
from asyncgen.dataset.samples import BY_HAND
from asyncgen.providers.prices import PriceList
from asyncgen.providers.profiles import PROFILES
from asyncgen.run.directory import open_run
from asyncgen.run.jsonl import BadLineError
from asyncgen.run.reviews import REVIEWED_NAME, Review, add_review, answer_digest

MakeRun = Callable[..., Any]


def prepare(made: Any, provider: str = "local") -> Prepared:
    with open_run(made.path) as run:
        return prepare_run(run, made.opened.job, made.opened.grid, provider=PROFILES[provider], prices=PriceList())


def reject(made: Any, *places: int, action: str = "reject") -> None:
    answers = {made.records[n].key: answer_digest(made.records[n].completion) for n in places}
    add_review(made.path, Review(id=f"{action}{places}", created=1, action=action, answers=answers))  # type: ignore[arg-type]


def trained(made: Any) -> list[str]:
    lines = made.directory.train.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["messages"][-1]["content"] for line in lines]


def test_a_rejected_answer_is_left_out_with_its_reason_and_comes_back_when_restored(make_run: MakeRun) -> None:
    made = make_run().fill()
    reject(made, 3, 5)
    assert prepare(made).rejected == {BY_HAND: 2}
    assert made.records[3].completion not in trained(made)
    reasons = [json.loads(line)["reason"] for line in made.directory.rejected.read_bytes().splitlines()]
    assert reasons == [BY_HAND, BY_HAND]
    reject(made, 3, action="restore")
    assert prepare(made).rejected == {BY_HAND: 1}
    assert made.records[3].completion in trained(made)


def test_a_row_that_has_another_answer_by_now_is_a_sample_again(make_run: MakeRun) -> None:
    made = make_run().fill()
    reject(made, 3)
    made.records[3] = made.record(made.request(3), "Quite another answer.")
    made.write(made.records)
    assert not prepare(made).rejected
    assert "Quite another answer." in trained(made)


def test_the_report_counts_what_was_rejected_by_hand(make_run: MakeRun) -> None:
    made = make_run().fill()
    reject(made, 1)
    assert make_report(made.directory, made.opened.job, made.opened.grid).rejected == {BY_HAND: 1}


def test_a_rejected_answer_is_the_worse_one_of_a_pair(make_run: MakeRun) -> None:
    made = make_run('[dataset]\nformat = "preference"\n').fill()
    reject(made, *range(0, 36, 3))
    prepare(made, "openai")
    lines = [json.loads(line) for line in made.directory.train.read_bytes().splitlines()]
    worse = [line["non_preferred_output"][0]["content"] for line in lines]
    assert sorted(worse) == sorted(made.records[n].completion for n in range(0, 36, 3))


def test_a_damaged_file_of_reviews_stops_the_preparation(make_run: MakeRun) -> None:
    made = make_run().fill()
    (made.path / REVIEWED_NAME).write_text("nonsense\n")
    with pytest.raises(BadLineError):
        prepare(made)
