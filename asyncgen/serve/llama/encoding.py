"""From samples to tokens and what of them is to be learnt, by the model's own template and vocabulary.

Owns where a sample's contexts end and its answers begin. The pieces are tokenised one by one, as they will be when the
tuned model is asked: the context is the request, the answer and its ending are what the model adds. llama.cpp does
the tokenising; nothing here knows a vocabulary.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from asyncgen.serve.llama.translate import NO_THINKING, messages_of
from asyncgen.serve.tuning.samples import ChatSample, CompletionSample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncgen.serve.tuning.samples import Message

Ask = Callable[[str, dict[str, Any] | None], Awaitable[dict[str, Any]]]
"""POST to llama.cpp, or GET where the body is None; raises ApiError."""

_PROBE = ("question", "answer", "another question")


class TemplateError(Exception):
    """The model's chat template does not fit the sample."""


@dataclass(slots=True)
class Tokens:
    """A sample as the trainer wants it; in `targets`, 1 marks what is to be learnt."""

    tokens: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)

    def add(self, tokens: Sequence[int], *, learn: bool) -> None:
        self.tokens += tokens
        self.targets += [int(learn)] * len(tokens)


class Encoder:
    """Encodes samples for one model; made by `for_model`."""

    def __init__(self, ask: Ask, ending: str, ending_tokens: list[int]) -> None:
        self._ask = ask
        self._ending = ending
        self._ending_tokens = ending_tokens

    @classmethod
    async def for_model(cls, ask: Ask) -> Encoder:
        """Find out how the model's template ends an answer: that is what it must learn to stop with."""
        end_of_text: str = (await ask("/props", None))["eos_token"]
        question, answer, another = _PROBE
        opened = await _rendered(ask, [("user", question)])
        turns = [("user", question), ("assistant", answer), ("user", another)]
        rest = (await _rendered(ask, turns)).removeprefix(opened + answer).partition(another)[0]
        ending = rest.partition(end_of_text)[0] + end_of_text if end_of_text in rest else end_of_text
        return cls(ask, ending, await _tokenized(ask, ending))

    async def encode(self, sample: ChatSample | CompletionSample) -> Tokens:
        """Tokenise a sample.

        Raises:
            TemplateError: the template cannot render it as a growing conversation.
            ApiError: llama.cpp refuses it.
        """
        if isinstance(sample, ChatSample):
            return await self._chat(sample.messages)
        encoded = Tokens()
        encoded.add(await _tokenized(self._ask, sample.prompt, is_start=True), learn=False)
        await self._answer(encoded, sample.completion, learn=True)
        return encoded

    async def _chat(self, messages: Sequence[Message]) -> Tokens:
        encoded, done = Tokens(), ""
        turns = [(message.role, message.text) for message in messages]
        for place, message in enumerate(messages):
            if message.role != "assistant":
                continue
            rendered = await _rendered(self._ask, turns[:place])
            if not rendered.startswith(done):
                raise TemplateError("the model's chat template changes earlier turns of a conversation")
            context = rendered.removeprefix(done)
            encoded.add(await _tokenized(self._ask, context, is_start=not done), learn=False)
            await self._answer(encoded, message.text, learn=message.is_learnt)
            done = rendered + message.text + self._ending
        return encoded

    async def _answer(self, encoded: Tokens, text: str, *, learn: bool) -> None:
        encoded.add(await _tokenized(self._ask, text, parse_special=False), learn=learn)
        encoded.add(self._ending_tokens, learn=learn)


async def _rendered(ask: Ask, turns: Sequence[tuple[str, str]]) -> str:
    """The conversation up to where the assistant's next answer begins."""
    answer = await ask("/apply-template", {"messages": messages_of(turns), **NO_THINKING})
    prompt: str = answer["prompt"]
    return prompt


async def _tokenized(ask: Ask, text: str, *, is_start: bool = False, parse_special: bool = True) -> list[int]:
    body = {"content": text, "add_special": is_start, "parse_special": parse_special}
    tokens: list[int] = (await ask("/tokenize", body))["tokens"]
    return tokens
