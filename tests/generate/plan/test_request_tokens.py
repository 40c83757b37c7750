"""Tokens of a row: measured where there are answers, else bounded."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from asyncgen.generate.plan.request_tokens import Figures, RequestTokens, RunMeasurements, tokens_of_a_request
from asyncgen.job.opened import OpenedJob

Open = Callable[..., OpenedJob]


def tokens(opened: OpenedJob, there: RunMeasurements | None = None) -> RequestTokens:
    return tokens_of_a_request(opened.job, opened.grid, there or RunMeasurements())


def measured(*rows: tuple[int, int]) -> RunMeasurements:
    there = RunMeasurements(settled=len(rows))
    for prompt, completion in rows:
        there.prompt_tokens.add(prompt)
        there.completion_tokens.add(completion)
        there.answer_tokens.add(completion)
    return there


def test_the_cap_bounds_an_answer_from_above(open_job: Open) -> None:
    found = tokens(open_job("[generate.parameters]\nmax_completion_tokens = 200"))
    assert (found.completion.low, found.completion.high) == (40, 200)
    assert "at most 200 tokens" in found.basis


def test_checks_bound_the_likely_answer(open_job: Open) -> None:
    found = tokens(open_job("[checks]\nmax_words = 20\n[generate.parameters]\nmax_completion_tokens = 200"))
    assert (found.completion.low, found.completion.high) == (15, 200)


def test_no_cap_is_said_to_be_a_guess(open_job: Open) -> None:
    found = tokens(open_job())
    assert found.completion.high == 1000
    assert "a guess" in found.basis


def test_hidden_reasoning_widens_the_guess_and_is_told(open_job: Open) -> None:
    found = tokens(open_job('[generate.parameters]\nreasoning_effort = "high"', model="gpt-6-luna"))
    assert found.completion.high == 8000
    assert "reasoning" in found.basis


def test_attempts_multiply_what_is_sent_but_not_the_answer_that_is_kept(open_job: Open) -> None:
    once = tokens(open_job("[generate.parameters]\nmax_completion_tokens = 50"))
    thrice = tokens(open_job("[checks]\nattempts = 3\n[generate.parameters]\nmax_completion_tokens = 50"))
    assert thrice.prompt.high == 3 * once.prompt.high
    assert thrice.prompt.low == once.prompt.low
    assert thrice.completion.high == 150
    assert thrice.answer == once.answer


def test_measured_rows_replace_the_guesses(open_job: Open) -> None:
    found = tokens(open_job(), measured((100, 30), (100, 40), (100, 50)))
    assert (found.prompt.low, found.prompt.high) == (100, 100)
    assert found.completion.low < 40 < found.completion.high
    assert "3 rows" in found.basis


def test_two_rows_are_not_enough_to_measure(open_job: Open) -> None:
    assert "estimated" in tokens(open_job(), measured((100, 30), (100, 40))).basis


def test_the_short_prompt_counts_the_datasets_system_message(open_job: Open) -> None:
    bare = tokens(open_job()).short_prompt
    with_system = tokens(open_job('[dataset]\nsystem = "Write an advert."')).short_prompt
    assert with_system == bare + 4 + 4


@pytest.mark.parametrize(("values", "mean", "error"), [((), 0, 0), ((5,), 5, 0), ((1, 2, 3), 2, 2 / 3**0.5)])
def test_figures_have_the_usual_mean_and_error(values: tuple[int, ...], mean: float, error: float) -> None:
    figures = Figures()
    for value in values:
        figures.add(value)
    assert figures.mean == pytest.approx(mean)
    assert figures.error == pytest.approx(error)
