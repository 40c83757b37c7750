"""Check a job beyond its types: names that exist, numbers in range, templates that can be filled, parameters.

Each rule is a function from a job to problems. Reads no files. Request parameters are checked against what a provider
or model family is known to refuse or ignore: what OpenAI would refuse is refused here, before anything is sent, with
the change to make. An unknown model is never judged; a known name at another provider is taken for an alias. Parameters
that a provider silently ignores are reported and sent all the same.

Sources, read in November 2026: OpenAI's deployment checklist and API description; Anthropic's page on its OpenAI
compatibility; Mistral's API description (`random_seed`, and 422 for a parameter that it does not know); Ollama's page
on OpenAI compatibility.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asyncgen.errors import Problem, nearest
from asyncgen.job.template import ANSWER, TemplateError, field_of, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from asyncgen.job.model import Job
    from asyncgen.providers.profiles import Profile

# Provider to parameter to what the provider does with it.
_PASSED_OVER: Mapping[str, Mapping[str, str]] = {
    "anthropic": {
        "response_format": "is ignored; ask for JSON in the prompt, and set [answer] schema to check it",
        "seed": "is ignored: the same request can give different answers",
        "logprobs": "is ignored",
        "top_logprobs": "is ignored",
        "frequency_penalty": "is ignored",
        "presence_penalty": "is ignored",
        "reasoning_effort": "is ignored",
    },
    "mistral": {
        "seed": "is refused; it is called random_seed there",
        "max_completion_tokens": "is refused; set generate.max_tokens instead",
        "reasoning_effort": "may be refused",
    },
    "ollama": {
        "max_completion_tokens": "is ignored, so the length of answers is not limited; set generate.max_tokens instead",
    },
}
_HIGHEST_TEMPERATURE = 1.0  # Anthropic's maximum, which replaces a higher one

_SAMPLING = ("temperature", "top_p", "logprobs", "top_logprobs")


@dataclass(frozen=True, slots=True)
class _Family:
    """Models whose names match, and the reasoning efforts that they accept; none if they refuse the parameter."""

    pattern: re.Pattern[str]
    efforts: tuple[str, ...]

    @property
    def reasons(self) -> bool:
        return bool(self.efforts)


_GRADES = ("low", "medium", "high", "xhigh", "max")
_FAMILIES = (
    _Family(re.compile(r"gpt-6-luna|gpt-6\.1-terra"), ("none", *_GRADES)),
    _Family(re.compile(r"gpt-6\.1-sol|gpt-6-astra"), _GRADES),
    _Family(re.compile(r"gpt-6"), ("none", *_GRADES)),
    _Family(re.compile(r"gpt-5(?!\.)"), ("minimal", "low", "medium", "high")),
    _Family(re.compile(r"gpt-5\."), ("none", *_GRADES)),
    _Family(re.compile(r"(ft:)?(gpt-4|gpt-3\.5)"), ()),
)


def parameter_problems(model: str, parameters: Mapping[str, Any]) -> list[Problem]:
    """Find the parameters that a model is known to refuse.

    Args:
        model: as named in requests.
        parameters: of the requests.

    Returns:
        The problems; none for a model that is not known.
    """
    family = next((each for each in _FAMILIES if each.pattern.match(model)), None)
    if family is None:
        return []
    problems = _effort_problems(model, family, parameters.get("reasoning_effort"))
    if family.reasons and not problems:
        problems = _reasoning_problems(model, family, parameters)
    return problems


def _effort_problems(model: str, family: _Family, effort: Any) -> list[Problem]:
    key = "generate.parameters.reasoning_effort"
    if effort is None or effort in family.efforts:
        return []
    if not family.reasons:
        return [Problem(key, f"{model} does not reason and refuses it; remove it")]
    return [Problem(key, f"{model} refuses {effort!r}; possible: {', '.join(family.efforts)}")]


def _reasoning_problems(model: str, family: _Family, parameters: Mapping[str, Any]) -> list[Problem]:
    problems = []
    if "max_tokens" in parameters:
        text = f"{model} refuses it; use max_completion_tokens, which also counts hidden reasoning"
        problems.append(Problem("generate.parameters.max_tokens", text))
    if parameters.get("reasoning_effort") == "none":
        return problems
    cure = 'also set reasoning_effort = "none"' if "none" in family.efforts else "remove it"
    return problems + [
        Problem(f"generate.parameters.{name}", f"{model} refuses it while it reasons; {cure}")
        for name in _SAMPLING
        if name in parameters
    ]


def parameters_are_known(profile: Profile) -> bool:
    """Whether the model's name determines at this provider which parameters it accepts; elsewhere names are aliases.

    Args:
        profile: of the provider.
    """
    return profile.name == "openai"


def provider_remarks(job: Job, profile: Profile, model: str) -> Iterator[str]:
    """Find what the job asks for and the provider is not known to do.

    Args:
        job: with the provider's overlay; `generate.max_tokens` is among its parameters.
        profile: of the provider that answers.
        model: the model that is asked.

    Yields:
        Remarks for the user, one sentence each.
    """
    parameters = job.generate.parameters
    for name, what in _PASSED_OVER.get(profile.name, {}).items():
        if name in parameters:
            yield f"generate.parameters.{name} {what} ({profile.title})"
    temperature = parameters.get("temperature")
    if profile.name == "anthropic" and isinstance(temperature, int | float) and temperature > _HIGHEST_TEMPERATURE:
        yield f"generate.parameters.temperature = {temperature:g} is treated as 1 ({profile.title})"
    if not parameters_are_known(profile):
        for problem in parameter_problems(model, parameters):
            yield f"{problem.key}: OpenAI's {problem.message}; at {profile.name} the name may be another model"


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LONGEST_NAME = 100
_MOST_REPEATS = 1_000_000
_OURS = {
    "model": "set generate.model",
    "messages": "they are made from [prompt]",
    "stream": "answers are not streamed; remove it, or set it to false",
    "stream_options": "answers are not streamed",
    "n": "ask for more answers with generate.repeats",
}


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of [rows].

    Attributes:
        names: in the order of the source; some may be empty or occur twice.
        source: name of the source in the job file; "" if there is none.
    """

    names: tuple[str, ...] = ()
    source: str = ""


def problems_of(job: Job, columns: Columns, providers: Collection[str]) -> list[Problem]:
    """Find everything wrong in a job.

    Args:
        job: typed.
        columns: of its [rows].
        providers: known names of providers.

    Returns:
        The problems.
    """
    names = (*(name for name in columns.names if name.isidentifier()), *job.grid)
    rules: tuple[Iterable[Problem], ...] = (
        _job_name(job),
        _axes(job, columns.names),
        _rows(job),
        _subset(job, names, columns),
        _numbers(job),
        _templates(job, names, columns),
        _examples(job, names),
        _answer(job),
        _patterns(job),
        _held_out(job, names),
        _dataset(job, names, columns),
        _providers(job, providers),
        _parameters(job),
    )
    return [problem for rule in rules for problem in rule]


def _job_name(job: Job) -> Iterator[Problem]:
    if len(job.name) > _LONGEST_NAME:
        yield Problem("name", f"it has {len(job.name):,} characters, and may have {_LONGEST_NAME}")
    elif not _NAME.fullmatch(job.name):
        yield Problem(
            "name",
            f"{job.name!r} may only have letters, digits, '.', '_' and '-', and begins with a letter or digit, because "
            "it is a folder name",
        )


def _axes(job: Job, table_columns: tuple[str, ...]) -> Iterator[Problem]:
    if not job.grid and job.rows is None:
        yield Problem("grid", "a job needs a [grid] with at least one axis, or [rows]")
    for name in job.grid:
        if not name.isidentifier():
            yield Problem(f"grid.{name}", "an axis must be an identifier, so that a prompt can use it in braces")
        if name in table_columns:
            yield Problem(f"grid.{name}", "a column of [rows] has the same name")


def _rows(job: Job) -> Iterator[Problem]:
    rows = job.rows
    if rows is None:
        return
    given = [key for key in ("file", "run", "files") if getattr(rows, key) is not None]
    if not given:
        yield Problem("rows", "set one source: file, run or files")
    elif len(given) > 1:
        yield Problem(f"rows.{given[1]}", f"rows can only have one source; rows.{given[0]} is already set")
    if rows.files is None and (rows.split_words is not None or rows.overlap_words):
        key = "split_words" if rows.split_words is not None else "overlap_words"
        yield Problem(f"rows.{key}", "only text files (rows.files) are split")
    elif rows.overlap_words and rows.split_words is None:
        yield Problem("rows.overlap_words", "it needs rows.split_words")
    elif rows.split_words is not None and not 0 <= rows.overlap_words < rows.split_words:
        yield Problem("rows.overlap_words", f"{rows.overlap_words} is out of range, expected less than split_words")


def _subset(job: Job, names: tuple[str, ...], columns: Columns) -> Iterator[Problem]:
    subset = job.subset
    if subset is None:
        return
    if subset.size is None and not subset.exclude:
        yield Problem("subset", "needs a size or combinations to exclude")
    for number, entry in enumerate(subset.exclude, 1):
        key = f"subset.exclude[{number}]"
        if not entry:
            yield Problem(key, "it has no variable and would exclude everything")
        for name in entry:
            if name not in names and name not in columns.names:
                known = ", ".join(names)
                yield Problem(f"{key}.{name}", f"no such variable; possible: {known}", nearest(name, names))


def _numbers(job: Job) -> Iterator[Problem]:
    at_least_one = {
        "generate.repeats": job.generate.repeats,
        "generate.max_tokens": job.generate.max_tokens,
        "rows.split_words": job.rows.split_words if job.rows else None,
        "subset.size": job.subset.size if job.subset else None,
        "checks.attempts": job.checks.attempts,
        "checks.max_sentences": job.checks.max_sentences,
        "checks.max_words": job.checks.max_words,
        "checks.max_characters": job.checks.max_characters,
        "checks.min_words": job.checks.min_words,
        "limits.concurrency": job.limits.concurrency,
    }
    above_zero = {
        "limits.requests_per_minute": job.limits.requests_per_minute,
        "limits.tokens_per_minute": job.limits.tokens_per_minute,
        "limits.max_cost": job.limits.max_cost,
        "limits.timeout_s": job.limits.timeout_s,
    }
    yield from _outside(at_least_one, lambda value: value >= 1, "at least 1")
    yield from _outside(above_zero, lambda value: value > 0, "more than 0")
    most = {"generate.repeats": job.generate.repeats}
    yield from _outside(most, lambda value: value <= _MOST_REPEATS, f"at most {_MOST_REPEATS:,}")
    validation = {"dataset.validation": job.dataset.validation}
    yield from _outside(validation, lambda value: 0 <= value < 1, "from 0 to less than 1")


def _outside(
    values: Mapping[str, float | None],
    is_inside: Callable[[float], bool],
    expected: str,
) -> Iterator[Problem]:
    for key, value in values.items():
        if value is not None and not is_inside(value):
            yield Problem(key, f"{value:g} is out of range, expected {expected}")


def _templates(job: Job, names: tuple[str, ...], columns: Columns) -> Iterator[Problem]:
    prompt = job.prompt
    if prompt.messages is not None:
        yield from _messages(job, columns)
    elif not prompt.user.strip():
        yield Problem("prompt.user", "empty: there is no prompt" if prompt.user else "missing: the prompt")
    texts = {"prompt.user": prompt.user, "prompt.system": prompt.system}
    texts |= {f"prompt.openings[{number}]": text for number, text in enumerate(prompt.openings, 1)}
    texts |= {f"checks.must_contain[{number}]": text for number, text in enumerate(job.checks.must_contain, 1)}
    for key, text in texts.items():
        yield from _template(key, text or "", names, columns)
    for key, text in (("prompt.sample", prompt.sample), ("prompt.target", prompt.target)):
        yield from _template(key, text or "", (*names, ANSWER), columns, answer_fields=True)
    for number, wanted in enumerate(job.checks.must_contain, 1):
        if not wanted:
            yield Problem(f"checks.must_contain[{number}]", "empty: every answer contains it")


def _messages(job: Job, columns: Columns) -> Iterator[Problem]:
    prompt = job.prompt
    beside = {"user": prompt.user, "system": prompt.system, "openings": prompt.openings, "examples": prompt.examples}
    for key in (key for key, value in beside.items() if value):
        yield Problem(f"prompt.{key}", "it cannot be combined with prompt.messages")
    if prompt.messages not in columns.names:
        what = (
            f"is not a column of {columns.source}"
            if columns.source
            else "must be a column of [rows], but there is no [rows]"
        )
        near = nearest(str(prompt.messages), [name for name in columns.names if name])
        yield Problem("prompt.messages", f"{prompt.messages!r} {what}", near)


def _template(
    key: str, text: str, names: tuple[str, ...], columns: Columns, *, answer_fields: bool = False
) -> Iterator[Problem]:
    try:
        needed = parse(text, answer_fields=answer_fields).names
    except TemplateError as error:
        if error.name is not None and error.name.strip() in columns.names and not error.name.strip().isidentifier():
            column = error.name.strip()
            better = re.sub(r"\W+", "_", column).strip("_").lower() or "text"
            text = f"the column {column!r} of {columns.source} is not an identifier; rename it, for example to {better}"
            yield Problem(key, text)
        else:
            yield Problem(key, f"line {error.line} of the text: {error}")
        return
    for name in needed:
        if name not in names and not (answer_fields and field_of(name)):
            known = ", ".join(names) or "none"
            kind = "neither an axis nor a column; there" if columns.names else "not an axis; the axes"
            yield Problem(key, f"{{{name}}} is {kind} are {known}", nearest(name, names))


def _examples(job: Job, names: tuple[str, ...]) -> Iterator[Problem]:
    needed = _names_needed(job.prompt.user)
    for number, example in enumerate(job.prompt.examples, 1):
        key = f"prompt.examples[{number}]"
        yield from (
            Problem(f"{key}.{name}", "missing: prompt.user needs it")
            for name in needed
            if name in names and name not in example.variables
        )
        yield from (
            Problem(f"{key}.{name}", "unknown key: neither an axis, nor completion, nor opening", nearest(name, names))
            for name in example.variables
            if name not in names
        )
        if example.opening is not None and not 0 <= example.opening < len(job.prompt.openings):
            last = len(job.prompt.openings) - 1
            expected = f"0 to {last}" if last >= 0 else "prompt.openings to be there"
            yield Problem(f"{key}.opening", f"{example.opening} is not an opening, expected {expected}")


def _held_out(job: Job, names: tuple[str, ...]) -> Iterator[Problem]:
    """Check that held-out values exist, and that the short prompt distinguishes them from the others."""
    in_prompt = _fields_named(job.prompt.sample) if job.prompt.sample else names
    if any(name == ANSWER or field_of(name) for name in in_prompt):
        in_prompt = ()  # every answer gives a different prompt
    for name, values in job.dataset.hold_out.items():
        key = f"dataset.hold_out.{name}"
        if name not in names:
            yield Problem(key, f"not an axis; the axes are {', '.join(names) or 'none'}", nearest(name, names))
            continue
        if in_prompt and name not in in_prompt:
            yield Problem(key, "prompt.sample does not use it, so the held-out prompts would also be trained on")
        axis = job.grid.get(name)
        known = [str(each) for each in axis] if isinstance(axis, list) else None
        for value in values:
            if known is not None and str(value) not in known:
                yield Problem(key, f"{value!r} is not a value of the axis", nearest(str(value), known))


def _dataset(job: Job, names: tuple[str, ...], columns: Columns) -> Iterator[Problem]:
    settings = job.dataset
    yield from _template("dataset.system", settings.system or "", (*names, ANSWER), columns, answer_fields=True)
    if settings.format == "completion" and (job.answer.messages or job.prompt.messages):
        yield Problem("dataset.format", 'a conversation has no completion; set dataset.format = "chat"')
    if settings.scores is not None:
        if settings.scores.at_least is None and settings.scores.best is None:
            yield Problem("dataset.scores", "it has no effect without at_least or best")
        yield from _outside({"dataset.scores.best": settings.scores.best}, lambda value: value >= 1, "at least 1")
    yield from _preferences(job, names)


def _preferences(job: Job, names: tuple[str, ...]) -> Iterator[Problem]:
    settings = job.dataset
    named = {"chosen": settings.chosen, "rejected": settings.rejected}
    if settings.format != "preference":
        for key in (key for key, values in named.items() if values):
            yield Problem(f"dataset.{key}", 'it is for pairs of answers; set dataset.format = "preference"')
        return
    if settings.chosen.keys() != settings.rejected.keys() or (settings.chosen and settings.chosen == settings.rejected):
        yield Problem("dataset.rejected", "it must have the axes of dataset.chosen, with other values")
    prompt = _fields_named(job.prompt.sample) if job.prompt.sample else names
    if job.answer.each or job.answer.messages or any(name == ANSWER or field_of(name) for name in prompt):
        yield Problem(
            "dataset.format", "a pair is one prompt with two answers, but here the prompt contains the answer"
        )
    for name in settings.chosen:
        if name not in names:
            yield Problem(
                f"dataset.chosen.{name}", f"not an axis; the axes are {', '.join(names)}", nearest(name, names)
            )
        elif name in prompt:
            text = f"both answers of a pair need the same prompt: remove {{{name}}} from prompt.sample"
            yield Problem(f"dataset.chosen.{name}", text)


def _names_needed(text: str) -> tuple[str, ...]:
    try:
        return parse(text).names
    except TemplateError:
        return ()  # reported where the template is checked


def _answer(job: Job) -> Iterator[Problem]:
    answer = job.answer
    if answer.format == "json":
        return
    for key in ("schema", "each", "messages"):
        if getattr(answer, key) is not None:
            yield Problem(f"answer.{key}", 'answers are read as text; set answer.format = "json"')
    for key, text in (("prompt.sample", job.prompt.sample), ("prompt.target", job.prompt.target)):
        for field in filter(None, map(field_of, _fields_named(text or ""))):
            yield Problem(key, f'{{answer.{field}}} needs answers with fields; set answer.format = "json"')


def _fields_named(text: str) -> tuple[str, ...]:
    try:
        return parse(text, answer_fields=True).names
    except TemplateError:
        return ()


def _patterns(job: Job) -> Iterator[Problem]:
    for name in ("must_match", "must_not_match"):
        for number, pattern in enumerate(getattr(job.checks, name), 1):
            try:
                re.compile(pattern)
            except re.error as error:
                yield Problem(f"checks.{name}[{number}]", f"not a regular expression: {error}")
            except (RecursionError, OverflowError):
                yield Problem(f"checks.{name}[{number}]", "not a regular expression: too large")


def _providers(job: Job, providers: Collection[str]) -> Iterator[Problem]:
    for key, name in (("generate.provider", job.generate.provider), ("finetune.provider", job.finetune.provider)):
        if name != "auto" and name not in providers:
            known = ", ".join(providers)
            yield Problem(key, f"{name!r} is not a provider; possible: auto, {known}", nearest(name, providers))


def _parameters(job: Job) -> Iterator[Problem]:
    for name, value in job.generate.parameters.items():
        if name in _OURS and not (name == "stream" and value is False):  # which is what is sent without it
            yield Problem(f"generate.parameters.{name}", f"this parameter cannot be set: {_OURS[name]}")
    if job.generate.max_tokens is not None:
        for name in ("max_tokens", "max_completion_tokens"):
            if name in job.generate.parameters:
                yield Problem(f"generate.parameters.{name}", "generate.max_tokens is set, too; keep one of them")
