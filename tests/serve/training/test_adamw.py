from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.serve.training.loop import AdamW, clip


def test_steps_are_those_of_the_formula_number_by_number() -> None:
    rng = np.random.default_rng(0)
    numbers = rng.standard_normal(5)
    gradients = rng.standard_normal((4, 5))
    expected = [by_hand(float(number), gradients[:, place]) for place, number in enumerate(numbers)]
    optimiser = AdamW(numbers, mean_decay=0.9, square_decay=0.99, weight_decay=0.1, epsilon=1e-8)
    for step, gradient in enumerate(gradients, start=1):
        optimiser.step(gradient, 0.01 * step)
    np.testing.assert_allclose(numbers, expected, rtol=1e-12)


def by_hand(number: float, gradients: np.ndarray) -> float:
    mean = square = 0.0
    for step, gradient in enumerate(gradients, start=1):
        rate = 0.01 * step
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.99 * square + 0.01 * gradient**2
        direction = mean / (1 - 0.9**step) / (math.sqrt(square / (1 - 0.99**step)) + 1e-8)
        number = number - rate * 0.1 * number - rate * direction
    return number


def test_it_finds_the_lowest_point_of_a_bowl() -> None:
    numbers = np.array([3.0, -2.0])
    optimiser = AdamW(numbers, weight_decay=0.0)
    for step in range(500):
        optimiser.step(2 * (numbers - np.array([1.0, 1.0])), 0.1 * (1 - step / 500))
    np.testing.assert_allclose(numbers, [1, 1], atol=1e-3)


def test_a_gradient_is_not_changed_by_a_step() -> None:
    gradient = np.ones(3)
    AdamW(np.zeros(3)).step(gradient, 0.1)
    assert gradient.tolist() == [1, 1, 1]


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=6), st.floats(0.1, 10))
def test_a_clipped_gradient_keeps_its_direction_and_is_never_longer(values: list[float], longest: float) -> None:
    gradient = np.array(values)
    before = gradient.copy()
    assert clip(gradient, longest) == pytest.approx(math.hypot(*values))
    assert math.hypot(*gradient) <= longest * (1 + 1e-9)
    ratio = min(1.0, longest / max(math.hypot(*values), 1e-300))
    np.testing.assert_allclose(gradient, before * ratio, rtol=1e-9)
