"""What is said of which figures."""

from __future__ import annotations

from asyncgen.evaluate.contestants import Contestant, Technique
from asyncgen.evaluate.judge import JudgedPair
from asyncgen.evaluate.measures import ContestantResult
from asyncgen.evaluate.statistics import Interval, PairedCounts, newcombe, sign_test, wilson
from asyncgen.evaluate.verdict import PairResult, best_of, verdict_by_judge, verdict_on


def standing(name: str, technique: Technique, passed: int, n: int, cost: float | None) -> ContestantResult:
    return ContestantResult(
        contestant=Contestant(name, technique, "openai", "m"), n=n, failed=0, passed=passed,
        pass_rate=wilson(passed, n), cost_usd_per_1000=cost,
    )  # fmt: skip


def pair(a: str, b: str, *table: int) -> PairResult:
    counts = PairedCounts(*table)
    p = sign_test(counts.only_a, counts.only_b)
    return PairResult(a, b, newcombe(counts), p, counts.units, counts.only_a, counts.only_b, p)


def test_a_clear_winner_is_named_with_difference_interval_and_cost() -> None:
    found = [standing("tuned", "tuned", 104, 120, 0.21), standing("prompt", "prompt", 89, 120, 1.0)]
    said = verdict_on(found, [pair("tuned", "prompt", 84, 20, 5, 11)], 0.05, "combinations")
    assert said.use == "tuned"
    assert said.sentence == (
        "tuned passes 12.5 points more often than prompt (95 % 4.4..20.7, 120 combinations, p=0.004) "
        "and costs 0.21 of it: use tuned"
    )


def test_where_the_data_does_not_tell_it_says_how_much_more_would() -> None:
    found = [standing("prompt", "prompt", 76, 100, 1.0), standing("tuned", "tuned", 73, 100, None)]
    said = verdict_on(found, [pair("prompt", "tuned", 70, 6, 3, 21)], 0.05, "combinations")
    assert said.use is None
    assert said.more_rows == 180  # 280 for a difference of five points, of which 100 are there
    assert "not enough data" in said.sentence
    assert "about 680 more one as large as seen" in said.sentence


def test_a_cheaper_one_that_is_not_worse_by_more_than_the_margin_is_used() -> None:
    found = [standing("tuned", "tuned", 181, 200, 1.0), standing("few-shot", "few-shot", 180, 200, 1.0)]
    said = verdict_on(found, [pair("tuned", "few-shot", 179, 2, 1, 18)], 0.05, "combinations")
    assert said.use == "few-shot"
    assert "not worse than tuned by more than 5 points" in said.sentence
    assert "needs no training" in said.sentence


def test_a_dearer_one_is_not_used_though_it_is_hardly_worse() -> None:
    found = [standing("tuned", "tuned", 181, 200, 1.0), standing("prompt", "prompt", 180, 200, 3.0)]
    said = verdict_on(found, [pair("tuned", "prompt", 179, 2, 1, 18)], 0.05, "combinations")
    assert said.use is None


def test_a_cheaper_one_of_unknown_price_is_not_called_cheaper() -> None:
    found = [standing("prompt", "prompt", 181, 200, 3.0), standing("few-shot", "few-shot", 180, 200, None)]
    assert verdict_on(found, [pair("prompt", "few-shot", 179, 2, 1, 18)], 0.05, "combinations").use is None


def test_two_that_agree_on_every_row_need_a_number_of_rows_and_no_division_by_nothing() -> None:
    found = [standing("a", "prompt", 6, 6, 0.0), standing("b", "prompt", 6, 6, 0.0)]
    said = verdict_on(found, [pair("a", "b", 6, 0, 0, 0)], 0.05, "combinations")
    assert said.more_rows == 150
    assert "as often as" in said.sentence
    without_margin = verdict_on(found, [pair("a", "b", 6, 0, 0, 0)], 0.0, "combinations")
    assert without_margin.more_rows is None


def test_one_contestant_alone_and_nobody_passing_are_said_so() -> None:
    alone = verdict_on([standing("a", "prompt", 3, 4, None)], [], 0.05, "combinations")
    assert alone.use is None
    assert "3 of 4" in alone.sentence
    none = [standing("a", "prompt", 0, 4, None), standing("b", "tuned", 0, 4, None)]
    assert "no contestant" in verdict_on(none, [pair("a", "b", 0, 0, 0, 4)], 0.05, "combinations").sentence


def test_of_equals_the_cheaper_one_is_the_best() -> None:
    found = [standing("a", "prompt", 3, 4, 2.0), standing("b", "prompt", 3, 4, 1.0), standing("c", "tuned", 3, 4, None)]
    assert best_of(found).contestant.name == "b"


def judged(wins: int, ties: int, losses: int) -> JudgedPair:
    rate = Interval(0.5, 0.4, 0.6)
    return JudgedPair("a", "b", wins, ties, losses, 0, rate, sign_test(wins, losses), 0.0, 1.0, None)


def test_the_judge_decides_where_there_are_no_checks() -> None:
    assert verdict_by_judge([judged(30, 5, 5)], "prompts").use == "a"
    assert verdict_by_judge([judged(5, 5, 30)], "prompts").use == "b"
    open_ = verdict_by_judge([judged(6, 10, 4)], "prompts")
    assert open_.use is None
    assert open_.more_rows == 370
    assert verdict_by_judge([judged(4, 0, 4)], "prompts").more_rows is None
    assert verdict_by_judge([], "prompts").use is None
