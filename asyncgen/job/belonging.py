"""Which rows of a run belong to the job as it is now: decided by request key alone.

A record's variables are those of the job at that time. If axes were renamed, merged, or added without being used in a
prompt, the request may still be one of the job's; its variables are then taken from the job as it is now. Finds these
rows in one pass over the files, for everything that judges or counts rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from asyncgen.json_text import decoder
from asyncgen.run.jsonl import rows_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncgen.job.requests import RequestGrid
    from asyncgen.run.directory import RunDirectory
    from asyncgen.run.state import JobState


class _Row(msgspec.Struct, gc=False):
    key: str
    variables: dict[str, str]
    repeat: int


_decode_row = decoder(_Row)


def may_be_foreign(job: JobState, grid: RequestGrid) -> bool:
    """True if the run may contain rows of an earlier version of the job; if not, no row has to be looked up."""
    return bool(job.stale or job.renamed) or job.fingerprint != grid.fingerprint


def count_twins(grid: RequestGrid, is_settled: Callable[[bytes], bool]) -> int:
    """How many rows of a job share the answer of another row; see `RequestGrid.twins`.

    Args:
        grid: the job's rows.
        is_settled: True if the request of a key has an answer.
    """
    return sum(len(rows) for key, rows in grid.twins().items() if is_settled(key))


def recognise_rows(directory: RunDirectory, grid: RequestGrid) -> None:
    """Find the run's rows that have other variables than the present job, for `grid.own`.

    Raises:
        BadLineError: a line is not a record or failure.
        DiskError: a file cannot be read.
    """
    foreign: set[bytes] = set()
    for row in rows_in([*directory.record_files(), *directory.failure_files()], _decode_row):
        key = grid.key_of(row.variables, row.repeat)
        if key is None or key.hex() != row.key:
            foreign.add(bytes.fromhex(row.key))
    grid.recognise(foreign)
