"""An evaluation's answers side by side, and votes on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from asyncgen.errors import UsageError
from asyncgen.view.evaluations import TIE, Vote, add_vote, evaluation_names, read_evaluation, shown, winner_of

if TYPE_CHECKING:
    from playwright.sync_api import Page

MakeRun = Callable[..., Any]


def write_evaluation(run: Path, answers: dict[str, list[str]]) -> None:
    folder = run / "evaluations" / "held-out"
    folder.mkdir(parents=True)
    for name, texts in answers.items():
        lines = [json.dumps({"prompt": f"prompt {n}", "completion": text}) for n, text in enumerate(texts)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    contestants = [{"name": name, "technique": "tuned"} for name in sorted(answers, reverse=True)]
    summary = {"contestants": contestants, "notes": ["only 1 value of city was held out"]}
    (folder / "evaluation.json").write_text(json.dumps(summary), encoding="utf-8")


@pytest.fixture
def evaluated(make_run: MakeRun) -> Any:
    run = make_run(rows=1)
    write_evaluation(run.path, {"base": ["yes", "no", "same"], "tuned": ["Yes!", "No!", "same"]})
    return run


def test_answers_to_one_prompt_stand_together_in_the_order_of_the_contestants(evaluated: Any) -> None:
    assert evaluation_names(evaluated.path) == ["held-out"]
    found = shown(read_evaluation(evaluated.path, "held-out"), blind=False)
    assert found["contestants"] == ["tuned", "base"]
    assert [[answer["completion"] for answer in row["answers"]] for row in found["rows"]] == [
        ["Yes!", "yes"], ["No!", "no"], ["same", "same"],
    ]  # fmt: skip
    assert [row["differs"] for row in found["rows"]] == [True, True, False]


def test_a_blind_row_names_nobody_before_its_vote_and_keeps_its_order(evaluated: Any) -> None:
    blind = shown(read_evaluation(evaluated.path, "held-out"), blind=True)
    assert {answer["name"] for row in blind["rows"] for answer in row["answers"]} == {None}
    assert blind == shown(read_evaluation(evaluated.path, "held-out"), blind=True)


def test_a_vote_for_a_letter_counts_for_whoever_stood_behind_it(evaluated: Any) -> None:
    before = read_evaluation(evaluated.path, "held-out")
    row = shown(before, blind=True)["rows"][0]
    winner = winner_of(before, row["row"], "B", blind=True)
    add_vote(evaluated.path, "held-out", Vote(row=row["row"], winner=winner, created=1, blind=True))
    found = shown(read_evaluation(evaluated.path, "held-out"), blind=True)
    assert [answer["name"] for answer in found["rows"][0]["answers"]][1] == winner == found["rows"][0]["vote"]
    assert found["votes"][winner] == 1
    add_vote(evaluated.path, "held-out", Vote(row=row["row"], winner=TIE, created=2))
    assert shown(read_evaluation(evaluated.path, "held-out"), blind=True)["votes"] == {"tuned": 0, "base": 0, TIE: 1}


@pytest.mark.parametrize(("row", "choice"), [("nowhere", "A"), (None, "C"), (None, "base"), (None, "")])
def test_a_vote_for_nobody_is_refused(evaluated: Any, row: str | None, choice: str) -> None:
    found = read_evaluation(evaluated.path, "held-out")
    with pytest.raises(UsageError):
        winner_of(found, row or next(iter(found.rows)), choice, blind=True)


@pytest.mark.parametrize("name", ["", "..", "other", "../evaluations/held-out"])
def test_an_evaluation_is_named_and_never_a_path(evaluated: Any, name: str) -> None:
    with pytest.raises(UsageError):
        read_evaluation(evaluated.path, name)


def expect(locator: Any) -> Any:
    from playwright.sync_api import expect as playwright_expect  # noqa: PLC0415 - not on every machine

    return playwright_expect(locator)


@pytest.mark.browser
def test_only_answers_that_differ_are_compared_and_blind_votes_uncover_them(
    evaluated: Any, page_of: Callable[..., Page]
) -> None:
    page = page_of(evaluated)
    page.keyboard.press("4")
    expect(page.get_by_text("only 1 value of city was held out")).to_be_visible()
    rows = page.get_by_role("article")
    expect(rows).to_have_count(2)
    page.get_by_role("checkbox", name="Only different answers").uncheck()
    expect(rows).to_have_count(3)
    page.get_by_role("checkbox", name="Blind votes").check()
    expect(rows.first.get_by_role("heading", name="Answer A")).to_be_visible()
    names = page.locator("article h4")
    expect(names.filter(has_text="tuned")).to_have_count(0)
    rows.first.get_by_role("button", name="This one is better").first.click()
    expect(rows.first.get_by_text("your choice")).to_be_visible()
    expect(names.filter(has_text="tuned")).to_have_count(1)
    rows.nth(1).get_by_role("button", name="A tie").click()
    expect(page.get_by_text("2 votes, 1 of them ties")).to_be_visible()
    page.reload()
    expect(page.get_by_text("2 votes, 1 of them ties")).to_be_visible()
