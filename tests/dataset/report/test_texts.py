"""Texts are measured within bounded memory, and samples are drawn fairly."""

from __future__ import annotations

from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.dataset.report import collect as texts
from asyncgen.dataset.report.collect import TextStatistics


def key(number: int) -> str:
    return blake2b(str(number).encode(), digest_size=16).hexdigest()


def of(answers: list[str]) -> TextStatistics:
    statistics = TextStatistics()
    for number, text in enumerate(answers):
        statistics.add(key(number), text)
    return statistics


def test_distinct_shares_are_those_of_a_small_example() -> None:
    diversity = of(["a b a b", "A b"]).diversity()
    assert diversity.distinct == (2 / 6, 2 / 4, 2 / 2)
    assert diversity.answers == 2


def test_openings_are_ranked_by_how_common_they_are_then_by_letter() -> None:
    assert of(["x y z 1", "x y z 2", "b", "a"]).openings(3) == [("x y z", 2), ("a", 1), ("b", 1)]


def test_common_openings_survive_a_flood_of_rare_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "_MOST_OPENINGS", 100)
    answers = [f"rare opening {number}" if number % 4 else "Take cards online now" for number in range(2000)]
    assert of(answers).openings(1) == [("Take cards online", 500)]


@given(st.permutations(range(30)))
def test_the_sample_does_not_depend_on_the_order_of_the_answers(order: list[int]) -> None:
    statistics = TextStatistics()
    other = TextStatistics()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "SAMPLED", 10)
        for number in range(30):
            statistics.add(key(number), f"text {number}")
        for number in order:
            other.add(key(number), f"text {number}")
    assert sorted(statistics._sample) == sorted(other._sample)
    assert len(other._sample) == 10
