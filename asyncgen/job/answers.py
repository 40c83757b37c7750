"""Parse an answer, as text or as JSON with fields, items and a conversation, and check it.

Every answer is parsed to a result: one that breaks the job's format has named failures, like those of other checks.
What happens to an answer that fails is left to the pool and the dataset, making samples of items to the dataset.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from asyncgen.job.cells import NoTextError, value_text
from asyncgen.job.model import AnswerSettings, Checks, Job
from asyncgen.job.template import parse
from asyncgen.job.thoughts import split_thoughts
from asyncgen.json_text import NotJsonError, decode_json

JSON = "json"
SCHEMA = "schema"
EACH = "each"
MESSAGES = "messages"
MISSING = "missing: "

# A code fence around the whole answer, as models put around JSON.
_FENCED = re.compile(r"```[\w+-]*[ \t]*\r?\n(.*?)\r?\n?```", re.DOTALL)
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})


@dataclass(frozen=True, slots=True)
class AnswerItem:
    """One item of an answer, from which a sample is made.

    Attributes:
        text: value of `{answer}`: the answer without blanks around it, or the item of a list named by `each`.
        fields: values of `{answer.FIELD}`: those of the item override those of the whole answer; nested values are JSON
            text.
        turns: the conversation to learn from, if `[answer] messages` names one; else None.
    """

    text: str
    fields: Mapping[str, str] = field(default_factory=dict)
    turns: Sequence[Mapping[str, Any]] | None = None

    @property
    def variables(self) -> dict[str, str]:
        """The variables for templates, name to value."""
        return {"answer": self.text} | {f"answer.{name}": value for name, value in self.fields.items()}


@dataclass(frozen=True, slots=True)
class ReadAnswer:
    """A parsed answer.

    Attributes:
        items: each gives a sample; empty if there are failures.
        failures: what is wrong with the answer, by the names in this module; empty if it is valid.
        fenced: whether the JSON was in a code fence, which was removed.
    """

    items: tuple[AnswerItem, ...]
    failures: tuple[str, ...] = ()
    fenced: bool = False


class AnswerReader:
    """Parses the answers of one job.

    Args:
        settings: the table [answer].
        schema: the JSON Schema of answers; None if there is none.
        needed: fields that a template of the job uses; an answer without one of them fails.

    Raises:
        ValueError: the schema is invalid; the message says why.
    """

    def __init__(
        self, settings: AnswerSettings, schema: Mapping[str, Any] | bool | None = None, needed: Sequence[str] = ()
    ) -> None:
        self.reads_json = settings.format == "json"
        self._settings = settings
        self._schema = schema
        self._needed = tuple(needed)
        self._is_valid = _validator(schema) if schema is not None else None

    def __reduce__(self) -> tuple[type[AnswerReader], tuple[Any, ...]]:
        return AnswerReader, (self._settings, self._schema, self._needed)  # a compiled schema cannot be sent

    def read(self, completion: str) -> ReadAnswer:
        """Parse one answer. Never raises.

        Args:
            completion: the answer as it is in the record.

        Returns:
            Its items, or the reasons why it has none.
        """
        if not self.reads_json:
            return ReadAnswer((AnswerItem(completion.strip()),))
        text, fenced = _bare_json(completion)
        try:
            value = decode_json(text)
        except NotJsonError:
            return ReadAnswer((), (JSON,), fenced)
        if self._is_valid is not None and not self._is_valid(value):
            return ReadAnswer((), (SCHEMA,), fenced)
        items, failures = self._items(text, value)
        return ReadAnswer((), failures, fenced) if failures else ReadAnswer(items, (), fenced)

    def _items(self, text: str, value: Any) -> tuple[tuple[AnswerItem, ...], tuple[str, ...]]:
        whole = value if isinstance(value, dict) else {}
        listed = whole.get(self._settings.each) if self._settings.each else [value]
        if not isinstance(listed, list) or not listed:
            return (), (EACH,)
        items: list[AnswerItem] = []
        for each in listed:
            fields = {**whole, **each} if isinstance(each, dict) else whole
            item, failures = self._item(text if not self._settings.each else _text_of(each), fields)
            if failures:
                return (), failures
            items.append(item)
        return tuple(items), ()

    def _item(self, text: str, fields: Mapping[str, Any]) -> tuple[AnswerItem, tuple[str, ...]]:
        turns = _to_learn(conversation(fields.get(self._settings.messages))) if self._settings.messages else None
        if self._settings.messages and not turns:
            return AnswerItem(text), (MESSAGES,)
        missing = [name for name in self._needed if fields.get(name) is None]
        if missing:
            return AnswerItem(text), tuple(MISSING + name for name in missing)
        texts = {name: _text_of(value) for name, value in fields.items() if value is not None}
        return AnswerItem(text, texts, turns), ()


AS_TEXT = AnswerReader(AnswerSettings())


def conversation(value: Any) -> list[dict[str, Any]] | None:
    """Parse a list of chat turns, as `{role, content}` or in ShareGPT's form.

    Args:
        value: decoded JSON.

    Returns:
        The turns as `{role, content}`; None if it is not such a list.
    """
    if not isinstance(value, list) or not value:
        return None
    turns = [_turn(each) for each in value]
    return [each for each in turns if each is not None] if None not in turns else None


def _to_learn(turns: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """The turns up to the last one of the assistant; later ones teach nothing. Empty if there is none."""
    said = [place for place, turn in enumerate(turns or ()) if turn["role"] == "assistant"]
    learnt = turns[: said[-1] + 1] if turns and said else []
    return learnt if any(turn["role"] == "user" for turn in learnt) else []


_SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "system": "system", "user": "user", "assistant": "assistant"}


def _turn(value: Any) -> dict[str, Any] | None:
    if not isinstance(value, dict):
        return None
    if "from" in value and "value" in value and "role" not in value:
        value = {"role": _SHAREGPT_ROLES.get(str(value["from"])), "content": value["value"]}
    has_content = isinstance(value.get("content"), str | list) or (
        value.get("content") is None and bool(value.get("tool_calls"))
    )
    return value if isinstance(value.get("role"), str) and value["role"] in _ROLES and has_content else None


def is_fenced(completion: str) -> bool:
    """Whether a whole answer is in a code fence. Reasoning before it is ignored.

    Args:
        completion: the answer.
    """
    return _bare_json(completion)[1]


def response_schema(job: Job) -> Any:
    """Return the JSON Schema in the parameter `response_format`; None if there is none.

    Args:
        job: with its overlay applied.
    """
    response_format = job.generate.parameters.get("response_format")
    named = response_format.get("json_schema") if isinstance(response_format, dict) else None
    return named.get("schema") if isinstance(named, dict) else None


def _bare_json(completion: str) -> tuple[str, bool]:
    text = completion.strip()
    if not text.startswith(("{", '"')):  # a string of the JSON may hold such a tag
        text = split_thoughts(text)[1].strip()
    fenced = _FENCED.fullmatch(text)
    return (fenced[1].strip(), True) if fenced else (text, False)


def _text_of(value: Any) -> str:
    try:
        return value_text(value)
    except NoTextError:
        return ""  # unreachable for decoded JSON


def _validator(schema: Any) -> Callable[[Any], bool]:
    import jsonschema_rs  # noqa: PLC0415 - it takes a fifth of a second, and few jobs need it

    try:
        validator = jsonschema_rs.validator_for(schema, retriever=_refuse_to_fetch)
    except ValueError as error:
        raise ValueError(str(error).partition("\n")[0]) from None

    def is_valid(value: Any) -> bool:
        try:
            return bool(validator.is_valid(value))
        except ValueError:  # nested too deeply for the validator
            return False

    return is_valid


def _refuse_to_fetch(uri: str) -> Any:
    raise ValueError(f"{uri} is another document; a schema must not refer to other documents")


# A sentence ends in . ! ? or … (and closing quotes or brackets) before white space or the end; "3.5" does not.
_FULL_STOPS = (".", "!", "?", "…")
_CLOSING = "\"'”’»)]"
# One full stop, then more of them: a search for one character of a set is quick, one for a repetition is not.
_SENTENCE_END = re.compile(rf"[{''.join(_FULL_STOPS)}][{''.join(_FULL_STOPS)}]*[{re.escape(_CLOSING)}]*(?=\s|$)")

Variables = Mapping[str, str]


def count_sentences(text: str) -> int:
    """Count sentences. A last one without a full stop counts.

    Args:
        text: any text.

    Returns:
        The number of sentences.
    """
    end = text.rstrip()
    is_unfinished = bool(end) and not end.rstrip(_CLOSING).endswith(_FULL_STOPS)
    return len(_SENTENCE_END.findall(text)) + is_unfinished


class AnswerChecks:
    """A job's checks, compiled once.

    Args:
        checks: the table [checks], whose patterns were validated when the job was loaded.
        answers: parses the job's answers; one in another form fails a check, too.
        without_reasoning: reasoning at the beginning of an answer is not checked, since the dataset puts it elsewhere.
    """

    def __init__(self, checks: Checks, answers: AnswerReader = AS_TEXT, *, without_reasoning: bool = False) -> None:
        self.attempts = checks.attempts
        self._answers = answers
        self._without_reasoning = without_reasoning
        # Name of each check, and its test for failure; in the order of the job file.
        self._fails: list[tuple[str, Callable[[str, Variables], object]]] = []
        self._add_limit("max_sentences", count_sentences, checks.max_sentences)
        self._add_limit("max_words", _count_words, checks.max_words)
        self._add_limit("max_characters", len, checks.max_characters)
        if (least := checks.min_words) is not None:
            self._fails.append(("min_words", lambda text, _: _count_words(text) < least))
        for wanted in checks.must_contain:
            self._add_contained(wanted)
        for pattern in checks.must_match:
            self._add_wanted(pattern)
        for pattern in checks.must_not_match:
            self._add_unwanted(pattern)

    def failures(self, text: str, variables: Variables) -> list[str]:
        """Check one answer.

        Args:
            text: the answer as it is in the record.
            variables: variables of its row.

        Returns:
            Names of the checks that it does not pass; empty if it passes all.
        """
        failed = list(self._answers.read(text).failures) if self._answers.reads_json else []
        if self._fails:
            if self._without_reasoning:
                text = split_thoughts(text)[1]
            failed += [name for name, fails in self._fails if fails(text, variables)]
        return failed

    def _add_limit(self, name: str, measure: Callable[[str], int], limit: int | None) -> None:
        if limit is not None:
            self._fails.append((name, lambda text, _: measure(text) > limit))

    def _add_wanted(self, pattern: str) -> None:
        search = re.compile(pattern).search
        self._fails.append((f"must_match: {pattern}", lambda text, _: not search(text)))

    def _add_unwanted(self, pattern: str) -> None:
        search = re.compile(pattern).search
        self._fails.append((f"must_not_match: {pattern}", lambda text, _: search(text)))

    def _add_contained(self, wanted: str) -> None:
        template = parse(wanted)

        def fails(text: str, variables: Variables) -> bool:
            try:
                return template.render(variables) not in text
            except KeyError:  # a row of an earlier version of the job
                return True

        self._fails.append((f"must_contain: {wanted}", fails))


def checks_of(job: Job, answers: AnswerReader) -> AnswerChecks:
    """Compile the checks of a job's answers.

    Args:
        job: with its overlay applied.
        answers: parses its answers.

    Returns:
        The checks, of the text that the dataset has as the answer.
    """
    return AnswerChecks(job.checks, answers, without_reasoning=job.dataset.reasoning is not None)


_PATTERN = re.compile(r"\b(must_match|must_not_match): (.+)", re.DOTALL)
_SIGNS = frozenset("\\()[]{}|*+?^$.")
_LONGEST_SHOWN = 30  # characters of a pattern


def short_reasons(reasons: Mapping[str, int]) -> Counter[str]:
    """Name checks for a person: `must_not_match` in place of a check with its regular expression, which few can read.

    Args:
        reasons: texts that may end in the name of a check, and how often each occurred.

    Returns:
        The short texts, those that became equal counted together. A pattern that is a plain word stays.

    Example:
        >>> dict(short_reasons({"check: must_match: [.!?]$": 2, "check: must_match: Rome": 1}))
        {'check: must_match': 2, 'check: must_match: Rome': 1}
    """
    short: Counter[str] = Counter()
    for reason, count in reasons.items():
        found = _PATTERN.search(reason)
        is_long = found is not None and (len(found[2]) > _LONGEST_SHOWN or not _SIGNS.isdisjoint(found[2]))
        short[reason[: found.end(1)] if found is not None and is_long else reason] += count
    return short


def _count_words(text: str) -> int:
    return len(text.split())
