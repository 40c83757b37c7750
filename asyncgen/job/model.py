"""The tables of a job file as types; field names are the file's keys.

Only types and defaults; checks beyond a field's type are left to `rules`, reading to `load`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Value = str | int | float


class ValuesFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An axis whose values stand in a file: a line each, or a column of a table."""

    file: str
    column: str | None = None


class Rows(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ready combinations, of one source: a table (`file`), another run (`run`), or text files (`files`)."""

    file: str | None = None
    run: str | None = None
    files: str | None = None
    split_words: int | None = None
    overlap_words: int = 0


class Subset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is left out (`exclude`), and so many of the rest, chosen by the seed and without replacement."""

    size: int | None = None
    seed: int = 0
    exclude: list[dict[str, Value]] = []


class Example(msgspec.Struct, frozen=True):
    """A worked example: variables, the answer wanted, and the only opening it goes with (None: any)."""

    variables: dict[str, str]
    completion: str
    opening: int | None = None


class Prompt(msgspec.Struct, frozen=True):
    """What is asked: `user` under the role `system`, or a column of chat turns (`messages`).

    `sample` is the prompt of the samples, `target` what the tuned model is to say to it (None: the answer).
    """

    user: str = ""
    system: str | None = None
    messages: str | None = None
    sample: str | None = None
    target: str | None = None
    openings: list[str] = []
    examples: list[Example] = []


class Generate(msgspec.Struct, frozen=True):
    """Who answers, how often each combination is asked for, and parameters passed to the API as they are.

    `max_tokens` bounds an answer; it is sent under the name that the provider knows.
    """

    provider: str = "auto"
    model: str | None = None
    repeats: int = 1
    max_tokens: int | None = None
    parameters: dict[str, Any] = {}


class AnswerSettings(msgspec.Struct, frozen=True):
    """How an answer is read: as text, or as JSON with fields.

    `each` names a field whose items are samples of their own, `messages` one that holds the conversation to learn from.
    """

    format: Literal["text", "json"] = "text"
    schema: str | None = None
    each: str | None = None
    messages: str | None = None


class Checks(msgspec.Struct, frozen=True):
    """What an answer must satisfy to become a sample; `attempts` is how often it may be asked for."""

    max_sentences: int | None = None
    max_words: int | None = None
    max_characters: int | None = None
    min_words: int | None = None
    must_contain: list[str] = []
    must_match: list[str] = []
    must_not_match: list[str] = []
    attempts: int = 1


class Limits(msgspec.Struct, frozen=True):
    """Bounds; what is absent is learnt from the server's answers.

    `max_cost` is in USD; `timeout_s` is in seconds, of one attempt.
    """

    concurrency: int | None = None
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    max_cost: float | None = None
    timeout_s: float | None = None


class ScoreSettings(msgspec.Struct, frozen=True):
    """Which answers are good enough: the judge's run, the field of its answers, and what they must come to.

    `best` keeps so many of each combination.
    """

    run: str
    field: str
    at_least: float | None = None
    best: int | None = None


class DatasetSettings(msgspec.Struct, frozen=True):
    """How records become samples; `validation` is a share of the combinations, `hold_out` names axis values."""

    format: Literal["chat", "completion", "preference"] = "chat"
    system: str | None = None
    separator: str = " -->"
    ending: str = "\n"
    validation: float = 0.0
    hold_out: dict[str, list[Value]] = {}
    reasoning: Literal["drop", "think", "reasoning_content", "thinking"] | None = None
    chosen: dict[str, Value] = {}
    rejected: dict[str, Value] = {}
    scores: ScoreSettings | None = None
    seed: int = 0

    @property
    def splits(self) -> bool:
        """Whether there is a validation side at all."""
        return bool(self.validation or self.hold_out)


class FinetuneSettings(msgspec.Struct, frozen=True):
    """Who tunes which model, and how."""

    provider: str = "auto"
    model: str | None = None
    suffix: str | None = None
    seed: int | None = None
    method: Literal["supervised", "dpo"] = "supervised"
    hyperparameters: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    integrations: list[dict[str, Any]] = []


class Job(msgspec.Struct, frozen=True):
    """A whole job, with the overlay of its providers applied."""

    name: str
    prompt: Prompt
    grid: dict[str, list[Value] | ValuesFile] = {}
    rows: Rows | None = None
    subset: Subset | None = None
    generate: Generate = Generate()
    answer: AnswerSettings = AnswerSettings()
    checks: Checks = Checks()
    limits: Limits = Limits()
    dataset: DatasetSettings = DatasetSettings()
    finetune: FinetuneSettings = FinetuneSettings()
