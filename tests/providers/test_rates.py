"""asyncgen.providers.price: the cost of one call."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.providers.price import TokenRates
from asyncgen.run.records import Usage

LUNA = TokenRates(0.10, 0.01, 0.50)
counts = st.integers(-(10**12), 10**12)


def test_cached_tokens_are_charged_at_their_own_rate() -> None:
    usage = Usage(prompt_tokens=1_000_000, cached_tokens=400_000)
    assert LUNA.cost_usd(usage) == pytest.approx(0.6 * 0.10 + 0.4 * 0.01)


def test_reasoning_is_charged_as_output_unless_it_has_a_rate() -> None:
    usage = Usage(completion_tokens=1_000_000, reasoning_tokens=600_000)
    assert LUNA.cost_usd(usage) == pytest.approx(0.50)
    apart = TokenRates(0.10, 0.01, 0.50, reasoning=0.25)
    assert apart.cost_usd(usage) == pytest.approx(0.4 * 0.50 + 0.6 * 0.25)


def test_a_long_prompt_is_charged_at_its_step_as_a_whole() -> None:
    stepped = TokenRates(1, 1, 1, steps=((1000, TokenRates(2, 2, 3)), (2000, TokenRates(4, 4, 4))))
    assert stepped.cost_usd(Usage(prompt_tokens=1000)) == pytest.approx(1000e-6)
    assert stepped.cost_usd(Usage(prompt_tokens=1001, completion_tokens=1)) == pytest.approx(2005e-6)
    assert stepped.cost_usd(Usage(prompt_tokens=2001)) == pytest.approx(8004e-6)


STEPPED = TokenRates(1, 0.1, 2, steps=((1000, TokenRates(2, 2, 3)), (2000, TokenRates(4, 4, 4))))
APART = TokenRates(0.10, 0.01, 0.50, reasoning=0.25)
few = st.integers(-10, 4000)


@given(st.sampled_from([LUNA, STEPPED, APART]), st.lists(st.builds(Usage, few, few, few, few), max_size=30))
def test_many_calls_cost_what_they_cost_one_by_one(rates: TokenRates, usages: list[Usage]) -> None:
    assert rates.cost_of_all_usd(usages) == pytest.approx(sum(map(rates.cost_usd, usages)))


@given(st.lists(st.builds(Usage, st.integers(50, 4000), st.integers(0, 50), st.integers(0, 500)), max_size=30))
def test_many_plain_calls_cost_what_they_cost_one_by_one(usages: list[Usage]) -> None:
    assert LUNA.cost_of_all_usd(usages) == pytest.approx(sum(map(LUNA.cost_usd, usages)))


@given(counts, counts, counts, counts)
def test_no_usage_makes_money(prompt: int, cached: int, completion: int, reasoning: int) -> None:
    assert LUNA.cost_usd(Usage(prompt, cached, completion, reasoning)) >= 0
