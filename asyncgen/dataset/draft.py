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
from dataclasses import dataclass, field
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
    Sample,
    SampleMaker,
    Selection,
    preference_line,
    training_lines,
)
from asyncgen.dataset.split import NO_PAIR, TRAIN, CombinationBlock, Pairing, SampleSides, SideCounts
from asyncgen.dataset.token_counts import TokenRatio, token_counter
from asyncgen.dataset.writer import RowFile
from asyncgen.job.answers import is_fenced
from asyncgen.job.thoughts import begins_with_thoughts
from asyncgen.run.jsonl import read_rows
from asyncgen.run.records import decode_record
from asyncgen.run.reviews import read_reviews
from asyncgen.run.whole_file import as_disk_error, open_regular, temporary_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from asyncgen.dataset.samples import Judged
    from asyncgen.dataset.scores import ScoreTable
    from asyncgen.dataset.split import Split
    from asyncgen.dataset.token_counts import TokenCounter
    from asyncgen.dataset.writer import Fetcher
    from asyncgen.job.model import Job
    from asyncgen.job.requests import RequestGrid
    from asyncgen.run.directory import RunDirectory
    from asyncgen.run.records import Record
    from asyncgen.run.reviews import Reviews

_BATCH = 1000  # pairs that are added at a time
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
        with as_disk_error(f"{path} could not be written"):
            path.unlink(missing_ok=True)
            with os.fdopen(open_regular(path, os.O_RDWR | os.O_CREAT | os.O_EXCL), "w+b") as file:
                counter = token_counter(model, _token_ratio(directory.records, grid))
                draft = Draft(directory.records, job, grid, SampleSides(split), counter, scores, file, rejected)
                draft.fill(stale=stale, reviews=read_reviews(directory.path))
                yield draft
    finally:
        path.unlink(missing_ok=True)


@dataclass(slots=True)
class _Block:
    """Some samples, which are added together: that is much quicker than one by one."""

    numbers: list[int] = field(default_factory=list)
    variables: list[dict[str, str]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)
    texts: list[list[str]] = field(default_factory=list)

    def add(self, place: int, record: Record, sample: Sample) -> None:
        self.numbers.append(place << _ITEM_BITS | sample.item)
        self.variables.append(record.variables)
        self.samples.append(sample)


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
        self._maker = SampleMaker(job, grid)

    @property
    def records(self) -> int:
        return len(self._rows)

    def fill(self, *, stale: bool, reviews: Reviews) -> None:
        """The pass."""
        expected = min(self._grid.count, self._path.stat().st_size // _RECORD_BYTES) if self._path.exists() else 0
        selection = Selection(self._job, self._grid, stale=stale, expected=expected, reviews=reviews)
        seen = 0
        for records in self._rows.blocks():
            self._at_records(selection.judge_all(records), seen)
            seen += len(records)
        if self._pairing is not None:
            self._add_pairs(self._pairing)

    def _at_records(self, judged: Iterable[Judged], first: int) -> None:
        """Take the next records; the first of them has that place."""
        block = _Block()
        for place, (record, samples, reason) in enumerate(judged, first):
            score = None
            if self._scores is not None:
                score = self._score(record, self._scores)
                if reason is None and score is None:
                    samples, reason = [], SCORE  # noqa: PLW2901 - as if `Selection` had judged so
            if self._pairing is not None:
                if not self._pairing.add(record, reason, place):
                    self._reject(record, reason or NO_PAIR)
            elif reason is not None:
                self._reject(record, reason)
            else:
                self.simulated += record.simulated
                self.fenced += self._grid.answers.reads_json and is_fenced(record.completion)
                for sample in samples:
                    block.add(place, record, sample)
                    if score is not None:
                        block.scores.append(score)
        self._add(block)

    def _score(self, record: Record, scores: ScoreTable) -> float | None:
        """The judge's score of a record; None if it has none, or it is too low."""
        wanted = self._job.dataset.scores
        score = scores.of(record.key)
        if score is None or wanted is None or (wanted.at_least is not None and score < wanted.at_least):
            return None
        return score

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
            pairs = iter(sorted(zip(whole[::2], whole[1::2], strict=True)))
            while some := list(islice(pairs, _BATCH)):
                block = _Block()
                for better, worse in some:
                    self._add_pair(block, self._own(lines[better]), self._own(lines[worse]), better)
                self._keep(block)

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

    def _add_pair(self, block: _Block, better: Record, worse: Record, place: int) -> None:
        chosen = self._maker.of(better)[0]
        rejected = next(iter(self._maker.of(worse)), Sample(chosen.prompt, worse.completion.strip()))
        if not rejected.answer or rejected.answer == chosen.answer:
            self._reject(worse, NO_PAIR)
            return
        self.simulated += better.simulated or worse.simulated
        block.add(place, better, chosen)
        line, texts = preference_line(self._job.dataset, chosen, rejected)
        block.lines.append(line)
        block.texts.append(texts)

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

    def _add(self, block: _Block) -> None:
        """Add samples of answers."""
        settings = self._job.dataset
        block.lines, block.texts = training_lines(settings, block.samples)
        self.thoughts += sum(begins_with_thoughts(sample.answer) for sample in block.samples)
        if settings.format == COMPLETION:
            if settings.separator:
                self.separators += sum(settings.separator in sample.prompt for sample in block.samples)
            if settings.ending:
                self.endings += sum(settings.ending in sample.answer for sample in block.samples)
        self._keep(block)

    def _keep(self, block: _Block) -> None:
        """Note samples, each with its place, prompt, words and side, and write their lines."""
        first = len(self._numbers)
        combinations = CombinationBlock(block.variables)
        self._numbers.extend(block.numbers)
        self._prompts.add_all([sample.prompt for sample in block.samples], first)
        self._sketches.add_all([sample.answer for sample in block.samples])
        sides = self.sides.add_all(combinations)
        if self._splits:
            for key, variables, count in combinations.counts():
                self.values.add(variables, count, validates=sides[key] != TRAIN)
        if block.scores:
            self._combinations.add_all(combinations.keys, first)
            self._scored.extend(block.scores)
        self.tokens.extend(self.counter.samples(block.texts, chat=self._job.dataset.format != COMPLETION))
        self._file.write(b"".join(block.lines))

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
