"""Detect the form of a row from its keys, and convert it to a training example.

Forms: chats (`messages`), ShareGPT (`conversations` of from/value), alpaca (instruction, input, output), prompts and
completions as text or messages (TRL), preferences (OpenAI's form, and TRL's prompt, chosen, rejected). Sources: the
dataset formats of TRL's documentation, the README of Stanford Alpaca, FastChat's ShareGPT files, OpenAI's guides on
supervised fine-tuning and DPO. What a provider accepts is left to `rules`.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from asyncgen.dataset.files.json_rows import text_of
from asyncgen.dataset.rules.chat import kind
from asyncgen.dataset.rules.file import NON_PREFERRED, PREFERRED
from asyncgen.errors import AsyncgenError
from asyncgen.json_text import NotJsonError, decode_loosely

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from asyncgen.dataset.files.json_rows import FileRow

CHAT_LINE = "chat"
OPENAI_PREFERENCE = "OpenAI preference"
TRL_PREFERENCE = "TRL preference"
SHAREGPT = "ShareGPT"
ALPACA = "alpaca"
PAIR = "prompt and completion"
MESSAGE_PAIR = "prompt and completion as messages (TRL)"
PREFERENCES = frozenset({OPENAI_PREFERENCE, TRL_PREFERENCE})

PROMPT, COMPLETION = "prompt", "completion"
_KEYS = (
    (CHAT_LINE, ("messages",)),
    (SHAREGPT, ("conversations",)),
    (OPENAI_PREFERENCE, (PREFERRED,)),
    (OPENAI_PREFERENCE, (NON_PREFERRED,)),
    (TRL_PREFERENCE, ("chosen", "rejected")),
    (PAIR, (PROMPT, COMPLETION)),
    (ALPACA, ("instruction", "output")),
    (PAIR, (PROMPT,)),
    (PAIR, (COMPLETION,)),
    (ALPACA, ("instruction",)),
)
_USED = {
    CHAT_LINE: ("messages", "tools", "parallel_tool_calls", "functions"),
    SHAREGPT: ("conversations", "system", "tools"),
    OPENAI_PREFERENCE: ("input", PREFERRED, NON_PREFERRED),
    TRL_PREFERENCE: (PROMPT, "chosen", "rejected"),
    PAIR: (PROMPT, COMPLETION),
    ALPACA: ("instruction", "input", "output", "system", "history"),
}
_SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "system": "system",
}
_SYSTEM = ("system", "developer")
_NAMES_SHOWN = 20

Message = dict[str, Any]
Example = dict[str, Any]


class FormError(ValueError):
    """A row of a known form that no example can be made of; the text says why."""


@dataclass(frozen=True, slots=True)
class Blank:
    """What a row lacks: the prompt or the completion (`part`), or both (`row`)."""

    part: str


@dataclass(frozen=True, slots=True)
class WantedColumns:
    """The columns to read.

    Attributes:
        prompt: the column of prompts that the user named; None to find it by its name.
        completion: the column of completions that the user named; None to find it by its name.
    """

    prompt: str | None = None
    completion: str | None = None

    def is_known(self, name: str) -> bool:
        """Return whether a column belongs to a known form.

        Args:
            name: of the column.
        """
        if self.prompt is not None or self.completion is not None:
            return name in self.names().values()
        return name.strip().lower() in _KNOWN

    def is_header(self, cells: Sequence[str]) -> bool:
        """Return whether cells are the column names of a known form.

        Args:
            cells: of the first row.
        """
        if self.prompt is not None or self.completion is not None:
            return set(self.names().values()) <= set(cells)
        return bool(form_of({cell.lower() for cell in cells}))

    def names(self) -> dict[str, str]:
        """Our names to the file's, for those that the user gave."""
        return {PROMPT: self.prompt or PROMPT, COMPLETION: self.completion or COMPLETION}

    def layout(self, names: Iterable[str]) -> Layout:
        """Find the form of rows.

        Args:
            names: names of their fields.

        Returns:
            The form, "" if unknown, and the fields that it uses.
        """
        if self.prompt is not None or self.completion is not None:
            given = {name: column for name, column in self.names().items() if column in set(names)}
            return Layout(PAIR if given else "", given, ())
        keys: dict[str, str] = {}
        for name in names:
            keys.setdefault(name.strip().lower(), name)
            if name.strip() in _KNOWN:
                keys[name.strip()] = name  # a name as it should be goes before one in another case
        form = form_of(keys)
        used = _USED.get(form, ())
        return Layout(
            form, {key: keys[key] for key in used if key in keys}, tuple(keys[key] for key in keys if key not in used)
        )


_KNOWN = frozenset(name for names in _USED.values() for name in names)


@dataclass(frozen=True, slots=True)
class Layout:
    """How rows with the same names are read.

    Attributes:
        form: one of the names above; "" if the names match none.
        keys: the form's names to the file's.
        unused: names of the file that the form does not use.
    """

    form: str
    keys: Mapping[str, str]
    unused: tuple[str, ...]


def form_of(names: Collection[str]) -> str:
    """Return the form of a row with these names; "" if they match none.

    Args:
        names: in lower case.
    """
    return next((form for form, keys in _KEYS if all(key in names for key in keys)), "")


def form_words() -> str:
    """The forms and their keys, for an error."""
    return (
        "prompt, completion; messages; conversations (ShareGPT); instruction, input, output (alpaca); "
        "prompt, chosen, rejected (TRL); input, preferred_output, non_preferred_output (OpenAI)"
    )


def no_form(path: Path, names: Sequence[str], wanted: WantedColumns) -> AsyncgenError:
    """The error for a file whose columns are those of no form."""
    missing = next(name for name in (*wanted.names().values(), PROMPT) if name not in names or name == PROMPT)
    named = ", ".join(names[:_NAMES_SHOWN]) + (" and more" if len(names) > _NAMES_SHOWN else "")
    prompt, completion = names if len(names) == 2 else ("NAME", "NAME")  # noqa: PLR2004 - most likely these two
    return AsyncgenError(
        f"{path} has no column `{missing}`",
        cause=f"its columns are: {named or 'none'}\nknown formats: {form_words()}",
        help_text=f"name the columns: --prompt-column {shlex.quote(prompt)} --completion-column "
        f"{shlex.quote(completion)}",
        code="bad_data",
    )


def is_message_pair(row: FileRow, layout: Layout) -> bool:
    """Whether prompt or completion is a list of messages."""
    for key in layout.keys.values():
        value = row.values.get(key)
        if type(value) is list and _is_messages(value):
            return True
    return False


def pair_of(row: FileRow, layout: Layout) -> tuple[str, str] | Blank:
    """The prompt and the completion of a row, without blanks around them.

    Raises:
        FormError: the prompt is a list or an object.
    """
    values, keys = row.values, layout.keys
    prompt, completion = values.get(keys.get(PROMPT, "")), values.get(keys.get(COMPLETION, ""))
    if isinstance(prompt, list | dict):
        raise FormError(f"`{keys[PROMPT]}` is {kind(prompt)}, expected a text")
    if type(prompt) is not str and prompt is not None:
        prompt = text_of(row, keys[PROMPT])
    if type(completion) is not str and completion is not None:
        completion = text_of(row, keys[COMPLETION])
    prompt, completion = (prompt or "").strip(), (completion or "").strip()
    if prompt and completion:
        return prompt, completion
    return Blank("row" if not prompt and not completion else COMPLETION if prompt else PROMPT)


def example_of(row: FileRow, layout: Layout) -> Example | Blank:
    """The training example of a row that is not a pair of texts: a chat, or a preference in OpenAI's form.

    Raises:
        FormError: what the form needs is not there, or is something else.
    """
    return _CONVERTERS[layout.form](row, layout.keys)


def with_system(example: Example, system: str) -> Example:
    """Return the example with a system message at its beginning, unless it has one."""
    holder = _conversation(example)
    messages = holder.get("messages")
    if not isinstance(messages, list) or not messages or _role(messages[0]) in _SYSTEM:
        return example
    changed = {**holder, "messages": [{"role": "system", "content": system}, *messages]}
    return changed if holder is example else {**example, "input": changed}


def answers_of(example: Example) -> list[str]:
    """The texts of an example that a model is to learn: the assistant's, or the preferred one."""
    learnt = example[PREFERRED] if PREFERRED in example else example.get("messages")
    messages = learnt if isinstance(learnt, list) else []
    return [
        message["content"]
        for message in messages
        if _role(message) == "assistant" and isinstance(message.get("content"), str)
    ]


def _conversation(example: Example) -> Example:
    """The messages of the prompt; those of a preference are in `input`."""
    inner = example.get("input")
    return inner if isinstance(inner, dict) and "messages" not in example else example


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, dict) else None


def _is_messages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) and "role" in item for item in value)


def _text(row: FileRow, keys: Mapping[str, str], name: str) -> str:
    """A cell that must be text."""
    value = row.values.get(keys.get(name, ""))
    if isinstance(value, list | dict):
        raise FormError(f"`{keys[name]}` is {kind(value)}, expected a text")
    return text_of(row, keys[name]).strip() if value is not None else ""


def _list(row: FileRow, keys: Mapping[str, str], name: str) -> list[Any] | None:
    """A cell that must be a list; in a table, a list as JSON text. None if it is empty."""
    value = row.values.get(keys.get(name, ""))
    if isinstance(value, str):
        if not value.strip():
            return None
        try:
            value = decode_loosely(value)
        except NotJsonError:
            raise FormError(f"`{name}` is a text, expected an array of messages") from None
    if value is None:
        return None
    if not isinstance(value, list):
        raise FormError(f"`{name}` is {kind(value)}, expected an array of messages")
    return value


def _chat(row: FileRow, keys: Mapping[str, str]) -> Example | Blank:
    if row.raw:
        return dict(row.values)
    messages = _list(row, keys, "messages")
    if messages is None:
        return Blank("row")
    return {"messages": messages} | _tools(row, keys)


def _tools(row: FileRow, keys: Mapping[str, str]) -> Example:
    tools = row.values.get(keys.get("tools", ""))
    if isinstance(tools, str) and tools.strip():
        try:
            tools = decode_loosely(tools)
        except NotJsonError:
            raise FormError("`tools` is a text, expected an array") from None
    return {"tools": tools} if tools else {}


def _sharegpt(row: FileRow, keys: Mapping[str, str]) -> Example | Blank:
    turns = _list(row, keys, "conversations")
    if not turns:
        return Blank("row")
    system = _text(row, keys, "system")
    messages = [{"role": "system", "content": system}] if system else []
    for number, turn in enumerate(turns, 1):
        messages.append(_turn(turn, number))
    if messages[-1]["role"] == "assistant" and not messages[-1]["content"].strip():
        return Blank(COMPLETION)
    return {"messages": messages} | _tools(row, keys)


def _turn(turn: Any, number: int) -> Message:
    if not isinstance(turn, dict):
        raise FormError(f"turn {number} of `conversations` is {kind(turn)}, expected an object with `from` and `value`")
    if "role" in turn and "from" not in turn:
        return {"role": str(turn["role"])[:40], "content": _value(turn.get("content"), number)}
    speaker = turn.get("from")
    role = _SPEAKERS.get(speaker.lower()) if isinstance(speaker, str) else None
    if role is None:
        raise FormError(
            f"turn {number} of `conversations` is from {str(speaker)[:40]!r}; expected one of {', '.join(_SPEAKERS)}"
            if isinstance(speaker, str)
            else f"turn {number} of `conversations` has no `from`"
        )
    return {"role": role, "content": _value(turn.get("value"), number)}


def _value(value: Any, number: int) -> str:
    if value is not None and not isinstance(value, str):
        raise FormError(f"turn {number} of `conversations` is {kind(value)}, expected a text")
    return value or ""


def _alpaca(row: FileRow, keys: Mapping[str, str]) -> Example | Blank:
    """The instruction, a blank line and the input are what the user says."""
    parts = [_text(row, keys, "instruction"), _text(row, keys, "input")]
    prompt = "\n\n".join(part for part in parts if part)
    value = row.values.get(keys.get("output", ""))
    answer = text_of(row, keys["output"]).strip() if value is not None else ""
    if not (prompt and answer):
        return Blank("row" if not prompt and not answer else COMPLETION if prompt else PROMPT)
    system = _text(row, keys, "system")
    messages = [{"role": "system", "content": system}] if system else []
    for turn in _history(row, keys):
        messages += [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
    return {"messages": [*messages, {"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}


def _history(row: FileRow, keys: Mapping[str, str]) -> list[list[str]]:
    turns = _list(row, keys, "history") or []
    if not all(isinstance(turn, list) and len(turn) == 2 and all(isinstance(x, str) for x in turn) for turn in turns):  # noqa: PLR2004 - question, answer
        raise FormError("`history` must be an array of [question, answer]")
    return turns


def _message_pair(row: FileRow, keys: Mapping[str, str]) -> Example | Blank:
    sides = [row.values.get(keys.get(name, "")) for name in (PROMPT, COMPLETION)]
    for name, side in zip((PROMPT, COMPLETION), sides, strict=True):
        if side and not _is_messages(side):
            raise FormError(f"`{name}` is {kind(side)}, expected an array of messages as in the other rows")
    prompt, completion = sides
    if not prompt or not completion:
        return Blank("row" if not prompt and not completion else COMPLETION if prompt else PROMPT)
    if not _says(completion[-1]):
        return Blank(COMPLETION)
    return {"messages": [*prompt, *completion]} | _tools(row, keys)


def _says(message: Message) -> bool:
    """Whether a message says or calls anything."""
    content = message.get("content")
    return bool(message.get("tool_calls")) or (bool(content.strip()) if isinstance(content, str) else bool(content))


def _openai_preference(row: FileRow, keys: Mapping[str, str]) -> Example | Blank:
    return {name: row.values[key] for name, key in keys.items()} if not row.raw else dict(row.values)


def _trl_preference(row: FileRow, keys: Mapping[str, str]) -> Example | Blank:
    prompt = _spoken(row, keys, PROMPT, "user")
    chosen, rejected = (_spoken(row, keys, name, "assistant") for name in ("chosen", "rejected"))
    if not prompt:  # both begin with it
        alike = takewhile(lambda sides: sides[0] == sides[1], zip(chosen, rejected, strict=False))
        prompt = [message for message, _ in alike]
    outputs = [_without(prompt, output) for output in (chosen, rejected)]
    if not prompt:
        return Blank(PROMPT if chosen and rejected else "row")
    if not all(output and _says(output[-1]) for output in outputs):
        return Blank(COMPLETION)
    return {"input": {"messages": prompt}, PREFERRED: outputs[0], NON_PREFERRED: outputs[1]}


def _spoken(row: FileRow, keys: Mapping[str, str], name: str, role: str) -> list[Message]:
    """A side as messages: the ones that it is, or its text as one."""
    value = row.values.get(keys.get(name, ""))
    if isinstance(value, list) and _is_messages(value):
        return value
    text = _text(row, keys, name)
    return [{"role": role, "content": text}] if text else []


def _without(prompt: list[Message], output: list[Message]) -> list[Message]:
    """The output without the prompt, if it begins by repeating it."""
    return output[len(prompt) :] if prompt and output[: len(prompt)] == prompt else output


_CONVERTERS: dict[str, Callable[[FileRow, Mapping[str, str]], Example | Blank]] = {
    CHAT_LINE: _chat,
    SHAREGPT: _sharegpt,
    ALPACA: _alpaca,
    MESSAGE_PAIR: _message_pair,
    OPENAI_PREFERENCE: _openai_preference,
    TRL_PREFERENCE: _trl_preference,
}
