"""Checks on what prompts and completions begin and end with.

Owns the choice of separator and ending, by the candidates and thresholds of openai 0.27.8. Does not change rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncgen.dataset.pairs import remedies
from asyncgen.dataset.pairs.facts import occurs_earlier
from asyncgen.dataset.pairs.finding import AUTO, Case, Finding, plain, visible
from asyncgen.errors import AsyncgenError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from asyncgen.dataset.pairs.remedies import Remedy

_LONG_SUFFIX = 10
_LONG_PROMPT_PREFIX = 12
_LONG_COMPLETION_PREFIX = 5
_LAST_SEPARATOR = "\n\n### =>\n\n"
_LAST_ENDING = " [END]"


def separator(case: Case) -> Finding | None:
    facts, prompt = case.facts, case.facts.prompt
    if facts.task == "open-ended generation":
        return None
    if prompt.all_equal:
        raise AsyncgenError(
            "there is only one row" if facts.rows == 1 else "all prompts are the same",
            cause=f"each of the {facts.rows:,} rows has the prompt `{visible(prompt.suffix)[:80]}`",
            help_text="leave prompts empty for open-ended generation, or give rows whose prompts differ",
            code="bad_data",
        )
    if case.separator != AUTO:
        return _wanted("separator", "prompt", case.separator, prompt.suffix, remedies.end_prompt_where_missing)
    choice = suggested_separator(prompt.absent, line_breaks=prompt.line_breaks)
    if prompt.suffix:
        return _common("separator", "prompt", prompt.suffix, choice, (row.prompt for row in case.rows()))
    return Finding(
        "separator",
        "The prompts have no ending in common that tells the model where the completion begins",
        f"End all prompts in `{visible(choice)}`",
        plain(remedies.end_prompt(choice)),
    )


def suggested_separator(absent: Sequence[str], *, line_breaks: bool) -> str:
    """The first candidate that no prompt has; the one on one line only where all prompts are on one line."""
    return next((text for text in absent if not (line_breaks and "\n" not in text)), _LAST_SEPARATOR)


def _wanted(check: str, column: str, text: str, suffix: str, remedy: Callable[[str], Remedy]) -> Finding | None:
    """The finding where the user said what a column is to end in."""
    if not text or suffix.endswith(text):
        return None
    return Finding(
        check,
        f"Not all {column}s end in `{visible(text)}`",
        f"End all {column}s in `{visible(text)}`",
        plain(remedy(text)),
    )


def _common(check: str, column: str, suffix: str, choice: str, cells: Iterator[str]) -> Finding:
    found = f"All {column}s end in `{visible(suffix)}`"
    if len(suffix) > _LONG_SUFFIX:
        found += f", which is long; `{visible(choice)}` would do"
    if occurs_earlier(cells, suffix):
        found += f"\n  WARNING: it stands in some {column}s before the end too; one that does not is better"
    return Finding(check, found)


def prompt_prefix(case: Case) -> Finding | None:
    prompt = case.facts.prompt
    if not prompt.prefix or prompt.all_equal:
        return None
    found = f"All prompts begin with `{visible(prompt.prefix)}`"
    if len(prompt.prefix) <= _LONG_PROMPT_PREFIX:
        return Finding("prompt_prefix", found)
    return Finding(
        "prompt_prefix",
        f"{found}; a tuned model needs no instruction, only what differs from prompt to prompt",
        "Take this beginning off all prompts",
        plain(remedies.strip_prompt(len(prompt.prefix))),
    )


def completion_prefix(case: Case) -> Finding | None:
    completion = case.facts.completion
    prefix = completion.prefix
    if len(prefix) < _LONG_COMPLETION_PREFIX or completion.all_equal:
        return None
    return Finding(
        "completion_prefix",
        f"All completions begin with `{visible(prefix)}`; a completion needs what differs only",
        "Take this beginning off all completions",
        plain(remedies.strip_completion(len(prefix), keep_space=prefix.startswith(" "))),
    )


def ending(case: Case) -> Finding | None:
    facts, completion = case.facts, case.facts.completion
    if facts.task != "conditional generation":
        return None
    if completion.all_equal:
        raise AsyncgenError(
            "all completions are the same",
            cause=f"each of the {facts.rows:,} rows has the completion `{visible(completion.suffix)[:80]}`",
            help_text="a model would learn to repeat it; give rows whose completions differ",
            code="bad_data",
        )
    if case.ending != AUTO:
        return _wanted("ending", "completion", case.ending, completion.suffix, remedies.end_completion_where_missing)
    choice = next(iter(completion.absent), _LAST_ENDING)
    if completion.suffix:
        return _common("ending", "completion", completion.suffix, choice, (row.completion for row in case.rows()))
    return Finding(
        "ending",
        "The completions have no ending in common that tells the model where to stop",
        f"End all completions in `{visible(choice)}`",
        plain(remedies.end_completion(choice)),
    )


def leading_space(case: Case) -> Finding | None:
    if case.facts.completion.all_start_with_space:
        return None
    return Finding(
        "leading_space",
        "Completions should begin with a space, which suits the way text is cut into tokens",
        "Begin all completions with a space",
        plain(remedies.lead_completion),
    )
