"""How a prompt and an answer become a training line.

Owns the two formats and their bytes. Does not know which records are taken, nor what a provider accepts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from asyncgen.job.model import DatasetSettings

CHAT = "chat"
COMPLETION = "completion"


@dataclass(frozen=True, slots=True)
class Sample:
    """What a model is to learn: the prompt as it will be asked, and the answer without blanks around it."""

    prompt: str
    answer: str


def messages(settings: DatasetSettings, sample: Sample) -> list[dict[str, str]]:
    """The conversation of a chat sample."""
    system = [{"role": "system", "content": settings.system}] if settings.system else []
    return [
        *system,
        {"role": "user", "content": sample.prompt},
        {"role": "assistant", "content": sample.answer},
    ]


def texts(settings: DatasetSettings, sample: Sample) -> list[str]:
    """Every text of the training line that costs tokens."""
    if settings.format == CHAT:
        return [message["content"] for message in messages(settings, sample)]
    return [sample.prompt + settings.separator, f" {sample.answer}{settings.ending}"]


def training_line(settings: DatasetSettings, sample: Sample) -> bytes:
    """The sample as JSON, newline included.

    In the completion format the prompt ends in the separator; the completion begins with a space, as
    vocabularies have words with their space before them, and ends in the ending, which is then the `stop` of
    a request.
    """
    if settings.format == CHAT:
        return orjson.dumps({"messages": messages(settings, sample)}) + b"\n"
    prompt, completion = texts(settings, sample)
    return orjson.dumps({"prompt": prompt, "completion": completion}) + b"\n"
