"""Samples to tokens, with a template and a vocabulary of the test's own: every character is a token."""

from __future__ import annotations

import asyncio
from typing import Any

from asyncgen.serve.llama.translate import Encoder, Tokens
from asyncgen.serve.tuning.samples import ChatSample, CompletionSample, Message

START, END = "\x01", "\x02"


class Llama:
    """What of llama.cpp the encoder asks: ChatML in two control characters, one token a character."""

    def __init__(self, *, eos: str = END, forgetful: bool = False) -> None:
        self._eos = eos
        self._forgetful = forgetful

    async def ask(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        if path == "/props":
            return {"eos_token": self._eos}
        assert body is not None
        if path == "/apply-template":
            return {"prompt": self._render(body["messages"])}
        start = [0] if body["add_special"] else []
        # As where special tokens are not parsed: their characters are text like any other.
        text = body["content"] if body["parse_special"] else body["content"].replace(END, "<end>")
        return {"tokens": start + [ord(character) for character in text]}

    def _render(self, messages: list[dict[str, str]]) -> str:
        kept = messages[-1:] if self._forgetful else messages
        turns = [f"{START}{message['role'][0]}:{message['content']}{END}" for message in kept]
        return "".join(turns) + f"{START}a:"


def all_encoded(sample: ChatSample | CompletionSample, llama: Llama) -> list[Tokens]:
    async def scenario() -> list[Tokens]:
        return await (await Encoder.for_model(llama.ask)).encode(sample)

    return asyncio.run(scenario())


def encoded(sample: ChatSample | CompletionSample, llama: Llama | None = None) -> Tokens:
    [tokens] = all_encoded(sample, llama or Llama())
    return tokens


def chat(*turns: tuple[str, str] | tuple[str, str, int]) -> ChatSample:
    return ChatSample(
        messages=[
            Message(role=role, content=text, weight=weight[0] if weight else None)  # type: ignore[arg-type]
            for role, text, *weight in turns
        ]
    )


def text(tokens: Tokens) -> str:
    return "".join(chr(token) for token in tokens.tokens)


def learnt(tokens: Tokens) -> str:
    return "".join(chr(token) for token, target in zip(tokens.tokens, tokens.targets, strict=True) if target)


def test_answer_and_its_ending_are_learnt_and_nothing_else() -> None:
    tokens = encoded(chat(("system", "S"), ("user", "Q"), ("assistant", "A")))
    assert text(tokens) == f"\0{START}s:S{END}{START}u:Q{END}{START}a:A{END}"
    assert learnt(tokens) == f"A{END}"


def test_every_answer_of_several_turns_is_learnt() -> None:
    tokens = encoded(chat(("user", "Q"), ("assistant", "A"), ("user", "R"), ("assistant", "B")))
    assert text(tokens) == f"\0{START}u:Q{END}{START}a:A{END}{START}u:R{END}{START}a:B{END}"
    assert learnt(tokens) == f"A{END}B{END}"


def test_answer_of_weight_0_is_there_and_not_learnt() -> None:
    tokens = encoded(chat(("user", "Q"), ("assistant", "A", 0), ("user", "R"), ("assistant", "B", 1)))
    assert f"A{END}" in text(tokens)
    assert learnt(tokens) == f"B{END}"


def test_turns_after_the_last_answer_are_left_out() -> None:
    tokens = encoded(chat(("user", "Q"), ("assistant", "A"), ("user", "R")))
    assert text(tokens).endswith(f"A{END}")


def test_completion_follows_its_prompt_and_ends() -> None:
    tokens = encoded(CompletionSample(prompt="Hotel ->", completion=" Yes.\n"))
    assert text(tokens) == f"\0Hotel -> Yes.\n{END}"
    assert learnt(tokens) == f" Yes.\n{END}"


def test_ending_in_an_answers_text_stays_text() -> None:
    assert learnt(encoded(chat(("user", "Q"), ("assistant", f"A{END}B")))) == f"A<end>B{END}"


def test_end_of_text_serves_where_the_template_shows_no_ending() -> None:
    assert learnt(encoded(chat(("user", "Q"), ("assistant", "A")), Llama(eos="\x03"))) == "A\x03"


def test_answers_whose_history_is_told_otherwise_are_learnt_apart() -> None:
    sample = chat(("user", "Q"), ("assistant", "A"), ("user", "R"), ("assistant", "B"))
    first, second = all_encoded(sample, Llama(forgetful=True))
    assert (text(first), learnt(first)) == (f"\0{START}u:Q{END}{START}a:A{END}", f"A{END}")
    assert (text(second), learnt(second)) == (f"\0{START}u:R{END}{START}a:B{END}", f"B{END}")
