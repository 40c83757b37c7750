"""Match the rows of a run with the job as it is now.

The key alone decides. A record's variables are those of the job at that time. If axes were renamed, merged, or added
without being used in a prompt, the request may still be one of the job's; its variables are then taken from the job as
it is now. The search in the grid itself is left to `requests`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from asyncgen.json_text import decoder
from asyncgen.run.jsonl import rows_in

if TYPE_CHECKING:
    from asyncgen.job.requests import RequestGrid
    from asyncgen.run.directory import RunDirectory
    from asyncgen.run.state import JobState


class _Row(msgspec.Struct, gc=False):
    key: str
    variables: dict[str, str]
    repeat: int


_decode_row = decoder(_Row)


def needs_matching(job: JobState, grid: RequestGrid) -> bool:
    """Check whether a run may contain rows of an earlier version of the job.

    Args:
        job: as noted in the run.
        grid: requests of the job as it is now.

    Returns:
        Whether rows have to be looked up by `match_rows`.
    """
    return bool(job.stale or job.renamed) or job.fingerprint != grid.fingerprint


def count_twins(grid: RequestGrid, is_settled: Callable[[bytes], bool]) -> int:
    """Count the rows of a job that share the answer of another row; see `RequestGrid.twins`.

    Args:
        grid: requests of the job.
        is_settled: whether the request with a key has an answer.

    Returns:
        The number of such rows.
    """
    return sum(len(rows) for key, rows in grid.twins().items() if is_settled(key))


def match_rows(directory: RunDirectory, grid: RequestGrid) -> None:
    """Find the run's rows that have other variables than the present job, so that `grid.match` knows them.

    Args:
        directory: of the run.
        grid: requests of the job as it is now.

    Raises:
        BadLineError: a line is not a record or failure.
        DiskError: a file cannot be read.
    """
    others: set[bytes] = set()
    for row in rows_in([*directory.record_files(), *directory.failure_files()], _decode_row):
        key = grid.key_of(row.variables, row.repeat)
        if key is None or key.hex() != row.key:
            others.add(bytes.fromhex(row.key))
    grid.index_keys(others)
