"""Near-duplicates: all that are there are found, whatever the order and the size of the group."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from asyncgen.dataset import near_duplicates
from asyncgen.dataset.near_duplicates import (
    THRESHOLD,
    AnswersByPrompt,
    Sketches,
    shingles,
    similar,
    similarity,
    words_of,
)

if TYPE_CHECKING:
    import pytest

TEXT = (
    "Give your small grocery stores in Paris a safe way to accept cards online, without any new device. "
    "There is no contract, so that you only pay when you sell."
)


def find(texts: list[str], prompts: list[str] | None = None) -> list[tuple[int, int]]:
    answers = AnswersByPrompt()
    for number, _ in enumerate(texts):
        answers.add(prompts[number] if prompts else "prompt", number)
    sketches = Sketches()
    for text in texts:
        sketches.add_all([text])
    groups = map(sketches.candidates, answers.groups())
    return sorted((found.number, found.earlier) for group in groups for found in similar(group, texts.__getitem__))


def test_a_word_changed_or_punctuation_and_case_make_a_near_duplicate() -> None:
    assert find([TEXT, TEXT.replace("safe", "quick")]) == [(1, 0)]
    assert find([TEXT, TEXT.upper().replace(".", "!")]) == [(1, 0)]


def test_three_words_changed_make_another_text() -> None:
    other = TEXT.replace("safe", "quick").replace("contract", "fee").replace("cards", "payments")
    assert find([TEXT, other]) == []


def test_texts_of_other_prompts_are_not_compared() -> None:
    assert find([TEXT, TEXT], ["one", "two"]) == []


def test_an_answer_that_was_found_is_no_example_for_others() -> None:
    chain = [TEXT, TEXT.replace("safe", "quick"), TEXT.replace("safe", "quick").replace("contract", "fee")]
    assert find(chain) == [(1, 0), (2, 0)] or find(chain) == [(1, 0)]
    assert all(earlier == 0 for _, earlier in find(chain))


def test_scripts_without_blanks_are_cut_into_characters() -> None:
    chinese = "让巴黎的小型杂货店轻松接受网上付款无需合同只在销售时付费"
    assert find([chinese, chinese.replace("轻", "快")]) == [(1, 0)]
    assert find([chinese, "柏林的大药房现在可以更快地收到货款请联系我们的团队"]) == []


def test_ascii_and_other_texts_are_cut_alike() -> None:
    assert words_of("Été: a_b C3-PO!") == [word.encode() for word in ("été", "a", "b", "c3", "po")]
    assert words_of("Ete: a_b C3-PO!") == [b"ete", b"a", b"b", b"c3", b"po"]


def test_texts_without_words_are_never_near_duplicates_of_each_other() -> None:
    assert find(["...", "!!!", ""]) == []


words = st.lists(
    st.sampled_from(["pay", "card", "shop", "sell", "fast", "safe", "online", "city", "team", "fee"]),
    min_size=4,
    max_size=14,
)


@given(st.lists(words.map(" ".join), min_size=1, max_size=12))
def test_what_is_found_is_what_comparing_each_with_each_finds(texts: list[str]) -> None:
    kept: list[int] = []
    expected = []
    for number, text in enumerate(texts):
        alike = [(similarity(shingles(text), shingles(texts[other])), -other) for other in kept]
        best = max(alike, default=(0.0, 0))
        if best[0] >= THRESHOLD:
            expected.append((number, -best[1]))
        else:
            kept.append(number)
    assert find(texts) == expected


@given(st.frozensets(st.integers(), max_size=8), st.frozensets(st.integers(), max_size=8))
def test_similarity_is_the_share_of_common_members(left: frozenset[int], right: frozenset[int]) -> None:
    expected = len(left & right) / len(left | right) if left | right else 0.0
    assert similarity(left, right) == similarity(right, left) == expected


def test_groups_larger_than_any_that_are_compared_at_once_are_searched_in_slices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(near_duplicates, "LARGEST_GROUP", 3)
    other = "A text that has nothing at all in common with those before it"
    assert find([TEXT, other, TEXT, TEXT, other, TEXT]) == [(2, 0), (5, 3)]


def test_answers_that_share_an_opening_are_compared_with_few_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time must not be asserted; how often texts are compared tells whether it grows with the square."""
    compared = 0

    def counting(left: frozenset[int], right: frozenset[int]) -> float:
        nonlocal compared
        compared += 1
        return similarity(left, right)

    monkeypatch.setattr(near_duplicates, "similarity", counting)
    opening = "Dear owner of the shop around the corner, here is our offer for you and your customers: "
    rng = random.Random(7)
    texts = [opening + " ".join(f"word{rng.randrange(400)}" for _ in range(20)) for _ in range(2000)]
    assert not find(texts)
    assert compared < len(texts)


@given(st.lists(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=12), min_size=2, max_size=14))
def test_every_text_that_is_near_enough_to_a_kept_one_is_found(words: list[list[str]]) -> None:
    texts = [" ".join(each) for each in words]
    kept: list[int] = []
    expected: list[tuple[int, int]] = []
    for number, text in enumerate(texts):
        close = [(similarity(shingles(text), shingles(texts[other])), -other) for other in kept]
        if close and max(close)[0] >= THRESHOLD:
            expected.append((number, -max(close)[1]))
        else:
            kept.append(number)
    assert find(texts) == expected


def test_groups_keep_the_order_in_which_answers_were_added() -> None:
    answers = AnswersByPrompt()
    for number in range(100):
        answers.add(f"prompt {number % 7}", number)
    assert sorted(answers.groups()) == [list(range(first, 100, 7)) for first in range(7)]
