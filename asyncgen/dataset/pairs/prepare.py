"""Prepare a file of pairs: measure it, offer remedies, write the files with the legacy tool's names and bytes.

Findings and questions go through a `Dialogue`, in the order of the legacy tool. Nothing is printed here. The bytes are
its JSON (every slash escaped, non-ASCII unchanged) and its split of a classification, whose order is that of NumPy's
legacy generator (MT19937, `RandomState(seed).permutation`), without NumPy; facts: numpy/random/mtrand, unchanged by its
stream guarantee (NEP 19). Files appear whole or not at all; an existing file is never overwritten.
"""

from __future__ import annotations

import os
import random
import tempfile
from array import array
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, Protocol

import orjson

from asyncgen.dataset.pairs.checks import AUTO, CHECKS, CheckCase
from asyncgen.dataset.pairs.facts import gather
from asyncgen.dataset.pairs.read import read_table
from asyncgen.dataset.pairs.table import find_pairs
from asyncgen.errors import AsyncgenError
from asyncgen.run.directory import output_file
from asyncgen.terminal import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from asyncgen.dataset.pairs.checks import PairFinding, Remedy
    from asyncgen.dataset.pairs.facts import PairFacts, Task
    from asyncgen.dataset.pairs.table import PairRow, Pairs


_SPLIT_SEED = 42
_STATE_WORDS = 624
_MASK = 0xFFFFFFFF
_LONGEST_NAME = 255 - len("..4194304.tmp")  # bytes; a file is written under a longer name first
_MOST_VALIDATION_ROWS = 1000


def output_paths(source: Path, *, split: bool) -> tuple[Path, ...]:
    """Choose the first free names next to `source`: STEM_prepared.jsonl, STEM_prepared (1).jsonl, ...

    Raises:
        AsyncgenError: they would be too long for a file name.
    """
    number = 0
    while True:
        paths = _numbered(source, number, split=split)
        if max(len(os.fsencode(path.name)) for path in paths) > _LONGEST_NAME:
            raise AsyncgenError(
                f"the name of {source} is too long: the result's would be {paths[0].name}",
                help_text="rename a copy and prepare the copy",
                code="bad_data",
            )
        if not any(os.path.lexists(path) for path in paths):
            return paths
        number += 1


def _numbered(source: Path, number: int, *, split: bool) -> tuple[Path, ...]:
    stem = source.with_suffix("")
    count = f" ({number})" if number else ""
    return tuple(Path(f"{stem}_prepared{end}{count}.jsonl") for end in (("_train", "_valid") if split else ("",)))


def taken_names(source: Path, paths: tuple[Path, ...]) -> str:
    """The message about names with a number; "" if there are none."""
    usual = _numbered(source, 0, split=len(paths) > 1)
    if usual == paths:
        return ""
    there, written = (" and ".join(path.name for path in names) for names in (usual, paths))
    return f"{there} already exists and is kept; this result is {written}"


def encode(row: PairRow) -> bytes:
    """A row as the legacy tool's JSON line."""
    line = orjson.dumps({"prompt": row.prompt, "completion": row.completion})
    return line.replace(b"/", b"\\/") + b"\n"


def write_rows(rows: Iterable[PairRow], path: Path) -> None:
    """Write all rows to one file.

    Raises:
        DiskError: the file could not be written; then there is none.
    """
    with output_file(path) as file:
        file.writelines(map(encode, rows))


def training_rows(count: int) -> int:
    """How many of `count` rows the legacy tool trains on: four fifths, and all but 1,000 of many."""
    return max(count - _MOST_VALIDATION_ROWS, int(count * 0.8))


def write_split(rows: Iterable[PairRow], count: int, train: Path, validation: Path) -> None:
    """Write the rows as training and validation files, chosen as the legacy tool chose them.

    Args:
        rows: `count` of them.
        count: how many rows there are.
        train: takes its rows in shuffled order.
        validation: takes the others in their own order.

    Raises:
        DiskError: a file could not be written.
    """
    order = permutation(count, _SPLIT_SEED)
    size = training_rows(count)
    with tempfile.TemporaryFile(dir=train.parent) as spool:
        begins = _spool(rows, spool)
        with output_file(validation) as valid_file, output_file(train) as train_file:
            _copy(spool, begins, order[:size], train_file)
            _copy(spool, begins, sorted(order[size:]), valid_file)


def _spool(rows: Iterable[PairRow], spool: IO[bytes]) -> array[int]:
    """Write every line; the answer has where each begins, and where the last ends."""
    begins = array("Q", [0])
    for row in rows:
        begins.append(begins[-1] + spool.write(encode(row)))
    return begins


def _copy(spool: IO[bytes], begins: array[int], places: Iterable[int], file: IO[bytes]) -> None:
    for place in places:
        spool.seek(begins[place])
        file.write(spool.read(begins[place + 1] - begins[place]))


def permutation(count: int, seed: int) -> list[int]:
    """The numbers 0 to count - 1 in the order of `numpy.random.RandomState(seed).permutation(count)`."""
    generator = random.Random()  # noqa: S311 - a reproducible split, not a secret
    generator.setstate((3, (*_initial_state(seed), _STATE_WORDS), None))
    order = list(range(count))
    for last in range(count - 1, 0, -1):
        bits = last.bit_length()
        while (chosen := generator.getrandbits(32) & ((1 << bits) - 1)) > last:
            pass
        order[last], order[chosen] = order[chosen], order[last]
    return order


def _initial_state(seed: int) -> list[int]:
    """MT19937's state for a seed of one word (Matsumoto and Nishimura, 2002)."""
    state = [seed & _MASK]
    for place in range(1, _STATE_WORDS):
        before = state[-1]
        state.append((1812433253 * (before ^ (before >> 30)) + place) & _MASK)
    return state


class Dialogue(Protocol):
    """Shows findings, and asks questions."""

    def found(self, text: str) -> None:
        """Something was noticed."""

    def necessary(self, text: str) -> None:
        """Something is done without asking."""

    def accepts(self, question: str) -> bool:
        """Ask whether to apply a recommended remedy."""

    def insists(self, question: str) -> bool:
        """Ask about something doubtful, which a general yes does not cover."""


@dataclass(frozen=True, slots=True)
class PreparedPairs:
    """The result for a file.

    Attributes:
        source: the file, which is unchanged.
        outcome: "written"; "fits" if nothing had to be changed; "declined" if the user refused.
        files: what was written: one file, or training and validation.
        rows: rows of each file; those of `source` if none was written.
        task: what the data looks like.
        classes: number of distinct completions.
        separator: common end of all prompts; "" if there is none.
        ending: common end of all completions; "" if there is none.
    """

    source: Path
    outcome: Literal["written", "fits", "declined"]
    files: tuple[Path, ...]
    rows: tuple[int, ...]
    task: Task
    classes: int
    separator: str
    ending: str


@dataclass(frozen=True, slots=True)
class PairPlan:
    """The changes to a file, after all questions are answered.

    Attributes:
        pairs: the rows, unchanged.
        facts: of the rows with a completion, before any remedy.
        remedies: the accepted ones, in order.
        changes: whether anything is changed, if only the format.
    """

    pairs: Pairs
    facts: PairFacts
    remedies: tuple[Remedy, ...]
    changes: bool

    def rows(self) -> Iterator[PairRow]:
        """The rows as they will be written."""
        return reduce(lambda rows, remedy: remedy(rows), self.remedies, self.pairs.filled_rows())

    def remedied_facts(self) -> PairFacts:
        """The facts about the rows as they will be written."""
        return gather(self.rows()) if self.remedies else self.facts


def prepare_pairs(
    path: Path,
    dialogue: Dialogue,
    *,
    separator: str = AUTO,
    ending: str = AUTO,
    columns: Mapping[str, str] | None = None,
) -> PreparedPairs:
    """Prepare a file of prompts and completions for training in the completion format.

    Args:
        path: the file; it is not changed.
        dialogue: shows findings, and answers questions about recommended changes.
        separator: end of every prompt; "auto" for the legacy tool's choice.
        ending: end of every completion; "auto" for the legacy tool's choice.
        columns: names of the columns for `prompt` and `completion` that the user gave; None for none.

    Returns:
        The files written, and what was changed.

    Raises:
        AsyncgenError: the file cannot be used; names the line if there is one.
        DiskError: the result could not be written.
    """
    plan = _look_at(path, dialogue, separator, ending, columns)
    facts = plan.remedied_facts()
    if not facts.rows:
        raise AsyncgenError(f"no row of {path} is left", help_text="answer `n` to the questions that drop rows")
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
    """Read a file, show the findings, and ask about each remedy.

    Raises:
        AsyncgenError: the file cannot be read or repaired.
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
    case = CheckCase(facts, pairs.filled_rows, separator, ending, numbered=table.numbered)
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
        cause=f"it has {counted(facts.all_rows, 'row')}, and the completion of each is empty"
        if facts.all_rows
        else None,
        help_text="each row needs a prompt and a completion; check that the columns are not shifted",
        code="bad_data",
    )


def _findings(case: CheckCase, dialogue: Dialogue) -> Iterator[PairFinding]:
    """The findings, one by one: a later check may stop the preparation."""
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
    )
