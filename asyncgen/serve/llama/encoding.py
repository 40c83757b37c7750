"""Encode texts and training samples as tokens, with llama.cpp's tokenizer and the model's chat template.

For a sample, marks which tokens are learnt: each answer with its ending. The context of an answer is the request for
it, token by token. A SentencePiece vocabulary puts a space before every text: it is kept at the beginning of a request
and removed where a text continues another.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from asyncgen.serve.engine import Turn
from asyncgen.serve.llama.translate import NO_THINKING, messages_of
from asyncgen.serve.tuning.samples import ChatSample, CompletionSample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncgen.serve.tuning.samples import Message


Ask = Callable[[str, dict[str, Any] | None], Awaitable[dict[str, Any]]]
"""POST to llama.cpp, or GET where the body is None; raises ApiError."""

_GUARD = "\ue000"  # for private use, so in no vocabulary: it becomes tokens of its bytes, which nothing joins


class Vocabulary:
    """The vocabulary of one model; made by `of_model`."""

    def __init__(self, ask: Ask, guard: str, guard_length: int) -> None:
        self._ask = ask
        self._guard = guard
        self._guard_length = guard_length

    @classmethod
    async def of_model(cls, ask: Ask) -> Vocabulary:
        """Find out whether a text needs something before it to stay as it is."""
        plain, guarded = cls(ask, "", 0), cls(ask, _GUARD, len(await _tokenized(ask, _GUARD)))
        return plain if await plain.behind("x") == await guarded.behind("x") else guarded

    async def request(self, text: str) -> list[int]:
        """As llama.cpp reads a request: names of special tokens are those, and the token of a beginning is there."""
        return await _tokenized(self._ask, text, add_special=True)

    async def behind(self, text: str, *, parse_special: bool = False) -> list[int]:
        """As what goes on from other text."""
        tokens = await _tokenized(self._ask, self._guard + text, parse_special=parse_special)
        return tokens[self._guard_length :]


async def _tokenized(ask: Ask, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
    body = {"content": text, "add_special": add_special, "parse_special": parse_special}
    tokens: list[int] = (await ask("/tokenize", body))["tokens"]
    return tokens


_QUESTION, _ANSWER, _NEXT_QUESTION = "probe-question-1", "probe-answer-1", "probe-question-2"  # in no template's text


@dataclass(slots=True)
class Tokens:
    """A sample as the trainer wants it; in `targets`, 1 marks what is to be learnt."""

    tokens: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)

    def add(self, tokens: Sequence[int], *, learn: bool) -> None:
        self.tokens += tokens
        self.targets += [int(learn)] * len(tokens)

    def begins(self, tokens: Sequence[int]) -> bool:
        return tokens[: len(self.tokens)] == self.tokens


class Encoder:
    """Encodes samples for one model; made by `for_model`."""

    def __init__(self, ask: Ask, vocabulary: Vocabulary, ending_tokens: list[int]) -> None:
        self._ask = ask
        self._vocabulary = vocabulary
        self._ending_tokens = ending_tokens

    @classmethod
    async def for_model(cls, ask: Ask) -> Encoder:
        """Find out how the model's template ends an answer: that is what it must learn to stop with."""
        vocabulary = await Vocabulary.of_model(ask)
        return cls(ask, vocabulary, await vocabulary.behind(await _ending(ask), parse_special=True))

    async def encode(self, sample: ChatSample | CompletionSample) -> list[Tokens]:
        """Tokenise a sample.

        Several come of a conversation whose earlier turns look otherwise once they are history: then each answer is
        learnt from a context of its own.

        Raises:
            ApiError: llama.cpp refuses it.
        """
        if isinstance(sample, ChatSample):
            return await self._chat(sample.messages)
        encoded = Tokens()
        encoded.add(await self._vocabulary.request(sample.prompt), learn=False)
        await self._answer(encoded, sample.completion)
        return [encoded]

    async def _chat(self, messages: Sequence[Message]) -> list[Tokens]:
        samples: list[Tokens] = []
        turns = [Turn(message.role, message.text) for message in messages]
        for place, message in enumerate(messages):
            if not message.is_learnt:
                continue
            context = await self._vocabulary.request(await _rendered(self._ask, turns[:place]))
            if not (samples and samples[-1].begins(context)):
                samples.append(Tokens())
            sample = samples[-1]
            sample.add(context[len(sample.tokens) :], learn=False)
            await self._answer(sample, message.text)
        return samples

    async def _answer(self, encoded: Tokens, text: str) -> None:
        encoded.add(await self._vocabulary.behind(text), learn=True)
        encoded.add(self._ending_tokens, learn=True)


async def _ending(ask: Ask) -> str:
    """What the template puts behind an answer, up to the end of text; that alone where it puts none there."""
    end_of_text: str = (await ask("/props", None))["eos_token"]
    turns = [Turn("user", _QUESTION), Turn("assistant", _ANSWER), Turn("user", _NEXT_QUESTION)]
    _, is_shown, rest = (await _rendered(ask, turns)).rpartition(_ANSWER)
    place = rest.partition(_NEXT_QUESTION)[0].find(end_of_text)
    return rest[:place] + end_of_text if is_shown and place >= 0 else end_of_text


async def _rendered(ask: Ask, turns: Sequence[Turn]) -> str:
    """The conversation up to where the assistant's next answer begins."""
    answer = await ask("/apply-template", {"messages": messages_of(turns), **NO_THINKING})
    prompt: str = answer["prompt"]
    return prompt
