"""The tables of a job file as types; field names are the file's keys.

Owns names, types and defaults. Does not read files and judges nothing beyond a field's type: `load` does.
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
    """Ready combinations: every row of a table is one, its columns are variables."""

    file: str


class Subset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """So many combinations, chosen by the seed and without replacement."""

    size: int
    seed: int = 0


class Example(msgspec.Struct, frozen=True):
    """A worked example: variables, the answer wanted, and the only opening it goes with (None: any)."""

    variables: dict[str, str]
    completion: str
    opening: int | None = None


class Prompt(msgspec.Struct, frozen=True):
    """What is asked (`user`), under which role (`system`), and the short prompt of the samples (`sample`)."""

    user: str
    system: str | None = None
    sample: str | None = None
    openings: list[str] = []
    examples: list[Example] = []


class Generate(msgspec.Struct, frozen=True):
    """Who answers, how often each combination is asked for, and parameters passed to the API as they are."""

    provider: str = "auto"
    model: str | None = None
    repeats: int = 1
    parameters: dict[str, Any] = {}


class Checks(msgspec.Struct, frozen=True):
    """What an answer must satisfy to become a sample; `attempts` is how often it may be asked for."""

    max_sentences: int | None = None
    max_words: int | None = None
    max_characters: int | None = None
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


class DatasetSettings(msgspec.Struct, frozen=True):
    """How records become samples; `validation` is a share of the combinations, `hold_out` names axis values."""

    format: Literal["chat", "completion"] = "chat"
    system: str | None = None
    separator: str = " -->"
    ending: str = "\n"
    validation: float = 0.0
    hold_out: dict[str, list[Value]] = {}
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
    """A whole job, one provider's tables already laid over."""

    name: str
    prompt: Prompt
    grid: dict[str, list[Value] | ValuesFile] = {}
    rows: Rows | None = None
    subset: Subset | None = None
    generate: Generate = Generate()
    checks: Checks = Checks()
    limits: Limits = Limits()
    dataset: DatasetSettings = DatasetSettings()
    finetune: FinetuneSettings = FinetuneSettings()
