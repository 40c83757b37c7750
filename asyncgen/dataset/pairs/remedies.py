"""Remedies: changes to the rows, each a lazy function from rows to rows.

Applied in the order of the checks, as the legacy tool does. When a remedy is advisable is left to `checks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from asyncgen.dataset.pairs.facts import contains
from asyncgen.dataset.pairs.table import PairRow

if TYPE_CHECKING:
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
