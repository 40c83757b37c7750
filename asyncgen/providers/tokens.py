"""Estimate the tokens of a text without a tokenizer.

Bytes divided by four, plus the overhead of chat messages, corrected by what the provider really counted. A tokenizer's
vocabulary would cost a download or some megabytes, and a budget only needs the right average.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


_BYTES_PER_TOKEN = 4
_PER_MESSAGE = 4
_PER_REPLY = 3
_FORGET = 0.95
_SANE_RATIO = (0.05, 20.0)


def estimate_text(text: str) -> int:
    """Tokens of a bare text: its UTF-8 bytes over four, rounded up.

    Counting bytes rather than characters follows the vocabularies in use, which spend more tokens on a
    character outside ASCII.
    """
    return -(-len(text.encode("utf-8", "surrogatepass")) // _BYTES_PER_TOKEN)


def estimate_messages(contents: Iterable[str]) -> int:
    """Prompt tokens of a chat with these message texts, the reply's primer included."""
    return _PER_REPLY + sum(estimate_text(content) + _PER_MESSAGE for content in contents)


def estimate_body(body: bytes) -> int:
    """Prompt tokens of a request body for `/chat/completions` or `/completions`.

    Args:
        body: the JSON that is posted; it is our own, so what is no such body is a bug (`KeyError`).
    """
    request: Mapping[str, Any] = orjson.loads(body)
    if "messages" not in request:
        return estimate_text(request["prompt"])
    return estimate_messages(_content(message["content"]) for message in request["messages"])


def _content(content: str | list[dict[str, Any]] | None) -> str:
    if isinstance(content, list):  # parts, as a job's parameters may not make them, but other callers may
        return "".join(part.get("text", "") for part in content)
    return content or ""


class TokenEstimate:
    """The running ratio of counted to estimated tokens, for requests that are alike.

    One for each model and direction. It starts at 1, follows the first answer at once, and after some ten of
    them leans on the last twenty, so that it is right for the job at hand and follows when the rows change.
    """

    __slots__ = ("_counted", "_estimated")

    def __init__(self) -> None:
        self._counted = 0.0
        self._estimated = 0.0

    @property
    def ratio(self) -> float:
        """Counted tokens to one estimated; 1 before anything was observed."""
        if not self._estimated:
            return 1.0
        low, high = _SANE_RATIO
        return min(max(self._counted / self._estimated, low), high)

    def observe(self, estimated: int, counted: int) -> None:
        """Learn from one answer; counts that no provider can mean (zero, negative) are left out."""
        if estimated <= 0 or counted <= 0:
            return
        low, high = _SANE_RATIO
        sane = min(max(counted, estimated * low), estimated * high)  # one absurd count must not stall a run
        self._counted = self._counted * _FORGET + sane
        self._estimated = self._estimated * _FORGET + estimated

    def corrected(self, estimated: int) -> int:
        """The estimate for one more request of the same kind."""
        return round(estimated * self.ratio)
