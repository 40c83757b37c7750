"""Checks on the rows of prompts and completions, and the remedies that they recommend.

A check is a function from facts to findings; a remedy is a lazy function from rows to rows, applied in the order of the
checks. Also chooses separator and ending. The conditions, thresholds and candidates are those of openai 0.27.8, in its
order; its checks on format and columns are in `read` and `table`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyncgen.dataset.pairs.facts import LONG_CHARACTERS, contains, occurs_earlier
from asyncgen.dataset.pairs.table import PairRow
from asyncgen.errors import AsyncgenError
from asyncgen.terminal import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncgen.dataset.pairs.facts import PairFacts


Remedy = Callable[[Iterable[PairRow]], Iterator[PairRow]]


def drop_duplicates(rows: Iterable[PairRow]) -> Iterator[PairRow]:
    """Keep the first of rows that are alike."""
    seen: set[int] = set()
    for row in rows:
        pair = hash((row.prompt, row.completion))
        if pair not in seen:
            seen.add(pair)
            yield row


def drop_labels(labels: frozenset[int]) -> Remedy:
    """Take the rows with these labels out."""
    return lambda rows: (row for row in rows if row.label not in labels)


def long_labels(facts: PairFacts, *, without_duplicates: bool, numbered: bool) -> frozenset[int]:
    """The labels of the rows that the legacy tool drops as too long.

    It counts the places of long rows, and then drops the rows whose *labels* are these numbers. Both are the
    same unless empty or duplicate rows went before; then it hits other rows, or stops because there is no
    such label. The first is repeated here for the sake of the same bytes; instead of the second, the long
    rows are dropped.

    Args:
        facts: of the rows before any recommended remedy.
        without_duplicates: duplicates were dropped before.
        numbered: the rows' labels are their places in the file.
    """
    long = [(row.label, row.place_without_duplicates if without_duplicates else row.place) for row in facts.long]
    right = frozenset(label for label, place in long if place is not None)
    places = frozenset(place for _, place in long if place is not None)
    gone = [facts.empty, facts.duplicates] if without_duplicates else [facts.empty]
    if numbered and not any(contains(labels, place) for labels in gone for place in places):
        return places
    return right


def lower_prompt(rows: Iterable[PairRow]) -> Iterator[PairRow]:
    return (PairRow(label, prompt.lower(), completion) for label, prompt, completion in rows)


def lower_completion(rows: Iterable[PairRow]) -> Iterator[PairRow]:
    return (PairRow(label, prompt, completion.lower()) for label, prompt, completion in rows)


def end_prompt(separator: str) -> Remedy:
    """Put the separator at the end of every prompt."""
    return lambda rows: (PairRow(label, prompt + separator, completion) for label, prompt, completion in rows)


def end_prompt_where_missing(separator: str) -> Remedy:
    """Put the separator at the end of the prompts that do not have it."""
    return lambda rows: (
        PairRow(label, prompt if prompt.endswith(separator) else prompt + separator, completion)
        for label, prompt, completion in rows
    )


def strip_prompt(length: int) -> Remedy:
    """Take that many characters off the beginning of every prompt."""
    return lambda rows: (PairRow(label, prompt[length:], completion) for label, prompt, completion in rows)


def strip_completion(length: int, *, keep_space: bool) -> Remedy:
    """Take that many characters off the beginning of every completion; a space that it began with stays."""
    kept = " " if keep_space else ""
    return lambda rows: (PairRow(label, prompt, kept + completion[length:]) for label, prompt, completion in rows)


def end_completion(ending: str) -> Remedy:
    """Put the ending at the end of every completion."""
    return lambda rows: (PairRow(label, prompt, completion + ending) for label, prompt, completion in rows)


def end_completion_where_missing(ending: str) -> Remedy:
    """Put the ending at the end of the completions that do not have it."""
    return lambda rows: (
        PairRow(label, prompt, completion if completion.endswith(ending) else completion + ending)
        for label, prompt, completion in rows
    )


def lead_completion(rows: Iterable[PairRow]) -> Iterator[PairRow]:
    """Begin every completion with a space.

    A completion that the remedies before have left empty becomes a space; the legacy tool stops with a
    traceback.
    """
    return (
        PairRow(label, prompt, completion if completion.startswith(" ") else " " + completion)
        for label, prompt, completion in rows
    )


AUTO = "auto"
_LABELS_SHOWN = 10
_FEW_ROWS = 100
_LONG_SUFFIX = 10
_LONG_PROMPT_PREFIX = 12
_LONG_COMPLETION_PREFIX = 5
_LAST_SEPARATOR = "\n\n### =>\n\n"
_LAST_ENDING = " [END]"


@dataclass(frozen=True, slots=True)
class PairFinding:
    """What a check found.

    Attributes:
        check: the check's name.
        found: a sentence or two for the user.
        recommended: what the remedy would do; "" if there is none.
        remedy: makes the change, given whether duplicates are dropped before; None if there is none.
        necessary: what is done about it in any case; "" for nothing.
    """

    check: str
    found: str
    recommended: str = ""
    remedy: Callable[[bool], Remedy] | None = None
    necessary: str = ""


@dataclass(frozen=True, slots=True)
class CheckCase:
    """The input of the checks.

    Attributes:
        facts: of the rows that have a completion.
        rows: starts another pass over them.
        separator: end of every prompt; "auto" for the legacy tool's choice.
        ending: end of every completion; "auto" for the legacy tool's choice.
        numbered: whether the rows' labels are their places in the file.
    """

    facts: PairFacts
    rows: Callable[[], Iterator[PairRow]]
    separator: str = AUTO
    ending: str = AUTO
    numbered: bool = True


def visible(text: str) -> str:
    """Return a text with line breaks and tabs escaped as in source code.

    Args:
        text: any text.
    """
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")


def row_numbers(labels: Sequence[int]) -> str:
    """The first few rows, counted from 1 without the header."""
    shown = ", ".join(str(label + 1) for label in labels[:_LABELS_SHOWN])
    more = len(labels) - _LABELS_SHOWN
    return f"row{'s' * (len(labels) > 1)} {shown}" + (f" and {more:,} more" if more > 0 else "")


def plain(remedy: Remedy) -> Callable[[bool], Remedy]:
    return lambda _: remedy


def count(case: CheckCase) -> PairFinding:
    rows = case.facts.all_rows
    advice = (
        "" if rows >= _FEW_ROWS else "; at least a few hundred are recommended, and each doubling helps about as much"
    )
    return PairFinding("count", f"There are {counted(rows, 'pair')} of prompt and completion{advice}")


def empty(case: CheckCase) -> PairFinding | None:
    labels = case.facts.empty
    if not labels:
        return None
    return PairFinding(
        "empty",
        f"{len(labels):,} completions are empty: {row_numbers(labels)}",
        necessary=f"Remove the {counted(len(labels), 'row')} with an empty completion",
    )


def task(case: CheckCase) -> PairFinding | None:
    if case.facts.task != "classification":
        return None
    return PairFinding(
        "task",
        f"With {case.facts.classes:,} different completions in {counted(case.facts.rows, 'row')} this looks like "
        "classification: a small, cheap model is enough, and held-out rows show its quality",
    )


def duplicates(case: CheckCase) -> PairFinding | None:
    labels = case.facts.duplicates
    if not labels:
        return None
    return PairFinding(
        "duplicates",
        f"{counted(len(labels), 'row repeats', 'rows repeat')} the prompt and completion of an earlier one: "
        f"{row_numbers(labels)}",
        f"Drop the {len(labels):,} duplicates",
        plain(drop_duplicates),
    )


def long(case: CheckCase) -> PairFinding | None:
    facts = case.facts
    if not facts.long or facts.task == "open-ended generation":
        return None
    labels = [row.label for row in facts.long]

    def remedy(without_duplicates: bool) -> Remedy:
        return drop_labels(long_labels(facts, without_duplicates=without_duplicates, numbered=case.numbered))

    return PairFinding(
        "long",
        f"{counted(len(labels), 'row is', 'rows are')} longer than {LONG_CHARACTERS:,} characters: "
        f"{row_numbers(labels)}" + _misplaced(case),
        f"Drop the {counted(len(labels), 'long row')}",
        remedy,
    )


def _misplaced(case: CheckCase) -> str:
    right = {row.label for row in case.facts.long}
    if long_labels(case.facts, without_duplicates=False, numbered=case.numbered) == right:
        return ""
    return (
        "\n  WARNING: there are empty rows before them. In this case the legacy tool drops other rows, and so "
        "does this command; remove the empty rows from the file first"
    )


def prompt_case(case: CheckCase) -> PairFinding | None:
    return _case("prompt", lower_prompt) if case.facts.prompt.mostly_upper else None


def completion_case(case: CheckCase) -> PairFinding | None:
    return _case("completion", lower_completion) if case.facts.completion.mostly_upper else None


def _case(column: str, remedy: Remedy) -> PairFinding:
    return PairFinding(
        f"{column}_case",
        f"More than a third of the letters in the {column}s are upper case, from which models learn less",
        f"Convert all {column}s to lower case",
        plain(remedy),
    )


def separator(case: CheckCase) -> PairFinding | None:
    facts, prompt = case.facts, case.facts.prompt
    if facts.task == "open-ended generation":
        return None
    if prompt.all_equal:
        raise AsyncgenError(
            "there is only one row" if facts.rows == 1 else "all prompts are the same",
            cause=f"each of the {counted(facts.rows, 'row')} has the prompt `{visible(prompt.suffix)[:80]}`",
            help_text="leave prompts empty for open-ended generation, or use rows with different prompts",
            code="bad_data",
        )
    if case.separator != AUTO:
        return _wanted("separator", "prompt", case.separator, prompt.suffix, end_prompt_where_missing)
    choice = suggested_separator(prompt.absent, line_breaks=prompt.line_breaks)
    if prompt.suffix:
        return _common("separator", "prompt", prompt.suffix, choice, (row.prompt for row in case.rows()))
    return PairFinding(
        "separator",
        "The prompts have no common ending that shows the model where the completion begins",
        f"End all prompts with `{visible(choice)}`",
        plain(end_prompt(choice)),
    )


def suggested_separator(absent: Sequence[str], *, line_breaks: bool) -> str:
    """The first candidate that no prompt has; the one on one line only where all prompts are on one line."""
    return next((text for text in absent if not (line_breaks and "\n" not in text)), _LAST_SEPARATOR)


def _wanted(check: str, column: str, text: str, suffix: str, remedy: Callable[[str], Remedy]) -> PairFinding | None:
    """The finding if the user chose the end of a column."""
    if not text or suffix.endswith(text):
        return None
    return PairFinding(
        check,
        f"Not all {column}s end with `{visible(text)}`",
        f"End all {column}s with `{visible(text)}`",
        plain(remedy(text)),
    )


def _common(check: str, column: str, suffix: str, choice: str, cells: Iterator[str]) -> PairFinding:
    found = f"All {column}s end with `{visible(suffix)}`"
    if len(suffix) > _LONG_SUFFIX:
        found += f", which is long; `{visible(choice)}` is enough"
    if occurs_earlier(cells, suffix):
        found += f"\n  WARNING: some {column}s contain it before the end, too; choose another one"
    return PairFinding(check, found)


def prompt_prefix(case: CheckCase) -> PairFinding | None:
    prompt = case.facts.prompt
    if not prompt.prefix or prompt.all_equal:
        return None
    found = f"All prompts begin with `{visible(prompt.prefix)}`"
    if len(prompt.prefix) <= _LONG_PROMPT_PREFIX:
        return PairFinding("prompt_prefix", found)
    return PairFinding(
        "prompt_prefix",
        f"{found}; a tuned model needs no instruction, only the part that differs between prompts",
        "Remove this beginning from all prompts",
        plain(strip_prompt(len(prompt.prefix))),
    )


def completion_prefix(case: CheckCase) -> PairFinding | None:
    completion = case.facts.completion
    prefix = completion.prefix
    if len(prefix) < _LONG_COMPLETION_PREFIX or completion.all_equal:
        return None
    return PairFinding(
        "completion_prefix",
        f"All completions begin with `{visible(prefix)}`; a completion needs only the part that differs",
        "Remove this beginning from all completions",
        plain(strip_completion(len(prefix), keep_space=prefix.startswith(" "))),
    )


def ending(case: CheckCase) -> PairFinding | None:
    facts, completion = case.facts, case.facts.completion
    if facts.task != "conditional generation":
        return None
    if completion.all_equal:
        raise AsyncgenError(
            "all completions are the same",
            cause=f"each of the {counted(facts.rows, 'row')} has the completion `{visible(completion.suffix)[:80]}`",
            help_text="a model would only learn to repeat it; use rows with different completions",
            code="bad_data",
        )
    if case.ending != AUTO:
        return _wanted("ending", "completion", case.ending, completion.suffix, end_completion_where_missing)
    choice = next(iter(completion.absent), _LAST_ENDING)
    if completion.suffix:
        return _common("ending", "completion", completion.suffix, choice, (row.completion for row in case.rows()))
    return PairFinding(
        "ending",
        "The completions have no common ending that shows the model where to stop",
        f"End all completions with `{visible(choice)}`",
        plain(end_completion(choice)),
    )


def leading_space(case: CheckCase) -> PairFinding | None:
    if case.facts.completion.all_start_with_space:
        return None
    return PairFinding(
        "leading_space",
        "Completions should begin with a space, because of the way text is split into tokens",
        "Begin all completions with a space",
        plain(lead_completion),
    )


Check = Callable[[CheckCase], PairFinding | None]

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
