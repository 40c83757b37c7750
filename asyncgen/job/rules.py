"""What a job must hold beyond its types: names that exist, numbers in range, templates that can be filled.

Owns the rules, each a function from a job to problems. Reads no files, and does not know which provider will answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from asyncgen.errors import Problem
from asyncgen.job.model import Job
from asyncgen.job.template import TemplateError, parse
from asyncgen.nearest import nearest
from asyncgen.providers.profiles import PROFILES

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_OURS = {
    "model": "name it in generate.model",
    "messages": "they are made from [prompt]",
    "stream": "answers are taken whole",
    "stream_options": "answers are taken whole",
    "n": "ask for more answers with generate.repeats",
}


def problems_of(job: Job, table_columns: tuple[str, ...]) -> list[Problem]:
    """Everything wrong in the job, given the columns of its [rows] table."""
    names = (*table_columns, *job.grid)
    rules: tuple[Iterable[Problem], ...] = (
        _job_name(job),
        _axes(job, table_columns),
        _numbers(job),
        _templates(job, names),
        _examples(job, names),
        _patterns(job),
        _held_out(job, names),
        _providers(job),
        _parameters(job),
    )
    return [problem for rule in rules for problem in rule]


def _job_name(job: Job) -> Iterator[Problem]:
    if not _NAME.fullmatch(job.name):
        yield Problem("name", f"{job.name!r} must be letters, digits, '.', '_' or '-', since a folder is named so")


def _axes(job: Job, table_columns: tuple[str, ...]) -> Iterator[Problem]:
    if not job.grid and job.rows is None:
        yield Problem("grid", "a job needs a [grid] with at least one axis, or [rows]")
    for name in job.grid:
        if not name.isidentifier():
            yield Problem(f"grid.{name}", "an axis must be an identifier, so that a prompt can name it in braces")
        if name in table_columns:
            yield Problem(f"grid.{name}", "a column of [rows] has the same name")


def _numbers(job: Job) -> Iterator[Problem]:
    at_least_one = {
        "generate.repeats": job.generate.repeats,
        "subset.size": job.subset.size if job.subset else None,
        "checks.attempts": job.checks.attempts,
        "checks.max_sentences": job.checks.max_sentences,
        "checks.max_words": job.checks.max_words,
        "checks.max_characters": job.checks.max_characters,
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


def _templates(job: Job, names: tuple[str, ...]) -> Iterator[Problem]:
    prompt = job.prompt
    if not prompt.user.strip():
        yield Problem("prompt.user", "empty: there is nothing to ask")
    texts = {"prompt.user": prompt.user, "prompt.system": prompt.system, "prompt.sample": prompt.sample}
    texts |= {f"prompt.openings[{number}]": text for number, text in enumerate(prompt.openings, 1)}
    for key, text in texts.items():
        yield from _template(key, text or "", names)


def _template(key: str, text: str, names: tuple[str, ...]) -> Iterator[Problem]:
    try:
        needed = parse(text).names
    except TemplateError as error:
        yield Problem(key, f"line {error.line} of the text: {error}")
        return
    for name in needed:
        if name not in names:
            known = ", ".join(names) or "none"
            yield Problem(key, f"{{{name}}} is no axis; the axes are {known}", nearest(name, names))


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
            yield Problem(f"{key}.opening", f"{example.opening} is no opening, expected {expected}")


def _held_out(job: Job, names: tuple[str, ...]) -> Iterator[Problem]:
    """Values that are held out exist, and the short prompt tells them apart from those that are trained on."""
    in_prompt = _names_needed(job.prompt.sample) if job.prompt.sample else names
    for name, values in job.dataset.hold_out.items():
        key = f"dataset.hold_out.{name}"
        if name not in names:
            yield Problem(key, f"no axis; the axes are {', '.join(names) or 'none'}", nearest(name, names))
            continue
        if in_prompt and name not in in_prompt:
            yield Problem(key, "prompt.sample does not name it: the prompts held out would be trained on, too")
        axis = job.grid.get(name)
        known = [str(each) for each in axis] if isinstance(axis, list) else None
        for value in values:
            if known is not None and str(value) not in known:
                yield Problem(key, f"{value!r} is no value of the axis", nearest(str(value), known))


def _names_needed(text: str) -> tuple[str, ...]:
    try:
        return parse(text).names
    except TemplateError:
        return ()  # reported where the template is checked


def _patterns(job: Job) -> Iterator[Problem]:
    for name in ("must_match", "must_not_match"):
        for number, pattern in enumerate(getattr(job.checks, name), 1):
            try:
                re.compile(pattern)
            except re.error as error:
                yield Problem(f"checks.{name}[{number}]", f"not a regular expression: {error}")


def _providers(job: Job) -> Iterator[Problem]:
    for key, name in (("generate.provider", job.generate.provider), ("finetune.provider", job.finetune.provider)):
        if name != "auto" and name not in PROFILES:
            known = ", ".join(PROFILES)
            yield Problem(key, f"{name!r} is no provider; they are auto, {known}", nearest(name, PROFILES))


def _parameters(job: Job) -> Iterator[Problem]:
    for name in job.generate.parameters:
        if name in _OURS:
            yield Problem(f"generate.parameters.{name}", f"not a parameter of the job: {_OURS[name]}")
