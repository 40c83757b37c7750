"""The contestants of an evaluation (a model with a prompting technique), and the job that asks each of them.

Builds the prompt of each technique. Every contestant becomes a job with a table of the rows, so that its answers go
through the ordinary generation. Sending is left to `asking`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import msgspec
import orjson
import tomli_w

from asyncgen.errors import UsageError
from asyncgen.evaluate.rows import DatasetSample, EvaluationRow, NearestExamples, answers_are_targets, seeded_examples
from asyncgen.job.load import read_job_file, with_max_tokens
from asyncgen.job.opened import OpenedJob, open_job
from asyncgen.providers.choose import EndpointFlags, named_profile, requested_model
from asyncgen.providers.profiles import Profile, ProviderChoice
from asyncgen.run.whole_file import replacing

if TYPE_CHECKING:
    from pathlib import Path

    from asyncgen.finetune.complete import PromptForm
    from asyncgen.job.model import Job
    from asyncgen.run.state import RunState

Technique = Literal["zero-shot", "prompt", "few-shot", "tuned"]
TECHNIQUES: tuple[Technique, ...] = get_args(Technique)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NAME_HELP = "letters, digits, '.', '_' and '-'"
_TAKEN = frozenset({"jobs", "judge", "votes", "evaluation"})
_KEPT_FOR_TUNED = ("temperature", "top_p", "seed", "max_tokens", "max_completion_tokens")
_ANSWER_TOKENS = 256  # for `/completions`, which stop after 16 tokens by default
ROW_COLUMN, PROMPT_COLUMN, TURNS_COLUMN = "row_id", "short_prompt", "turns"


@dataclass(frozen=True, slots=True)
class Contestant:
    """A model with a prompting technique.

    Attributes:
        name: of its files, and in all that is shown.
        base_url: of the provider; None for its own address.
    """

    name: str
    technique: Technique
    provider: str
    model: str
    base_url: str | None = None

    @property
    def place(self) -> str:
        return f"{self.provider}/{self.model}"


def parse_contestant(text: str, profiles: Mapping[str, Profile]) -> Contestant:
    """A contestant, from `NAME=TECHNIQUE:PROVIDER/MODEL`; without a model it is the provider's default one.

    Raises:
        UsageError: it has not that form, or there is no such technique or provider.
    """
    name, _, rest = text.partition("=")
    technique, colon, place = rest.partition(":")
    if not colon or not place:
        raise UsageError(
            f"--contestant {text!r} is not NAME=TECHNIQUE:PROVIDER/MODEL",
            help_text="--contestant large=prompt:openai/gpt-6-luna",
        )
    if not NAME.fullmatch(name) or name in _TAKEN:
        raise UsageError(f"{name!r} is not a valid name for a contestant", help_text=NAME_HELP)
    if technique not in TECHNIQUES:
        raise UsageError(f"there is no technique {technique!r}", help_text=f"they are {', '.join(TECHNIQUES)}")
    provider, _, model = place.partition("/")
    profile = named_profile(provider, profiles)
    if technique == "tuned" and not model:
        raise UsageError(f"--contestant {text!r} names no tuned model", help_text=f"{text}/MODEL")
    return Contestant(name, technique, provider, model or requested_model(profile, None))


def default_contestants(opened: OpenedJob, state: RunState, base_url: str | None) -> list[Contestant]:
    """Choose the usual contestants.

    These are the base model with and without examples, the model that wrote the data with the long prompt, and the
    tuned model. If nothing is tuned yet, the model that wrote the data is asked with every technique.

    Args:
        opened: the run's job.
        state: content of `run.json`.
        base_url: address of the provider that wrote the data; None for that of its profile.

    Returns:
        The contestants.
    """
    writer = opened.generation, opened.model, base_url
    tuned = next((each for each in reversed(state.finetuning) if each.tuned_model), None)
    base = (tuned.provider, tuned.model, tuned.base_url or None) if tuned else writer
    if tuned and base[2] is None and tuned.provider == opened.generation:
        base = (base[0], base[1], base_url)
    found = [Contestant("zero-shot", "zero-shot", *base), Contestant("few-shot", "few-shot", *base)]
    if answers_are_targets(opened):
        found.append(Contestant("prompt", "prompt", *writer))
    if tuned and tuned.tuned_model:
        found.append(Contestant("tuned", "tuned", base[0], tuned.tuned_model, base[2]))
    return found


@dataclass(frozen=True, slots=True)
class PromptMaterial:
    """Parts of the run's dataset that the techniques need.

    Attributes:
        form: form of the tuned model's prompts.
        samples: reads the training samples from the start.
        examples: number of examples in a few-shot prompt.
        nearest: use the samples most like the row as examples; False for the same seeded ones for all rows.
        seed: of the choice of examples.
    """

    form: PromptForm
    samples: Callable[[], Iterable[DatasetSample]]
    examples: int
    nearest: bool
    seed: int


@dataclass(frozen=True, slots=True)
class ReadyContestant:
    """A contestant that can be asked.

    Attributes:
        contestant: technique, provider and model.
        opened: its job and requests.
        choice: the provider that answers.
        where: the flags, with the address.
        is_bare: whether its requests are bare completions, not chats.
    """

    contestant: Contestant
    opened: OpenedJob
    choice: ProviderChoice
    where: EndpointFlags
    is_bare: bool = False


def enter(
    contestant: Contestant,
    opened: OpenedJob,
    rows: Sequence[EvaluationRow],
    teaching: PromptMaterial,
    folder: Path,
    *,
    parameters: Mapping[str, Any] | None = None,
    api_key_file: Path | None = None,
) -> ReadyContestant:
    """Write the contestant's job and table into the folder `jobs` of the evaluation, and open it.

    Args:
        contestant: technique, provider and model.
        opened: the run's job.
        rows: of the evaluation.
        teaching: from the run's dataset.
        folder: of the evaluation.
        parameters: override those of the job.
        api_key_file: file with the provider's API key; None for its environment variable.

    Returns:
        The contestant.

    Raises:
        UsageError: the technique does not fit the job.
        JobFileError: the provider or the model does not accept what the job asks for.
    """
    profile = named_profile(contestant.provider, opened.file.profiles)
    job = with_max_tokens(opened.file.job(contestant.provider, opened.tuning), profile)
    is_bare = contestant.technique == "tuned" and teaching.form.format == "completion"
    document = {
        **_common(contestant, job, opened),
        "prompt": _prompt(contestant, job, opened),
        "generate": {
            "provider": contestant.provider,
            "model": contestant.model,
            "parameters": {**_parameters(contestant, job, teaching.form, opened), **(parameters or {})},
        },
    }
    if contestant.technique == "prompt":
        table = [{**_columns(row)} for row in rows]
    else:
        messages = _messages_for(contestant.technique, teaching)
        table = [{**_columns(row), TURNS_COLUMN: messages(row)} for row in rows]
    return open_entry(contestant, opened, document, table, folder, is_bare=is_bare, api_key_file=api_key_file)


def open_entry(
    contestant: Contestant,
    opened: OpenedJob,
    document: dict[str, Any],
    table: Sequence[Mapping[str, Any]],
    folder: Path,
    *,
    is_bare: bool = False,
    api_key_file: Path | None = None,
) -> ReadyContestant:
    """Write a job and its rows, and open it; errors as `enter`."""
    jobs = folder / "jobs"
    jobs.mkdir(parents=True, exist_ok=True)
    rows, path = (jobs / f"{contestant.name}.jsonl").resolve(), jobs / f"{contestant.name}.toml"
    with replacing(rows) as file:
        file.writelines(orjson.dumps(row) + b"\n" for row in table)
    document = {**document, "rows": {"file": str(rows)}}
    with replacing(path) as file:
        file.write(tomli_w.dumps(document, multiline_strings=False).encode())
    # Relative names, the user's providers and prices are those of the run's own job.
    found = open_job(
        read_job_file(path, opened.file.folder),
        generation=contestant.provider,
        tuning=opened.tuning,
        model=contestant.model,
    )
    choice = ProviderChoice(named_profile(contestant.provider, opened.file.profiles), f"contestant {contestant.name}")
    where = EndpointFlags(contestant.provider, contestant.base_url, contestant.model, api_key_file)
    return ReadyContestant(contestant, found, choice, where, is_bare)


def _common(contestant: Contestant, job: Job, opened: OpenedJob) -> dict[str, Any]:
    """Tables that do not depend on the technique: the job's name, its checks, and its limits at the same provider."""
    common: dict[str, Any] = {"name": contestant.name}
    if answers_are_targets(opened):
        checks = msgspec.to_builtins(msgspec.structs.replace(job.checks, attempts=1))
        common["checks"] = _without_unset(checks)
        common["answer"] = _without_unset(msgspec.to_builtins(job.answer))
    if contestant.provider == opened.generation:
        common["limits"] = _without_unset(msgspec.to_builtins(msgspec.structs.replace(job.limits, max_cost=None)))
    return common


def _without_unset(table: dict[str, Any]) -> dict[str, Any]:
    """A table without unset values, which TOML cannot express."""
    return {name: value for name, value in table.items() if value not in (None, [], {})}


def _prompt(contestant: Contestant, job: Job, opened: OpenedJob) -> dict[str, Any]:
    short = {"sample": f"{{{PROMPT_COLUMN}}}"}
    if contestant.technique != "prompt":
        return {"messages": TURNS_COLUMN, **short}
    if not answers_are_targets(opened):
        raise UsageError(
            f"{contestant.name}: the long prompt of this job is for another task than the tuned model",
            help_text="compare zero-shot, few-shot and tuned",
        )
    prompt = job.prompt
    examples = [
        {**each.variables, "completion": each.completion, **({} if each.opening is None else {"opening": each.opening})}
        for each in prompt.examples
    ]
    long_prompt = {"system": prompt.system, "user": prompt.user, "openings": prompt.openings, "examples": examples}
    return _without_unset(long_prompt) | short


def _parameters(contestant: Contestant, job: Job, form: PromptForm, opened: OpenedJob) -> dict[str, Any]:
    """The job's parameters that apply to the model; most were chosen for another model than a tuned one."""
    parameters = dict(job.generate.parameters)
    if not answers_are_targets(opened):
        for name in ("response_format", "max_tokens", "max_completion_tokens", "tools", "tool_choice"):
            parameters.pop(name, None)  # they limit the answers to the long prompt
    if contestant.technique != "tuned":
        return parameters
    kept = {name: parameters[name] for name in _KEPT_FOR_TUNED if name in parameters}
    if form.format == "completion":
        most = kept.pop("max_completion_tokens", None) or kept.get("max_tokens") or _ANSWER_TOKENS
        kept |= {"max_tokens": most, **({"stop": list(form.stop)} if form.stop else {})}
    return kept


def _columns(row: EvaluationRow) -> dict[str, Any]:
    return {**row.variables, ROW_COLUMN: row.id, PROMPT_COLUMN: row.prompt}


Messages = Callable[[EvaluationRow], list[Mapping[str, Any]]]


def _messages_for(technique: Technique, teaching: PromptMaterial) -> Messages:
    """A function from a row to the messages that are sent for it."""
    if technique == "zero-shot":
        return lambda row: [*row.turns]
    if technique == "tuned":
        return lambda row: _as_taught(row, teaching.form)
    shown = _examples_for(teaching)
    return lambda row: [*(turn for sample in shown(row) for turn in _as_example(sample)), *row.turns]


def _as_taught(row: EvaluationRow, form: PromptForm) -> list[Mapping[str, Any]]:
    if form.format == "completion":
        return [{"role": "user", "content": row.prompt + form.separator}]
    return [*([{"role": "system", "content": row.system}] if row.system else []), *row.turns]


def _as_example(sample: DatasetSample) -> list[Mapping[str, Any]]:
    return [*sample.turns, {"role": "assistant", "content": sample.answer}]


def _examples_for(teaching: PromptMaterial) -> Callable[[EvaluationRow], list[DatasetSample]]:
    if teaching.nearest:
        nearest = NearestExamples(teaching.samples(), teaching.seed)
        return lambda row: nearest.of(row.prompt, teaching.examples)
    chosen = seeded_examples(teaching.samples(), teaching.examples, teaching.seed)
    return lambda _: chosen
