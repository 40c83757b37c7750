"""What is looked for in the rows, and what is recommended: a table of small functions from facts to findings.

Owns the conditions and the words. The conditions, thresholds and candidates are those of openai 0.27.8, in its order;
its checks on format and columns are in `read` and `columns`. Does not change rows: `remedies` does, when accepted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from asyncgen.dataset.pairs import remedies
from asyncgen.dataset.pairs.ends_checks import completion_prefix, ending, leading_space, prompt_prefix, separator
from asyncgen.dataset.pairs.facts import LONG_CHARACTERS
from asyncgen.dataset.pairs.finding import Case, Finding, plain, row_numbers

if TYPE_CHECKING:
    from asyncgen.dataset.pairs.remedies import Remedy

_FEW_ROWS = 100


def count(case: Case) -> Finding:
    rows = case.facts.all_rows
    advice = "" if rows >= _FEW_ROWS else "; a few hundred at least are advised, and each doubling helps about as much"
    return Finding("count", f"There are {rows:,} pairs of prompt and completion{advice}")


def empty(case: Case) -> Finding | None:
    labels = case.facts.empty
    if not labels:
        return None
    return Finding(
        "empty",
        f"{len(labels):,} completions are empty: {row_numbers(labels)}",
        necessary=f"Take the {len(labels):,} rows with an empty completion out",
    )


def task(case: Case) -> Finding | None:
    if case.facts.task != "classification":
        return None
    return Finding(
        "task",
        f"With {case.facts.classes:,} different completions in {case.facts.rows:,} rows this looks like "
        "classification: a small, cheap model is enough, and held-out rows tell how good it is",
    )


def duplicates(case: Case) -> Finding | None:
    labels = case.facts.duplicates
    if not labels:
        return None
    return Finding(
        "duplicates",
        f"{len(labels):,} rows repeat the prompt and completion of an earlier one: {row_numbers(labels)}",
        f"Drop the {len(labels):,} duplicates",
        plain(remedies.drop_duplicates),
    )


def long(case: Case) -> Finding | None:
    facts = case.facts
    if not facts.long or facts.task == "open-ended generation":
        return None
    labels = [row.label for row in facts.long]

    def remedy(without_duplicates: bool) -> Remedy:
        return remedies.drop_labels(
            remedies.long_labels(facts, without_duplicates=without_duplicates, numbered=case.numbered)
        )

    return Finding(
        "long",
        f"{len(labels):,} rows are longer than {LONG_CHARACTERS:,} characters: {row_numbers(labels)}"
        + _misplaced(case),
        f"Drop the {len(labels):,} long rows",
        remedy,
    )


def _misplaced(case: Case) -> str:
    right = {row.label for row in case.facts.long}
    if remedies.long_labels(case.facts, without_duplicates=False, numbered=case.numbered) == right:
        return ""
    return (
        "\n  WARNING: empty rows stand before them, and then the legacy tool, whose output this repeats, "
        "drops rows at other places instead; take the empty rows out of the file first"
    )


def prompt_case(case: Case) -> Finding | None:
    return _case("prompt", remedies.lower_prompt) if case.facts.prompt.mostly_upper else None


def completion_case(case: Case) -> Finding | None:
    return _case("completion", remedies.lower_completion) if case.facts.completion.mostly_upper else None


def _case(column: str, remedy: Remedy) -> Finding:
    return Finding(
        f"{column}_case",
        f"More than a third of the letters in the {column}s are upper case, which models learn less from",
        f"Put all {column}s into lower case",
        plain(remedy),
    )


Check = Callable[[Case], Finding | None]

CHECKS: tuple[Check, ...] = (
    count,
    empty,
    task,
    duplicates,
    long,
    prompt_case,
    completion_case,
    separator,
    prompt_prefix,
    completion_prefix,
    ending,
    leading_space,
)

# What holds for chat samples too, where the provider's own template separates and ends.
CHAT_CHECKS: tuple[Check, ...] = (count, empty, duplicates)
