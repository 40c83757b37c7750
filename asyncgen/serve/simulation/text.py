"""Made-up text: words drawn by a hash, so that the same question gives the same text on every server.

A repeated question gets another text, as from a model that samples, independent of what else was asked.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from hashlib import blake2b
from typing import TYPE_CHECKING

from asyncgen.providers.tokens import estimate_messages, estimate_text

if TYPE_CHECKING:
    from asyncgen.serve.engine import Call, Turn

WORDS = (
    "amber",
    "basin",
    "birch",
    "bright",
    "calm",
    "canal",
    "cedar",
    "chalk",
    "clear",
    "cliff",
    "cloud",
    "coral",
    "crisp",
    "dawn",
    "delta",
    "dune",
    "early",
    "ember",
    "fair",
    "fern",
    "field",
    "firm",
    "fjord",
    "flint",
    "gentle",
    "glade",
    "glow",
    "grain",
    "grand",
    "grove",
    "harbour",
    "hazel",
    "heath",
    "hill",
    "honest",
    "ivory",
    "jade",
    "juniper",
    "keen",
    "lake",
    "lantern",
    "light",
    "linen",
    "maple",
    "marble",
    "meadow",
    "mild",
    "misty",
    "moss",
    "noble",
    "oak",
    "olive",
    "pearl",
    "pebble",
    "pine",
    "plain",
    "quartz",
    "quiet",
    "reed",
    "ridge",
    "river",
    "silver",
    "stone",
    "willow",
)
_MASK = len(WORDS) - 1  # 64 words, so that six bits of the hash choose one
_BYTES_PER_TOKEN = 4  # as in asyncgen.providers.tokens
_REMEMBERED = 65_536


class Repetitions:
    """How often each question was asked, for the most recent ones; memory is bounded."""

    def __init__(self, most: int = _REMEMBERED) -> None:
        self._most = most
        self._asked: OrderedDict[bytes, int] = OrderedDict()

    def count(self, question: bytes) -> int:
        """How often it was asked before; this time is counted too."""
        before = self._asked.pop(question, 0)
        self._asked[question] = before + 1
        if len(self._asked) > self._most:
            self._asked.popitem(last=False)
        return before


def digest_of(call: Call) -> bytes:
    """What tells two questions apart: model, texts, and the seed where one is given."""
    texts = [turn.text + _calls_in(turn) for turn in call.messages] if call.messages else [call.prompt]
    parts = "\x1e".join([call.model, str(call.sampling.get("seed", "")), *texts])
    return blake2b(parts.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _calls_in(turn: Turn) -> str:
    return "\x1d".join(f"{call['function']}" for call in turn.rest.get("tool_calls", ()))


def made_up_text(digest: bytes, repetition: int, choice: int) -> str:
    """A sentence of 13 words; the repetition and the choice vary it."""
    seed = digest if not (repetition or choice) else _varied(digest, repetition, choice)
    return "Simulated text " + " ".join([WORDS[byte & _MASK] for byte in seed[:11]]) + "."


def cut(text: str, stop: tuple[str, ...], max_tokens: int | None) -> tuple[str, str]:
    """The text up to the first stop or the token limit, and the finish reason that this gives."""
    ends = [place for place in (text.find(mark) for mark in stop) if place >= 0]
    if ends:
        text = text[: min(ends)]
    if max_tokens is not None and estimate_text(text) > max_tokens:
        shortened = text.encode("utf-8")[: max_tokens * _BYTES_PER_TOKEN]
        return shortened.decode("utf-8", "ignore"), "length"
    return text, "stop"


def prompt_tokens(call: Call) -> int:
    """The estimate that stands in for a tokenizer's count."""
    if call.messages is None:
        return estimate_text(call.prompt)
    written = estimate_messages(turn.text + _calls_in(turn) for turn in call.messages)
    return written + (estimate_text(json.dumps(list(call.tools))) if call.tools else 0)


def _varied(digest: bytes, repetition: int, choice: int) -> bytes:
    return blake2b(b"%b %d %d" % (digest, repetition, choice), digest_size=16).digest()
