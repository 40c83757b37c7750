"""Texts are measured within bounded memory, and samples are drawn fairly."""

from __future__ import annotations

from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.dataset.report import texts
from asyncgen.dataset.report.texts import AnswerTexts, diversity


def key(number: int) -> str:
    return blake2b(str(number).encode(), digest_size=16).hexdigest()


def of(answers: list[str]) -> AnswerTexts:
    measured = AnswerTexts()
    measured.add_all(map(key, range(len(answers))), answers)
    return measured


def test_distinct_shares_are_those_of_a_small_example() -> None:
    found = diversity(["a b a b", "A b"])
    assert found.distinct == (2 / 6, 2 / 4, 2 / 2)
    assert found.answers == 2


def test_openings_are_ranked_by_how_common_they_are_then_by_which_came_first() -> None:
    answers = ["b", "x y z 1", "a", "x y z 2"]
    assert of(answers).openings(3, answers.__getitem__) == [("x y z", 2), ("b", 1), ("a", 1)]


def test_common_openings_are_found_among_a_flood_of_rare_ones() -> None:
    answers = [f"rare opening {number}" if number % 4 else "Take cards online now" for number in range(2000)]
    assert of(answers).openings(1, answers.__getitem__) == [("Take cards online", 500)]


@given(st.permutations(range(30)))
def test_the_sample_does_not_depend_on_the_order_of_the_answers(order: list[int]) -> None:
    measured = AnswerTexts()
    measured.add_all(map(key, order), [f"text {number}" for number in order])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "SAMPLED", 10)
        assert [order[number] for number in measured.sample()] == sorted(range(30), key=key)[:10]
