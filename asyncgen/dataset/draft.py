"""All samples of a run before they are written to a split: pairs, near-duplicates, and one side for every prompt.

The records are read once, by `draft_pass`; those of a large run in parts, by processes of their own (`parts`), whose
findings are put together here. Lines that are needed again are fetched by their place.
"""

from __future__ import annotations

import shutil
from array import array
from bisect import bisect_left
from collections import Counter
from contextlib import ExitStack, contextmanager
from itertools import chain, islice
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, BinaryIO

import orjson

from asyncgen.dataset.draft_pass import SIMULATED, DraftTask, SampleBlock, rejected_line, remarks_on
from asyncgen.dataset.parts import divide, read_parts
from asyncgen.dataset.samples import (
    CHECK,
    DUPLICATE,
    NEAR_DUPLICATE,
    SCORE,
    Sample,
    place_and_item,
    preference_line,
    sample_number,
)
from asyncgen.dataset.split import NO_PAIR, TRAIN, CombinationBlock
from asyncgen.dataset.token_counts import TokenRatio, token_counter
from asyncgen.dataset.writer import RowFile
from asyncgen.run.jsonl import read_rows
from asyncgen.run.records import decode_record
from asyncgen.run.reviews import read_reviews
from asyncgen.run.whole_file import as_disk_error

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from asyncgen.dataset.draft_pass import DraftFound, DraftScan
    from asyncgen.dataset.scores import ScoreTable
    from asyncgen.dataset.split import Split
    from asyncgen.dataset.writer import Fetcher
    from asyncgen.job.model import Job
    from asyncgen.job.requests import RequestGrid
    from asyncgen.run.directory import RunDirectory
    from asyncgen.run.records import Record

_BATCH = 1000  # pairs that are added at a time
_LEARNT_FROM = 2000  # records from which the tokens per text are learnt
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
        AsyncgenError: a process that reads a part ended unexpectedly.
    """
    paths = [directory.records]
    parts = () if stale else divide(paths)
    size = directory.records.stat().st_size if directory.records.exists() else 0
    task = DraftTask(
        job=job,
        form=grid.form,
        split=split,
        stale=stale,
        expected=min(grid.count, size // _RECORD_BYTES) // max(len(parts), 1),
        reviews=read_reviews(directory.path),
        scores=scores,
        counter=token_counter(model, _token_ratio(directory.records, grid)),
        in_parts=bool(parts),
    )
    rows = RowFile(paths, decode_record)
    with as_disk_error(f"temporary files in {directory.path} could not be written"), ExitStack() as stack:

        def temporary() -> BinaryIO:
            return stack.enter_context(TemporaryFile(dir=directory.path))  # has no name: nothing is left of it

        files = [temporary()]
        scan = task.scan([files[0], rejected], grid)
        if parts:
            outputs = [(temporary(), temporary()) for _ in parts]
            read_parts(task, rows, parts, outputs, scan.found)
            files = [*(draft for draft, _ in outputs), *files]
            draft = Draft(scan, rows, files)
            draft.join([rejects for _, rejects in outputs], rejected)
        else:
            for records in rows.blocks():
                scan.at_records(records)
            draft = Draft(scan, rows, files)
        draft.pair()
        yield draft


class Draft:
    """The samples of a run before they are written to a split. Made by `drafting`.

    Attributes:
        sides: the split of every sample.
        counter: counts tokens.
        near_duplicates: answers nearly the same as an earlier one to the same prompt.
        values: counts the samples of each split by value.
        remarks: what to tell of the samples, by the names in `draft_pass`, to their number.
    """

    def __init__(self, scan: DraftScan, rows: RowFile[Record], files: Sequence[BinaryIO]) -> None:
        self.sides = scan.found.sides
        self.counter = scan.task.counter
        self.near_duplicates = 0
        self.values = scan.found.values
        self.remarks = scan.found.remarks
        self._found: DraftFound = scan.found
        self._scan = scan
        self._rows = rows
        self._files = files
        self._maker = scan.maker

    @property
    def records(self) -> int:
        """Number of records."""
        return len(self._rows)

    @property
    def rejected(self) -> Counter[str]:
        """Reason to number of records that gave no sample, or of samples that were dropped; the commonest first."""
        counts = +self._found.rejected
        return Counter(dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))))

    def join(self, parts: Sequence[BinaryIO], rejected: BinaryIO) -> None:
        """Leave out the samples that an earlier part has already, and join the files of rejected records.

        Args:
            parts: the file of each part.
            rejected: gets their lines and those of the records left out, in the order of the records.
        """
        for file in (*parts, *self._files):
            file.seek(0)
        found = self._found
        dropped = bytearray(len(found.numbers))
        places = array("I")  # of records that have no sample left
        with self._rows.fetcher() as lines:
            for place, items, is_left in found.identities.repeated() if found.identities else ():
                self._withdraw(decode_record(lines[place]), place, items, dropped, is_left=is_left)
                if not is_left:
                    places.append(place)
            if not places:
                for file in parts:
                    shutil.copyfileobj(file, rejected)
            else:
                rejected.writelines(self._with_duplicates(chain.from_iterable(parts), places, lines))
        found.identities = None  # its memory is needed for what follows
        if any(dropped):
            found.answers.leave_out(dropped)
            found.combinations = found.combinations.without(dropped)
        if found.pairing is not None:
            found.pairing.leave_out(places)

    def _withdraw(self, record: Record, place: int, items: Sequence[int], dropped: bytearray, *, is_left: bool) -> None:
        """Drop samples of a record, as far as they are among the samples."""
        numbers = self._found.numbers
        for sample in self._maker.of(record):
            number = sample_number(place, sample.item)
            index = bisect_left(numbers, number)
            if sample.item in items and index < len(numbers) and numbers[index] == number:
                self.values.add(record.variables, -1, validates=self.sides.codes[index] != TRAIN)
                self.sides.drop(index)
                dropped[index] = True
                self.remarks.subtract(remarks_on(self._scan.task.job.dataset, sample))
                if not is_left:
                    self.remarks.subtract(self._scan.remarks_on_record(record))
                    is_left = True  # once a record

    def _with_duplicates(self, lines: Iterable[bytes], places: Iterable[int], of: Fetcher) -> Iterator[bytes]:
        """The lines of rejected records, and of the duplicates at some places; all in the order of the records."""
        waiting = iter(places)
        duplicate = next(waiting, None)
        for place, line in zip(self._found.rejected_at, lines, strict=True):
            while duplicate is not None and duplicate < place:
                yield self._duplicate(of[duplicate])
                duplicate = next(waiting, None)
            if duplicate == place:  # of a duplicate neither score nor partner matters
                self._found.rejected[orjson.loads(line)["reason"]] -= 1
            else:
                yield line
        while duplicate is not None:
            yield self._duplicate(of[duplicate])
            duplicate = next(waiting, None)

    def _duplicate(self, line: bytes) -> bytes:
        self._found.rejected[DUPLICATE] += 1
        return rejected_line(decode_record(line), DUPLICATE)

    def pair(self) -> None:
        """Write a line for each pair, in the order of the better answers; answers without a partner are left out."""
        pairing = self._found.pairing
        if pairing is None:
            return
        whole, better_alone, worse_alone = array("Q"), array("Q"), array("Q")
        for better, worse in pairing.pairs():
            if better is not None and worse is not None:
                whole.extend((better, worse))
            elif better is not None:
                better_alone.append(better)
            elif worse is not None:
                worse_alone.append(worse)
        with self._rows.fetcher() as lines:
            for place in sorted(better_alone):
                self._scan.reject(self._own(lines[place]), NO_PAIR, place)
            for place in sorted(worse_alone):
                record = self._own(lines[place])
                failed = [] if pairing.by_values else record.check_failures
                self._scan.reject(record, CHECK + failed[0] if failed else NO_PAIR, place)
            pairs = iter(sorted(zip(whole[::2], whole[1::2], strict=True)))
            while some := list(islice(pairs, _BATCH)):
                self._keep_pairs(some, lines)

    def _keep_pairs(self, places: Iterable[tuple[int, int]], lines: Fetcher) -> None:
        block, rows = SampleBlock(), []
        for place, other in places:
            better, worse = self._own(lines[place]), self._own(lines[other])
            chosen = self._maker.of(better)[0]
            rejected = next(iter(self._maker.of(worse)), Sample(chosen.prompt, worse.completion.strip()))
            if not rejected.answer or rejected.answer == chosen.answer:
                self._scan.reject(worse, NO_PAIR, other)
                continue
            self.remarks[SIMULATED] += better.simulated or worse.simulated
            line, texts = preference_line(self._scan.task.job.dataset, chosen, rejected)
            block.numbers.append(sample_number(place))
            block.samples.append(chosen)
            block.lines.append(line)
            block.texts.append(texts)
            rows.append(better.variables)
        combinations = CombinationBlock(rows)
        block.keys = combinations.keys
        self._scan.keep(block, combinations)

    def _own(self, line: bytes) -> Record:
        record = decode_record(line)
        return self._scan.grid.match(record) or record if self._scan.task.stale else record

    def finish(self, *, drop_near_duplicates: bool) -> None:
        """Keep the best answers only, find near-duplicates, and bring every prompt to one side."""
        answers = self._found.answers
        with self._rows.fetcher() as lines:
            self._drop(self._all_but_the_best(), SCORE, lines)
            near = answers.near_duplicates(lambda index: self._scan.answer(lines, index))
            self.near_duplicates = len(near)
            if drop_near_duplicates:
                self._drop(near, NEAR_DUPLICATE, lines)
        for numbers in answers.prompts.groups():
            self.sides.settle(numbers)

    def _all_but_the_best(self) -> Iterator[int]:
        """Samples beyond the number that the job wants of each combination."""
        settings = self._scan.task.job.dataset.scores
        if settings is not None and settings.best is not None:
            scored = self._found.scored
            for numbers in self._found.combinations.groups():
                yield from sorted(numbers, key=lambda number: -scored[number])[settings.best :]

    def _drop(self, indexes: Iterable[int], reason: str, lines: Fetcher) -> None:
        for index in sorted(indexes):
            self.sides.drop(index)
            place, _ = place_and_item(self._found.numbers[index])
            self._scan.reject(self._own(lines[place]), reason, place)

    def lines(self) -> Iterator[bytes]:
        """The training line of every sample, dropped ones included."""
        for file in self._files:
            file.seek(0)
        return chain.from_iterable(self._files)

    def tokens_of(self, code: int) -> Iterator[int]:
        """The tokens of each sample on a side."""
        return (tokens for tokens, side in zip(self._found.tokens, self.sides.codes, strict=True) if side == code)


def _token_ratio(path: Path, grid: RequestGrid) -> float:
    """Counted tokens to estimated ones, as the first answers show."""
    ratio = TokenRatio()
    for _, record in islice(read_rows(path, decode_record), _LEARNT_FROM):
        if record.attempts == 1 and not grid.has_openings:  # else the usage is not that of this text alone
            ratio.add(record.completion, record.usage.completion_tokens - record.usage.reasoning_tokens)
    return ratio.ratio
