"""Count the stale rows of a run: settled and paid for, but no longer in the job after it was edited.

Also names what changed in the job. Whether to go on is left to the session, which asks the user.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from asyncgen.generate.journal.settled import key_number
from asyncgen.job.row_matching import match_rows
from asyncgen.json_text import decoder
from asyncgen.run.jsonl import read_rows
from asyncgen.run.key_set import KeySet
from asyncgen.run.whole_file import make_safe

if TYPE_CHECKING:
    from pathlib import Path

    from asyncgen.job.requests import RequestGrid
    from asyncgen.run.directory import RunWriter
    from asyncgen.run.state import RunState


@dataclass(frozen=True, slots=True)
class Stale:
    """The stale rows of a run.

    Attributes:
        records: records that are no longer in the job; they stay in the file and out of the dataset.
        failures: failures that are no longer in the job, without a later record.
        more: of `records`, those that were not accepted in an earlier invocation.
        changed: names of the parts of the job that changed.
        renamed: records that are in the job, under variables of an earlier version of it.
    """

    records: int
    failures: int
    more: int
    changed: tuple[str, ...]
    renamed: int = 0


class _Row(msgspec.Struct, frozen=True, gc=False):
    key: str
    variables: dict[str, str]
    repeat: int


_decode_row = decoder(_Row)


def find_stale(run: RunWriter, grid: RequestGrid) -> Stale:
    """Compare the run's rows with the present job; reads the files only if the job changed.

    Args:
        run: open for writing.
        grid: the present job's requests.

    Raises:
        BadLineError: a line is not a record or failure.
        DiskError: a file cannot be read.
    """
    job = run.state.job
    changed = changed_parts(job.fingerprint, grid.fingerprint)
    if not changed:
        return Stale(job.stale, job.stale_failures, 0, (), job.renamed)
    for path in (run.directory.records, run.directory.failures):
        make_safe(path)  # run.json will keep this count, so the rows must be synced first
    match_rows(run.directory, grid)
    left_behind = KeySet()
    records, renamed = _add_stale(left_behind, run.directory.records, grid)
    failures, _ = _add_stale(left_behind, run.directory.failures, grid)
    return Stale(records, failures, max(records - job.stale, 0), changed, renamed)


def accept_stale(run: RunWriter, grid: RequestGrid, stale: Stale) -> None:
    """Save in `run.json` that the run is now of the present job, with these stale rows.

    The number of duplicate requests is unknown for a changed job until all of it was enumerated.

    Raises:
        DiskError: it cannot be written.
    """

    def change(state: RunState) -> RunState:
        job = msgspec.structs.replace(
            state.job,
            fingerprint=grid.fingerprint,
            stale=stale.records,
            stale_failures=stale.failures,
            renamed=stale.renamed,
            twins=0 if stale.changed else state.job.twins,
        )
        return msgspec.structs.replace(state, job=job)

    run.update(change)


def changed_parts(before: dict[str, str], now: dict[str, str]) -> tuple[str, ...]:
    """The names under which two fingerprints differ, sorted; added and removed ones too."""
    return tuple(sorted(name for name in before | now if before.get(name) != now.get(name)))


def _add_stale(left_behind: KeySet, path: Path, grid: RequestGrid) -> tuple[int, int]:
    """Add the keys in a file that the grid does not contain; returns the numbers of new keys and of renamed ones."""
    before, renamed = len(left_behind), 0
    for _, row in read_rows(path, _decode_row):
        matched = grid.match(row)
        if matched is None:
            left_behind.add_number(key_number(row.key))
        else:
            renamed += matched.variables != row.variables
    return len(left_behind) - before, renamed
