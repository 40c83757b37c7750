"""The bytes of a training line."""

from __future__ import annotations

import json
from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from asyncgen.dataset.samples import Sample, training_line
from asyncgen.job.model import DatasetSettings

SAMPLE = Sample("Hotel, New York, small", "Stay here.")
text = st.text(st.characters(codec="utf-8"))


def test_a_chat_sample_is_a_conversation_of_two() -> None:
    assert training_line(DatasetSettings(), SAMPLE)[0] == (
        b'{"messages":[{"role":"user","content":"Hotel, New York, small"},'
        b'{"role":"assistant","content":"Stay here."}]}\n'
    )


def test_a_system_message_comes_first() -> None:
    line = json.loads(training_line(DatasetSettings(system="You sell."), SAMPLE)[0])
    assert [message["role"] for message in line["messages"]] == ["system", "user", "assistant"]


def test_a_completion_sample_is_that_of_the_tutorial() -> None:
    assert training_line(DatasetSettings(format="completion"), SAMPLE)[0] == (
        b'{"prompt":"Hotel, New York, small -->","completion":" Stay here.\\n"}\n'
    )


@given(text, text, st.sampled_from(["chat", "completion"]))
def test_a_line_is_one_line_of_json_that_holds_the_texts(
    prompt: str, answer: str, format_: Literal["chat", "completion"]
) -> None:
    settings = DatasetSettings(format=format_)
    line, texts = training_line(settings, Sample(prompt, answer))
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    sample = json.loads(line)
    written = (
        [message["content"] for message in sample["messages"]]
        if format_ == "chat"
        else [sample["prompt"], sample["completion"]]
    )
    assert written == texts
