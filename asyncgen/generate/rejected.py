"""Answers that `prepare` rejected, taken out of a run so that their rows are asked for again.

Owns the order of the steps: a record stands in `replaced.jsonl`, safe from a power loss, before it leaves
`records.jsonl`, so that nothing that was paid for is ever gone. Does not judge answers, and asks for none.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import msgspec

from asyncgen.errors import UsageError
from asyncgen.generate.key_set import KeySet
from asyncgen.generate.settled import checked_number, key_number
from asyncgen.json_text import decoder
from asyncgen.jsonl import LineFile, read_lines, read_rows
from asyncgen.run_directory import Run
from asyncgen.run_state import RunState
from asyncgen.whole_file import replacing

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
