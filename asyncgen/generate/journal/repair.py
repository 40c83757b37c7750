"""Answers that `prepare` rejected, taken out of a run so that their rows are asked for again.

Owns the order of the steps: a record stands in `replaced.jsonl`, safe from a power loss, before it leaves
`records.jsonl`, so that nothing that was paid for is ever gone. Does not judge answers, and asks for none.

Damaged files of a run mended: bad lines set aside with their numbers, everything good kept.

Owns what counts as good in each file. Nothing but `asyncgen repair` calls it, since what is set aside will be asked
for, and paid for, again.
"""

from __future__ import annotations

import os
import tomllib
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from asyncgen.errors import DiskError, UsageError
from asyncgen.generate.batch.held_keys import batches_by_files
from asyncgen.generate.journal.settled import KeySet, checked_number, key_number
from asyncgen.json_text import NotJsonError, decoder
from asyncgen.run.directory import Run, RunDirectory, locked
from asyncgen.run.jsonl import MAX_LINE_BYTES, LineFile, read_lines, read_rows
from asyncgen.run.records import Failure, Record, decode_failure, decode_record
from asyncgen.run.state import JobState, RunState, write_state
from asyncgen.run.whole_file import explained, open_regular, remove_leftovers, replacing

if TYPE_CHECKING:
    from pathlib import Path


class _Rejected(msgspec.Struct):
    key: str
    reason: str


class _Key(msgspec.Struct, gc=False):
    key: str


_decode_rejected = decoder(_Rejected)
_decode_key = decoder(_Key)


def set_rejected_aside(run: Run) -> int:
    """Move the records that `rejected.jsonl` names to `replaced.jsonl`; returns how many there were.

    `rejected.jsonl` is used up by it: given again, it would take out the new answers.

    Args:
        run: open for writing, its journal not open yet.

    Raises:
        UsageError: the run was not prepared since its rows were asked for last.
        BadLineError: a line of the run cannot be read.
        DiskError: a file could not be read or written; the run is as it was, or as it shall be.
    """
    directory = run.directory
    if not directory.rejected.exists():
        raise UsageError(
            f"{directory.path} does not say which answers were rejected",
            help_text=f"asyncgen prepare {directory.path}   (judges them), then the same command again",
        )
    moved = _move(run, read_rejected(directory.rejected))
    directory.rejected.unlink()
    return moved


def read_rejected(path: Path) -> KeySet:
    """The keys in a `rejected.jsonl` whose rows are still asked for.

    Raises:
        BadLineError: a line is not one of `prepare`'s.
        DiskError: the file cannot be read.
    """
    rejected = KeySet()
    for number, row in read_rows(path, _decode_rejected):
        if row.reason != "stale":  # nobody asks for these any more
            rejected.add_number(checked_number(path, number, row.key))
    return rejected


def _move(run: Run, rejected: KeySet) -> int:
    moved = kept = 0
    with closing(LineFile(run.directory.replaced)) as replaced, replacing(run.directory.records) as records:
        for _, line in read_lines(run.directory.records):
            whole = line.rstrip(b"\n") + b"\n"  # the last line may lack it
            if rejected.has(key_number(_decode_key(line).key)):
                replaced.append(whole)
                moved += 1
            else:
                records.write(whole)
                kept += 1
        replaced.sync()

    def count(state: RunState) -> RunState:
        spend = msgspec.structs.replace(state.spend, records=min(state.spend.records, kept))
        return msgspec.structs.replace(state, spend=spend)

    run.update(count)
    return moved


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Judge = Callable[[bytes], str | None]  # what is wrong with a line; None when nothing is

_ROW_START = b'{"key":"'
_KEY_BYTES = 16


@dataclass(frozen=True, slots=True)
class FileRepair:
    """What was done to a file.

    Attributes:
        path: the file.
        kept: good lines; all of them are still there.
        bad: numbers of the lines that were moved to `*.bad`.
        torn_bytes: size of what was moved to `*.torn`.
    """

    path: Path
    kept: int
    bad: tuple[int, ...]
    torn_bytes: int


@dataclass(frozen=True, slots=True)
class RunRepair:
    """What was done to a run: to its files, and whether `run.json` was missing or damaged, and made anew."""

    files: tuple[FileRepair, ...]
    state_made_anew: bool


def repair_run(path: Path) -> RunRepair:
    """Mend the files of the run at `path`; one without damage is not changed.

    Raises:
        UsageError: it is no run.
        RunInUseError: another process writes it.
        DiskError: a file cannot be read or written; what is there is as it was, or mended.
    """
    directory = RunDirectory(path)
    with explained(f"{path} could not be read"):
        is_run = directory.state.exists() or directory.records.exists()
    if not is_run:
        raise UsageError(f"there is no run at {path}", help_text="name a run directory", code="not_a_run")
    with locked(path):
        remove_leftovers(path)
        state, made_anew = _sound_state(directory)
        files = tuple(_repair_file(file, judge) for file, judge in _judges(directory) if file.exists())
        if made_anew or any(file.bad for file in files):
            # An empty fingerprint makes the next start count the stale rows again.
            job = msgspec.structs.replace(state.job, fingerprint={})
            write_state(directory.state, msgspec.structs.replace(state, job=job))
    return RunRepair(files, made_anew)


def _judges(directory: RunDirectory) -> tuple[tuple[Path, Callable[[], Judge]], ...]:
    return (
        (directory.records, partial(_row_judge, decode_record, once=True)),
        (directory.failures, partial(_row_judge, decode_failure, once=False)),
        (directory.events, lambda: _judge_event),
    )


def _row_judge(decode: Callable[[bytes], Record | Failure], *, once: bool) -> Judge:
    """Judge lines in the order of the file; with `once`, each key may stand in one of them."""
    seen = KeySet()

    def judge(line: bytes) -> str | None:
        try:
            key = decode(line).key
            if len(bytes.fromhex(key)) != _KEY_BYTES:
                return f"its key is not {_KEY_BYTES} bytes"
        except ValueError as error:
            return str(error)
        if once and not seen.add_number(key_number(key)):
            return f"its key {key} stands in an earlier line too"
        return None

    return judge


_decode_event = decoder(dict[str, Any])


def _judge_event(line: bytes) -> str | None:
    try:
        _decode_event(line)
    except NotJsonError as error:
        return str(error)
    return None


def _repair_file(path: Path, new_judge: Callable[[], Judge]) -> FileRepair:
    with closing(LineFile(path)) as file:
        torn_bytes = file.torn_bytes
    kept = 0
    bad: list[int] = []
    for number, good, wrong, _ in _judged(path, new_judge()):
        kept += not good.isspace() and bool(good)
        if wrong and number not in bad[-1:]:
            bad.append(number)
    if bad:
        _set_aside(path, new_judge())
    return FileRepair(path, kept, tuple(bad), torn_bytes)


def _set_aside(path: Path, judge: Judge) -> None:
    aside = path.with_name(path.name + ".bad")
    with (
        replacing(path) as good_file,
        os.fdopen(open_regular(aside, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab") as bad_file,
    ):
        for number, good, wrong, cause in _judged(path, judge):
            good_file.write(good)
            if wrong:
                bad_file.write(b"# line %d: %b\n%b\n" % (number, cause.encode(), wrong.removesuffix(b"\n")))
        bad_file.flush()
        os.fsync(bad_file.fileno())


def _judged(path: Path, judge: Judge) -> Iterator[tuple[int, bytes, bytes, str]]:
    """Every line as (number, what is good in it, what is wrong in it, why)."""
    descriptor = open_regular(path, os.O_RDONLY)
    with explained(f"{path} could not be read"), os.fdopen(descriptor, "rb") as file:
        for number, line in _lines(file):
            good, wrong, cause = _divided(line, judge)
            yield number, good, wrong, cause


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
    # A whole row may stand behind zeros or behind half a row; inside a JSON text these bytes cannot occur.
    start = line.rfind(_ROW_START)
    if start > 0 and judge(line[start:]) is None:
        return line[start:], line[:start], "it stands before a whole row"
    return b"", line, cause


def _sound_state(directory: RunDirectory) -> tuple[RunState, bool]:
    """The run's state, and whether it is a new one, since it was missing or damaged."""
    try:
        return directory.read_state(), False
    except FileNotFoundError:
        pass
    except DiskError as error:
        if error.code != "bad_state":
            raise
        with explained(f"{directory.state} could not be renamed"):
            directory.state.rename(_free_name(directory.state))
    return RunState(job=JobState(name=_job_name(directory)), batches=batches_by_files(directory)), True


def _free_name(path: Path) -> Path:
    number = 1
    while (name := path.with_name(f"{path.name}.bad{number if number > 1 else ''}")).exists():
        number += 1
    return name


def _job_name(directory: RunDirectory) -> str:
    try:
        name = tomllib.loads(directory.job.read_text(encoding="utf-8")).get("name")
    except (OSError, ValueError):
        return ""
    return name if isinstance(name, str) else ""
