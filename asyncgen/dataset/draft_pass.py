"""The pass of `prepare` over the records of a run, or of a part of it: makes a draft of all samples.

The draft is a temporary file of training lines in record order. About 90 bytes a sample are kept, by which conflicts
between samples (a prompt on both sides, near-duplicates) are found afterwards. Records that give no sample go to a file
of their own with the reason. Selection and format are left to `samples`, the split to `split`, what is found in the
whole run to `draft`.
"""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

import orjson

from asyncgen.dataset.near_duplicates import AnswersByPrompt, AnswersOfRun
from asyncgen.dataset.samples import (
    COMPLETION,
    PREFERENCE,
    SCORE,
    Identities,
    Sample,
    SampleMaker,
    Selection,
    place_and_item,
    sample_number,
    training_lines,
)
from asyncgen.dataset.split import NO_PAIR, TRAIN, CombinationBlock, Pairing, SampleSides, SideCounts
from asyncgen.job.answers import is_fenced
from asyncgen.job.thoughts import begins_with_thoughts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from asyncgen.dataset.samples import Judged
    from asyncgen.dataset.scores import ScoreTable
    from asyncgen.dataset.split import Split
    from asyncgen.dataset.token_counts import TokenCounter
    from asyncgen.dataset.writer import Fetcher
    from asyncgen.job.model import DatasetSettings, Job
    from asyncgen.job.requests import GridForm, RequestGrid
    from asyncgen.run.records import Record
    from asyncgen.run.reviews import Reviews

SIMULATED, FENCED, THOUGHTS, SEPARATORS, ENDINGS = "simulated", "fenced", "thoughts", "separators", "endings"


@dataclass(frozen=True, slots=True)
class DraftTask:
    """The inputs of a pass. Can be pickled.

    Attributes:
        job: its checks and dataset settings apply.
        form: of the job's requests.
        split: decides the side of each combination.
        stale: some records may be of other rows; see `samples.may_be_stale`.
        expected: expected number of samples.
        reviews: answers that a person rejected.
        scores: scores of the answers; None if the job uses none.
        counter: counts the samples' tokens.
        in_parts: several passes read a part of the run each.
    """

    job: Job
    form: GridForm
    split: Split
    stale: bool
    expected: int
    reviews: Reviews
    scores: ScoreTable | None
    counter: TokenCounter
    in_parts: bool = False

    def scan(self, outputs: Sequence[BinaryIO], /, grid: RequestGrid | None = None) -> DraftScan:
        """Begin a pass.

        Args:
            outputs: the draft file, and the file of records that give no sample.
            grid: the job's requests; None to make them of `form`, which does if no record may be stale.
        """
        return DraftScan(self, grid or self.form.grid(), *outputs)


class DraftFound:
    """What a pass knows of its samples. Can be pickled.

    Attributes:
        records: number of records.
        numbers: of the samples; see `samples.sample_number`.
        sides: the split of every sample.
        answers: of the samples, by prompt.
        tokens: of every sample.
        values: counts the samples of each split by value.
        scored: scores of the samples.
        combinations: groups the samples that have scores.
        pairing: the answers of a preference dataset; None for other formats.
        rejected: reason to number of records that gave no sample, or of samples that were dropped.
        rejected_at: place of each record in the file of rejected ones.
        remarks: what to tell of the samples, by the names in this module, to their number.
        identities: of all samples, if the run is read in parts.
    """

    def __init__(self, settings: DatasetSettings, split: Split, *, in_parts: bool) -> None:
        self.records = 0
        self.numbers = array("Q")
        self.sides = SampleSides(split)
        self.answers = AnswersOfRun()
        self.tokens = array("L")
        self.values = SideCounts()
        self.scored = array("d")
        self.combinations = AnswersByPrompt()
        self.pairing = Pairing(settings) if settings.format == PREFERENCE else None
        self.rejected: Counter[str] = Counter()
        self.rejected_at = array("I")
        self.remarks: Counter[str] = Counter()
        self.identities = Identities() if in_parts else None

    def extend(self, other: DraftFound) -> None:
        """Add what was found in the next part."""
        samples, by = len(self.numbers), self.records
        self.records += other.records
        self.numbers.extend([number + sample_number(by) for number in other.numbers])
        self.sides.extend(other.sides)
        self.answers.extend(other.answers)
        self.tokens += other.tokens
        self.values.extend(other.values)
        self.scored += other.scored
        self.combinations.extend(other.combinations, samples)
        if self.pairing is not None and other.pairing is not None:
            self.pairing.extend(other.pairing, by)
        self.rejected.update(other.rejected)
        self.rejected_at.extend([place + by for place in other.rejected_at])
        self.remarks.update(other.remarks)
        if self.identities is not None and other.identities is not None:
            self.identities.extend(other.identities)


@dataclass(slots=True)
class SampleBlock:
    """Some samples, which are added together: that is much quicker than one by one.

    Attributes:
        numbers: see `samples.sample_number`.
        keys: of their combinations.
        samples: themselves.
        scores: of each, if the job uses scores.
        lines: the training line of each.
        texts: what of each costs tokens.
    """

    numbers: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)
    texts: list[list[str]] = field(default_factory=list)


class DraftScan:
    """A pass; made by `DraftTask.scan`.

    Attributes:
        task: its inputs.
        grid: the job's requests.
        maker: makes samples of records.
        found: what is known of the samples so far.
    """

    def __init__(self, task: DraftTask, grid: RequestGrid, draft: BinaryIO, rejected: BinaryIO) -> None:
        self.task = task
        self.grid = grid
        self.maker = SampleMaker(task.job, grid)
        self.found = DraftFound(task.job.dataset, task.split, in_parts=task.in_parts)
        self._draft = draft
        self._rejected = rejected
        self._splits = task.job.dataset.splits
        self._selection = Selection(
            task.job,
            grid,
            stale=task.stale,
            expected=task.expected,
            reviews=task.reviews,
            identities=self.found.identities,
        )

    def at_records(self, records: Sequence[Record]) -> None:
        """Take the next records."""
        judged = self._selection.judge_all(records)
        scores: list[float] = []
        if self.task.scores is not None:
            judged, scores = self._with_scores(judged, self.task.scores)
        combinations = CombinationBlock([record.variables for record, _, _ in judged])
        block = SampleBlock()
        for number, (record, samples, reason) in enumerate(judged):
            place = self.found.records + number
            if self.found.pairing is not None:
                if not self.found.pairing.add(record, reason, place):
                    self.reject(record, reason or NO_PAIR, place)
            elif reason is not None:
                self.reject(record, reason, place)
            else:
                self._remark(self.remarks_on_record(record))
                for sample in samples:
                    block.numbers.append(sample_number(place, sample.item))
                    block.keys.append(combinations.keys[number])
                    block.samples.append(sample)
                    if scores:
                        block.scores.append(scores[number])
        self.found.records += len(judged)
        if self.found.pairing is None:
            self._complete(block)
            self.keep(block, combinations)

    def _with_scores(self, judged: Iterable[Judged], table: ScoreTable) -> tuple[list[Judged], list[float]]:
        """The records, without the samples of those that the judge's score rules out; and all scores."""
        settings = self.task.job.dataset.scores
        least = settings.at_least if settings is not None and settings.at_least is not None else float("-inf")
        selected: list[Judged] = []
        scores: list[float] = []
        for record, samples, reason in judged:
            score = table.of(record.key)
            is_out = reason is None and (score is None or score < least)
            selected.append((record, [], SCORE) if is_out else (record, samples, reason))
            scores.append(score or 0.0)
        return selected, scores

    def _complete(self, block: SampleBlock) -> None:
        """Make the lines of samples, and look for what is to be told of them."""
        block.lines, block.texts = training_lines(self.task.job.dataset, block.samples)
        for sample in block.samples:
            self._remark(remarks_on(self.task.job.dataset, sample))

    def remarks_on_record(self, record: Record) -> list[str]:
        """What is to be told of the record of samples, by the names in this module."""
        remarks = [SIMULATED] if record.simulated else []
        if self.grid.answers.reads_json and is_fenced(record.completion):
            remarks.append(FENCED)
        return remarks

    def _remark(self, remarks: Iterable[str]) -> None:
        for remark in remarks:
            self.found.remarks[remark] += 1

    def keep(self, block: SampleBlock, combinations: CombinationBlock) -> None:
        """Note samples, each with its place, prompt, words and side, and write their lines."""
        found, first = self.found, len(self.found.numbers)
        found.numbers.extend(block.numbers)
        found.answers.add_all([sample.prompt for sample in block.samples], [sample.answer for sample in block.samples])
        sides = found.sides.add_all(block.keys, combinations.variables)
        if self._splits:
            counts = Counter(block.keys)
            for key, variables in combinations.variables.items():
                found.values.add(variables, counts[key], validates=sides[key] != TRAIN)
        if block.scores:
            found.combinations.add_all(block.keys, first)
            found.scored.extend(block.scores)
        found.tokens.extend(self.task.counter.samples(block.texts, chat=self.task.job.dataset.format != COMPLETION))
        self._draft.write(b"".join(block.lines))

    def end_part(self, lines: Fetcher, /) -> None:
        """Look for near-duplicates in this part of the run; `lines` are those of its records."""
        self.found.answers.search(lambda index: self.answer(lines, index))

    def answer(self, lines: Fetcher, index: int) -> str:
        """Fetch the answer of a sample."""
        place, item = place_and_item(self.found.numbers[index])
        return self.maker.answer_at(lines[place], item)

    def reject(self, record: Record, reason: str, place: int) -> None:
        """Note a record that gives no sample, or the record of a sample that is dropped."""
        self.found.rejected[reason] += 1
        self.found.rejected_at.append(place)
        self._rejected.write(rejected_line(record, reason))


def remarks_on(settings: DatasetSettings, sample: Sample) -> list[str]:
    """What is to be told of a sample, by the names in this module."""
    remarks = []
    if begins_with_thoughts(sample.answer):
        remarks.append(THOUGHTS)
    if settings.format == COMPLETION:
        if settings.separator and settings.separator in sample.prompt:
            remarks.append(SEPARATORS)
        if settings.ending and settings.ending in sample.answer:
            remarks.append(ENDINGS)
    return remarks


def rejected_line(record: Record, reason: str) -> bytes:
    """The line of a record in `rejected.jsonl`, newline included."""
    line = {
        "key": record.key,
        "index": record.index,
        "repeat": record.repeat,
        "variables": record.variables,
        "prompt": record.prompt,
        "completion": record.completion,
        "reason": reason,
    }
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
