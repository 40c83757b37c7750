"""Read and check the files of fine-tuning jobs line by line.

The three formats (chat, completion and preference) and what makes a line or file invalid, as OpenAI describes it.
Tokenising is left to the engine, executing a job to `work`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from asyncgen.json_text import NotJsonError, decode_json

if TYPE_CHECKING:
    from collections.abc import Iterator


_MOST_NAMED = 10


class TextPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a message; only text can be learnt here."""

    type: Literal["text"]
    text: str


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One turn of a chat sample. `weight` 0 keeps an assistant's turn from being learnt; the `name` is not used."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    weight: Annotated[int, Meta(ge=0, le=1)] | None = None
    name: str | None = None
    refusal: Any = None
    tool_calls: Any = None
    tool_call_id: Any = None
    function_call: Any = None

    def __post_init__(self) -> None:
        _refuse(self, "refusal", "tool_calls", "tool_call_id", "function_call")
        if self.weight is not None and self.role != "assistant":
            raise ValueError("Only an assistant's message may have a `weight`")

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)

    @property
    def is_learnt(self) -> bool:
        return self.role == "assistant" and self.weight != 0


class ChatSample(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A conversation, of which the assistant's turns are learnt."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    tools: Any = None
    functions: Any = None
    parallel_tool_calls: bool | None = None

    def __post_init__(self) -> None:
        _refuse(self, "tools", "functions")


class CompletionSample(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A bare prompt and what follows it."""

    prompt: str
    completion: Annotated[str, Meta(min_length=1)]


class PreferenceSample(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A conversation and two answers, of which the first is the better one."""

    input: ChatSample
    preferred_output: Annotated[list[Message], Meta(min_length=1, max_length=1)]
    non_preferred_output: Annotated[list[Message], Meta(min_length=1, max_length=1)]


Sample = ChatSample | CompletionSample | PreferenceSample


class SampleError(ValueError):
    """A file without a usable sample; the message is for the job's `error`."""


def read_samples(path: Path, method: str) -> Iterator[tuple[int, Sample | str]]:
    """Yield each line's number and its sample, or what is wrong with it; empty lines are skipped.

    Args:
        path: the file.
        method: "supervised" or "dpo".
    """
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if text.strip():
                yield number, _sample(text, method)


def check_samples(path: Path, method: str, fewest: int) -> int:
    """Check every line of a file.

    Args:
        path: the file.
        method: "supervised" or "dpo".
        fewest: samples that must be there.

    Returns:
        The number of samples in it.

    Raises:
        SampleError: bad lines (the first ten are named), mixed formats, or too few samples.
    """
    named: list[str] = []
    kinds: Counter[type] = Counter()
    for number, sample in read_samples(path, method):
        kinds[type(sample)] += 1
        if isinstance(sample, str) and len(named) < _MOST_NAMED:
            named.append(f"line {number}: {sample}")
    if bad := kinds.pop(str, 0):
        more = f"; and {bad - len(named)} more" if bad > len(named) else ""
        raise SampleError(f"The file has {bad} invalid line(s): {'; '.join(named)}{more}.")
    if len(kinds) > 1:
        raise SampleError("The file mixes chat samples and prompt/completion samples.")
    if kinds.total() < fewest:
        raise SampleError(f"The file has {kinds.total()} example(s), but must have at least {fewest}.")
    return kinds.total()


def _sample(line: bytes, method: str) -> Sample | str:
    try:
        row = decode_json(line)
    except NotJsonError as error:
        return f"not valid JSON ({error})"
    if not isinstance(row, dict):
        return "not a JSON object"
    try:
        sample = msgspec.convert(row, _kind(row, method))
    except msgspec.ValidationError as error:
        return str(error)
    if isinstance(sample, ChatSample) and not any(message.is_learnt for message in sample.messages):
        return "no assistant message to learn from"
    return sample


def _refuse(part: msgspec.Struct, *names: str) -> None:
    """Refuse fields of the API that this server cannot train on, unless they are empty."""
    for name in names:
        if getattr(part, name):
            raise ValueError(f"`{name}` is not supported by this server")


def _kind(row: dict[str, Any], method: str) -> type[Sample]:
    if method == "dpo":
        return PreferenceSample
    return CompletionSample if "prompt" in row and "messages" not in row else ChatSample
