"""What a check is given and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from asyncgen.dataset.pairs.facts import Facts
    from asyncgen.dataset.pairs.remedies import Remedy
    from asyncgen.dataset.pairs.table import Row

AUTO = "auto"

_LABELS_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found.

    Attributes:
        check: the check's name.
        found: a sentence or two for the user.
        recommended: what the remedy would do; "" where there is none.
        remedy: given whether duplicates are dropped before, the change; None where there is none.
        necessary: what is done about it in any case; "" where nothing is.
    """

    check: str
    found: str
    recommended: str = ""
    remedy: Callable[[bool], Remedy] | None = None
    necessary: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """What the checks judge.

    Attributes:
        facts: of the rows that have a completion.
        rows: starts another pass over them.
        separator: what prompts are to end in, or "auto" for the legacy tool's own choice.
        ending: what completions are to end in, likewise.
        numbered: the rows' labels are their places in the file.
    """

    facts: Facts
    rows: Callable[[], Iterator[Row]]
    separator: str = AUTO
    ending: str = AUTO
    numbered: bool = True


def visible(text: str) -> str:
    """Line breaks and tabs as they are written in source."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")


def row_numbers(labels: Sequence[int]) -> str:
    """The first few rows, counted from 1 without the header."""
    shown = ", ".join(str(label + 1) for label in labels[:_LABELS_SHOWN])
    more = len(labels) - _LABELS_SHOWN
    return f"row{'s' * (len(labels) > 1)} {shown}" + (f" and {more:,} more" if more > 0 else "")


def plain(remedy: Remedy) -> Callable[[bool], Remedy]:
    return lambda _: remedy
