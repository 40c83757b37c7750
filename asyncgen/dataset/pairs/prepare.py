"""Prepare a file of pairs: measure it, offer remedies, write the result.

Findings and questions go through a `Dialogue`, in the order of the legacy tool. Nothing is printed here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Literal, Protocol

from asyncgen.dataset.pairs.checks import AUTO, CHECKS, Case
from asyncgen.dataset.pairs.facts import gather
from asyncgen.dataset.pairs.read_tables import read_table
from asyncgen.dataset.pairs.table import find_pairs
from asyncgen.dataset.pairs.write import output_paths, taken_names, training_rows, write_rows, write_split
from asyncgen.errors import AsyncgenError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from asyncgen.dataset.pairs.checks import PairFinding
    from asyncgen.dataset.pairs.facts import PairFacts, Task
    from asyncgen.dataset.pairs.remedies import Remedy
    from asyncgen.dataset.pairs.table import PairRow, Pairs

# The legacy tool's rule of thumb for the time that training takes, by the memory of its table of pointers.
_SECONDS_PER_CLASSIFIED_ROW = 1.44
_SECONDS_PER_BYTE = 0.0515
_SECONDS_TO_START = 140
_BYTES_PER_ROW = 16
_BYTES_OF_TABLE = 128


class Dialogue(Protocol):
    """Who is told and asked."""

    def found(self, text: str) -> None:
        """Something was noticed."""

    def necessary(self, text: str) -> None:
        """Something is done without asking."""

    def accepts(self, question: str) -> bool:
        """Ask whether to apply a recommended remedy."""

    def insists(self, question: str) -> bool:
        """May this doubtful thing be done? Somebody has to say so: a general yes does not cover it."""


@dataclass(frozen=True, slots=True)
class PreparedPairs:
    """What became of a file.

    Attributes:
        source: the file, which is unchanged.
        outcome: "written"; "fits": nothing had to be changed, `source` can be used; "declined": asked, and
            refused.
        files: what was written: one file, or training and validation.
        rows: in each of the files; in `source` where none was written.
        task: what the data looks like.
        classes: distinct completions.
        separator: what all prompts end in; "" where nothing.
        ending: what all completions end in; "" where nothing.
        legacy_seconds: the time that training took by the legacy tool's rule of thumb.
    """

    source: Path
    outcome: Literal["written", "fits", "declined"]
    files: tuple[Path, ...]
    rows: tuple[int, ...]
    task: Task
    classes: int
    separator: str
    ending: str
    legacy_seconds: float


@dataclass(frozen=True, slots=True)
class PairPlan:
    """What is to be done to the rows of a file, all questions answered.

    Attributes:
        pairs: the rows as they are.
        facts: of the rows with a completion, before any remedy.
        remedies: the accepted ones, in order.
        changes: anything is done at all, be it a conversion only.
    """

    pairs: Pairs
    facts: PairFacts
    remedies: tuple[Remedy, ...]
    changes: bool

    def rows(self) -> Iterator[PairRow]:
        """A pass over the rows as they are to be written."""
        return reduce(lambda rows, remedy: remedy(rows), self.remedies, self.pairs.filled_rows())

    def remedied_facts(self) -> PairFacts:
        """The facts of what is to be written."""
        return gather(self.rows()) if self.remedies else self.facts


def prepare_pairs(
    path: Path,
    dialogue: Dialogue,
    *,
    separator: str = AUTO,
    ending: str = AUTO,
    columns: Mapping[str, str] | None = None,
) -> PreparedPairs:
    """Make a file of prompts and completions fit for training on prompts and completions.

    Args:
        path: the file; it is only read.
        dialogue: hears what is found and answers what is recommended.
        separator: what prompts are to end in; "auto" for the legacy tool's choice.
        ending: what completions are to end in, likewise.
        columns: the names of the columns for `prompt` and `completion`, where the user gave some.

    Raises:
        AsyncgenError: the file cannot be made fit; tells the line where there is one.
        DiskError: the result could not be written.
    """
    plan = _look_at(path, dialogue, separator, ending, columns)
    facts = plan.remedied_facts()
    if not facts.rows:
        raise AsyncgenError(f"no row of {path} is left", help_text="answer `n` to what would drop rows")
    split = facts.task == "classification" and dialogue.accepts("Split into training and validation files?")
    if not plan.changes and not split:
        return _prepared(path, "fits", facts)
    if not dialogue.accepts("Write the result to a new JSONL file?"):
        return _prepared(path, "declined", facts)
    files = output_paths(path, split=split)
    if taken := taken_names(path, files):
        dialogue.found(taken)
    if split:
        write_split(plan.rows(), facts.rows, *files)
    else:
        write_rows(plan.rows(), files[0])
    return _prepared(path, "written", facts, files)


def _look_at(
    path: Path, dialogue: Dialogue, separator: str, ending: str, columns: Mapping[str, str] | None
) -> PairPlan:
    """Read a file, tell what the checks find, and ask for each remedy.

    Raises:
        AsyncgenError: the file cannot be read or made fit.
    """
    table = read_table(path)
    for text in table.found:
        dialogue.found(text)
    if table.shifted and not dialogue.insists(f"{table.shifted}. Are they row labels?"):
        raise AsyncgenError(
            f"the columns of {path} are shifted",
            cause=table.shifted,
            help_text="put cells that contain a delimiter into double quotes",
            code="bad_data",
        )
    pairs = find_pairs(table, str(path), columns)
    for text in pairs.found:
        dialogue.found(text)
    facts = gather(pairs.rows())
    if not facts.rows:
        raise _nothing_left(path, facts)
    case = Case(facts, pairs.filled_rows, separator, ending, numbered=table.numbered)
    findings = list(_findings(case, dialogue))
    conversion = [f"Convert {table.converts} to JSONL"] if table.converts else []
    for text in (*conversion, *pairs.remedies):
        dialogue.necessary(text)
    accepted = _ask(findings, dialogue)
    changes = bool(conversion or pairs.remedies or accepted or any(finding.necessary for finding in findings))
    return PairPlan(pairs, facts, accepted, changes)


def _nothing_left(path: Path, facts: PairFacts) -> AsyncgenError:
    return AsyncgenError(
        f"{path} has no row with a completion",
        cause=f"it has {facts.all_rows:,} rows, and the completion of each is empty" if facts.all_rows else None,
        help_text="each row needs a prompt and a completion; see that the columns are not shifted",
        code="bad_data",
    )


def _findings(case: Case, dialogue: Dialogue) -> Iterator[PairFinding]:
    """What the checks find, told one by one: a later check may end it all."""
    for check in CHECKS:
        finding = check(case)
        if finding is not None:
            dialogue.found(finding.found)
            yield finding


def _ask(findings: Sequence[PairFinding], dialogue: Dialogue) -> tuple[Remedy, ...]:
    accepted: list[Remedy] = []
    without_duplicates = False
    for finding in findings:
        if finding.necessary:
            dialogue.necessary(finding.necessary)
        if finding.remedy is None or not dialogue.accepts(finding.recommended):
            continue
        accepted.append(finding.remedy(without_duplicates))
        without_duplicates = without_duplicates or finding.check == "duplicates"
    return tuple(accepted)


def _prepared(
    path: Path,
    outcome: Literal["written", "fits", "declined"],
    facts: PairFacts,
    files: tuple[Path, ...] = (),
) -> PreparedPairs:
    train = training_rows(facts.rows)
    return PreparedPairs(
        source=path,
        outcome=outcome,
        files=files,
        rows=(train, facts.rows - train) if len(files) > 1 else (facts.rows,),
        task=facts.task,
        classes=facts.classes,
        separator=facts.prompt.suffix,
        ending=facts.completion.suffix,
        legacy_seconds=_legacy_seconds(facts),
    )


def _legacy_seconds(facts: PairFacts) -> float:
    if facts.task == "classification":
        return _SECONDS_TO_START + facts.rows * _SECONDS_PER_CLASSIFIED_ROW
    return _SECONDS_TO_START + (_BYTES_OF_TABLE + facts.rows * _BYTES_PER_ROW) * _SECONDS_PER_BYTE
