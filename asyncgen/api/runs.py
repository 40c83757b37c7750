"""A job loaded for the providers that answer and tune, what it would send, and its run on disk.

A run is read here: records, failures, counts and report, while it is written and afterwards.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncgen.dataset.samples import is_stale, may_be_stale
from asyncgen.errors import UsageError
from asyncgen.generate.journal.run_status import RunStatus, run_status
from asyncgen.generate.plan.plan import Plan, PlanTarget, make_plan, tuners_within_reach
from asyncgen.generate.plan.request_tokens import measure_run
from asyncgen.generate.session import RUNS
from asyncgen.job.opened import OpenedJob, job_of_run, open_named_job
from asyncgen.providers.choose import EndpointFlags, named_address
from asyncgen.providers.user_files import load_price_list
from asyncgen.run.directory import RunDirectory, find_run
from asyncgen.run.jsonl import rows_in
from asyncgen.run.records import Failure, Record, decode_failure, decode_record

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from asyncgen.dataset.report.collect import Report
    from asyncgen.providers.profiles import ProviderChoice


@dataclass(frozen=True, slots=True)
class LoadedJob:
    """A job file, read and checked, with the providers that answer and tune. Made by `load_job`.

    `len(job)` is the number of requests, repeats included.

    Attributes:
        opened: the job with the overlays of these providers applied, and its requests.
        generation: the provider that answers, and why it was chosen.
        tuning: the provider that tunes, and why it was chosen.
        where: the address, model and key file that the caller passed.

    Example:
        >>> job = load_job("campaign.toml", provider="local")
        >>> job.name, job.model, len(job)
        ('campaign', 'smollm2-135m-instruct', 12)
    """

    opened: OpenedJob
    generation: ProviderChoice
    tuning: ProviderChoice
    where: EndpointFlags

    @property
    def name(self) -> str:
        """The job's name. Its run directory is `runs/<name>`."""
        return self.opened.job.name

    @property
    def model(self) -> str:
        """The model that requests are sent to."""
        return self.opened.model

    def __len__(self) -> int:
        """Number of requests, repeats included."""
        return self.opened.grid.count


def load_job(
    path: str | os.PathLike[str] | None = None,
    *,
    provider: str | None = None,
    base_url: str | None = None,
    model: str | None = None,
    api_key_file: str | os.PathLike[str] | None = None,
    finetune_provider: str | None = None,
) -> LoadedJob:
    """Read a job file and choose the providers.

    Sends nothing, and needs no API key.

    Args:
        path: the job file (TOML); None for the built-in campaign.
        provider: name of the provider that answers; None for the job's, else the first one whose API key is in the
            environment, else `local`.
        base_url: address of an OpenAI-compatible API, including `/v1`; None for the provider's.
        model: model to ask; None for the job's, else the provider's default.
        api_key_file: file with the API key; None to read the provider's environment variable.
        finetune_provider: name of the provider that tunes; None for the job's.

    Returns:
        The job, ready for `plan`, `preview`, `generate` and `stream`.

    Raises:
        JobFileError: the file has mistakes; `problems` lists all of them.
        UsageError: the provider is unknown, or it has no default model and none was passed.

    Example:
        >>> job = load_job(provider="local")
        >>> job.name, len(job)
        ('direct-marketing', 162)
    """
    where = EndpointFlags(provider, base_url, model, Path(api_key_file) if api_key_file is not None else None)
    opened, generation, tuning = open_named_job(
        Path(path) if path is not None else None, where, finetune_provider=finetune_provider
    )
    return LoadedJob(opened, generation, tuning, where)


def plan(job: LoadedJob | str | os.PathLike[str], *, out: str | os.PathLike[str] | None = None) -> Plan:
    """Estimate what a job would send, cost and take, without sending anything.

    Args:
        job: a loaded job, or the path of a job file.
        out: the run directory, whose answers are not asked for again; None for `runs/<job name>`.

    Returns:
        Requests that are left, tokens, cost in USD, time in seconds, and whether each later stage can be done.

    Raises:
        JobFileError: the file has mistakes.
        DiskError: the run directory cannot be read.

    Example:
        >>> plan(load_job(provider="local"), out="new-run").left
        162
    """
    loaded = loaded_job(job)
    opened = loaded.opened
    there = measure_run(RunDirectory(Path(out) if out is not None else RUNS / loaded.name), opened.grid)
    generation = loaded.generation.profile
    place = PlanTarget(
        generation,
        named_address(generation, loaded.where),
        opened.model,
        loaded.tuning.profile,
        tuners_within_reach(opened.file.profiles),
        lambda name: opened.file.job(generation.name, name),
    )
    prices = load_price_list(opened.file.path and opened.file.folder, os.environ)
    return make_plan(opened.job, opened.grid, there, place, prices)


def loaded_job(job: LoadedJob | str | os.PathLike[str]) -> LoadedJob:
    """Return the job if it is loaded, or load it from its path.

    Args:
        job: a loaded job, or the path of a job file.

    Raises:
        JobFileError: the file has mistakes.
    """
    return job if isinstance(job, LoadedJob) else load_job(job)


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
