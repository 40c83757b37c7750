"""Read from a run's files what is settled: the keys of answered and of failed requests, and what they cost.

Read-only and without a lock: a line that is only half written is ignored. The spend of a run is summed, in tokens and
USD, while answers arrive; prices come as a function. When the sum is saved is left to `files`.
"""

from __future__ import annotations

import os
import sys
import threading
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import TYPE_CHECKING, NoReturn

import msgspec
from msgspec import UNSET

from asyncgen.errors import DiskError
from asyncgen.run.jsonl import BadLineError, read_blocks, read_rows, rows_of
from asyncgen.run.key_set import KeySet
from asyncgen.run.records import SIMULATED_MARK, Usage, decode_failure, decode_record, sum_of
from asyncgen.run.state import Spend
from asyncgen.run.whole_file import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from asyncgen.run.directory import RunDirectory, RunWriter


_HEX_DIGITS = 32
_SAMPLE_BYTES = 256 * 1024
_LINE_BEGINS = b'\n{"key":"'  # as ours do; searching for it is twice as fast as for the brace alone
_ROOM_AT_MOST = 1_000_000  # a job may have more rows than will ever be requested


@dataclass(frozen=True, slots=True)
class SettledKeys:
    """The keys in the files of a run.

    Attributes:
        settled: keys of the records.
        failed: keys of failures that were not settled later.
        simulated: number of simulated records.
        attempts: (attempts, of which maybe paid) to the keys of failures with these counts. A key that failed in
            several invocations is in several sets; the largest count is its total.
    """

    settled: KeySet
    failed: KeySet
    attempts: dict[tuple[int, int], KeySet]
    simulated: int = 0

    def attempts_before(self, number: int) -> tuple[int, int]:
        """(attempts, of which maybe paid) of the failed key that begins with `number`."""
        if not self.attempts:
            return 0, 0
        return max((pair for pair, keys in self.attempts.items() if keys.has(number)), default=(0, 0))


@dataclass(frozen=True, slots=True)
class OtherShards:
    """The rows that a shard leaves to others.

    Attributes:
        index: number of the shard; it owns the keys whose number modulo `count` is `index`.
        count: number of shards.
        keys: keys in the run's own files.
        failed: of them, those that were given up on and are not asked for again.
    """

    index: int
    count: int
    keys: SettledKeys
    failed: KeySet

    def has(self, number: int) -> bool:
        """Is a key, by its first 64 bits, not the shard's to ask for?"""
        is_own = number % self.count == self.index
        return not is_own or self.keys.settled.has(number) or self.failed.has(number)


class _Head(msgspec.Struct, gc=False):
    """The fields of a record that are needed here; decoding all of them would take twice as long."""

    key: str


_heads = msgspec.json.Decoder(_Head)
# Required fields of a record, as bytes of its line; inside a JSON string they do not occur.
_FIELDS = (b',"variables":{', b',"completion":"', b',"usage":{', b',"created":')


def read_settled(directory: RunDirectory, *, expected: int = 0, merged: bool = False) -> SettledKeys:
    """Read the keys in a run's files, including shards that are not merged yet.

    Args:
        directory: of the run.
        merged: leave the files of shards out.
        expected: number of records at the end; growing the set on the way would cost as much as filling it.

    Returns:
        The keys.

    Raises:
        BadLineError: a line is not a record or failure, or a key occurs twice among the records.
        DiskError: a file cannot be read.
    """
    records = [directory.records] if merged else directory.record_files()
    failures = [directory.failures] if merged else directory.failure_files()
    settled, simulated = _read_records(records, min(expected, _ROOM_AT_MOST))
    return _read_failures(failures, settled, simulated)


def _read_records(paths: Sequence[Path], expected: int) -> tuple[KeySet, int]:
    settled, simulated = KeySet(max(sum(map(_expected_rows, paths)), expected)), 0
    for path in paths:
        for first, block in read_blocks(path):
            simulated += block.count(SIMULATED_MARK)
            numbers = _numbers_at_once(block)
            if numbers is None:
                numbers = array("Q", _numbers_line_by_line(path, first, block))
            if not settled.add_all(numbers):
                _refuse_the_twin(paths)
    return settled, simulated


def _numbers_at_once(block: bytes) -> array[int] | None:
    """The keys of a block's lines as numbers, at a third of the cost; None where not every line is plainly good."""
    try:
        block.decode()  # msgspec does not validate the fields that it skips
        keys = [head.key for head in _heads.decode_lines(block)]
        whole = bytes.fromhex("".join(keys))
    except (ValueError, RecursionError):  # includes msgspec's errors
        return None
    is_one_a_line = len(keys) == block.count(b"\n") == (b"\n" + block).count(_LINE_BEGINS)
    if any(block.count(field) < len(keys) for field in _FIELDS):
        return None
    are_whole = set(map(len, keys)) == {_HEX_DIGITS} and len(whole) * 2 == len(keys) * _HEX_DIGITS
    if not (is_one_a_line and are_whole):
        return None
    halves = array("Q", whole)
    if sys.byteorder == "little":
        halves.byteswap()
    return halves[::2]


def _numbers_line_by_line(path: Path, first: int, block: bytes) -> Iterator[int]:
    for number, record in rows_of(path, first, block, decode_record):
        yield checked_number(path, number, record.key)


def _refuse_the_twin(paths: Sequence[Path]) -> NoReturn:
    """Raise the error for the line whose key occurs in an earlier line."""
    seen = KeySet(sum(map(_expected_rows, paths)))
    for path in paths:
        for number, record in read_rows(path, decode_record):
            if not seen.add_number(checked_number(path, number, record.key)):
                raise BadLineError(path, number, f"its key {record.key} is also in an earlier line")
    raise DiskError(
        f"{paths[0]} was changed by another program while asyncgen read it", help_text="run the command again"
    )


def _read_failures(paths: Sequence[Path], settled: KeySet, simulated: int) -> SettledKeys:
    keys = SettledKeys(settled, KeySet(sum(map(_expected_rows, paths))), {}, simulated)
    for path in paths:
        for number, failure in read_rows(path, decode_failure):
            key = checked_number(path, number, failure.key)
            if not settled.has(key):
                keys.failed.add_number(key)
                ended = (failure.attempts, failure.maybe_paid)
                keys.attempts.setdefault(ended, KeySet()).add_number(key)
    return keys


def key_number(key: str) -> int:
    """The first 64 bits of a key of hexadecimal digits.

    Raises:
        ValueError: it is no such key.
    """
    return int(key[:16], 16)


def checked_number(path: Path, number: int, key: str) -> int:
    """The first 64 bits of the key in line `number` of `path`.

    Raises:
        BadLineError: it is not a key.
    """
    try:
        whole = bytes.fromhex(key)  # `key_number` would accept signs and underscores
        if len(whole) * 2 == len(key) == _HEX_DIGITS:
            return int.from_bytes(whole[:8], "big")
    except ValueError:
        pass  # such as a key of another length
    raise BadLineError(path, number, f"its key {key[:_HEX_DIGITS]!r} is not {_HEX_DIGITS} hexadecimal digits")


def _expected_rows(path: Path) -> int:
    """Estimated number of lines in a file, from its size and its first lines."""
    try:
        descriptor = open_regular(path, os.O_RDONLY)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            size = os.fstat(descriptor).st_size
            sample = file.read(_SAMPLE_BYTES)
    except (OSError, DiskError):
        return 0  # only an estimate; reading the file reports its errors
    return size * sample.count(b"\n") // max(len(sample), 1)


_SUMMED_AT_ONCE = 100

# (usages, in_batch) to USD for all of them; None for an unknown price.
CostOf = Callable[[Sequence[Usage], bool], float | None]


class SpendCount:
    """A running sum of tokens and USD; may be read from another thread.

    Usages are collected and summed 100 at a time, while they are still in the CPU cache.

    Args:
        before: the sum of earlier invocations.
        cost_of: USD for token counts.
    """

    def __init__(self, before: Spend, cost_of: CostOf) -> None:
        self._before = before
        self._sum = before
        # By (in_batch, is_record), without a tuple for each usage: `Usage` has gc=False, but the GC tracks tuples.
        kinds = product((False, True), (False, True))
        self._noted: dict[tuple[bool, bool], deque[Usage]] = {kind: deque() for kind in kinds}
        self._summing = threading.Lock()
        self._cost_of = cost_of

    def add(self, usages: Iterable[Usage], *, in_batch: bool, is_record: bool) -> None:
        """Add what requests were charged for.

        Args:
            usages: one for each request, over all its attempts.
            in_batch: charged at the batch price.
            is_record: the requests have answers, which are lines of `records.jsonl`.
        """
        noted = self._noted[in_batch, is_record]
        noted.extend(usages)
        if len(noted) >= _SUMMED_AT_ONCE:
            self._sum_up()

    @property
    def total(self) -> Spend:
        """The sum over all invocations."""
        return self._sum_up()

    @property
    def lately(self) -> Spend:
        """The sum of this invocation."""
        total, before = self.total, self._before
        return Spend(
            usage=total.usage - before.usage,
            cost_usd=total.cost_usd - before.cost_usd,
            unpriced=total.unpriced - before.unpriced,
            unanswered_usd=total.unanswered_usd - before.unanswered_usd,
            records=total.records - before.records,
        )

    def add_unanswered(self, usd: float) -> None:
        """Add the most that attempts without an answer may have cost, in USD."""
        total = self.total
        self._sum = msgspec.structs.replace(total, unanswered_usd=total.unanswered_usd + usd)

    def catch_up(self, path: Path, records: int, is_held: Callable[[int], bool]) -> None:
        """Add records that a crash kept from being counted.

        Args:
            path: `records.jsonl`.
            records: number of its lines.
            is_held: whether a request, by the first 64 bits of its key, waits in a batch.

        Raises:
            BadLineError: an uncounted line is not a record.
            DiskError: the file cannot be read.
        """
        counted = min(self._sum.records, records)  # a power loss may have taken lines that were counted
        self._sum = msgspec.structs.replace(self._sum, records=counted)
        if counted < records:
            for _, record in islice(read_rows(path, decode_record), counted, None):
                self.add([record.usage], in_batch=is_held(key_number(record.key)), is_record=True)
        self._before = self.total

    def _sum_up(self) -> Spend:
        with self._summing:
            for (in_batch, is_record), noted in self._noted.items():
                if usages := [noted.popleft() for _ in range(len(noted))]:
                    try:
                        cost_usd, unpriced = self._cost_usd(usages, in_batch)
                    except BaseException:
                        noted.extendleft(reversed(usages))  # keep what is not priced yet
                        raise
                    self._sum = _plus(self._sum, usages, cost_usd, unpriced, is_record=is_record)
            return self._sum

    def _cost_usd(self, usages: Sequence[Usage], in_batch: bool) -> tuple[float, int]:
        """USD as the provider told it, else by price; and the number of usages that have neither."""
        untold = [usage for usage in usages if usage.cost_usd is UNSET]
        told_usd = sum(usage.cost_usd for usage in usages if usage.cost_usd is not UNSET)
        cost_usd = self._cost_of(untold, in_batch) if untold else 0.0
        return (told_usd, len(untold)) if cost_usd is None else (told_usd + cost_usd, 0)


def _plus(before: Spend, usages: Sequence[Usage], cost_usd: float, unpriced: int, *, is_record: bool) -> Spend:
    return Spend(
        usage=before.usage + sum_of(usages),
        cost_usd=before.cost_usd + cost_usd,
        unpriced=before.unpriced + unpriced,
        unanswered_usd=before.unanswered_usd,
        records=before.records + (len(usages) if is_record else 0),
    )


def end_move(run: RunWriter, lines: int) -> None:
    """Count the spend right after a move that a crash may have cut short.

    Args:
        run: open for writing.
        lines: of `records.jsonl` now; they tell whether its new content has taken its place.

    Raises:
        DiskError: it could not be noted.
    """
    move = run.state.move
    if move is None:
        return
    spend = run.state.spend
    if lines == move.lines_after:
        spend = msgspec.structs.replace(spend, records=move.counted_after)
    run.update(lambda state: msgspec.structs.replace(state, spend=spend, move=None))
