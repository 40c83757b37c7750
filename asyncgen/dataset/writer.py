"""Write the training files of a dataset together, all of them whole, or none; and read rows at random by offset.

Handles the two sides, byte order marks, hashes and token counts, and pauses the cyclic garbage collector during long
passes over rows. Random access takes eight bytes a row; the files may grow meanwhile, and rows appended after the pass
are ignored. Where samples come from is left to `draft`.
"""

from __future__ import annotations

import gc
import hashlib
import io
import os
from array import array
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import accumulate, chain, groupby, islice
from operator import itemgetter
from typing import TYPE_CHECKING, BinaryIO, Generic, NamedTuple, Self, TypeVar

from asyncgen.dataset.split import DROPPED, HELD_OUT, TRAIN, VALIDATION
from asyncgen.dataset.token_counts import Histogram
from asyncgen.json_text import NotJsonError
from asyncgen.run.jsonl import lines_of, read_blocks, rows_of
from asyncgen.run.state import DatasetFile
from asyncgen.run.whole_file import as_disk_error, open_regular, replacing_together
from asyncgen.text_files import BYTE_ORDER_MARK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from asyncgen.dataset.token_counts import TokenCounter


_Row = TypeVar("_Row")
_MARK = b"\xef\xbb\xbf"  # `read_blocks` leaves it out
_FILE_BITS = 48  # of an offset; above them stands the number of the file
_FETCHED_BYTES = 4096  # most rows are shorter
_READ_AHEAD_BYTES = 32 * 1024  # answers to one prompt mostly stand near each other


class FilePart(NamedTuple):
    """Whole lines of a file.

    Attributes:
        file: number of the file among others.
        begin: offset at which a line begins.
        end: offset after the last line; None for the end of the file.
    """

    file: int
    begin: int = 0
    end: int | None = None


class RowFile(Generic[_Row]):
    """The rows of JSON Lines files, one file after the other.

    Args:
        paths: a missing file has no rows.
        decode: makes a row of a line; raises `NotJsonError` of one that is none.

    Attributes:
        paths: of the files.
        begins: where each row begins, as far as they were read.
        lines: number of lines that were read of the last file, blank ones included.
    """

    def __init__(self, paths: Sequence[Path], decode: Callable[[bytes], _Row]) -> None:
        self.paths = paths
        self._decode = decode
        self.begins = array("Q")
        self.lines = 0

    def __len__(self) -> int:
        return len(self.begins)

    def __iter__(self) -> Iterator[_Row]:
        """Every row in order, once; raises as `blocks` does."""
        return chain.from_iterable(self.blocks())

    def blocks(self) -> Iterator[list[_Row]]:
        """Every row in order, once, some hundreds at a time.

        Raises:
            BadLineError: a line is not a row.
            DiskError: a file cannot be read.
        """
        return chain.from_iterable(self.blocks_of(FilePart(number)) for number in range(len(self.paths)))

    def blocks_of(self, part: FilePart) -> Iterator[list[_Row]]:
        """The rows of one part, as `blocks`; the line number of an error is counted from the beginning of the part."""
        path = self.paths[part.file]
        end = (part.file << _FILE_BITS) + part.begin
        self.lines = 0
        if part.begin == 0 and _begins_with_mark(path):
            end += len(_MARK)
        for first, block in read_blocks(path, part.begin, part.end):
            lines = io.BytesIO(block).readlines()
            *begins, end = accumulate(map(len, lines), initial=end)
            try:
                rows = list(map(self._decode, lines))
            except NotJsonError:  # or a blank line
                numbered = list(lines_of(first, block))
                rows = [row for _, row in rows_of(path, first, block, self._decode)]
                begins = [begins[place - first] for place, _ in numbered]
            self.begins.extend(begins)
            self.lines = first - 1 + len(lines)
            yield rows

    def fetcher(self) -> Fetcher:
        """Fetches lines by place while its block lasts."""
        return Fetcher(self.paths, self.begins)


class Fetcher:
    """Fetches lines of the files; a context manager."""

    def __init__(self, paths: Sequence[Path], begins: array[int]) -> None:
        self._paths = paths
        self._begins = begins
        self._descriptors: dict[int, int] = {}
        self._read = b""  # a part of a file, and where it begins
        self._read_at = 0

    def __enter__(self) -> Self:
        for number, path in enumerate(self._paths):
            with suppress(FileNotFoundError):
                self._descriptors[number] = open_regular(path, os.O_RDONLY)
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)

    def __getitem__(self, place: int) -> bytes:
        """The line at that place, counted from 0.

        Raises:
            DiskError: the file cannot be read.
        """
        begin = self._begins[place]
        end = self._begins[place + 1] if place + 1 < len(self._begins) else 0
        at = begin - self._read_at
        if at >= 0 and begin < end <= self._read_at + len(self._read):
            return self._read[at : at + end - begin]
        number, offset = divmod(begin, 1 << _FILE_BITS)
        descriptor = self._descriptors[number]
        with as_disk_error(f"{self._paths[number]} could not be read"):
            if end >> _FILE_BITS != number or not end:
                return self._last(descriptor, offset)
            self._read_at = begin
            self._read = os.pread(descriptor, max(end - begin, _READ_AHEAD_BYTES), offset)
            return self._read[: end - begin]

    def _last(self, descriptor: int, begin: int) -> bytes:
        parts: list[bytes] = []
        while part := os.pread(descriptor, _FETCHED_BYTES, begin):
            line, newline, _ = part.partition(b"\n")
            parts.append(line)
            begin += len(part)
            if newline:
                break
        return b"".join(parts)


def _begins_with_mark(path: Path) -> bool:
    try:
        descriptor = open_regular(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return os.pread(descriptor, len(_MARK), 0) == _MARK
    finally:
        os.close(descriptor)


@dataclass(slots=True)
class HashedFile:
    """Counts and hashes what passes through.

    Attributes:
        name: as it will be noted.
        file: where the bytes go.
    """

    name: str
    file: BinaryIO
    samples: int = 0
    size: int = 0
    _hash: hashlib._Hash = field(default_factory=hashlib.sha256)

    def write(self, data: bytes) -> None:
        """Write bytes that are not a sample, such as a byte order mark."""
        self.file.write(data)
        self._hash.update(data)
        self.size += len(data)

    def add(self, line: bytes) -> None:
        """Write one sample."""
        self.samples += 1
        self.write(line)

    def noted(self) -> DatasetFile:
        """What was written so far."""
        return DatasetFile(name=self.name, sha256=self._hash.hexdigest(), samples=self.samples, bytes=self.size)


@contextmanager
def collector_off() -> Iterator[None]:
    """Have no cycles looked for while the block lasts.

    A pass makes and drops some objects a row, none of them in a cycle. Looking for cycles among them again and again
    takes a fifth of its time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


_BATCH = 2000  # samples whose tokens are counted at a time


class DatasetWriter:
    """Takes training lines; made by `dataset_writer`.

    Attributes:
        tokens: of the training samples, one number a sample.
    """

    def __init__(self, counter: TokenCounter, train: HashedFile, validation: HashedFile | None, *, chat: bool) -> None:
        self.tokens = Histogram()
        self._counter = counter
        self._train = train
        self._validation = validation
        self._chat = chat
        self._uncounted: list[list[str]] = []

    def add(self, line: bytes, texts: list[str], *, validates: bool) -> None:
        """Write one sample to its side.

        Args:
            line: the JSON, newline included.
            texts: what of it costs tokens.
            validates: it belongs to the validation file, where there is one.
        """
        if validates and self._validation is not None:
            side = self._validation
        else:
            side = self._train
            self._uncounted.append(texts)
            if len(self._uncounted) == _BATCH:
                self.count_tokens()
        side.add(line)

    def copy(self, lines: Iterable[bytes], sides: Sequence[int]) -> None:
        """Write many samples, whose tokens were counted.

        Args:
            lines: the JSON of each, newline included.
            sides: of each, a code of `split`.
        """
        files = {TRAIN: self._train, VALIDATION: self._validation, HELD_OUT: self._validation}
        for code, group in groupby(zip(sides, lines, strict=True), key=itemgetter(0)):
            if code != DROPPED:
                file = files[code] or self._train
                while some := [line for _, line in islice(group, _BATCH)]:
                    file.samples += len(some)
                    file.write(b"".join(some))

    def count_tokens(self) -> None:
        """Bring `tokens` up to date."""
        self.tokens.add(self._counter.samples(self._uncounted, chat=self._chat))
        self._uncounted.clear()

    def files(self) -> list[DatasetFile]:
        """What was written so far, the training file first."""
        return [side.noted() for side in (self._train, self._validation) if side is not None]


@contextmanager
def dataset_writer(
    counter: TokenCounter,
    train: Path,
    validation: Path | None,
    *,
    chat: bool,
    byte_order_mark: bool,
    before: Callable[[], object] = lambda: None,
) -> Iterator[DatasetWriter]:
    """Write the files of a dataset; they take their places when the block ends without an error.

    Args:
        counter: counts the samples' tokens.
        train: the training file.
        validation: the validation file; None where all samples train.
        chat: the samples are chats, which cost some tokens beyond their texts.
        byte_order_mark: each file begins with one, as one provider wants it.
        before: called when both are whole, before they take their places.

    Raises:
        DiskError: a file could not be written; what stood there is unchanged.
    """
    paths = [train, *([validation] if validation is not None else [])]
    with replacing_together(paths, before) as files:
        sides = [HashedFile(path.name, file) for path, file in zip(paths, files, strict=True)]
        for side in sides:
            if byte_order_mark:
                side.write(BYTE_ORDER_MARK)
        writer = DatasetWriter(counter, sides[0], sides[1] if len(sides) > 1 else None, chat=chat)
        yield writer
        writer.count_tokens()
