"""Request parameters that a provider or model family is known to refuse or ignore.

A request that OpenAI would refuse is refused here, before anything is sent, with the change to make. An unknown model
is never judged; a known name at another provider is taken for an alias. Parameters that a provider silently ignores are
reported and sent all the same.

Sources, read in November 2026: OpenAI's deployment checklist and API description; Anthropic's page on its OpenAI
compatibility; Mistral's API description (`random_seed`, and 422 for a parameter that it does not know); Ollama's page
on OpenAI compatibility.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from asyncgen.errors import Problem
from asyncgen.job.model import Job
from asyncgen.providers.profiles import Profile

# Provider to parameter to what the provider does with it.
_PASSED_OVER: Mapping[str, Mapping[str, str]] = {
    "anthropic": {
        "response_format": "is passed over; ask for JSON in the prompt, and set [answer] schema to check it",
        "seed": "is passed over: the same request gives other answers",
        "logprobs": "is passed over",
        "top_logprobs": "is passed over",
        "frequency_penalty": "is passed over",
        "presence_penalty": "is passed over",
        "reasoning_effort": "is passed over",
    },
    "mistral": {
        "seed": "is refused; it is called random_seed there",
        "max_completion_tokens": "is refused; set generate.max_tokens instead",
        "reasoning_effort": "may be refused",
    },
    "ollama": {
        "max_completion_tokens": "is passed over, so that answers have no bound; set generate.max_tokens instead",
    },
}
_HIGHEST_TEMPERATURE = 1.0  # that Anthropic takes; a higher one is taken for it

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


def parameters_are_known(profile: Profile) -> bool:
    """Whether a model's name says at this provider which parameters it takes; elsewhere names are aliases."""
    return profile.name == "openai"


def provider_remarks(job: Job, profile: Profile, model: str) -> Iterator[str]:
    """What the job asks for, and the provider is not known to do.

    Args:
        job: with the provider's overlay; `generate.max_tokens` is among its parameters.
        profile: who answers.
        model: that is asked.
    """
    parameters = job.generate.parameters
    for name, what in _PASSED_OVER.get(profile.name, {}).items():
        if name in parameters:
            yield f"generate.parameters.{name} {what} ({profile.title})"
    temperature = parameters.get("temperature")
    if profile.name == "anthropic" and isinstance(temperature, int | float) and temperature > _HIGHEST_TEMPERATURE:
        yield f"generate.parameters.temperature = {temperature:g} is taken for 1 ({profile.title})"
    if not parameters_are_known(profile):
        for problem in parameter_problems(model, parameters):
            yield f"{problem.key}: OpenAI's {problem.message}; at {profile.name} the name may stand for another model"
