"""Translate calls to llama.cpp's requests, its answers to ours, and texts and training samples to tokens.

Differences between the two APIs: the opening of a continued answer, names of roles, sampling defaults, tool choice,
whether a model reasons in its answer.

Tokens come from llama.cpp's tokenizer and the model's chat template. For a sample, marks which tokens are learnt: each
answer with its ending. The context of an answer is the request for it, token by token. A SentencePiece vocabulary puts
a space before every text: it is kept at the beginning of a request and removed where a text continues another.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from asyncgen.serve.engine import (
    AnswerPiece,
    AnswerTokens,
    ChatTurn,
    EngineAnswer,
    EngineChoice,
    ModelCall,
    ToolCall,
    ToolCallPart,
)
from asyncgen.serve.tuning.samples import ChatSample, CompletionSample

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from asyncgen.serve.tuning.samples import Message


Ask = Callable[[str, dict[str, Any] | None], Awaitable[dict[str, Any]]]
"""POST to llama.cpp, or GET where the body is None; raises ApiError."""

_GUARD = (
    "\ue000"  # a private-use character is in no vocabulary: it becomes byte tokens, which are never merged with others
)


class Vocabulary:
    """The vocabulary of one model; made by `of_model`."""

    def __init__(self, ask: Ask, guard: str, guard_length: int) -> None:
        self._ask = ask
        self._guard = guard
        self._guard_length = guard_length

    @classmethod
    async def of_model(cls, ask: Ask) -> Vocabulary:
        """Find out whether a text needs a prefix to be tokenised unchanged."""
        plain, guarded = cls(ask, "", 0), cls(ask, _GUARD, len(await _tokenized(ask, _GUARD)))
        return plain if await plain.continuation("x") == await guarded.continuation("x") else guarded

    async def request(self, text: str) -> list[int]:
        """Tokenise a request as llama.cpp does: special tokens are parsed, and the token of the beginning is added."""
        return await _tokenized(self._ask, text, add_special=True)

    async def continuation(self, text: str, *, parse_special: bool = False) -> list[int]:
        """Tokenise a text that continues another one."""
        tokens = await _tokenized(self._ask, self._guard + text, parse_special=parse_special)
        return tokens[self._guard_length :]


async def _tokenized(ask: Ask, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
    body = {"content": text, "add_special": add_special, "parse_special": parse_special}
    tokens: list[int] = (await ask("/tokenize", body))["tokens"]
    return tokens


_QUESTION, _ANSWER, _NEXT_QUESTION = "probe-question-1", "probe-answer-1", "probe-question-2"  # in no template's text


@dataclass(slots=True)
class Tokens:
    """A sample in the trainer's form; in `targets`, 1 marks tokens to learn."""

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
        return cls(ask, vocabulary, await vocabulary.continuation(await _ending(ask), parse_special=True))

    async def encode(self, sample: ChatSample | CompletionSample) -> list[Tokens]:
        """Tokenise a sample.

        A conversation gives several if its earlier turns are rendered differently once they are history: each answer is
        then learnt from its own context.

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
        turns = [ChatTurn(message.role, message.text) for message in messages]
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
        encoded.add(await self._vocabulary.continuation(text), learn=True)
        encoded.add(self._ending_tokens, learn=True)


async def _ending(ask: Ask) -> str:
    """The text that the template appends to an answer, including the end of text."""
    end_of_text: str = (await ask("/props", None))["eos_token"]
    turns = [ChatTurn("user", _QUESTION), ChatTurn("assistant", _ANSWER), ChatTurn("user", _NEXT_QUESTION)]
    _, is_shown, rest = (await _rendered(ask, turns)).rpartition(_ANSWER)
    place = rest.partition(_NEXT_QUESTION)[0].find(end_of_text)
    return rest[:place] + end_of_text if is_shown and place >= 0 else end_of_text


async def _rendered(ask: Ask, turns: Sequence[ChatTurn]) -> str:
    """The conversation up to where the assistant's next answer begins."""
    answer = await ask("/apply-template", {"messages": messages_of(turns), **NO_THINKING})
    prompt: str = answer["prompt"]
    return prompt


# The API's default; llama.cpp's own is 0.8. Its defaults for top_k, top_p and min_p are kept: they help small models.
_TEMPERATURE = 1.0
# A model that thinks before it answers would spend a short answer's tokens on it, and would be trained on answers
# without thoughts: unless a request says otherwise it is told not to, by those templates that know the switch.
NO_THINKING = {"chat_template_kwargs": {"enable_thinking": False}}
_OTHER_NAMES = {"repetition_penalty": "repeat_penalty"}  # the name in vLLM and llama.cpp


def path_of(call: ModelCall) -> str:
    return "/v1/completions" if call.messages is None else "/v1/chat/completions"


def request_of(call: ModelCall, adapters: Sequence[Path], choice: int) -> dict[str, Any]:
    """llama.cpp's request for one choice of a call.

    Args:
        call: the call.
        adapters: those that the process has loaded; the call's own is among them.
        choice: its index; a seed that was given is moved by it, or all choices would be the same.
    """
    given = {_OTHER_NAMES.get(name, name): value for name, value in call.sampling.items()}
    body: dict[str, Any] = {"temperature": _TEMPERATURE, **given}
    if body.get("logprobs") is True:  # with 0 llama.cpp returns none at all; `_logprobs` removes the surplus
        body["top_logprobs"] = max(body.get("top_logprobs") or 0, 1)
    if "seed" in body:
        body["seed"] += choice
    if call.messages is None:
        body["prompt"] = call.prompt
    else:
        body |= {"messages": messages_of(call.messages)} | _thinking(call) | _tools(call)
    if call.max_tokens is not None:
        body["max_tokens"] = call.max_tokens
    if call.stop:
        body["stop"] = list(call.stop)
    if adapters:
        # For the base model too: otherwise llama.cpp reuses the cache of another adapter for the same prompt.
        body["lora"] = [
            {"id": place, "scale": float(adapter == call.adapter)} for place, adapter in enumerate(adapters)
        ]
    return body


def messages_of(messages: Sequence[ChatTurn]) -> list[dict[str, Any]]:
    """The messages with the roles that chat templates know."""
    return [
        {"role": "system" if turn.role == "developer" else turn.role, "content": turn.text, **turn.rest}
        for turn in messages
    ]


def _thinking(call: ModelCall) -> dict[str, Any]:
    wanted = call.sampling.get("chat_template_kwargs")
    thinks = call.reasoning_effort not in {None, "none"}
    return {"chat_template_kwargs": {"enable_thinking": thinks} | (wanted if isinstance(wanted, dict) else {})}


def _tools(call: ModelCall) -> dict[str, Any]:
    """llama.cpp knows "required" but no function by its name: then it gets that one alone."""
    if not call.tools:
        return {}
    if isinstance(call.tool_choice, str):
        return {"tools": list(call.tools), "tool_choice": call.tool_choice}
    name = call.tool_choice["function"]["name"]
    named = [tool for tool in call.tools if tool["function"]["name"] == name]
    return {"tools": named, "tool_choice": "required"}


def answer_of(call: ModelCall, answers: Sequence[dict[str, Any]]) -> EngineAnswer:
    """Combine llama.cpp's answers, one for each choice, to one answer."""
    return EngineAnswer(
        tuple(_choice(call, answer["choices"][0]) for answer in answers),
        sum_of([_answer_tokens(answer["usage"]) for answer in answers]),
    )


def sum_of(token_counts: Sequence[AnswerTokens]) -> AnswerTokens:
    """Usage of one call over all choices: their prompt is the same and counts once, as in the API."""
    if not token_counts:
        return AnswerTokens(0, 0)
    completion = sum(answer_tokens.completion for answer_tokens in token_counts)
    return AnswerTokens(prompt=token_counts[0].prompt, completion=completion, cached=token_counts[0].cached)


async def pieces_of(
    index: int, call: ModelCall, chunks: AsyncIterator[dict[str, Any]]
) -> AsyncIterator[AnswerPiece | AnswerTokens]:
    """One choice of a stream: its opening, which llama.cpp leaves out here, then what the events say."""
    is_first = True
    async for chunk in chunks:
        if is_first and call.opening:
            yield AnswerPiece(index, call.opening)
        is_first = False
        for choice in chunk.get("choices", ()):
            piece = _piece(index, call, choice)
            if piece.text or piece.reasoning or piece.tool_calls or piece.finish_reason:
                yield piece
        if chunk.get("usage"):
            yield _answer_tokens(chunk["usage"])


def _piece(index: int, call: ModelCall, choice: dict[str, Any]) -> AnswerPiece:
    delta = choice.get("delta", {})
    return AnswerPiece(
        index,
        choice.get("text") or delta.get("content") or "",
        finish_reason=choice["finish_reason"],
        logprobs=_logprobs(call, choice.get("logprobs")),
        reasoning=delta.get("reasoning_content") or "",
        tool_calls=tuple(_tool_call_part(part) for part in delta.get("tool_calls") or ()),
    )


def _tool_call_part(part: dict[str, Any]) -> ToolCallPart:
    function = part.get("function", {})
    arguments = function.get("arguments") or ""
    return ToolCallPart(part.get("index", 0), arguments, part.get("id"), function.get("name"))


def _choice(call: ModelCall, choice: dict[str, Any]) -> EngineChoice:
    message = choice.get("message", {})
    text = choice["text"] if call.messages is None else message["content"] or ""
    # In chats, versions of llama.cpp differ; this API has one rule. A bare prompt is never repeated.
    if call.messages is None or not text.startswith(call.opening):
        text = call.opening + text
    tools = [ToolCall(tool["id"], **tool["function"]) for tool in message.get("tool_calls") or ()]
    return EngineChoice(
        text,
        choice["finish_reason"],
        logprobs=_logprobs(call, choice.get("logprobs")),
        reasoning=message.get("reasoning_content") or "",
        tool_calls=tuple(tools),
    )


def _logprobs(call: ModelCall, logprobs: dict[str, Any] | None) -> dict[str, Any] | None:
    """The log probabilities in the API's form: without token numbers, and with as many alternatives as requested.

    llama.cpp gives 20 to a call that names no number; the API gives none.
    """
    if not logprobs or not logprobs.get("content"):
        return None
    asked = call.sampling.get("top_logprobs" if call.messages is not None else "logprobs") or 0
    return {"content": [_token(token, asked) for token in logprobs["content"]], "refusal": None}


def _token(token: dict[str, Any], alternatives: int = 0) -> dict[str, Any]:
    kept = {name: token[name] for name in ("token", "logprob", "bytes")}
    if "top_logprobs" in token:
        kept["top_logprobs"] = [_token(other) for other in token["top_logprobs"][:alternatives]]
    return kept


def _answer_tokens(usage: dict[str, Any]) -> AnswerTokens:
    cached = usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)
    return AnswerTokens(prompt=usage["prompt_tokens"], completion=usage["completion_tokens"], cached=cached)
