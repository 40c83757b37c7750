"""Made-up answers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asyncgen.providers.tokens import estimate_text
from asyncgen.serve.engine import ChatTurn, ModelCall
from asyncgen.serve.simulation.values import Repetitions, cut, digest_of, prompt_tokens, simulated_text


def test_text_depends_on_question_repetition_and_choice_only() -> None:
    texts = {
        simulated_text(digest_of(ModelCall(model=model, prompt=prompt)), repetition, choice)
        for model in "ab"
        for prompt in "cd"
        for repetition in (0, 1)
        for choice in (0, 1)
    }
    assert len(texts) == 16
    assert simulated_text(b"x" * 16, 0, 0) == simulated_text(b"x" * 16, 0, 0)


def test_text_is_one_sentence_that_says_what_it_is() -> None:
    text = simulated_text(b"x" * 16, 0, 0)
    assert text.startswith("Simulated text ")
    assert text.count(".") == 1
    assert text.endswith(".")
    assert len(text.split()) == 13


def test_messages_and_seed_tell_questions_apart() -> None:
    calls = [
        ModelCall(model="m", messages=(ChatTurn("user", "a"), ChatTurn("user", "b"))),
        ModelCall(model="m", messages=(ChatTurn("user", "ab"),)),
        ModelCall(model="m", messages=(ChatTurn("user", "ab"),), sampling={"seed": 1}),
    ]
    assert len({digest_of(call) for call in calls}) == 3


@given(text=st.text(max_size=200), limit=st.integers(1, 40))
def test_cut_text_keeps_to_the_limit_and_is_a_beginning(text: str, limit: int) -> None:
    short, reason = cut(text, (), limit)
    assert text.startswith(short)
    assert estimate_text(short) <= limit
    assert (reason == "stop") == (short == text)


def test_first_stop_counts() -> None:
    assert cut("one two three", ("three", " two"), None) == ("one", "stop")


def test_repetitions_are_counted_for_the_most_recent_questions() -> None:
    repetitions = Repetitions(most=2)
    assert [repetitions.count(b"a"), repetitions.count(b"a"), repetitions.count(b"b")] == [0, 1, 0]
    repetitions.count(b"c")
    assert repetitions.count(b"a") == 0, "the oldest one was forgotten"
    assert repetitions.count(b"c") == 1


def test_prompt_tokens_are_estimated_for_both_kinds() -> None:
    assert prompt_tokens(ModelCall(model="m", prompt="12345678")) == 2
    assert prompt_tokens(ModelCall(model="m", messages=(ChatTurn("user", "12345678"),))) == 2 + 4 + 3
