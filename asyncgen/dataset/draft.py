"""The first pass over a run's records: every sample goes to a draft file, before its side of the split is known.

The draft is a temporary file of training lines in record order. Conflicts between samples (a prompt on both sides,
near-duplicates) are found afterwards from about 90 bytes a sample. Records that give no sample go to a file of their
own with the reason. Selection and format are left to `samples`, the split to `split`.
"""

from __future__ import annotations

import os
from array import array
from collections import Counter
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO

import orjson

from asyncgen.dataset.near_duplicates import AnswersByPrompt, Sketches, similar
from asyncgen.dataset.samples import (
    CHECK,
    COMPLETION,
    NEAR_DUPLICATE,
    PREFERENCE,
    SCORE,
    STALE,
    Sample,
    SampleMaker,
    Selection,
    preference_line,
    training_line,
)
from asyncgen.dataset.split import NO_PAIR, TRAIN, Pairing, SampleSides, SideCounts
from asyncgen.dataset.token_counts import TokenRatio, token_counter
from asyncgen.dataset.writer import RowFile
from asyncgen.job.answers import is_fenced
from asyncgen.job.thoughts import begins_with_thoughts
from asyncgen.run.jsonl import read_rows
from asyncgen.run.records import decode_record
from asyncgen.run.reviews import read_reviews
from asyncgen.run.whole_file import explained, open_regular, temporary_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from asyncgen.dataset.scores import ScoreTable
    from asyncgen.dataset.split import Split
    from asyncgen.dataset.token_counts import TokenCounter
    from asyncgen.dataset.writer import Fetcher
    from asyncgen.job.model import Job
    from asyncgen.job.requests import RequestGrid
    from asyncgen.run.directory import RunDirectory
    from asyncgen.run.records import Record
    from asyncgen.run.reviews import Reviews

_BATCH = 2000  # samples that are written, and whose tokens are counted, at a time
_LEARNT_FROM = 2000  # records from which the tokens per text are learnt
_ITEM_BITS = 20  # of a sample's number: which of its record's samples it is
_RECORD_BYTES = 200  # few records are smaller, so this bounds their number


@contextmanager
def drafting(
    directory: RunDirectory,
    job: Job,
    grid: RequestGrid,
    split: Split,
    *,
    stale: bool,
    rejected: BinaryIO,
    model: str | None,
    scores: ScoreTable | None,
) -> Iterator[Draft]:
    """Make a draft of all samples, which is deleted when the block ends.

    Args:
        directory: of the run.
        job: its checks and dataset settings apply.
        grid: the job's requests; records of other rows are stale.
        split: decides the side of each combination.
        stale: some records may be of other rows; see `samples.may_be_stale`.
        rejected: gets a line for every record that gives no sample.
        model: the model to be trained, whose tokens are counted; None if unknown.
        scores: scores of the answers; None if the job uses none.

    Yields:
        The draft.

    Raises:
        BadLineError: a line is not a record or review.
        DiskError: a file cannot be read or written.
    """
    path = temporary_for(directory.path / "samples.jsonl")
    try:
        with explained(f"{path} could not be written"):
            path.unlink(missing_ok=True)
            with os.fdopen(open_regular(path, os.O_RDWR | os.O_CREAT | os.O_EXCL), "w+b") as file:
                counter = token_counter(model, _token_ratio(directory.records, grid))
                draft = Draft(directory.records, job, grid, SampleSides(split), counter, scores, file, rejected)
                draft.fill(stale=stale, reviews=read_reviews(directory.path))
                yield draft
    finally:
        path.unlink(missing_ok=True)


class Draft:
    """The samples of a run before they are written to a split. Made by `drafting`.

    Attributes:
        sides: the split of every sample.
        tokens: tokens of every sample.
        counter: counted them.
        rejected: reason to number of records that gave no sample, or of samples that were dropped.
        records: number of records.
        near_duplicates: answers nearly the same as an earlier one to the same prompt.
        separators: samples with the separator inside the prompt; completion format only.
        endings: samples with the ending inside the answer; completion format only.
        fenced: answers whose JSON was in a code fence.
        thoughts: answers that begin with the model's reasoning.
        simulated: simulated samples.
        values: counts the samples of each split by value.
    """

    def __init__(
        self,
        path: Path,
        job: Job,
        grid: RequestGrid,
        sides: SampleSides,
        counter: TokenCounter,
        scores: ScoreTable | None,
        file: BinaryIO,
        rejected: BinaryIO,
    ) -> None:
        self.sides = sides
        self.tokens = array("L")
        self.counter = counter
        self.rejected: Counter[str] = Counter()
        self.near_duplicates = 0
        self.separators = 0
        self.endings = 0
        self.fenced = 0
        self.thoughts = 0
        self.simulated = 0
        self._scores = scores
        self._scored = array("d")
        self._combinations = AnswersByPrompt()
        self._pairing = Pairing(job.dataset) if job.dataset.format == PREFERENCE else None
        self.values = SideCounts()
        self._job = job
        self._splits = job.dataset.splits
        self._grid = grid
        self._path = path
        self._rows = RowFile([path], decode_record)
        self._file = file
        self._rejected = rejected
        self._numbers = array("Q")
        self._prompts = AnswersByPrompt()
        self._sketches = Sketches()
        self._lines: list[bytes] = []  # not yet written, and their texts
        self._texts: list[list[str]] = []
        self._maker = SampleMaker(job, grid)

    @property
    def records(self) -> int:
        return len(self._rows)

    def fill(self, *, stale: bool, reviews: Reviews) -> None:
        """The pass."""
        expected = min(self._grid.count, self._path.stat().st_size // _RECORD_BYTES) if self._path.exists() else 0
        selection = Selection(self._job, self._grid, stale=stale, expected=expected, reviews=reviews)
        for place, record in enumerate(self._rows):
            own = selection.own(record)
            samples, reason = selection.judge(own) if own is not None else ([], STALE)
            record = own or record  # noqa: PLW2901 - the same record, as the job has it
            score = None
            if self._scores is not None:
                score = self._score(record, self._scores)
                if reason is None and score is None:
                    samples, reason = [], SCORE
            if self._pairing is not None:
                if not self._pairing.add(record, reason, place):
                    self._reject(record, reason or NO_PAIR)
                continue
            if reason is not None:
                self._reject(record, reason)
            self.simulated += record.simulated and bool(samples)
            for item, sample in enumerate(samples):
                self._note_score(record, score)
                self._add(record, sample, place << _ITEM_BITS | item)
        if self._pairing is not None:
            self._add_pairs(self._pairing)
        self._flush()

    def _score(self, record: Record, scores: ScoreTable) -> float | None:
        """The judge's score of a record; None if it has none, or it is too low."""
        wanted = self._job.dataset.scores
        score = scores.of(record.key)
        if score is None or wanted is None or (wanted.at_least is not None and score < wanted.at_least):
            return None
        return score

    def _note_score(self, record: Record, score: float | None) -> None:
        if score is not None:
            self._combinations.add(orjson.dumps(record.variables).decode(), len(self._numbers))
            self._scored.append(score)

    def _keep_best(self, lines: Fetcher) -> None:
        """Leave out all but the best samples of each combination, if the job limits their number."""
        best = self._job.dataset.scores.best if self._job.dataset.scores else None
        if best is None or self._pairing is not None:
            return
        for numbers in self._combinations.groups():
            for number in sorted(numbers, key=lambda number: -self._scored[number])[best:]:
                self.sides.drop(number)
                self._reject(decode_record(lines[self._numbers[number] >> _ITEM_BITS]), SCORE)

    def _add_pairs(self, pairing: Pairing) -> None:
        """Write a line for each pair, in the order of the better answers; answers without a partner are left out."""
        whole = array("Q")
        with self._rows.fetcher() as lines:
            for better, worse in pairing.pairs():
                if better is not None and worse is not None:
                    whole.extend((better, worse))
                else:
                    self._reject_single(lines, better, worse, by_values=pairing.by_values)
            for better, worse in sorted(zip(whole[::2], whole[1::2], strict=True)):
                self._add_pair(self._own(lines[better]), self._own(lines[worse]), better)

    def _reject_single(self, lines: Fetcher, better: int | None, worse: int | None, *, by_values: bool) -> None:
        if better is not None:
            self._reject(decode_record(lines[better]), NO_PAIR)
        elif worse is not None:
            record = decode_record(lines[worse])
            self._reject(
                record, NO_PAIR if by_values or not record.check_failures else CHECK + record.check_failures[0]
            )

    def _own(self, line: bytes) -> Record:
        record = decode_record(line)
        return self._grid.match(record) or record

    def _add_pair(self, better: Record, worse: Record, place: int) -> None:
        settings = self._job.dataset
        chosen = self._maker.of(better)[0]
        rejected = next(iter(self._maker.of(worse)), Sample(chosen.prompt, worse.completion.strip()))
        if not rejected.answer or rejected.answer == chosen.answer:
            self._reject(worse, NO_PAIR)
            return
        self.simulated += better.simulated or worse.simulated
        self._note(better, chosen, place << _ITEM_BITS, *preference_line(settings, chosen, rejected))

    def finish(self, *, drop_near_duplicates: bool) -> None:
        """Find near-duplicates, and bring every prompt to one side."""
        with self._rows.fetcher() as lines:
            self._keep_best(lines)
            for numbers in self._prompts.groups():
                for found in similar(self._sketches.candidates(numbers), lambda number: self._answer(lines, number)):
                    self.near_duplicates += 1
                    if drop_near_duplicates:
                        self.sides.drop(found.number)
                        self._reject(decode_record(lines[self._numbers[found.number] >> _ITEM_BITS]), NEAR_DUPLICATE)
                self.sides.settle(numbers)

    def lines(self) -> Iterator[bytes]:
        """The training line of every sample, dropped ones included."""
        self._file.seek(0)
        return iter(self._file)

    def tokens_of(self, code: int) -> Iterator[int]:
        """The tokens of each sample on a side."""
        return (tokens for tokens, side in zip(self.tokens, self.sides.codes, strict=True) if side == code)

    def _add(self, record: Record, sample: Sample, number: int) -> None:
        settings = self._job.dataset
        self._note(record, sample, number, *training_line(settings, sample))
        if self._grid.answers.reads_json and not number % (1 << _ITEM_BITS):  # the first item of its answer
            self.fenced += is_fenced(record.completion)
        self.thoughts += begins_with_thoughts(sample.answer)
        if settings.format == COMPLETION:
            self.separators += bool(settings.separator) and settings.separator in sample.prompt
            self.endings += bool(settings.ending) and settings.ending in sample.answer

    def _note(self, record: Record, sample: Sample, number: int, line: bytes, texts: list[str]) -> None:
        """Note a sample: its line and its place, prompt, words and side."""
        self._prompts.add(sample.prompt, len(self._numbers))
        self._sketches.add(sample.answer)
        self._numbers.append(number)
        code = self.sides.add(record.variables)
        if self._splits:
            self.values.add(record.variables, validates=code != TRAIN)
        self._lines.append(line)
        self._texts.append(texts)
        if len(self._lines) == _BATCH:
            self._flush()

    def _flush(self) -> None:
        self._file.write(b"".join(self._lines))
        self.tokens.extend(self.counter.samples(self._texts, chat=self._job.dataset.format != COMPLETION))
        self._lines.clear()
        self._texts.clear()

    def _reject(self, record: Record, reason: str) -> None:
        self.rejected[reason] += 1
        line = {
            "key": record.key,
            "index": record.index,
            "repeat": record.repeat,
            "variables": record.variables,
            "prompt": record.prompt,
            "completion": record.completion,
            "reason": reason,
        }
        self._rejected.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    def _answer(self, lines: Fetcher, number: int) -> str:
        place, item = divmod(self._numbers[number], 1 << _ITEM_BITS)
        return self._maker.answer_at(lines[place], item)


def _token_ratio(path: Path, grid: RequestGrid) -> float:
    """Counted tokens to estimated ones, as the first answers show."""
    ratio = TokenRatio()
    for _, record in islice(read_rows(path, decode_record), _LEARNT_FROM):
        if record.attempts == 1 and not grid.has_openings:  # else the usage is not that of this text alone
            ratio.add(record.completion, record.usage.completion_tokens - record.usage.reasoning_tokens)
    return ratio.ratio
