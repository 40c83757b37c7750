"""The settled rows of another run as table rows: its variables, `prompt`, `answer` and the answer's fields.

Takes records that pass the checks of their own job and still belong to it. With `[answer] each` in the source's job, a
list gives one row an item. The other run may be growing: the records present at opening count, later ones are appended.
Keeps sixteen bytes a row. Opening the source's job is left to the caller.
"""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import TYPE_CHECKING

from asyncgen.job.cells import TableError, open_file, raw_lines
from asyncgen.json_text import NotJsonError
from asyncgen.run.records import Record, decode_record

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from pathlib import Path

    from asyncgen.job.answers import AnswerItem, AnswerReader
    from asyncgen.job.tables import Row, Table

SOURCE = "source"  # the variable with the key of the record that a row was made from
PROMPT = "prompt"
ANSWER = "answer"
_LOOKED_AT = 200  # rows inspected to find the columns


@dataclass(frozen=True, slots=True)
class _Found:
    """A usable record, and the offset at which its line begins."""

    offset: int
    record: Record
    items: tuple[AnswerItem, ...]


class RunRows:
    """The settled rows of a run. Only the first ones are read before `table` is called.

    Args:
        path: of `records.jsonl`.
        answers: parses the answers as the run's own job does.
        is_stale: whether the run's job no longer asks for a record.

    Attributes:
        columns: its variables, `source`, `prompt`, `answer`, and the fields of the first answers.
        variables: those that are the run's own variables.
        left_out: reason to number of records that give no row; known once the table is made, like `simulated`.
        simulated: number of rows that a simulation made up.

    Raises:
        TableError: a line is damaged, or no row is settled yet.
        OSError: the file cannot be read.
    """

    nested: frozenset[str] = frozenset()

    def __init__(self, path: Path, answers: AnswerReader, is_stale: Callable[[Record], bool]) -> None:
        self.path = path
        self._answers = answers
        self._is_stale = is_stale
        self.left_out: Counter[str] = Counter()
        self.simulated = 0
        first = list(islice(self.found(), _LOOKED_AT))
        if not first:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.left_out.items())
            raise TableError(f"no answer can be used yet{f' ({reasons})' if reasons else ''}")
        fields = dict.fromkeys(name for each in first for item in each.items for name in item.fields)
        source_variables = [name for name in first[0].record.variables if name not in {SOURCE, PROMPT, ANSWER}]
        self.variables: tuple[str, ...] = tuple(source_variables)
        rest = [name for name in fields if name not in {*source_variables, SOURCE, PROMPT, ANSWER}]
        self.columns: tuple[str, ...] = (*source_variables, SOURCE, PROMPT, ANSWER, *rest)

    def table(self, columns: Sequence[str], needed: Collection[str], *, blanks: bool = False) -> Table:  # noqa: ARG002 - a row without a field is not a row
        return _RunTable(self, columns, needed)

    def found(self) -> Iterator[_Found]:
        """Every usable record; counts the others."""
        self.left_out.clear()
        with open_file(self.path) as handle:
            for number, (offset, line) in enumerate(raw_lines(handle), 1):
                if line.isspace() or not line.endswith(b"\n"):  # a line without a newline is still being written
                    continue
                record = _record(line, number)
                if items := self.items(record):
                    yield _Found(offset, record, items)

    def items(self, record: Record) -> tuple[AnswerItem, ...]:
        """The items of a record that give rows; none if the record is not used."""
        if record.check_failures:
            self.left_out["failed their checks"] += 1
            return ()
        if self._is_stale(record):
            self.left_out["no longer belong to the job"] += 1
            return ()
        read = self._answers.read(record.completion)
        self.left_out["do not have the form set under [answer]"] += bool(read.failures)
        return read.items

    def record_at(self, offset: int) -> Record:
        with open_file(self.path) as handle:
            handle.seek(offset)
            return _record(next(raw_lines(handle))[1], None)


class _RunTable:
    """Rows of a run, found by the offset of their record and the number of the item."""

    def __init__(self, run: RunRows, columns: Sequence[str], needed: Collection[str]) -> None:
        self.columns = tuple(columns)
        self._run = run
        self._needed = frozenset(needed)
        self._offsets, self._items = array("Q"), array("Q")
        digest = blake2b(digest_size=16)
        incomplete = run.simulated = 0
        for found in run.found():
            for number, item in enumerate(found.items):
                if (row := self._row(found.record, item)) is None:
                    incomplete += 1
                    continue
                run.simulated += bool(found.record.simulated)
                self._offsets.append(found.offset)
                self._items.append(number)
                digest.update("\0".join(row).encode())
        self._digest = digest.hexdigest()
        if incomplete:
            run.left_out["lack a field that a prompt uses"] = incomplete
        run.left_out = +run.left_out
        if not self._offsets:
            raise TableError("no answer has all fields that the prompts use")

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, place: int) -> Row:
        record = self._run.record_at(self._offsets[place])
        row = self._row(record, self._run.items(record)[self._items[place]])
        assert row is not None
        return row

    def __iter__(self) -> Iterator[Row]:
        """The rows that were present when the table was made."""
        last = len(self) - 1
        place = 0
        for found in self._run.found():
            for item in found.items:
                if (row := self._row(found.record, item)) is not None:
                    yield row
                    if place == last:
                        return
                    place += 1

    def digest(self) -> str:
        return self._digest

    def _row(self, record: Record, item: AnswerItem) -> Row | None:
        """The values of the columns; None if a required one is missing."""
        values = {**item.fields, **record.variables, SOURCE: record.key, PROMPT: record.prompt, ANSWER: item.text}
        if any(name not in values for name in self._needed):
            return None
        return tuple([values.get(name, "") for name in self.columns])


def _record(line: bytes, number: int | None) -> Record:
    try:
        return decode_record(line.removeprefix(b"\xef\xbb\xbf"))
    except NotJsonError:
        raise TableError("not a record; `asyncgen repair` moves damaged lines away", number) from None
