"""Merge finished shards into the run: their lines, spend and attempts.

Idempotent: a crash at any point neither loses a line, nor duplicates one, nor counts its cost twice. The sizes of the
run's files are noted in `run.json` first; lines are appended and made safe; a single write of `run.json` adds the spend
and marks the merge as done; the shards' files are deleted last. An interrupted merge starts over from the noted sizes,
or only deletes.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from asyncgen.errors import RunInUseError, command_line
from asyncgen.generate.distributed.plan import read_plan, write_plan
from asyncgen.generate.journal.settled import CostOf, SpendCount, checked_number, end_move, key_number, read_settled
from asyncgen.run.directory import RunDirectory, RunWriter
from asyncgen.run.jsonl import BadLineError, LineFile, read_blocks, read_lines, read_rows
from asyncgen.run.lock import is_held, locked
from asyncgen.run.records import decode_failure, decode_record
from asyncgen.run.state import FoldState, RunState, with_shards
from asyncgen.run.whole_file import as_disk_error

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from asyncgen.run.key_set import KeySet


@dataclass(frozen=True, slots=True)
class Merged:
    """Counts of a merge.

    Attributes:
        shards: shards that had files.
        records: answers.
        failures: requests given up on.
    """

    shards: int
    records: int
    failures: int


_NONE = Merged(0, 0, 0)


def no_price(_usages: object, _in_batch: bool) -> None:
    """A `CostOf` for runs whose job can no longer say the price of answers.

    Args:
        _usages: ignored.
        _in_batch: ignored.
    """


def merge_shards(run: RunWriter, cost_of: CostOf) -> Merged:
    """Merge the shards of a run into its own files. A run without shards is left unchanged.

    Args:
        run: open for writing, its journal not open yet.
        cost_of: prices answers that a killed shard had not counted yet.

    Returns:
        Counts of what was merged.

    Raises:
        RunInUseError: a shard is being worked on.
        BadLineError: a line is damaged, or its key occurs in another file too; nothing was changed.
        DiskError: a file cannot be read or written.
    """
    refuse_running(run.directory)
    if run.state.fold is not None and run.state.fold.done:
        _remove_shards(run)
    shards = run.directory.shards()
    if not shards:
        if (plan := read_plan(run.directory)) is not None and not plan.merged:
            write_plan(run.directory, msgspec.structs.replace(plan, merged=True))
        return _NONE
    with ExitStack() as stack:
        parts = [_opened(stack, run, shard) for shard in shards]
        _cut_back(run)
        records = _refuse_twins(run.directory, shards)
        failures = sum(1 for shard in shards for _ in read_rows(shard.failures, decode_failure))
        spent = _caught_up(run, cost_of)
        parts_spent = [_caught_up(part, cost_of) for part in parts]
        _note_sizes(run)
        _append(run.directory, shards)
        _take_over(run, spent, parts_spent)
        _remove_shards(run)
    return Merged(len(shards), records, failures)


def refuse_running(directory: RunDirectory) -> None:
    """See that no process works on a shard of a run.

    Raises:
        RunInUseError: one does.
    """
    for shard in directory.shards():
        if is_held(directory.path, shard.lock_name):
            number = shard.part.strip("-").replace("-of-", "/")
            raise RunInUseError(
                f"shard {number} of {directory.path} is still running",
                cause="shards are merged, and the remaining rows divided again, only when none is running",
                help_text=f"wait until it is done (`{command_line('status', directory.path)}`), or stop it",
            )


def _opened(stack: ExitStack, run: RunWriter, shard: RunDirectory) -> RunWriter:
    """A shard locked, the ends of its files mended."""
    lock = stack.enter_context(locked(shard.path, shard.lock_name))
    for path in _line_files(shard):
        if path.exists():
            LineFile(path).close()
    try:
        state = shard.read_state()
    except FileNotFoundError:
        state = RunState(job=run.state.job)
    return RunWriter(shard, state, lock)


def _line_files(directory: RunDirectory) -> tuple[Path, ...]:
    return directory.records, directory.failures, directory.replaced


def _cut_back(run: RunWriter) -> None:
    """Remove what an interrupted merge has appended; the shards still have it."""
    if run.state.fold is None:
        return
    for path in _line_files(run.directory):
        size = run.state.fold.sizes.get(path.name, 0)
        if path.exists() and path.stat().st_size > size:
            with as_disk_error(f"{path} could not be truncated"):
                os.truncate(path, size)
    run.update(lambda state: msgspec.structs.replace(state, fold=None))


def _refuse_twins(directory: RunDirectory, shards: list[RunDirectory]) -> int:
    """Check that no key occurs in two files, and return the number of answers in the shards."""
    seen, records = read_settled(directory, merged=True).settled, 0
    for shard in shards:
        for number, record in read_rows(shard.records, decode_record):
            if not seen.add_number(checked_number(shard.records, number, record.key)):
                raise BadLineError(shard.records, number, f"its key {record.key} is also in another line of the run")
            records += 1
    return records


def _caught_up(run: RunWriter, cost_of: CostOf) -> RunState:
    """The state with the spend that a crash left out."""
    lines = sum(1 for _ in read_lines(run.directory.records))
    end_move(run, lines)
    spend = SpendCount(run.state.spend, cost_of)
    spend.catch_up(run.directory.records, lines, lambda _: False)
    return msgspec.structs.replace(run.state, spend=spend.total)


def _note_sizes(run: RunWriter) -> None:
    for path in _line_files(run.directory):
        if path.exists():
            LineFile(path).close()  # repairs the end, so that what is appended begins a line
    sizes = {path.name: path.stat().st_size for path in _line_files(run.directory) if path.exists()}
    run.update(lambda state: msgspec.structs.replace(state, fold=FoldState(sizes=sizes)))


def _append(directory: RunDirectory, shards: list[RunDirectory]) -> None:
    kinds = zip(_line_files(directory), zip(*map(_line_files, shards), strict=True), strict=True)
    for path, added in kinds:
        if not any(each.exists() for each in added):
            continue
        with closing(LineFile(path)) as file:
            for each in added:
                for _, block in read_blocks(each):
                    file.append(block)
            file.sync()


def _take_over(run: RunWriter, spent: RunState, parts: list[RunState]) -> None:
    total = with_shards(spent, parts)
    ended = _ended(run.directory)
    tried = {key: each for key, each in total.tried.items() if not ended(key_number(key))}

    def change(state: RunState) -> RunState:
        fold = msgspec.structs.replace(state.fold or FoldState(sizes={}), done=True)
        job = msgspec.structs.replace(state.job, twins=total.job.twins)
        return msgspec.structs.replace(state, job=job, spend=total.spend, tried=tried, servers=total.servers, fold=fold)

    run.update(change)


def _ended(directory: RunDirectory) -> Callable[[int], bool]:
    """Has a key a line of its own now?"""
    keys = read_settled(directory, merged=True)
    failed: KeySet = keys.failed
    return lambda number: keys.settled.has(number) or failed.has(number)


def _remove_shards(run: RunWriter) -> None:
    directory = run.directory
    with as_disk_error(f"the files of merged shards in {directory.path} could not be deleted"):
        for shard in directory.shards():
            for path in (*_line_files(shard), shard.live, shard.path / shard.lock_name, shard.state):
                path.unlink(missing_ok=True)
    if (plan := read_plan(directory)) is not None and not plan.merged:
        write_plan(directory, msgspec.structs.replace(plan, merged=True))
    run.update(lambda state: msgspec.structs.replace(state, fold=None))
