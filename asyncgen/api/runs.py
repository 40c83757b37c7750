"""A run on disk, for reading: its records, failures, counts and report, while it is written and afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncgen.dataset.samples import is_stale, may_be_stale
from asyncgen.errors import UsageError
from asyncgen.generate.journal.run_status import RunStatus, run_status
from asyncgen.generate.session import RUNS
from asyncgen.job.opened import job_of_run
from asyncgen.run.directory import RunDirectory, find_run
from asyncgen.run.jsonl import rows_in
from asyncgen.run.records import Failure, Record, decode_failure, decode_record

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    import pandas as pd

    from asyncgen.dataset.report.collect import Report


class Run:
    """A run directory, opened for reading.

    Every call reads the files as they are now, without a lock, so a run can be read while another process writes it.
    `len(run)` is the number of rows that have an answer; iterating yields the records.

    Args:
        path: the run directory.

    Attributes:
        path: the run directory.

    Example:
        >>> run = open_run("runs/campaign")
        >>> len(run), [record.variables["city"] for record in run][:3]
        (12, ['Bonn', 'Oslo', 'Rome'])
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._directory = RunDirectory(path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def __len__(self) -> int:
        """Number of rows of the job that have an answer."""
        return self.status().done

    def __iter__(self) -> Iterator[Record]:
        return self.records()

    def records(self, *, stale: bool = False) -> Iterator[Record]:
        """Read the settled answers, in the order in which they arrived.

        Args:
            stale: include answers that the job, as it was run last, no longer asks for.

        Yields:
            Each record.

        Raises:
            BadLineError: a line is not a record; `asyncgen repair` sets it aside.
            DiskError: the file cannot be read.

        Example:
            >>> next(open_run("runs/campaign").records()).prompt
            'bakery, Bonn'
        """
        grid = None
        if not stale and self._directory.job.exists():
            opened = job_of_run(self._directory)
            grid = opened.grid if may_be_stale(self._directory.read_state().job, opened.grid) else None
        for record in rows_in(self._directory.record_files(), decode_record):
            if grid is None or not is_stale(record, grid):
                yield record

    def failures(self) -> Iterator[Failure]:
        """Read the requests that were given up on and have no answer since.

        Yields:
            Each failure, with its error and the number of attempts.

        Raises:
            BadLineError: a line is not a failure; `asyncgen repair` sets it aside.
            DiskError: the file cannot be read.

        Example:
            >>> list(open_run("runs/campaign").failures())
            []
        """
        settled = {record.key for record in self.records(stale=True)}
        for failure in rows_in(self._directory.failure_files(), decode_failure):
            if failure.key not in settled:
                yield failure

    def status(self) -> RunStatus:
        """Count the rows of the run, and read its spend and fine-tuning jobs.

        Raises:
            BadLineError: a line cannot be read.
            DiskError: a file is damaged.

        Example:
            >>> status = open_run("runs/campaign").status()
            >>> status.done, status.failed, status.left
            (12, 0, 0)
        """
        return run_status(self._directory)

    def report(self) -> Report:
        """Measure the answers: coverage, lengths, duplicates, diversity and failed checks, as `asyncgen report` does.

        Raises:
            UsageError: the run directory has no job file.
            BadLineError: a line cannot be read.
            DiskError: a file is damaged.

        Example:
            >>> open_run("runs/campaign").report().duplicates
            0
        """
        from asyncgen.dataset.report.collect import make_report  # noqa: PLC0415 - costs time

        opened = job_of_run(self._directory)
        return make_report(self._directory, opened.job, opened.grid)

    def to_pandas(self) -> pd.DataFrame:
        """Make a data frame with one row per record.

        Columns are the variables, `prompt`, `completion`, `model`, `finish_reason`, `check_failures`, `tokens_in`,
        `tokens_out`, `attempts`, `latency_s`, `repeat` and `key`.

        Raises:
            UsageError: pandas is not installed.
        """
        try:
            import pandas as pd  # noqa: PLC0415 - not a dependency
        except ImportError as error:
            raise UsageError("to_pandas needs pandas", help_text="pip install pandas", code="no_extra") from error
        return pd.DataFrame([_flat(record) for record in self.records()])


def _flat(record: Record) -> dict[str, Any]:
    """A record without nested parts: the variables as columns, then the record's fields."""
    usage = record.usage
    return {
        **record.variables,
        "prompt": record.prompt,
        "completion": record.completion,
        "model": record.model,
        "finish_reason": record.finish_reason,
        "check_failures": ", ".join(record.check_failures),
        "tokens_in": usage.prompt_tokens,
        "tokens_out": usage.completion_tokens,
        "attempts": record.attempts,
        "latency_s": record.latency_s,
        "repeat": record.repeat,
        "key": record.key,
    }


def open_run(path: str | os.PathLike[str] | None = None) -> Run:
    """Open a run for reading.

    Args:
        path: the run directory, or the job file that made it; None for the newest run under `runs/`.

    Returns:
        The run. Nothing has been read from its files yet.

    Raises:
        UsageError: there is no such run.

    Example:
        >>> open_run("runs/campaign").status().left
        0
    """
    return Run(find_run(Path(path) if path is not None else None, root=RUNS).path)
