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
    """Estimate the tokens of a bare text: its UTF-8 bytes over four, rounded up.

    Bytes follow the vocabularies better than characters: a character outside ASCII takes more tokens.

    Args:
        text: the text.

    Returns:
        Tokens.
    """
    return -(-len(text.encode("utf-8", "surrogatepass")) // _BYTES_PER_TOKEN)


def estimate_messages(contents: Iterable[str]) -> int:
    """Estimate the prompt tokens of a chat, with the overhead of its messages.

    Args:
        contents: texts of the messages.

    Returns:
        Tokens.
    """
    return _PER_REPLY + sum(estimate_text(content) + _PER_MESSAGE for content in contents)


def estimate_body(body: bytes) -> int:
    """Estimate the prompt tokens of a request body for `/chat/completions` or `/completions`.

    Args:
        body: the JSON that is sent. It is made by asyncgen, so anything else is a bug (`KeyError`).

    Returns:
        Tokens.
    """
    request: Mapping[str, Any] = orjson.loads(body)
    if "messages" not in request:
        return estimate_text(request["prompt"])
    return estimate_messages(_content(message["content"]) for message in request["messages"])


def _content(content: str | list[dict[str, Any]] | None) -> str:
    if isinstance(content, list):  # content parts, which a job's own columns may hold
        return "".join(part.get("text", "") for part in content)
    return content or ""


class TokenEstimate:
    """The running ratio of counted to estimated tokens, for similar requests.

    Use one per model and direction. It starts at 1, takes the first answer as it is, and after some ten answers
    averages over about the last twenty, so it follows when the rows change.
    """

    __slots__ = ("_counted", "_estimated")

    def __init__(self) -> None:
        self._counted = 0.0
        self._estimated = 0.0

    @property
    def ratio(self) -> float:
        """Counted tokens per estimated token; 1 before the first answer."""
        if not self._estimated:
            return 1.0
        low, high = _SANE_RATIO
        return min(max(self._counted / self._estimated, low), high)

    def observe(self, estimated: int, counted: int) -> None:
        """Take one answer into account.

        Args:
            estimated: tokens before the request.
            counted: tokens as the provider counted them; 0 or less is ignored, and absurd counts are clipped.
        """
        if estimated <= 0 or counted <= 0:
            return
        low, high = _SANE_RATIO
        sane = min(max(counted, estimated * low), estimated * high)  # one absurd count must not stall a run
        self._counted = self._counted * _FORGET + sane
        self._estimated = self._estimated * _FORGET + estimated

    def corrected(self, estimated: int) -> int:
        """Correct an estimate by the ratio.

        Args:
            estimated: tokens of a similar request.

        Returns:
            Tokens to expect.
        """
        return round(estimated * self.ratio)
