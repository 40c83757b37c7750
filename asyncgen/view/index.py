"""The index of a run's rows: the offset of each line, and the columns by which it is searched.

About 250 bytes a row. A growing file is read from where the index stopped, a replaced file is read again. Answers stay
on disk and are fetched by offset. Needs no lock: a half written line is left for the next time.

A facet is one property by which rows are filtered, with its values and the rows of each: a bitmap for each value while
there are few, and a value number for each row. A set of rows is an int with one bit for each place.
"""

from __future__ import annotations

import codecs
import os
from array import array
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyncgen.dataset.samples import unusable
from asyncgen.errors import RunInUseError
from asyncgen.run.records import Failure, Record, decode_failure, decode_record
from asyncgen.run.reviews import answer_digest
from asyncgen.run.whole_file import as_disk_error, open_regular

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from asyncgen.run.directory import RunDirectory

_MOST_BITMAPS = 256
NO_VALUE = 0xFFFFFFFF


class Facet:
    """A property of rows, each of which has one value of it or none."""

    def __init__(self) -> None:
        self.values: list[str] = []
        self.codes = array("I")
        self._positions: dict[str, int] = {}
        self._bitmaps: list[bytearray] | None = []

    def add(self, place: int, value: str) -> None:
        """Note the value of the row at `place`; places only grow, and those passed over have none."""
        code = self._positions.get(value)
        if code is None:
            code = self._positions[value] = len(self.values)
            self.values.append(value)
            self._make_room(code)
        self._pad(place)
        self.codes.append(code)
        if self._bitmaps is not None:
            set_bit(self._bitmaps[code], place)

    def bits(self, value: str) -> int:
        """The rows that have the value."""
        code = self._positions.get(value)
        if code is None:
            return 0
        if self._bitmaps is not None:
            return int.from_bytes(self._bitmaps[code], "little")
        return bits_of(place for place, each in enumerate(self.codes) if each == code)

    def counts(self, mask: int, places: Sequence[int]) -> list[tuple[str, int]]:
        """Count the rows of a set by value, in the order in which values were first read; zeros are included.

        Args:
            mask: the set.
            places: the same set as a list of places.

        Returns:
            Value and number of rows.
        """
        if self._bitmaps is not None:
            found = ((mask & int.from_bytes(bitmap, "little")).bit_count() for bitmap in self._bitmaps)
            return list(zip(self.values, found, strict=True))
        last = len(self.codes)
        counted = Counter(self.codes[place] for place in places if place < last)
        return [(value, counted[code]) for code, value in enumerate(self.values)]

    def code(self, place: int) -> int:
        """The index of the row's value in `values`; `NO_VALUE` if it has none."""
        return self.codes[place] if place < len(self.codes) else NO_VALUE

    def _pad(self, place: int) -> None:
        if missing := place - len(self.codes):
            self.codes.extend([NO_VALUE] * missing)

    def _make_room(self, code: int) -> None:
        if code >= _MOST_BITMAPS:
            self._bitmaps = None
        elif self._bitmaps is not None:
            self._bitmaps.append(bytearray())


class Marks:
    """A property of which a row may have several values, such as the checks that it does not pass."""

    def __init__(self) -> None:
        self._bitmaps: dict[str, bytearray] = {}

    def add(self, place: int, value: str) -> None:
        set_bit(self._bitmaps.setdefault(value, bytearray()), place)

    def bits(self, value: str) -> int:
        return int.from_bytes(self._bitmaps.get(value, b""), "little")

    def names(self) -> list[str]:
        """All values, in the order in which they were first read."""
        return list(self._bitmaps)

    def counts(self, mask: int) -> list[tuple[str, int]]:
        return [(value, (mask & self.bits(value)).bit_count()) for value in self._bitmaps]


def set_bit(bitmap: bytearray, place: int) -> None:
    """Put a place into a set that is kept as bytes, the lowest first."""
    byte = place >> 3
    if byte >= len(bitmap):
        bitmap.extend(bytes(max(byte + 1 - len(bitmap), len(bitmap) // 4)))
    bitmap[byte] |= 1 << (place & 7)


def bits_of(places: Iterable[int]) -> int:
    """A set as an int."""
    bitmap = bytearray()
    for place in places:
        set_bit(bitmap, place)
    return int.from_bytes(bitmap, "little")


_PLACES_IN_BYTE = [tuple(bit for bit in range(8) if byte >> bit & 1) for byte in range(256)]


def places_in(mask: int) -> list[int]:
    """The members of a set, in order."""
    content = mask.to_bytes((mask.bit_length() + 7) // 8, "little")
    return [start * 8 + bit for start, byte in enumerate(content) if byte for bit in _PLACES_IN_BYTE[byte]]


_BLOCK_BYTES = 1 << 20
_LINE_BYTES = 4096
_KEY_BYTES = 16
_LARGEST = 2**63
LATENCY_EDGES_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)


@dataclass(slots=True)
class _Source:
    """One of the files, and the offset up to which it was read.

    Attributes:
        rows: number of its rows, without superseded failures.
    """

    path: Path
    is_failures: bool
    rows: int = 0
    offset: int = 0
    line: int = 0
    identity: tuple[int, int] = (0, 0)


class RowIndex:
    """The rows of a run: records and failures, in the order in which they were found.

    Args:
        directory: of the run.

    Attributes:
        facets: name to property; those of the variables are named `axis.NAME`.
        checks: names of checks to the rows that do not pass them.
        version: grows with every change.
        generation: grows when a file was replaced, and all places with it.
        bad_lines: (file, line number, what is wrong) of lines that are not rows; the first hundred.
        is_behind: there is more to read.
        latency: how many answers took so long, by `LATENCY_EDGES_S`, the last one for longer.
        simulated: number of answers that a simulation made up.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        self.version = 0
        self.generation = 0
        self._forget()

    def _forget(self) -> None:
        self._sources: list[_Source] = []
        self.facets: dict[str, Facet] = {}
        self.checks = Marks()
        self.offsets = array("Q")
        self._source_of = array("H")  # index in the list of sources
        self.keys = bytearray()
        self.digests: list[bytes] = []
        self.indexes = array("Q")
        self.lengths = array("I")
        self.latencies = array("f")
        self.created = array("Q")
        self.prompts = array("q")
        self.combinations = array("q")
        self.latency = [0] * (len(LATENCY_EDGES_S) + 1)
        self.simulated = 0
        self.bad_lines: list[tuple[str, int, str]] = []
        self.is_behind = True
        self._is_failure = bytearray()
        self._is_unusable = bytearray()
        self._is_superseded = bytearray()
        self._failed_at: dict[bytes, int] = {}
        self._places: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def bytes_read(self) -> int:
        """Bytes read of all files; with the version they identify the state that a page has."""
        return sum(source.offset for source in self._sources)

    def read_on(self, most_bytes: int = 64 * _BLOCK_BYTES) -> bool:
        """Read what was appended, up to a limit per file; returns whether there was anything.

        Raises:
            DiskError: a file cannot be read.
        """
        if any(map(_is_another, self._sources)):
            self._forget()
            self.version += 1
            self.generation += 1
        before = len(self), len(self.bad_lines)
        try:
            self._find_sources()
        except RunInUseError:  # shards are being merged; a row that is in two files now will soon be in one
            self.is_behind = False
            return False
        behind = [
            self._read(number, most_bytes) for number in range(len(self._sources))
        ]  # at the end of every file, not only the first
        self.is_behind = any(behind)
        changed = (len(self), len(self.bad_lines)) != before
        self.version += changed
        return changed

    def _find_sources(self) -> None:
        """Add files of new shards; files that are gone were merged, so their rows are in the run's own files."""
        known = {source.path for source in self._sources}
        kinds = ((self._directory.record_files(), False), (self._directory.failure_files(), True))
        self._sources += [_Source(path, kind) for paths, kind in kinds for path in paths if path not in known]

    def _read(self, number: int, most_bytes: int) -> bool:
        """Read whole lines; returns whether there are more."""
        source = self._sources[number]
        add = self._add_failure_line if source.is_failures else self._add_record_line
        end = source.offset + most_bytes
        for offset, line in _lines(source, most_bytes):
            source.line += 1
            source.offset = offset + len(line)
            if line.isspace():
                continue
            try:
                add((number, offset), line.removeprefix(codecs.BOM_UTF8) if not offset else line)
            except ValueError as error:  # not JSON, not a row, or an invalid key
                if len(self.bad_lines) < 100:  # noqa: PLR2004 - enough to show
                    self.bad_lines.append((source.path.name, source.line, str(error)))
        return source.offset >= end

    def _add_record_line(self, where: tuple[int, int], line: bytes) -> None:
        record = decode_record(line)
        place = self._add_row(where, record)
        key = bytes.fromhex(record.key)
        self.digests.append(bytes.fromhex(answer_digest(record.completion)))
        self.simulated += record.simulated
        self.lengths.append(len(record.completion))
        self.latencies.append(record.latency_s)
        self.prompts.append(hash(record.prompt))
        self._facet("finish_reason").add(place, record.finish_reason or "(none)")
        self._facet("model").add(place, record.model or "(none)")
        for name in record.check_failures:
            self.checks.add(place, name)
        if reason := unusable(record):
            self.checks.add(place, reason)
        if record.check_failures or reason:
            set_bit(self._is_unusable, place)
        self.latency[next((n for n, edge in enumerate(LATENCY_EDGES_S) if record.latency_s < edge), -1)] += 1
        if (failed := self._failed_at.pop(key, None)) is not None:
            self._supersede(failed)

    def _add_failure_line(self, where: tuple[int, int], line: bytes) -> None:
        failure = decode_failure(line)
        key = bytes.fromhex(failure.key)
        is_settled = key in self._places and key not in self._failed_at
        earlier = self._failed_at.get(key)
        place = self._add_row(where, failure)
        self.digests.append(b"")
        self.lengths.append(0)
        self.latencies.append(0.0)
        self.prompts.append(0)
        set_bit(self._is_failure, place)
        self._facet("error").add(place, failure.error.type)
        if is_settled:
            self._supersede(place)
            return
        if earlier is not None:
            self._supersede(earlier)
        self._failed_at[key] = place

    def _supersede(self, place: int) -> None:
        set_bit(self._is_superseded, place)
        self._sources[self._source_of[place]].rows -= 1

    def _add_row(self, where: tuple[int, int], row: Record | Failure) -> int:
        place = len(self.offsets)
        key = bytes.fromhex(row.key)
        if len(key) != _KEY_BYTES:
            raise ValueError(f"its key {row.key[:40]!r} is not 32 hexadecimal digits")
        self._source_of.append(where[0])
        self._sources[where[0]].rows += 1
        self.offsets.append(where[1])
        self.keys += key
        self._places[key] = place
        self.indexes.append(min(max(row.index, 0), _LARGEST))
        self.created.append(min(max(row.created, 0), _LARGEST))
        self.combinations.append(hash(tuple(row.variables.items())))
        for name, value in row.variables.items():
            self._facet(f"axis.{name}").add(place, value)
        self._facet("repeat").add(place, str(row.repeat))
        return place

    def ended_in(self, directory: RunDirectory) -> tuple[int, int]:
        """Rows with an answer, and rows given up on, of the run or one of its shards, as far as was read."""
        rows = {source.path: source.rows for source in self._sources}
        return rows.get(directory.records, 0), rows.get(directory.failures, 0)

    def _facet(self, name: str) -> Facet:
        found = self.facets.get(name)
        if found is None:
            found = self.facets[name] = Facet()
        return found

    @property
    def failures(self) -> int:
        """The rows that were given up on and not settled later, as a set."""
        return int.from_bytes(self._is_failure, "little") & ~self.superseded

    @property
    def superseded(self) -> int:
        """The set of failures that a later line replaced."""
        return int.from_bytes(self._is_superseded, "little")

    @property
    def unusable(self) -> int:
        """The records that no sample is made of: checks, refusals, answers cut short, as a set."""
        return int.from_bytes(self._is_unusable, "little")

    def key(self, place: int) -> str:
        """The key of the row at a place, as hexadecimal digits."""
        return self.keys[place * _KEY_BYTES : (place + 1) * _KEY_BYTES].hex()

    def digest(self, place: int) -> str:
        """Hash of the row's answer; "" for a failure."""
        return self.digests[place].hex()

    def place_of(self, key: str) -> int | None:
        """The place of the row with this key, the latest if there are several; None if there is none."""
        try:
            return self._places.get(bytes.fromhex(key))
        except ValueError:
            return None

    def judged(self, answers: dict[str, str]) -> int:
        """The rows whose answers are given, as a set.

        Args:
            answers: key to the digest of the answer.
        """
        if not answers:
            return 0
        found = (place for place in range(len(self)) if answers.get(self.key(place), "-") == self.digest(place))
        return bits_of(found)

    def differing(self) -> int:
        """The records of combinations whose repeats have different answers, as a set."""
        first: dict[int, bytes] = {}
        differ = set()
        for combination, digest in zip(self.combinations, self.digests, strict=True):
            if digest and first.setdefault(combination, digest) != digest:
                differ.add(combination)
        pairs = enumerate(zip(self.combinations, self.digests, strict=True))
        return bits_of(place for place, (combination, digest) in pairs if digest and combination in differ)

    def lines(self, places: list[int]) -> Iterator[bytes]:
        """The lines of rows, in the order given.

        Raises:
            DiskError: a file cannot be read.
        """
        with ExitStack() as opened:
            files: dict[int, _LineReader] = {}
            for place in places:
                number = self._source_of[place]
                if number not in files:
                    files[number] = _LineReader(self._sources[number].path)
                    opened.callback(files[number].close)
                yield files[number].line(self.offsets[place])

    def row(self, place: int) -> Record | Failure:
        """The row at a place; raises as `lines` does."""
        return self.decoded(place, next(self.lines([place])))

    def decoded(self, place: int, line: bytes) -> Record | Failure:
        """Decode a line of `lines` to a record or failure."""
        return decode_failure(line) if self._sources[self._source_of[place]].is_failures else decode_record(line)


class _LineReader:
    """Reads lines of one file by their offsets; adjacent lines are read many at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._start = 0
        self._buffer = b""

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    def line(self, offset: int) -> bytes:
        """The line at an offset; its beginning, if it has no end yet."""
        begin = offset - self._start
        end = self._buffer.find(b"\n", begin) + 1 if 0 <= begin < len(self._buffer) else 0
        if not end:
            # A request for the next line suggests that more adjacent lines will follow.
            size = _BLOCK_BYTES // 4 if 0 <= begin <= len(self._buffer) else _LINE_BYTES
            begin, end = 0, self._read(offset, size)
        return self._buffer[begin:end].removeprefix(codecs.BOM_UTF8)

    def _read(self, offset: int, size: int) -> int:
        """Fill the buffer with a line at least; returns where it ends."""
        with as_disk_error(f"{self._path} could not be read"):
            if self._descriptor is None:
                self._descriptor = open_regular(self._path, os.O_RDONLY)
            while True:
                self._start, self._buffer = offset, os.pread(self._descriptor, size, offset)
                end = self._buffer.find(b"\n") + 1
                if end or len(self._buffer) < size:
                    return end or len(self._buffer)
                size *= 4


def _is_another(source: _Source) -> bool:
    """True if the file was replaced or truncated since it was read."""
    try:
        found = source.path.stat()
    except OSError:
        return source.offset > 0
    return source.offset > 0 and ((found.st_dev, found.st_ino) != source.identity or found.st_size < source.offset)


def _lines(source: _Source, most_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Whole lines from where the file was left, each with its offset, until about so many bytes are read."""
    try:
        descriptor = open_regular(source.path, os.O_RDONLY)
    except FileNotFoundError:
        return
    with as_disk_error(f"{source.path} could not be read"), os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        source.identity = (found.st_dev, found.st_ino)
        file.seek(source.offset)
        offset, end = source.offset, source.offset + most_bytes
        for line in file:
            if not line.endswith(b"\n") or offset >= end:
                return
            yield offset, line
            offset += len(line)
