"""A run on disk, for reading: its records, failures, counts and report, while it is written and afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncgen.dataset.samples import is_stale, may_be_stale
from asyncgen.errors import UsageError
from asyncgen.generate.journal.run_status import RunStatus, run_status
from asyncgen.generate.session import RUNS
from asyncgen.job.of_run import job_of_run
from asyncgen.run.directory import RunDirectory, find_run
from asyncgen.run.jsonl import rows_in
from asyncgen.run.records import Failure, Record, decode_failure, decode_record

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    import pandas as pd

    from asyncgen.dataset.report.collect import Report


class Run:
    """A run directory; lazy: every call reads the files as they are now, and takes no lock.

    Args:
        path: of the directory.

    Attributes:
        path: of the directory.

    Example:
        >>> run = open_run("runs/direct-marketing")  # doctest: +SKIP
        >>> len(run), next(run.records()).completion  # doctest: +SKIP
        (162, 'One tap is enough ...')
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._directory = RunDirectory(path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def __len__(self) -> int:
        """Rows of the job that have an answer."""
        return self.status().done

    def __iter__(self) -> Iterator[Record]:
        return self.records()

    def records(self, *, stale: bool = False) -> Iterator[Record]:
        """The settled answers, in the order in which they came.

        Args:
            stale: also those that the job, as it was run last, no longer asks for.

        Raises:
            BadLineError: a line is no record; `asyncgen repair` sets it aside.
            DiskError: the file cannot be read.
        """
        grid = None
        if not stale and self._directory.job.exists():
            opened = job_of_run(self._directory)
            grid = opened.grid if may_be_stale(self._directory.read_state().job, opened.grid) else None
        for record in rows_in(self._directory.record_files(), decode_record):
            if grid is None or not is_stale(record, grid):
                yield record

    def failures(self) -> Iterator[Failure]:
        """The requests given up on, with reason and attempts; errors as `records`."""
        settled = {record.key for record in self.records(stale=True)}
        for failure in rows_in(self._directory.failure_files(), decode_failure):
            if failure.key not in settled:
                yield failure

    def status(self) -> RunStatus:
        """How far the run is.

        Raises:
            BadLineError: a line cannot be read.
            DiskError: a file is damaged.
        """
        return run_status(self._directory)

    def report(self) -> Report:
        """Coverage, lengths, duplicates, diversity and what fails the checks; as `asyncgen report`.

        Raises:
            UsageError: the run keeps no job.
            BadLineError, DiskError: as `status`.
        """
        from asyncgen.dataset.report.collect import make_report  # noqa: PLC0415 - costs time

        opened = job_of_run(self._directory)
        return make_report(self._directory, opened.job, opened.grid)

    def to_pandas(self) -> pd.DataFrame:
        """A data frame with a row for each record: the variables, `prompt`, `completion`, and what is known of each.

        Raises:
            UsageError: pandas is not installed.
        """
        try:
            import pandas as pd  # noqa: PLC0415 - not a dependency
        except ImportError as error:
            raise UsageError("to_pandas needs pandas", help_text="pip install pandas", code="no_extra") from error
        return pd.DataFrame([_flat(record) for record in self.records()])


def _flat(record: Record) -> dict[str, Any]:
    """A record without nested parts: variables as columns of their own, the record's own fields after them."""
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
    """A run for reading.

    Args:
        path: the run directory; None for the newest one under `runs/`.

    Raises:
        UsageError: there is none.

    Example:
        >>> open_run("runs/campaign").status().left  # doctest: +SKIP
        0
    """
    return Run(find_run(Path(path) if path is not None else None, root=RUNS).path)
