"""Texts to the model's tokens, by where they stand: at the beginning of a request, or behind other text.

Owns the one difference between the two that a text brings along: a vocabulary in the way of SentencePiece begins
whatever it is given with a space, which an answer must not have. llama.cpp does the tokenising. Knows no templates.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

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
