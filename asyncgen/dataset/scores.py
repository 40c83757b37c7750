"""Scores that a judge's run gave to the answers of this run, joined by key.

A run whose rows are another run's records keeps their keys in the variable `source`. Keeps 16 bytes a score. What
follows from a low score is left to `samples`.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

from asyncgen.errors import UsageError
from asyncgen.job.opened import job_of_run
from asyncgen.job.run_rows import SOURCE
from asyncgen.run.directory import find_run
from asyncgen.run.jsonl import rows_in
from asyncgen.run.records import decode_record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from asyncgen.job.answers import AnswerReader
    from asyncgen.job.model import ScoreSettings
    from asyncgen.run.directory import RunDirectory


class ScoreTable:
    """The score of each judged record; of several judgements their mean.

    Attributes:
        simulated: number of scores that a simulation made up.

    Args:
        settings: the job's `[dataset] scores`.
        folder: where its path starts.

    Raises:
        UsageError: the run is not there, or none of its answers has the field as a number.
        BadLineError: a line of its records is damaged.
    """

    def __init__(self, settings: ScoreSettings, folder: Path) -> None:
        judge = find_run(folder / settings.run, root=folder)
        self.simulated = 0
        found = sorted(self._judgements(judge, settings.field, job_of_run(judge).grid.answers))
        if not found:
            raise UsageError(
                f"no answer of {judge.path} scores a record of this run",
                cause=f"no answer has a number in the field {settings.field!r}, or the judge's rows are not answers "
                "of this run",
                help_text='the judge must be a job with [rows] run = "..." and [answer] format = "json"',
            )
        self._keys = array("Q")
        self._scores = array("d")
        for key, group in groupby(found, key=itemgetter(0)):
            scores = [score for _, score in group]
            self._keys.append(key)
            self._scores.append(sum(scores) / len(scores))

    def __len__(self) -> int:
        return len(self._keys)

    def of(self, key: str) -> float | None:
        """The score of a record, by its key; None if it was not judged."""
        number = _number(key)
        place = bisect_left(self._keys, number)
        return self._scores[place] if place < len(self._keys) and self._keys[place] == number else None

    def _judgements(self, judge: RunDirectory, field: str, answers: AnswerReader) -> Iterator[tuple[int, float]]:
        for record in rows_in(judge.record_files(), decode_record):
            source = record.variables.get(SOURCE, "")
            for item in answers.read(record.completion).items:
                try:
                    score = _number(source), float(item.fields[field])
                except (KeyError, ValueError):  # no such field, no number, or no key
                    continue
                self.simulated += bool(record.simulated)
                yield score


def _number(key: str) -> int:
    return int(key[:16], 16)
