"""Prompt templates: text with `{name}` placeholders, and nothing else.

A name in braces is replaced by that variable's value; doubled braces are literal. There are no attributes, indexes or
format specifications, so that neither a value nor a template can reach anything but the variables. `{answer.FIELD}` is
allowed where the answer's fields may be used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

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
