"""asyncgen.providers.tokens: estimates without a tokenizer."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.providers.tokens import TokenEstimate, estimate_body, estimate_messages, estimate_text


def test_text_is_four_bytes_a_token_rounded_up() -> None:
    assert [estimate_text(text) for text in ("", "a", "abcd", "abcde")] == [0, 1, 1, 2]


def test_characters_outside_ascii_cost_more() -> None:
    assert estimate_text("漢字漢字") == 3 > estimate_text("abcd")


def test_a_lone_surrogate_is_counted_and_not_refused() -> None:
    assert estimate_text("\ud800") == 1


def test_chat_adds_four_a_message_and_three_for_the_reply() -> None:
    assert estimate_messages(["abcd", "abcd"]) == 2 * (1 + 4) + 3


def test_a_chat_body_is_estimated_by_its_messages_alone() -> None:
    body = {
        "model": "m" * 400,
        "messages": [{"role": "system", "content": "abcd"}, {"role": "user", "content": "abcdefgh"}],
        "temperature": 1,
    }
    assert estimate_body(orjson.dumps(body)) == estimate_messages(["abcd", "abcdefgh"])


def test_a_completion_body_is_estimated_by_its_prompt() -> None:
    assert estimate_body(orjson.dumps({"model": "m", "prompt": "abcdefgh"})) == 2


def test_content_in_parts_and_empty_content_are_counted() -> None:
    parts = [{"type": "text", "text": "abcd"}, {"type": "text", "text": "efgh"}]
    body = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": None}]}
    assert estimate_body(orjson.dumps(body)) == estimate_messages(["abcdefgh", ""])


def test_nothing_observed_leaves_the_estimate_as_it_is() -> None:
    assert TokenEstimate().corrected(123) == 123


def test_the_ratio_settles_within_ten_answers() -> None:
    estimate = TokenEstimate()
    for _ in range(10):
        estimate.observe(100, 130)
    assert estimate.ratio == pytest.approx(1.3)
    assert estimate.corrected(10) == 13


def test_the_ratio_follows_rows_that_change() -> None:
    estimate = TokenEstimate()
    for _ in range(50):
        estimate.observe(100, 100)
    for _ in range(60):
        estimate.observe(100, 200)
    assert estimate.ratio == pytest.approx(2.0, rel=0.05)


@given(st.lists(st.tuples(st.integers(-10, 10**6), st.integers(-(10**18), 10**18))))
def test_no_answer_makes_the_ratio_absurd(observed: list[tuple[int, int]]) -> None:
    estimate = TokenEstimate()
    for estimated, counted in observed:
        estimate.observe(estimated, counted)
    assert 0.05 <= estimate.ratio <= 20.0
    assert estimate.corrected(1000) >= 50


@given(st.text(), st.text())
def test_a_longer_text_is_never_fewer_tokens(first: str, second: str) -> None:
    assert estimate_text(first + second) >= max(estimate_text(first), estimate_text(second))
