"""Counting tokens: by a vocabulary where there is one, else an estimate that says so."""

from __future__ import annotations

import sys

import pytest

from asyncgen.dataset.token_counts import TokenRatio, token_counter


@pytest.mark.parametrize(
    ("model", "label"),
    [
        ("gpt-4.1-mini-2025-04-14", "o200k_base"),
        ("gpt-6-luna", "o200k_base"),
        ("ft:gpt-4o-mini:org:x:1", "o200k_base"),
        ("gpt-4-0613", "cl100k_base"),
        ("gpt-4", "cl100k_base"),
        ("gpt-3.5-turbo", "cl100k_base"),
        ("davinci-002", "cl100k_base"),
        ("gpt-oss-20b", "o200k_harmony"),
        ("Qwen/Qwen3.5-9B", "qwen3.5"),
    ],
)
def test_each_family_is_counted_by_its_own_vocabulary(model: str, label: str) -> None:
    pytest.importorskip("toktok")
    counter = token_counter(model)
    assert counter.label == label
    assert counter.exact


@pytest.mark.parametrize("model", ["meta-llama/Meta-Llama-3.1-8B-Instruct", "smollm2-135m-instruct", None])
def test_other_models_get_an_estimate_that_says_so(model: str) -> None:
    pytest.importorskip("toktok")
    counter = token_counter(model)
    assert "estimate" in counter.label
    assert not counter.exact


def test_counts_are_those_of_the_vocabulary() -> None:
    pytest.importorskip("toktok")
    assert token_counter("gpt-4.1").count(["hello world", "", "x"]) == [2, 0, 1]


def test_without_the_extra_bytes_are_estimated_and_corrected_by_the_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "toktok", None)
    counter = token_counter("gpt-4.1", 2.0)
    assert counter.count(["x" * 40, ""]) == [20, 0]
    assert "estimate" in counter.label
    assert "x 2.00" in counter.label


def test_a_chat_costs_four_tokens_a_message_and_three_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "toktok", None)
    counter = token_counter(None)
    assert counter.samples([["x" * 4, "y" * 8]], chat=True) == [1 + 2 + 4 + 4 + 3]
    assert counter.samples([["x" * 4, "y" * 8]], chat=False) == [3]
    assert counter.samples([], chat=True) == []


def test_the_ratio_is_learnt_from_answers_and_absurd_counts_are_left_out() -> None:
    ratio = TokenRatio()
    assert ratio.ratio == 1.0
    ratio.add("x" * 40, 0)
    ratio.add("", 10)
    assert ratio.ratio == 1.0
    ratio.add("x" * 40, 15)
    ratio.add("x" * 40, 5)
    assert ratio.ratio == 1.0
    ratio.add("x" * 80, 40)
    assert ratio.ratio == 1.5
