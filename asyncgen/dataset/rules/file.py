"""Check a whole training file: every line by the rules of its format, and what must hold for all lines.

Detects the format (chat, preference, prompt and completion), checks the latter two, and limits how many findings are
kept. Reads line by line and changes nothing. Chats are left to `chat`. Facts on preferences: OpenAI's guide on DPO;
Together, Fireworks and Azure take the same form.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from asyncgen.dataset.rules.chat import (
    REASONING_FIELDS,
    Fault,
    check_chat,
    check_messages,
    check_tools,
    defined_tools,
    kind,
    unknown_keys,
)
from asyncgen.dataset.token_counts import Histogram
from asyncgen.errors import UsageError, command_line
from asyncgen.json_text import NotJsonError, decode_loosely
from asyncgen.providers.profiles import Finetuning, Profile
from asyncgen.terminal import counted
from asyncgen.text_files import BYTE_ORDER_MARK, decode, open_input, raw_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from asyncgen.dataset.token_counts import TokenCounter


_PAIR_KEYS = ("prompt", "completion")


def check_pair(example: Mapping[str, Any]) -> Iterator[Fault]:
    """Check one line of a file of prompts and completions."""
    yield from unknown_keys(example, _PAIR_KEYS, "the example", fatal=True)
    for key in _PAIR_KEYS:
        if not isinstance(example.get(key), str):
            yield Fault(key, f"`{key}` must be a string, not {kind(example.get(key))}")
    completion = example.get("completion")
    if isinstance(completion, str) and not completion.strip():
        yield Fault("empty_completion", "the completion is empty")


PREFERRED = "preferred_output"
NON_PREFERRED = "non_preferred_output"
_PREFERENCE_KEYS = ("input", PREFERRED, NON_PREFERRED)
_INPUT_KEYS = ("messages", "tools", "parallel_tool_calls")


def check_preference(example: Mapping[str, Any]) -> Iterator[Fault]:
    """Check one line of a DPO file."""
    yield from unknown_keys(example, _PREFERENCE_KEYS, "the example", fatal=False)
    yield from _input(example.get("input"))
    for key in (PREFERRED, NON_PREFERRED):
        yield from _output(example.get(key), key)
    if PREFERRED in example and example.get(PREFERRED) == example.get(NON_PREFERRED):
        yield Fault("same_outputs", "the preferred and the non-preferred output are the same")


def _input(conversation: Any) -> Iterator[Fault]:
    if not isinstance(conversation, dict):
        yield Fault("input", f"`input` must be an object with `messages`, not {kind(conversation)}")
        return
    yield from unknown_keys(conversation, _INPUT_KEYS, "`input`", fatal=False)
    yield from check_tools(conversation.get("tools"))
    messages = conversation.get("messages")
    if not isinstance(messages, list) or not messages:
        yield Fault("messages", "`input.messages` must be an array of at least one message")
        return
    yield from check_messages(messages, defined_tools(conversation))
    last = messages[-1]
    if isinstance(last, dict) and last.get("role") == "assistant":
        yield Fault("last_role", "the last message of `input` must not be from the assistant: its answer is the output")


def _output(output: Any, key: str) -> Iterator[Fault]:
    if not isinstance(output, list) or len(output) != 1:
        yield Fault(key, f"`{key}` must be an array of exactly one message")
        return
    yield from check_messages(output, frozenset())
    if isinstance(output[0], dict) and output[0].get("role") != "assistant":
        yield Fault(key, f"the message of `{key}` must be from the assistant")


CHAT, COMPLETION, DPO = "chat", "completion", "dpo"
_OTHER_KINDS = frozenset({".csv", ".tsv", ".xlsx", ".parquet", ".txt"})
_MOST_KEPT = 100
_BATCH = 1000


@dataclass(frozen=True, slots=True)
class LineFault:
    """A problem and its line; `line` is None for a problem of the whole file, and counts what `place` says."""

    file: Path
    line: int | None
    fault: Fault
    place: str = "line"

    def __str__(self) -> str:
        if self.line is None:
            return f"{self.file}: {self.fault.text}"
        at = f"{self.file}:{self.line}" if self.place == "line" else f"{self.file}, {self.place} {self.line}"
        return f"{at}: {self.fault.text}"


@dataclass(slots=True)
class Findings:
    """The first findings of each kind, and how many there were in all."""

    fatal: list[LineFault] = field(default_factory=list)
    remarks: list[LineFault] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    fatal_count: int = 0
    place: str = "line"

    def add(self, file: Path, line: int | None, faults: Iterable[Fault]) -> None:
        for fault in faults:
            self.counts[fault.rule] += 1
            self.fatal_count += fault.fatal
            kept = self.fatal if fault.fatal else self.remarks
            if len(kept) < _MOST_KEPT:
                kept.append(LineFault(file, line, fault, self.place))


@dataclass(slots=True)
class CheckedFile:
    """What was found in a training file.

    Attributes:
        place: what line numbers of findings count: lines, or the rows of another kind of file.
        format: "chat", "completion" or "dpo"; "" if no line shows it.
        examples: lines that are not blank.
        marked: whether the file begins with a byte order mark.
        duplicates: lines equal to an earlier one.
        tokens: of each example.
    """

    path: Path
    place: InitVar[str] = "line"
    format: str = ""
    examples: int = 0
    size: int = 0
    marked: bool = False
    duplicates: int = 0
    tokens: Histogram = field(default_factory=Histogram)
    findings: Findings = field(default_factory=Findings)

    def __post_init__(self, place: str) -> None:
        self.findings.place = place


def format_of(example: Any) -> str:
    """The format of an example, by its keys; "" if they match none."""
    if not isinstance(example, dict):
        return ""
    if "messages" in example:
        return CHAT
    if isinstance(example.get("input"), dict) or PREFERRED in example or NON_PREFERRED in example:
        return DPO
    return COMPLETION if "prompt" in example or "completion" in example else ""


class ExampleChecks:
    """Checks examples one by one by the rules of a provider, and adds findings to `checked`.

    Args:
        checked: gets the findings.
        profile: of the provider whose rules apply; the usual ones for a provider that does not tune.
        counter: counts the tokens of each example.
    """

    def __init__(self, checked: CheckedFile, profile: Profile, counter: TokenCounter) -> None:
        self.checked = checked
        self._counter = counter
        self._rules = profile.finetuning or Finetuning()
        self._seen: set[int] = set()
        self._batch: list[tuple[int, list[str]]] = []

    def add(self, number: int, example: Any) -> bool:
        """Check the example of a line; whether it stood before."""
        checked = self.checked
        checked.examples += 1
        identity = identity_of(example)
        if identity is None:
            checked.findings.add(checked.path, number, [Fault("json", "the line is nested too deeply")])
            return False
        checked.findings.add(checked.path, number, _faults(checked, example, self._rules))
        repeats = identity in self._seen
        checked.duplicates += repeats
        self._seen.add(identity)
        self._batch.append((number, list(example_texts(example))))
        if len(self._batch) == _BATCH:
            _count_tokens(checked, self._batch, self._counter, self._rules)
        return repeats

    def end(self) -> None:
        """Count what is not counted yet."""
        _count_tokens(self.checked, self._batch, self._counter, self._rules)


def identity_of(example: Any) -> int | None:
    """A hash that examples share when they are alike; None where an example is nested too deeply to be used."""
    try:
        return hash(orjson.dumps(example, option=orjson.OPT_SORT_KEYS))
    except TypeError:
        return None


def check_training_file(path: Path, profile: Profile, counter: TokenCounter) -> CheckedFile:
    """Check a training file by the rules of a provider.

    Args:
        path: the file.
        profile: of the provider whose rules apply.
        counter: counts the tokens of each example.

    Returns:
        Counts and findings; findings are not raised.

    Raises:
        UsageError: the file is missing, or is of a kind that must be prepared first.
        AsyncgenError: a line is too long or not UTF-8.
    """
    checked = CheckedFile(path, size=_size(path))
    checks = ExampleChecks(checked, profile, counter)
    for number, example in _examples(checked):
        checks.add(number, example)
    checks.end()
    checked.findings.add(path, None, whole_file_faults(checked.format, checked.examples, checked.size, profile))
    return checked


def _size(path: Path) -> int:
    with open_input(path) as file:
        if path.suffix.lower() in _OTHER_KINDS:
            raise UsageError(
                f"{path} is not a file of training lines (.jsonl)",
                help_text=f"{command_line('prepare', path)}   (creates one)",
            )
        return file.seek(0, os.SEEK_END)


def whole_file_faults(format_: str, examples: int, size: int, profile: Profile) -> Iterator[Fault]:
    """Problems of a file as a whole, whatever its lines contain."""
    finetuning = profile.finetuning or Finetuning()
    taken = (*finetuning.formats, *(DPO for method in finetuning.methods if method == DPO))
    if format_ and format_ not in taken:
        yield Fault(
            "format",
            f"{profile.title} accepts files of the format {' or '.join(taken)}, and this is {format_}",
        )
    if examples < finetuning.min_samples:
        wanted = f"{profile.title} requires at least {finetuning.min_samples}"
        yield Fault(
            "too_few", f"there {'is' if examples == 1 else 'are'} {counted(examples, 'sample')} to train on; {wanted}"
        )
    if size > finetuning.max_bytes:
        megabytes = f"{size / 2**20:,.1f} MB; {profile.title} accepts at most {finetuning.max_bytes / 2**20:,.0f} MB"
        yield Fault("too_large", f"the file has {megabytes}")


def _examples(checked: CheckedFile) -> Iterator[tuple[int, Any]]:
    """Every line that is JSON, with its number; the others become findings."""
    for number, raw in raw_lines(checked.path):
        line = raw
        if number == 1 and raw.startswith(BYTE_ORDER_MARK):
            checked.marked = True
            line = raw.removeprefix(BYTE_ORDER_MARK)
        if line.isspace() or not line:
            continue
        decode(checked.path, number, line)
        try:
            yield number, decode_loosely(line)
        except NotJsonError as error:
            checked.findings.add(checked.path, number, [Fault("json", f"the line is not JSON: {error}")])


def _faults(checked: CheckedFile, example: Any, rules: Finetuning) -> Iterator[Fault]:
    format_ = format_of(example)
    checked.format = checked.format or format_
    if not format_ or not isinstance(example, dict):
        yield Fault("example", _expected(checked.path, example))
    elif format_ != checked.format:
        yield Fault("mixed", f"the line has the format {format_}, but the lines before it have {checked.format}")
    elif format_ == CHAT:
        yield from check_chat(example, strict_turns=rules.api == "together", message_fields=rules.message_fields)
    else:
        yield from check_preference(example) if format_ == DPO else check_pair(example)


def _expected(path: Path, example: Any) -> str:
    expected = "the line must be an object with `messages`, `prompt` and `completion`, or `input`"
    other = isinstance(example, dict) and ("conversations" in example or "chosen" in example or "output" in example)
    return f"{expected}; `{command_line('prepare', path)}` converts this format" if other else expected


def _count_tokens(
    checked: CheckedFile, batch: list[tuple[int, list[str]]], counter: TokenCounter, finetuning: Finetuning
) -> None:
    counts = counter.samples([texts for _, texts in batch], chat=checked.format != COMPLETION)
    checked.tokens.add(counts)
    limit = finetuning.max_sample_tokens
    for (number, _), count in zip(batch, counts, strict=True):
        if limit is not None and count > limit:
            text = f"the example has {counted(count, 'token')}; the part beyond {limit:,} is cut off silently"
            checked.findings.add(checked.path, number, [Fault("cut", text, fatal=False)])
    batch.clear()


def prompt_of(example: Any) -> str:
    """The prompt of an example as text: everything before the answer to learn. Equal prompts go to the same split."""
    if not isinstance(example, dict):
        return ""
    if isinstance(messages := example.get("messages"), list):
        asked: Any = messages[:-1]
    else:
        asked = example.get("input", example.get("prompt"))
    return orjson.dumps(asked, option=orjson.OPT_SORT_KEYS).decode()


def example_texts(example: Any) -> Iterator[str]:
    """Every text of an example that costs tokens; a message's several ones are joined, so that each counts once."""
    if not isinstance(example, dict):
        return
    conversation = example.get("input") if isinstance(example.get("input"), dict) else {}
    for messages in (
        example.get("messages"),
        conversation.get("messages") if isinstance(conversation, dict) else None,
        example.get(PREFERRED),
        example.get(NON_PREFERRED),
    ):
        if isinstance(messages, list):
            yield from (_message_text(message) for message in messages if isinstance(message, dict))
    yield from (example[key] for key in ("prompt", "completion") if isinstance(example.get(key), str))


def _message_text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    parts: Sequence[Any] = content if isinstance(content, list) else [{"text": content}]
    texts = [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
    calls = orjson.dumps(message["tool_calls"]).decode() if message.get("tool_calls") else ""
    thoughts = [message[name] for name in REASONING_FIELDS if isinstance(message.get(name), str)]
    return "".join([*thoughts, *texts, calls])
