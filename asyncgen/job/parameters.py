"""Parameters that a family of models is known to refuse.

Owns that knowledge for OpenAI's models (its deployment checklist and API description, read 2026-11): a request that
would be refused is refused here, before anything is sent, with the change to make. An unknown model is never judged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from asyncgen.errors import Problem

_SAMPLING = ("temperature", "top_p", "logprobs", "top_logprobs")


@dataclass(frozen=True, slots=True)
class _Family:
    """Models whose names match, and the reasoning efforts they take; none: the parameter itself is refused."""

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
    """What `model` is known to refuse of these parameters; nothing for a model that is not known."""
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
        return [Problem(key, f"{model} does not reason and refuses it; take it out")]
    return [Problem(key, f"{model} refuses {effort!r}; it takes {', '.join(family.efforts)}")]


def _reasoning_problems(model: str, family: _Family, parameters: Mapping[str, Any]) -> list[Problem]:
    problems = []
    if "max_tokens" in parameters:
        text = f"{model} refuses it; call it max_completion_tokens, which counts hidden reasoning too"
        problems.append(Problem("generate.parameters.max_tokens", text))
    if parameters.get("reasoning_effort") == "none":
        return problems
    cure = 'set reasoning_effort = "none" beside it' if "none" in family.efforts else "take it out"
    return problems + [
        Problem(f"generate.parameters.{name}", f"{model} refuses it while it reasons; {cure}")
        for name in _SAMPLING
        if name in parameters
    ]
