"""The JSON of answers: of a chat and of a bare completion, whole and in chunks.

Owns field names and their order. Pure: ids and times are given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncgen.serve.engine import Choice, Piece, Tally


@dataclass(frozen=True, slots=True)
class Shape:
    """One of the two forms of an answer.

    Attributes:
        prefix: of the answer's id.
        whole, part: the `object` of an answer and of a chunk.
        choice: one entry of `choices`.
        chunk: likewise in a chunk; the flag says whether it is the choice's first.
    """

    prefix: str
    whole: str
    part: str
    choice: Callable[[int, Choice], dict[str, Any]]
    chunk: Callable[[Piece, bool], dict[str, Any]]


def usage(tally: Tally) -> dict[str, Any]:
    return {
        "prompt_tokens": tally.prompt,
        "completion_tokens": tally.completion,
        "total_tokens": tally.prompt + tally.completion,
        "prompt_tokens_details": {"cached_tokens": tally.cached},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def _chat_choice(index: int, choice: Choice) -> dict[str, Any]:
    return {
        "index": index,
        "message": {
            "role": "assistant",
            "content": None if choice.refusal else choice.text,
            "refusal": choice.refusal,
        },
        "finish_reason": choice.finish_reason,
        "logprobs": choice.logprobs,
    }


def _chat_chunk(piece: Piece, first: bool) -> dict[str, Any]:
    delta: dict[str, Any] = {"role": "assistant", "content": ""} if first else {}
    if piece.text:
        delta["content"] = piece.text
    if piece.refusal:
        delta["refusal"] = piece.refusal
    return {
        "index": piece.index,
        "delta": delta,
        "finish_reason": piece.finish_reason,
        "logprobs": piece.logprobs,
    }


def _text_choice(index: int, choice: Choice) -> dict[str, Any]:
    return {
        "index": index,
        "text": choice.text,
        "finish_reason": choice.finish_reason,
        "logprobs": choice.logprobs,
    }


def _text_chunk(piece: Piece, first: bool) -> dict[str, Any]:  # noqa: ARG001 - the first is like any other here
    return {
        "index": piece.index,
        "text": piece.text,
        "finish_reason": piece.finish_reason,
        "logprobs": piece.logprobs,
    }


CHAT = Shape("chatcmpl-", "chat.completion", "chat.completion.chunk", _chat_choice, _chat_chunk)
TEXT = Shape("cmpl-", "text_completion", "text_completion", _text_choice, _text_chunk)
