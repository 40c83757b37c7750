"""Divide the open rows of a run into shards: the plan, in `shards.json`, and how far each shard is.

Rows are divided by their keys, so that every process computes the same division without a list of rows. The number and
digest of the open keys tell whether a process sees the same rows as the one that made the plan. The status of a shard
only reads, and needs no lock. Running a shard is left to `shards`.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import msgspec

from asyncgen.errors import DiskError, UsageError, command_line
from asyncgen.generate.journal.settled import read_settled
from asyncgen.generate.live_file import read_live
from asyncgen.json_text import NotJsonError, decoder
from asyncgen.run.directory import RunDirectory
from asyncgen.run.key_set import KeySet, number_of
from asyncgen.run.lock import is_held
from asyncgen.run.whole_file import read_whole, replacing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from asyncgen.job.requests import RequestGrid

    Ended = Callable[[RunDirectory], tuple[int, int]]


MOST_SHARDS = 100_000
_MOST_BYTES = 64 * 1024 * 1024
_STRAGGLES = 2.0  # times as long as half of the shards need at most


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` parts of what a run has left; `index` counts from 0."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def part(self) -> str:
        """Ends the names of its files."""
        return f"-{self.index}-of-{self.count}"

    def directory(self, run: RunDirectory) -> RunDirectory:
        """Its own files in the directory of the run."""
        return RunDirectory(run.path, self.part)


def parse_shard(text: str, environ: Mapping[str, str] = os.environ) -> Shard:
    """Parse the value of --shard.

    Args:
        text: `I/N`; `/N` takes the number from the job array or indexed job; "" takes both from the job array.
        environ: SLURM_ARRAY_TASK_ID with _COUNT, _MIN and _MAX, or JOB_COMPLETION_INDEX.

    Returns:
        The shard.

    Raises:
        UsageError: it is not a shard, or the environment lacks what is missing.
    """
    index, slash, count = text.strip().rpartition("/")
    if (text.strip() and not slash) or not all(part.isdecimal() for part in (index, count) if part):
        raise _no_shard(f"--shard {text!r} is not I/N")
    index = index or environ.get("SLURM_ARRAY_TASK_ID") or environ.get("JOB_COMPLETION_INDEX") or ""
    if not index.isdecimal():
        raise _no_shard("this process is not part of a job array (SLURM_ARRAY_TASK_ID, JOB_COMPLETION_INDEX)")
    shard = Shard(int(index), int(count or _count_of_array(environ)))
    if not 0 <= shard.index < shard.count <= MOST_SHARDS:
        raise _no_shard(f"there is no shard {shard}: shards are numbered from 0/{shard.count} to "
                        f"{shard.count - 1}/{shard.count}")  # fmt: skip
    return shard


def _count_of_array(environ: Mapping[str, str]) -> str:
    """The size of a Slurm array whose tasks are numbered from 0; a part of one would leave rows to nobody."""
    count = environ.get("SLURM_ARRAY_TASK_COUNT", "")
    if not count.isdecimal():
        raise _no_shard("the number of shards is not in the environment (SLURM_ARRAY_TASK_COUNT)")
    first, last = environ.get("SLURM_ARRAY_TASK_MIN", "0"), environ.get("SLURM_ARRAY_TASK_MAX", str(int(count) - 1))
    if (first, last) != ("0", str(int(count) - 1)):
        raise _no_shard(f"the tasks of this array are numbered {first} to {last}, but there are {count}")
    return count


def _no_shard(what: str) -> UsageError:
    return UsageError(what, help_text="use --shard I/N, such as --shard 0/4 to --shard 3/4", code="no_shard")


class ShardPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of `shards.json`.

    Attributes:
        generation: 1 for the run's first plan; every other one is new.
        shards: how many.
        rows: of the job that had no answer when the plan was made.
        rows_of: of them, those of each shard.
        digest: of their keys, in the order of the job.
        job: a digest of the job that they are rows of.
        made: Unix seconds.
        merged: the shards were merged; the next one makes a new plan.
    """

    generation: int
    shards: int
    rows: int
    rows_of: list[int]
    digest: str
    job: str
    made: int
    merged: bool = False


_decode_plan = decoder(ShardPlan)


def read_plan(directory: RunDirectory) -> ShardPlan | None:
    """The plan of a run as it stands; None where there is none.

    Raises:
        DiskError: it cannot be read, or is damaged.
    """
    try:
        return _decode_plan(read_whole(directory.plan, _MOST_BYTES))
    except FileNotFoundError:
        return None
    except NotJsonError as error:
        raise DiskError(
            f"{directory.plan} is damaged or was not written by asyncgen",
            cause=str(error),
            help_text=f"{command_line('merge', directory.path)}   (merges the shards; the next shard creates a new "
            "plan)",
            code="bad_plan",
        ) from error


def write_plan(directory: RunDirectory, plan: ShardPlan) -> None:
    """Put the plan in the place of the last one; the caller holds the run's lock.

    Raises:
        DiskError: it could not be written.
    """
    with replacing(directory.plan) as file:
        file.write(msgspec.json.format(msgspec.json.encode(plan), indent=2) + b"\n")


@dataclass(frozen=True, slots=True)
class OpenRows:
    """The rows of a job without an answer.

    Attributes:
        rows_of: those of each shard.
        failed_of: of them, those that were given up on.
        digest: of their keys.
        found: rows that have an answer, such included that share it with another row.
    """

    rows_of: list[int]
    failed_of: list[int]
    digest: str
    found: int


def missing_rows(grid: RequestGrid, shards: int, settled: KeySet, failed: KeySet) -> OpenRows:
    """Count the open rows of each shard, in one pass over the job.

    Args:
        grid: the job's rows.
        shards: how many there are.
        settled: keys with an answer.
        failed: keys that were given up on.
    """
    rows_of, failed_of, digest = [0] * shards, [0] * shards, blake2b(digest_size=16)

    def count(key: bytes) -> bool:
        number = number_of(key)
        if not settled.has(number):
            digest.update(key)
            rows_of[number % shards] += 1
            failed_of[number % shards] += failed.has(number)
        return False

    rows = sum(passed for passed in grid.walk(count) if isinstance(passed, int))
    return OpenRows(rows_of, failed_of, digest.hexdigest(), rows - sum(rows_of))


def new_plan(grid: RequestGrid, missing: OpenRows, before: ShardPlan | None) -> ShardPlan:
    """The plan after another one."""
    return ShardPlan(
        generation=before.generation + 1 if before else 1,
        shards=len(missing.rows_of),
        rows=sum(missing.rows_of),
        rows_of=missing.rows_of,
        digest=missing.digest,
        job=digest_of_job(grid),
        made=int(time.time()),
    )


def digest_of_job(grid: RequestGrid) -> str:
    """Tells whether two processes read the same job."""
    return blake2b(msgspec.json.encode(sorted(grid.fingerprint.items())), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """A shard at one moment.

    Attributes:
        shard: number of the shard.
        rows: rows that it began with.
        done: of them, rows that have an answer.
        failed: of them, rows given up on.
        is_running: whether a process works on it.
        per_second: rows finished per second; None if no process works on it.
        eta_s: seconds until its end; 0 if it is done, infinite if no process works on it.
        is_straggler: whether it needs more than twice the median.
    """

    shard: Shard
    rows: int
    done: int
    failed: int
    is_running: bool
    per_second: float | None
    eta_s: float
    is_straggler: bool = False

    @property
    def left(self) -> int:
        """Rows still to be asked for."""
        return max(self.rows - self.done - self.failed, 0)

    def as_json(self) -> dict[str, Any]:
        """The shard in the answers of `status --json` and of the page."""
        return {
            "shard": str(self.shard),
            "rows": self.rows,
            "done": self.done,
            "failed": self.failed,
            "left": self.left,
            "running": self.is_running,
            "per_second": self.per_second,
            "straggler": self.is_straggler,
        }


def shard_statuses(directory: RunDirectory, ended: Ended | None = None) -> tuple[ShardStatus, ...]:
    """Read the status of every shard in the run's plan, including shards that were never begun.

    Args:
        directory: of the run.
        ended: counts the rows of a shard that have an answer and that were given up on; None to read its files.

    Returns:
        The shards, in order; empty if nothing is left to merge.

    Raises:
        BadLineError: a line is not a record or failure.
        DiskError: a file cannot be read.
    """
    plan = read_plan(directory)
    if plan is None or plan.merged:
        return ()
    ended = ended or _read_ended
    found = [_status(directory, plan, Shard(index, plan.shards), ended) for index in range(plan.shards)]
    usual_s = sorted(each.eta_s for each in found)[(len(found) - 1) // 2]  # `statistics` is slow to import
    return tuple(replace(each, is_straggler=each.eta_s > _STRAGGLES * usual_s) for each in found)


def slowest_first(shards: Sequence[ShardStatus], most: int) -> list[ShardStatus]:
    """Choose the shards to show: those that delay the others first, then those that are not done.

    Args:
        shards: all shards.
        most: maximum number to show.

    Returns:
        The chosen shards, in order.
    """
    shown = sorted(shards, key=lambda each: (not each.is_straggler, not each.left, each.shard.index))
    return sorted(shown[:most], key=lambda each: each.shard.index)


def _read_ended(directory: RunDirectory) -> tuple[int, int]:
    keys = read_settled(directory)
    return len(keys.settled), len(keys.failed)


def _status(run: RunDirectory, plan: ShardPlan, shard: Shard, ended: Ended) -> ShardStatus:
    directory = shard.directory(run)
    rows, (done, failed) = plan.rows_of[shard.index], ended(directory)
    twins = directory.read_state().job.twins if directory.state.exists() else 0
    live = read_live(directory.path, name=directory.live.name)
    is_running = is_held(directory.path, directory.lock_name)
    left = max(rows - done - failed - twins, 0)
    eta_s = 0.0 if not left else math.inf
    if left and live is not None and live.per_second > 0:
        eta_s = left / live.per_second
    return ShardStatus(shard, rows, done + twins, failed, is_running, live.per_second if live else None, eta_s)
