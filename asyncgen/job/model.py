"""The tables of a job file as types; field names are the file's keys.

Only types and defaults; checks beyond a field's type are left to `rules`, reading to `load`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Value = str | int | float


class ValuesFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An axis whose values are in a file.

    Attributes:
        file: path of a text file with one value per line, or of a table.
        column: column of the table; None for a text file.
    """

    file: str
    column: str | None = None


class Rows(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ready combinations from one source: a table (`file`), another run (`run`), or text files (`files`).

    Attributes:
        file: path of a .csv, .jsonl or .parquet file.
        run: path of a run directory.
        files: glob pattern of text files.
        split_words: maximum words of a part of a text file; None to keep files whole.
        overlap_words: words that a part repeats from the end of the one before.
    """

    file: str | None = None
    run: str | None = None
    files: str | None = None
    split_words: int | None = None
    overlap_words: int = 0


class Subset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Combinations that are left out, and a seeded choice of the rest.

    Attributes:
        size: how many combinations to choose, without replacement; None for all.
        seed: another seed gives another choice.
        exclude: variables and values; combinations that match all of one entry are left out.
    """

    size: int | None = None
    seed: int = 0
    exclude: list[dict[str, Value]] = []


class Example(msgspec.Struct, frozen=True):
    """A worked example, sent as earlier turns.

    Attributes:
        variables: values for the prompt's placeholders.
        completion: the answer that it shows.
        opening: number of the opening that it is sent with; None for all.
    """

    variables: dict[str, str]
    completion: str
    opening: int | None = None


class Prompt(msgspec.Struct, frozen=True):
    """What is asked, and what the tuned model will be asked.

    Attributes:
        user: template of the user message.
        system: template of the system message; None for none.
        messages: column with chat turns, in place of `user` and `system`; None for none.
        sample: template of the samples' prompt; None to join the values.
        target: template of what the tuned model is to say; None for the answer.
        openings: templates of the answer's first words, which requests use in turn.
        examples: worked examples.
    """

    user: str = ""
    system: str | None = None
    messages: str | None = None
    sample: str | None = None
    target: str | None = None
    openings: list[str] = []
    examples: list[Example] = []


class Generate(msgspec.Struct, frozen=True):
    """The requests' provider, repeats and parameters.

    Attributes:
        provider: name of a profile; "auto" to choose by the environment.
        model: the model to ask; None for the provider's default.
        repeats: requests per combination.
        max_tokens: maximum tokens of an answer, sent under the provider's name for it; None for no limit.
        parameters: passed to the API as they are.
    """

    provider: str = "auto"
    model: str | None = None
    repeats: int = 1
    max_tokens: int | None = None
    parameters: dict[str, Any] = {}


class AnswerSettings(msgspec.Struct, frozen=True):
    """How an answer is parsed.

    Attributes:
        format: "json" gives answers fields.
        schema: path of a JSON Schema; None for that of `response_format`, if there is one.
        each: field with a list whose items each give a sample; None for one sample per answer.
        messages: field with the conversation to learn from; None for prompt and answer.
    """

    format: Literal["text", "json"] = "text"
    schema: str | None = None
    each: str | None = None
    messages: str | None = None


class Checks(msgspec.Struct, frozen=True):
    """What an answer must satisfy to become a sample. None and empty lists check nothing.

    Attributes:
        max_sentences: most sentences.
        max_words: most words.
        max_characters: most characters.
        min_words: fewest words.
        must_contain: templates of texts that it contains.
        must_match: regular expressions that are found in it.
        must_not_match: regular expressions that are not found in it.
        attempts: how often an answer that fails is asked for in total; each costs.
    """

    max_sentences: int | None = None
    max_words: int | None = None
    max_characters: int | None = None
    min_words: int | None = None
    must_contain: list[str] = []
    must_match: list[str] = []
    must_not_match: list[str] = []
    attempts: int = 1


class Limits(msgspec.Struct, frozen=True):
    """Bounds of the requests. None leaves a limit to be learnt from the server's answers.

    Attributes:
        concurrency: maximum requests in flight.
        requests_per_minute: maximum requests per minute.
        tokens_per_minute: maximum tokens per minute, of prompt and answer together.
        max_cost: maximum cost in USD, over all invocations; None for no limit.
        timeout_s: seconds that one attempt may take.
    """

    concurrency: int | None = None
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    max_cost: float | None = None
    timeout_s: float | None = None


class ScoreSettings(msgspec.Struct, frozen=True):
    """Which answers a judge's scores let through.

    Attributes:
        run: path of the judge's run.
        field: field of the judge's answers with the score.
        at_least: lowest score; None for no limit.
        best: number of answers to keep of each combination; None for all.
    """

    run: str
    field: str
    at_least: float | None = None
    best: int | None = None


class DatasetSettings(msgspec.Struct, frozen=True):
    """How records become samples.

    Attributes:
        format: form of the samples.
        system: first message of every chat sample; None for none.
        separator: end of every prompt, in the completion format.
        ending: end of every completion, in the completion format.
        validation: share of the combinations in the validation split, from 0 to 1.
        hold_out: axis to values that are in the validation split as a whole.
        reasoning: what becomes of the model's reasoning: left out, kept in <think> tags, or in a field of that name;
            None to keep answers as they are.
        chosen: variables and values of the preferred answers, in the preference format.
        rejected: variables and values of the other answers.
        scores: scores that answers need; None for no scores.
        seed: seed of the split.
    """

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
        """Whether there is a validation split."""
        return bool(self.validation or self.hold_out)


class FinetuneSettings(msgspec.Struct, frozen=True):
    """The fine-tuning job.

    Attributes:
        provider: name of a profile; "auto" to choose by the environment.
        model: the model to tune; None for the provider's default.
        suffix: part of the tuned model's name; None for the provider's choice.
        seed: seed of the training; None for the provider's choice.
        method: training method.
        hyperparameters: passed to the API.
        metadata: passed to the API.
        integrations: passed to the API.
    """

    provider: str = "auto"
    model: str | None = None
    suffix: str | None = None
    seed: int | None = None
    method: Literal["supervised", "dpo"] = "supervised"
    hyperparameters: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    integrations: list[dict[str, Any]] = []


class Job(msgspec.Struct, frozen=True):
    """A whole job, with the overlays of its providers applied. Each field is the table of the same name."""

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
