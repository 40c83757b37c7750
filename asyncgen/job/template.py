"""Prompt templates: text with `{name}` placeholders, and nothing else; and which variables a job's templates use.

A name in braces is replaced by that variable's value; doubled braces are literal. There are no attributes, indexes or
format specifications, so that neither a value nor a template can reach anything but the variables. `{answer.FIELD}` is
allowed where the answer's fields may be used. Reporting a template that cannot be parsed is left to `rules`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from asyncgen.job.model import Job

_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class TemplateError(ValueError):
    """A brace that is neither part of a placeholder nor doubled.

    Args:
        message: what is wrong.
        line: line number within the template, from 1.
        name: the text between the braces; None if there is only one brace.
    """

    def __init__(self, message: str, line: int, name: str | None = None) -> None:
        super().__init__(message)
        self.line = line
        self.name = name


@dataclass(frozen=True, slots=True)
class Placeholder:
    """The place of a variable's value."""

    name: str


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template.

    Attributes:
        parts: literal texts and placeholders, in order.
    """

    parts: tuple[str | Placeholder, ...]
    _pattern: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        texts = (part.replace("%", "%%") if isinstance(part, str) else f"%({part.name})s" for part in self.parts)
        object.__setattr__(self, "_pattern", "".join(texts))

    @property
    def names(self) -> tuple[str, ...]:
        """The variables that it uses, without duplicates, in order of appearance."""
        return tuple(dict.fromkeys(part.name for part in self.parts if isinstance(part, Placeholder)))

    def render(self, variables: Mapping[str, str]) -> str:
        """Fill every placeholder.

        Args:
            variables: name to value; others than those in `names` are ignored.

        Returns:
            The text.

        Raises:
            KeyError: a variable is missing.
        """
        return self._pattern % variables


ANSWER = "answer"  # name of the answer in `sample` and `target`
_FIELD = "answer."


def parse(text: str, *, answer_fields: bool = False) -> Template:
    """Parse a template.

    Args:
        text: as in the job file.
        answer_fields: `{answer.FIELD}` is a placeholder.

    Returns:
        The template.

    Raises:
        TemplateError: a single brace, or braces around something that is not an identifier.
    """
    parts: list[str | Placeholder] = []
    literal: list[str] = []
    end = 0
    for match in _BRACES.finditer(text):
        literal.append(text[end : match.start()])
        end = match.end()
        token, name = match.group(), match.group(1)
        if token in {"{{", "}}"}:
            literal.append(token[0])
        elif name is not None and (name.isidentifier() or (answer_fields and _is_field(name))):
            parts += ["".join(literal), Placeholder(name)]
            literal.clear()
        else:
            raise TemplateError(_what_is_wrong(token, name), text.count("\n", 0, match.start()) + 1, name)
    parts.append("".join([*literal, text[end:]]))
    return Template(tuple(part for part in parts if part != ""))


def field_of(name: str) -> str | None:
    """Return the answer's field that a placeholder names; None for any other placeholder.

    Args:
        name: of the placeholder.
    """
    return name.removeprefix(_FIELD) if _is_field(name) else None


def _is_field(name: str) -> bool:
    return name.startswith(_FIELD) and name.removeprefix(_FIELD).isidentifier()


def _what_is_wrong(token: str, name: str | None) -> str:
    if name is None:
        return f"a single {token!r}; write {token * 2!r} for a literal brace"
    return f"{token!r} is not a name in braces; write {{{{ and }}}} for literal braces"


@dataclass(frozen=True, slots=True)
class TemplateVariables:
    """The variables that a job's templates use.

    Attributes:
        asked: variables in what is sent; of openings, only those that all of them use.
        used: variables in any template; their values must not be missing.
        fields: fields of the answer in `sample`, `target` and the dataset's `system`.
    """

    asked: frozenset[str]
    used: frozenset[str]
    fields: tuple[str, ...]


def template_variables(job: Job) -> TemplateVariables:
    """Return what the job's templates use.

    Args:
        job: with its overlay applied.
    """
    prompt = job.prompt
    asked = {*_names(prompt.user), *_names(prompt.system)}
    if prompt.messages:
        asked.add(prompt.messages)
    openings = [set(_names(opening)) for opening in prompt.openings]
    if openings:
        asked |= set.intersection(*openings)
    dataset = job.dataset
    after = [*_names(prompt.sample), *_names(prompt.target), *_names(dataset.system)]
    sides = (dataset.hold_out, dataset.chosen, dataset.rejected)
    used = asked.union(*openings, after, *sides, *map(_names, job.checks.must_contain))
    fields = dict.fromkeys(name for each in after if (name := field_of(each)) is not None)
    return TemplateVariables(
        frozenset(asked), frozenset(name for name in used if field_of(name) is None), tuple(fields)
    )


def sample_names(job: Job, table_columns: Iterable[str], axes: Iterable[str], *, all_columns: bool) -> tuple[str, ...]:
    """Choose the variables of the samples' prompt for a job that does not write one.

    Args:
        job: with its overlay applied.
        table_columns: of [rows].
        axes: of [grid].
        all_columns: take every column that can be named; False for those that the prompt uses.

    Returns:
        The variables, in order.
    """
    asked = template_variables(job).asked
    columns = [name for name in table_columns if name.isidentifier() and (all_columns or name in asked)]
    return (*columns, *axes)


def answer_is_variable(job: Job, columns: Iterable[str]) -> bool:
    """Whether `{answer}` in the sample is a variable, because an axis or a column has that name.

    Args:
        job: with its overlay applied.
        columns: axes, and columns of [rows].
    """
    from_table = job.rows is not None and job.rows.file is not None and ANSWER in columns
    return from_table or ANSWER in job.grid


def _names(text: str | None) -> tuple[str, ...]:
    try:
        return parse(text or "", answer_fields=True).names
    except TemplateError:
        return ()


def values_named(entries: Iterable[Mapping[str, object]]) -> frozenset[str]:
    """Return the variables that tables such as those of `exclude` name.

    Args:
        entries: each maps variables to values.
    """
    return frozenset(name for entry in entries for name in entry)
