"""Training files: what is a sample, and what is wrong with the rest."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.serve.tuning.samples import (
    ChatSample,
    CompletionSample,
    SampleError,
    check_samples,
    read_samples,
)

if TYPE_CHECKING:
    from pathlib import Path

ANSWER = {"role": "assistant", "content": "Yes."}
QUESTION = {"role": "user", "content": "Open?"}
CHAT = {"messages": [QUESTION, ANSWER]}


def written(folder: Path, *rows: Any) -> Path:
    path = folder / "train.jsonl"
    path.write_bytes(b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows))
    return path


def only(folder: Path, row: Any, method: str = "supervised") -> Any:
    [(_, sample)] = read_samples(written(folder, row), method)
    return sample


def test_chat_and_completion_samples_are_told_apart(tmp_path: Path) -> None:
    assert isinstance(only(tmp_path, CHAT), ChatSample)
    assert isinstance(only(tmp_path, {"prompt": "Open? ->", "completion": " Yes.\n"}), CompletionSample)


def test_text_parts_are_joined(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "Y"}, {"type": "text", "text": "es."}]
    sample = only(tmp_path, {"messages": [QUESTION, {"role": "assistant", "content": parts}]})
    assert sample.messages[1].text == "Yes."


def test_weight_0_is_not_learnt(tmp_path: Path) -> None:
    row = {"messages": [QUESTION, {**ANSWER, "weight": 0}, QUESTION, {**ANSWER, "weight": 1}]}
    assert [message.is_learnt for message in only(tmp_path, row).messages] == [False, False, False, True]


def test_byte_order_mark_and_empty_lines_are_passed_over(tmp_path: Path) -> None:
    path = written(tmp_path, b"\xef\xbb\xbf" + json.dumps(CHAT).encode(), b"", b"  ", CHAT)
    assert [number for number, _ in read_samples(path, "supervised")] == [1, 4]
    assert check_samples(path, "supervised", 2) == 2


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"{", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b'{"prompt": "Caf\xe9?", "completion": "Yes."}', "not valid JSON"),
        (b"[" * 200_000, "not valid JSON"),
        ([1], "not a JSON object"),
        ({}, "missing required field `messages`"),
        ({"messages": []}, "length >= 1"),
        ({"messages": [{"role": "pirate", "content": "x"}]}, "pirate"),
        ({"messages": [{"role": "user"}]}, "missing required field `content`"),
        ({"messages": [{"role": "user", "content": None}]}, "got `null`"),
        ({"messages": [QUESTION]}, "no assistant message to learn from"),
        ({"messages": [QUESTION, {**ANSWER, "weight": 0}]}, "no assistant message to learn from"),
        ({"messages": [QUESTION, {**ANSWER, "weight": 2}]}, "<= 1"),
        ({"messages": [QUESTION, {**ANSWER, "wieght": 0}]}, "unknown field `wieght` - at `$.messages[1]`"),
        ({"messages": [{**QUESTION, "weight": 1}, ANSWER]}, "Only an assistant's message may have a `weight`"),
        ({"messages": [QUESTION, {**ANSWER, "refusal": "No."}]}, "`refusal` is not supported"),
        ({"messages": [QUESTION, {**ANSWER, "tool_calls": [{}]}]}, "`tool_calls` is not supported"),
        ({"messages": [QUESTION, {**ANSWER, "function_call": {"name": "f"}}]}, "`function_call` is not supported"),
        ({**CHAT, "tools": [{"type": "function"}]}, "`tools` is not supported"),
        ({**CHAT, "functions": [{"name": "f"}]}, "`functions` is not supported"),
        ({**CHAT, "mesages": []}, "unknown field `mesages`"),
        ({"prompt": "x", "completion": "y", "id": 1}, "unknown field `id`"),
        ({"prompt": "x"}, "missing required field `completion`"),
        ({"prompt": "x", "completion": ""}, "length >= 1"),
    ],
)
def test_bad_line_says_what_is_wrong(tmp_path: Path, row: Any, reason: str) -> None:
    assert reason in only(tmp_path, row)


def test_names_and_empty_parts_of_the_api_are_taken(tmp_path: Path) -> None:
    answer: dict[str, Any] = {**ANSWER, "name": "shop", "refusal": None, "tool_calls": [], "function_call": None}
    row = {"messages": [{**QUESTION, "name": "guest"}, answer], "tools": [], "functions": None}
    assert only(tmp_path, {**row, "parallel_tool_calls": False}).messages[1].is_learnt


def test_preference_sample_needs_both_answers(tmp_path: Path) -> None:
    row = {"input": {"messages": [QUESTION]}, "preferred_output": [ANSWER]}
    assert "non_preferred_output" in only(tmp_path, row, "dpo")


def test_ten_bad_lines_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    path = written(tmp_path, *[CHAT] * 20, *[b"{"] * 12)
    with pytest.raises(SampleError) as caught:
        check_samples(path, "supervised", 10)
    message = str(caught.value)
    assert "12 invalid line(s)" in message
    assert "line 21: " in message
    assert "line 31: " not in message
    assert "and 2 more" in message


def test_formats_are_not_mixed(tmp_path: Path) -> None:
    path = written(tmp_path, *[CHAT] * 10, {"prompt": "a", "completion": "b"})
    with pytest.raises(SampleError, match="mixes"):
        check_samples(path, "supervised", 10)


@given(data=st.lists(st.binary(max_size=60), max_size=8))
def test_no_bytes_break_the_reading(tmp_path_factory: pytest.TempPathFactory, data: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("samples") / "train.jsonl"
    path.write_bytes(b"\n".join(data))
    for number, sample in read_samples(path, "supervised"):
        assert number >= 1
        assert sample
