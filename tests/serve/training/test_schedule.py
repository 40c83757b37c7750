from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asyncgen.serve.training.loop import learning_rate


@given(st.integers(1, 5000))
def test_the_rate_rises_to_its_peak_once_and_falls_from_there_without_reaching_zero(total: int) -> None:
    rates = [learning_rate(step, total, 2e-3) for step in range(1, total + 1)]
    peak = rates.index(max(rates))
    assert max(rates) == 2e-3
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert min(rates) > 0


def test_a_tenth_of_the_steps_is_warm_up_but_no_more_than_twenty() -> None:
    assert [learning_rate(step, 50, 1.0) for step in (1, 5)] == [0.2, 1.0]
    assert [learning_rate(step, 1000, 1.0) for step in (1, 20)] == [0.05, 1.0]


def test_a_single_step_has_the_whole_rate() -> None:
    assert learning_rate(1, 1, 0.5) == 0.5
