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
    """A brace that is neither a placeholder nor doubled.

    Args:
        message: what is wrong.
        line: 1-based within the template.
        name: what stands between the braces, where there are two.
    """

    def __init__(self, message: str, line: int, name: str | None = None) -> None:
        super().__init__(message)
        self.line = line
        self.name = name


@dataclass(frozen=True, slots=True)
class Placeholder:
    """Where a variable's value goes."""

    name: str


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template: literal text and placeholders, in turn."""

    parts: tuple[str | Placeholder, ...]
    _pattern: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        texts = (part.replace("%", "%%") if isinstance(part, str) else f"%({part.name})s" for part in self.parts)
        object.__setattr__(self, "_pattern", "".join(texts))

    @property
    def names(self) -> tuple[str, ...]:
        """The variables it needs, each once, in the order in which they come first."""
        return tuple(dict.fromkeys(part.name for part in self.parts if isinstance(part, Placeholder)))

    def render(self, variables: Mapping[str, str]) -> str:
        """The text with every placeholder filled.

        Raises:
            KeyError: a variable is missing.
        """
        return self._pattern % variables


ANSWER = "answer"  # the name under which `sample` and `target` have the answer
_FIELD = "answer."


def parse(text: str, *, answer_fields: bool = False) -> Template:
    """Parse a template.

    Args:
        text: as the job file has it.
        answer_fields: `{answer.FIELD}` is a placeholder.

    Raises:
        TemplateError: a single brace, or braces around something that is no identifier.
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
    """The answer's field that a placeholder names; None for any other name."""
    return name.removeprefix(_FIELD) if _is_field(name) else None


def _is_field(name: str) -> bool:
    return name.startswith(_FIELD) and name.removeprefix(_FIELD).isidentifier()


def _what_is_wrong(token: str, name: str | None) -> str:
    if name is None:
        return f"a single {token!r}; write {token * 2!r} for a literal brace"
    return f"{token!r} is not a name in braces; write {{{{ and }}}} for literal braces"


@dataclass(frozen=True, slots=True)
class Named:
    """The variables that a job names.

    Attributes:
        asked: in what is sent; of openings, only those that every one names.
        used: anywhere at all: a value that is missing there cannot be left out.
        fields: of the answer, in `sample`, `target` and the dataset's `system`.
    """

    asked: frozenset[str]
    used: frozenset[str]
    fields: tuple[str, ...]


def named_in(job: Job) -> Named:
    """What the job's templates name."""
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
    return Named(frozenset(asked), frozenset(name for name in used if field_of(name) is None), tuple(fields))


def sample_names(job: Job, table_columns: Iterable[str], axes: Iterable[str], *, all_columns: bool) -> tuple[str, ...]:
    """The variables that stand in the samples' prompt when the job does not write it.

    Args:
        job: says what it asks for.
        table_columns: of [rows].
        axes: of [grid].
        all_columns: take every column that can be named; else those that the job asks for.
    """
    asked = named_in(job).asked
    columns = [name for name in table_columns if name.isidentifier() and (all_columns or name in asked)]
    return (*columns, *axes)


def answer_is_variable(job: Job, columns: Iterable[str]) -> bool:
    """Whether `{answer}` in the sample means a variable, since an axis or a column of a table has that name."""
    from_table = job.rows is not None and job.rows.file is not None and ANSWER in columns
    return from_table or ANSWER in job.grid


def _names(text: str | None) -> tuple[str, ...]:
    try:
        return parse(text or "", answer_fields=True).names
    except TemplateError:
        return ()


def values_named(entries: Iterable[Mapping[str, object]]) -> frozenset[str]:
    """The variables that some tables of values name, such as those of `exclude`."""
    return frozenset(name for entry in entries for name in entry)
