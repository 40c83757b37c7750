"""asyncgen.generate.pool.budget: a budget is never passed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.errors import UsageError
from asyncgen.generate.pool.budget import Budget, open_budget
from asyncgen.providers.price import FREE, Price, TokenRates
from asyncgen.run.records import Usage

DOLLAR_A_TOKEN = TokenRates(1_000_000, 1_000_000, 1_000_000)


def budget(max_cost_usd: float, spent_usd: float = 0.0) -> Budget:
    return Budget(DOLLAR_A_TOKEN, max_cost_usd, spent_usd)


def test_what_is_in_flight_counts() -> None:
    purse = budget(40)
    held = purse.hold(8, 10)
    assert held == 20
    assert purse.hold(8, 10) == 20
    assert purse.hold(0, 1) is None


def test_what_earlier_invocations_spent_counts() -> None:
    assert budget(40, spent_usd=39.5).hold(0, 1) is None


def test_an_answer_gives_back_what_it_did_not_use() -> None:
    purse = budget(40)
    held = purse.hold(8, 20)
    assert held is not None
    purse.settle(held, Usage(prompt_tokens=8, completion_tokens=2))
    assert (purse.spent_usd, purse.in_flight_usd) == (10, 0)


def test_what_was_refused_costs_nothing_and_what_may_be_paid_counts_whole() -> None:
    purse = budget(40)
    first, second = purse.hold(0, 10), purse.hold(0, 10)
    assert first is not None
    assert second is not None
    purse.release(first)
    purse.count_as_spent(second)
    assert (purse.spent_usd, purse.in_flight_usd, purse.unanswered_usd) == (10, 0, 10)


def test_an_unbounded_answer_is_held_at_the_largest_so_far() -> None:
    purse = budget(1e9)
    assert purse.hold(0, None) == 1000
    purse.settle(1000, Usage(completion_tokens=5000))
    assert purse.hold(0, None) == 5000


def test_no_limit_needs_no_price() -> None:
    assert open_budget(None, "standard", None, spent_usd=0) is None


def test_a_limit_without_a_price_is_refused() -> None:
    with pytest.raises(UsageError, match="max_cost = 5 cannot be enforced"):
        open_budget(None, "standard", 5.0, spent_usd=0)


def test_the_tier_decides_the_rates_and_open_batches_count() -> None:
    price = Price({"standard": DOLLAR_A_TOKEN, "batch": TokenRates(1, 1, 1)}, "test", None)
    purse = open_budget(price, "batch", 5.0, spent_usd=1.0, in_flight_usd=2.0)
    assert purse is not None
    assert purse.rates is not None
    assert (purse.rates.input, purse.spent_usd, purse.in_flight_usd) == (1, 1.0, 2.0)


def test_this_machine_never_uses_a_budget_up() -> None:
    purse = open_budget(FREE, "standard", 0.01, spent_usd=0)
    assert purse is not None
    assert purse.hold(10**9, 10**9) == 0


@given(
    st.integers(1, 10_000),
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300), st.sampled_from(["settle", "release", "lost"]))),
    st.integers(1, 20),
)
def test_no_order_of_answers_passes_the_budget(
    max_cost: int, requests: list[tuple[int, int, str]], concurrency: int
) -> None:
    purse = budget(float(max_cost))
    in_flight: list[tuple[float, int, int, str]] = []

    def answer() -> None:
        held, prompt, output, ending = in_flight.pop(0)
        if ending == "settle":
            purse.settle(held, Usage(prompt_tokens=prompt, completion_tokens=output))
        else:
            (purse.release if ending == "release" else purse.count_as_spent)(held)

    for prompt, output, ending in requests:
        held = purse.hold(prompt, output)
        if held is not None:
            in_flight.append((held, prompt, output, ending))
        if len(in_flight) == concurrency:
            answer()
        assert purse.spent_usd + purse.in_flight_usd <= max_cost + 1e-6
    while in_flight:
        answer()
    assert purse.in_flight_usd == pytest.approx(0, abs=1e-6)
    assert purse.spent_usd <= max_cost + 1e-6


def test_what_the_provider_says_that_it_charged_counts_before_the_price() -> None:
    spent = budget(100.0)
    held = spent.hold(10, 10)
    assert held is not None
    spent.settle(held, Usage(10, 0, 10, cost_usd=0.5))
    assert (spent.spent_usd, spent.in_flight_usd) == (0.5, 0.0)


def test_without_a_price_the_first_request_goes_alone_and_told_costs_keep_the_limit() -> None:
    spent = Budget(None, max_cost_usd=1.0, spent_usd=0.0)
    first = spent.hold(10, 10)
    assert first == 1.0
    assert spent.hold(10, 10) is None
    spent.settle(first, Usage(10, 0, 10, cost_usd=0.3))
    held = [spent.hold(10, 10) for _ in range(4)]
    assert held == [0.3, 0.3, None, None]


def test_without_a_price_an_untold_cost_ends_a_run_whose_limit_was_demanded_and_no_other() -> None:
    for must_know in (False, True):
        spent = Budget(None, max_cost_usd=1.0, spent_usd=0.0, must_know=must_know)
        first = spent.hold(10, 10)
        assert first is not None
        spent.settle(first, Usage(10, 0, 10))
        assert (spent.hold(10, 10) is None) == must_know


def test_without_a_price_a_lost_attempt_does_not_use_up_the_limit() -> None:
    spent = Budget(None, max_cost_usd=1.0, spent_usd=0.0)
    first = spent.hold(10, 10)
    assert first is not None
    spent.count_as_spent(first)
    assert spent.hold(10, 10) == 1.0
