"""Move records out of a run, and repair damaged files.

Records that `prepare` rejected, or that a simulation made up, are removed so that their rows are requested again. Each
is in `replaced.jsonl`, after an fsync, before it leaves `records.jsonl`; the spend stays correct after a crash at any
point. Repair moves unreadable lines, with their line numbers, to a file of their own. Only `asyncgen repair` calls it,
since the rows of those lines will be paid for again.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from itertools import pairwise
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from asyncgen.errors import DiskError, UsageError, command_line
from asyncgen.generate.batch.batched_keys import batches_by_files
from asyncgen.generate.journal.settled import checked_number, end_move, key_number, read_settled
from asyncgen.json_text import NotJsonError, decoder
from asyncgen.run.directory import FILE_NAMES, RunDirectory, RunWriter
from asyncgen.run.jsonl import MAX_LINE_BYTES, LineFile, SeveralRowsError, read_lines, read_rows, rows_in
from asyncgen.run.key_set import KeySet
from asyncgen.run.lock import locked
from asyncgen.run.records import SIMULATED_MARK, Failure, Record, decode_failure, decode_record
from asyncgen.run.reviews import REVIEWED_NAME, decode_review
from asyncgen.run.state import JobState, MoveState, RunState, Spend, write_state
from asyncgen.run.whole_file import as_disk_error, open_regular, read_whole, remove_leftovers, replacing

if TYPE_CHECKING:
    from pathlib import Path


class _Rejected(msgspec.Struct):
    key: str
    reason: str


class _Key(msgspec.Struct, gc=False):
    key: str


_decode_rejected = decoder(_Rejected)
_decode_key = decoder(_Key)


@dataclass(frozen=True, slots=True)
class SetAside:
    """The result of moving records out of a run.

    Attributes:
        moved: records that are in `replaced.jsonl` now.
        goes_on: they were moved by an earlier invocation, and some of their rows have no new answer yet.
    """

    moved: int
    goes_on: bool = False


def set_rejected_aside(run: RunWriter) -> SetAside:
    """Move the records that `rejected.jsonl` names to `replaced.jsonl`.

    `rejected.jsonl` is used up by it: given again, it would take out the new answers. So without it, a run whose
    replaced rows have no new answers yet just goes on.

    Args:
        run: open for writing, its journal not open yet.

    Raises:
        UsageError: the run was not prepared since its rows were asked for last.
        BadLineError: a line of the run cannot be read.
        DiskError: a file could not be read or written; the run is as it was, or as it shall be.
    """
    directory = run.directory
    if not directory.rejected.exists():
        if _has_open_replaced(directory):
            return SetAside(0, goes_on=True)
        raise UsageError(
            f"it is not known which answers of {directory.path} were rejected",
            help_text=f"{command_line('prepare', directory.path)}   (checks them), then run the same command again",
        )
    rejected = read_rejected(directory.rejected)
    moved = _move(run, lambda line: rejected.has(key_number(_decode_key(line).key)))
    directory.rejected.unlink()
    return SetAside(moved)


def set_simulated_aside(run: RunWriter) -> int:
    """Move the records that a simulation made up to `replaced.jsonl`; returns how many.

    Raises:
        BadLineError, DiskError: as `set_rejected_aside`.
    """
    return _move(run, lambda line: line.rstrip().endswith(SIMULATED_MARK.rstrip()))


def read_rejected(path: Path) -> KeySet:
    """The keys in a `rejected.jsonl` whose rows are still asked for.

    Raises:
        BadLineError: a line is not one of `prepare`'s.
        DiskError: the file cannot be read.
    """
    rejected = KeySet()
    for number, row in read_rows(path, _decode_rejected):
        if row.reason != "stale":  # not used any more
            rejected.add_number(checked_number(path, number, row.key))
    return rejected


def _has_open_replaced(directory: RunDirectory) -> bool:
    settled = read_settled(directory).settled
    replaced = (key_number(row.key) for _, row in read_rows(directory.replaced, _decode_key))
    return any(not settled.has(number) for number in replaced)


def _move(run: RunWriter, is_moved: Callable[[bytes], bool]) -> int:
    """Move lines out of `records.jsonl`; returns how many."""
    end_move(run, sum(1 for _ in read_lines(run.directory.records)))
    move, moved = _counted(run, is_moved)
    if not moved:
        return 0
    there = KeySet()
    for _, line in read_lines(run.directory.replaced):
        there.add(_digest(line))
    with closing(LineFile(run.directory.replaced)) as replaced, replacing(run.directory.records) as records:
        for _, line in read_lines(run.directory.records):
            whole = line.rstrip(b"\n") + b"\n"  # the last line may lack it
            if not is_moved(line):
                records.write(whole)
            elif there.add(_digest(line)):  # else a crash came after it was written
                replaced.append(whole)
        replaced.sync()
        run.update(lambda state: msgspec.structs.replace(state, move=move))
    end_move(run, move.lines_after)
    return moved


def _counted(run: RunWriter, is_moved: Callable[[bytes], bool]) -> tuple[MoveState, int]:
    """The state after the move, and the number of lines to move.

    The first lines of the file are those that the spend counts: of them, those that stay are still counted.
    """
    counted, lines, kept, kept_counted = run.state.spend.records, 0, 0, 0
    for _, line in read_lines(run.directory.records):
        if not is_moved(line):
            kept += 1
            kept_counted += lines < counted
        lines += 1
    return MoveState(lines_after=kept, counted_after=kept_counted), lines - kept


def _digest(line: bytes) -> bytes:
    return blake2b(line.strip(), digest_size=16).digest()


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    Judge = Callable[[bytes], str | None]  # returns what is wrong with a line; None if it is valid

_ROW_START = b'{"key":"'
_KEY_BYTES = 16
_BETWEEN = b"\0\x1a \t\r\n"  # bytes that a disk or an editor may leave around a row
_MOST_JOB_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class FileRepair:
    """The result of repairing one file.

    Attributes:
        path: the file.
        kept: number of good lines, which are all still there.
        bad: numbers of the lines that were moved to `*.bad`.
        torn_bytes: bytes that were moved to `*.torn`.
    """

    path: Path
    kept: int
    bad: tuple[int, ...]
    torn_bytes: int


@dataclass(frozen=True, slots=True)
class RunRepair:
    """The result of repairing a run: its files, and whether `run.json` was missing or damaged, and rebuilt."""

    files: tuple[FileRepair, ...]
    state_made_anew: bool


def repair_run(path: Path) -> RunRepair:
    """Repair the files of a run. Undamaged files are not changed.

    Args:
        path: the run directory.

    Returns:
        What was repaired in each file.

    Raises:
        UsageError: it is not a run.
        RunInUseError: another process writes it.
        DiskError: a file cannot be read or written; each file is either unchanged or repaired.
    """
    directory = RunDirectory(path)
    with as_disk_error(f"{path} could not be read"):
        is_run = directory.state.exists() or directory.records.exists()
    if not is_run:
        raise UsageError(f"there is no run at {path}", help_text="name a run directory", code="not_a_run")
    with locked(path), ExitStack() as stack:
        for shard in directory.shards():
            stack.enter_context(locked(path, shard.lock_name))
        remove_leftovers(path, FILE_NAMES.__contains__)
        state, made_anew = _sound_state(directory)
        files = tuple(_repair_file(file, judge) for file, judge in _judges(directory) if file.exists())
        if made_anew or any(file.bad for file in files):
            # An empty fingerprint makes the next start count the stale rows again.
            job = msgspec.structs.replace(state.job, fingerprint={})
            spend = _spend_of(state, directory, files)
            write_state(directory.state, msgspec.structs.replace(state, job=job, spend=spend))
        for shard in directory.shards():
            files += _repair_shard(directory, shard)
    return RunRepair(files, made_anew)


def _repair_shard(run: RunDirectory, shard: RunDirectory) -> tuple[FileRepair, ...]:
    """Repair the files of a shard. A key that occurs in an earlier file, in the order of the shards, is a duplicate."""
    earlier = [run.records]
    for each in run.shards():
        if each == shard:
            break
        earlier.append(each.records)
    judges: tuple[tuple[Path, Callable[[], Judge]], ...] = (
        (shard.records, partial(_row_judge, decode_record, once=True, earlier=earlier)),
        (shard.failures, partial(_row_judge, decode_failure, once=False)),
    )
    files = tuple(_repair_file(file, judge) for file, judge in judges if file.exists())
    try:
        state = shard.read_state()
    except FileNotFoundError:
        return files
    except DiskError as error:
        if error.code != "bad_state":
            raise
        with as_disk_error(f"{shard.state} could not be renamed"):
            shard.state.rename(_free_name(shard.state))
        return files
    if any(file.bad for file in files):
        write_state(shard.state, msgspec.structs.replace(state, spend=_spend_of(state, shard, files)))
    return files


def _spend_of(state: RunState, directory: RunDirectory, files: tuple[FileRepair, ...]) -> Spend:
    """What is spent stays spent; of the records that it counts, those that were set aside are not there any more."""
    counted = state.spend.records
    gone = sum(line <= counted for file in files if file.path == directory.records for line in file.bad)
    return msgspec.structs.replace(state.spend, records=counted - gone)


def _judges(directory: RunDirectory) -> tuple[tuple[Path, Callable[[], Judge]], ...]:
    return (
        (directory.records, partial(_row_judge, decode_record, once=True)),
        (directory.failures, partial(_row_judge, decode_failure, once=False)),
        (directory.events, lambda: _judge_event),
        (directory.path / REVIEWED_NAME, lambda: _judge_review),
    )


def _row_judge(decode: Callable[[bytes], Record | Failure], *, once: bool, earlier: Sequence[Path] = ()) -> Judge:
    """Judge lines in the order of the file; with `once`, each key may stand in one of them, and in none `earlier`."""
    seen = KeySet()
    for row in rows_in(earlier, _decode_key):
        seen.add_number(key_number(row.key))

    def judge(line: bytes) -> str | None:
        try:
            key = decode(line).key
            if len(bytes.fromhex(key)) != _KEY_BYTES:
                return f"its key is not {_KEY_BYTES} bytes"
        except ValueError as error:
            return str(error)
        if once and not seen.add_number(key_number(key)):
            return f"its key {key} is also in an earlier line"
        return None

    return judge


_decode_event = decoder(dict[str, Any])


def _judge_event(line: bytes) -> str | None:
    try:
        _decode_event(line)
    except NotJsonError as error:
        return str(error)
    return None


def _judge_review(line: bytes) -> str | None:
    try:
        decode_review(line)
    except NotJsonError as error:
        return str(error)
    return None


def _repair_file(path: Path, new_judge: Callable[[], Judge]) -> FileRepair:
    torn_bytes = _mended_end(path)
    kept = 0
    bad: list[int] = []
    is_changed = False
    for number, line, good, wrong, _ in _judged(path, new_judge()):
        kept += sum(1 for each in good.splitlines() if each.strip())
        is_changed |= good != line
        if wrong.strip() and number not in bad[-1:]:
            bad.append(number)
    if is_changed:
        _set_aside(path, new_judge())
    return FileRepair(path, kept, tuple(bad), torn_bytes)


def _mended_end(path: Path) -> int:
    """Put a torn last line aside, as a writer does; how many bytes it had. Several rows are left to be divided."""
    try:
        with closing(LineFile(path)) as file:
            return file.torn_bytes
    except SeveralRowsError:
        descriptor = open_regular(path, os.O_WRONLY | os.O_APPEND)
        with as_disk_error(f"{path} could not be repaired"), os.fdopen(descriptor, "ab") as file:
            file.write(b"\n")
        return 0


def _set_aside(path: Path, judge: Judge) -> None:
    aside = path.with_name(path.name + ".bad")
    with (
        replacing(path) as good_file,
        os.fdopen(open_regular(aside, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab") as bad_file,
    ):
        for number, _, good, wrong, cause in _judged(path, judge):
            good_file.write(good)
            if wrong.strip():
                bad_file.write(b"# line %d: %b\n%b\n" % (number, cause.encode(), wrong.removesuffix(b"\n")))
        bad_file.flush()
        os.fsync(bad_file.fileno())


def _judged(path: Path, judge: Judge) -> Iterator[tuple[int, bytes, bytes, bytes, str]]:
    """Every line as (number, the line, what is good in it, what is wrong in it, why)."""
    descriptor = open_regular(path, os.O_RDONLY)
    with as_disk_error(f"{path} could not be read"), os.fdopen(descriptor, "rb") as file:
        for number, line in _lines(file):
            yield number, line, *_divided(line, judge)


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers; one that is too long for the memory comes in pieces."""
    number = 1
    for piece in iter(partial(file.readline, MAX_LINE_BYTES), b""):
        yield number, piece
        number += piece.endswith(b"\n")


def _divided(line: bytes, judge: Judge) -> tuple[bytes, bytes, str]:
    if line.isspace():
        return line, b"", ""
    if not line.endswith(b"\n"):
        return b"", line, f"it is longer than {MAX_LINE_BYTES} bytes"
    cause = judge(line)
    if cause is None:
        return line, b"", ""
    # A line may contain whole rows after zeros, half a row or other line ends; these bytes cannot occur in JSON.
    good = [row for row in _pieces(line) if judge(row) is None]
    if not good:
        return b"", line, cause
    wrong = line
    for row in good:
        wrong = wrong.replace(row, b"", 1)
    return b"\n".join([*good, b""]), wrong if wrong.strip() else b"", "it is between complete rows"


def _pieces(line: bytes) -> Iterator[bytes]:
    """Split a line into parts that may be rows."""
    starts = [0] if line.startswith(_ROW_START) else []
    at = line.find(_ROW_START, 1)
    while at >= 0:
        if line[at - 1 : at] != b":":  # else an object within a row
            starts.append(at)
        at = line.find(_ROW_START, at + 1)
    for start, end in pairwise([*starts, len(line)]):
        yield line[start:end].strip(_BETWEEN)


def _sound_state(directory: RunDirectory) -> tuple[RunState, bool]:
    """The run's state, and whether it is a new one, since it was missing or damaged."""
    try:
        return directory.read_state(), False
    except FileNotFoundError:
        pass
    except DiskError as error:
        if error.code != "bad_state":
            raise
        with as_disk_error(f"{directory.state} could not be renamed"):
            directory.state.rename(_free_name(directory.state))
    return RunState(job=JobState(name=_job_name(directory)), batches=batches_by_files(directory)), True


def _free_name(path: Path) -> Path:
    number = 1
    while (name := path.with_name(f"{path.name}.bad{number if number > 1 else ''}")).exists():
        number += 1
    return name


def _job_name(directory: RunDirectory) -> str:
    try:
        name = tomllib.loads(read_whole(directory.job, _MOST_JOB_BYTES).decode()).get("name")
    except (OSError, DiskError, ValueError):
        return ""
    return name if isinstance(name, str) else ""
