"""Prompt templates: text with `{name}` places, and nothing else.

Owns the syntax: an identifier in braces is replaced by that variable's value, doubled braces are literal. There are
no attributes, no indexes and no format specifications, so a value or a template can reach nothing but the variables.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class TemplateError(ValueError):
    """A brace that is neither a place nor doubled; `line` is 1-based within the template."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True, slots=True)
class Place:
    """Where a variable's value goes."""

    name: str


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template: literal text and places, in turn."""

    parts: tuple[str | Place, ...]
    _pattern: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        texts = (part.replace("%", "%%") if isinstance(part, str) else f"%({part.name})s" for part in self.parts)
        object.__setattr__(self, "_pattern", "".join(texts))

    @property
    def names(self) -> tuple[str, ...]:
        """The variables it needs, each once, in the order of their first place."""
        return tuple(dict.fromkeys(part.name for part in self.parts if isinstance(part, Place)))

    def render(self, variables: Mapping[str, str]) -> str:
        """The text with every place filled.

        Raises:
            KeyError: a variable is missing.
        """
        return self._pattern % variables


def parse(text: str) -> Template:
    """Parse a template.

    Raises:
        TemplateError: a single brace, or braces around something that is no identifier.
    """
    parts: list[str | Place] = []
    literal: list[str] = []
    end = 0
    for match in _BRACES.finditer(text):
        literal.append(text[end : match.start()])
        end = match.end()
        token, name = match.group(), match.group(1)
        if token in {"{{", "}}"}:
            literal.append(token[0])
        elif name is not None and name.isidentifier():
            parts += ["".join(literal), Place(name)]
            literal.clear()
        else:
            raise TemplateError(_what_is_wrong(token, name), text.count("\n", 0, match.start()) + 1)
    parts.append("".join([*literal, text[end:]]))
    return Template(tuple(part for part in parts if part != ""))


def _what_is_wrong(token: str, name: str | None) -> str:
    if name is None:
        return f"a single {token!r}; write {token * 2!r} for a literal brace"
    return f"{token!r} is not a name in braces; write {{{{ and }}}} for literal braces"
