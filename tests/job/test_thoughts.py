"""Reasoning in the text of an answer is divided from what the answer says."""

from __future__ import annotations

import pytest

from asyncgen.job.answers import AnswerReader
from asyncgen.job.model import AnswerSettings
from asyncgen.job.thoughts import begins_with_thoughts, split_thoughts


@pytest.mark.parametrize(
    "text",
    ["<think>I was cut", "[THINK] I was cut", "<|channel|>analysis<|message|>I was cut", " \n<Reasoning>I was cut"],
)
def test_an_answer_that_was_cut_off_in_its_reasoning_says_nothing(text: str) -> None:
    assert begins_with_thoughts(text)
    assert split_thoughts(text)[1] == ""


@pytest.mark.parametrize(
    "text",
    ["", "Buy now.", "<b>Buy</b> now.", "[1] Buy now.", "<thinkers> unite", "We think.", "Is a < b? I think so >", "<"],
)
def test_other_answers_are_left_as_they_are(text: str) -> None:
    assert split_thoughts(text) == (None, text)


def test_an_empty_block_is_reasoning_too() -> None:
    assert split_thoughts("<think>\n\n</think>\n\nBuy.") == ("\n\n", "Buy.")


@pytest.mark.parametrize("before", ["", "<think>hm</think>\n", "hm</think>\n", "[THINK]hm[/THINK]"])
def test_json_is_read_behind_reasoning(before: str) -> None:
    reader = AnswerReader(AnswerSettings(format="json"))
    assert reader.read(before + '{"a": "b</think>"}').items[0].fields == {"a": "b</think>"}
