"""Open a job for the chosen providers; keep it in a run's directory, and open it again from there.

Keeps `job.toml` and everything needed to make the same requests again. Also remarks on a valid job that may not do what
its author means; they stop nothing, `plan` and `generate` print them.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from asyncgen.errors import UsageError, command_line
from asyncgen.job.load import JobFile, open_grid, read_job_file, saved_job_file, with_max_tokens
from asyncgen.job.row_matching import match_rows, needs_matching
from asyncgen.job.rules import provider_remarks
from asyncgen.job.template import ANSWER, template_variables
from asyncgen.providers.choose import EndpointFlags, choose_generation, choose_tuning, named_profile, requested_model
from asyncgen.run.whole_file import read_whole, replacing
from asyncgen.text_files import LONGEST_LINE_BYTES, read_input

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncgen.job.model import Job
    from asyncgen.job.requests import RequestGrid
    from asyncgen.providers.profiles import Profile, ProviderChoice
    from asyncgen.run.directory import RunDirectory, RunWriter
    from asyncgen.run.state import JobState, RunState

_PLACE_FLAGS = frozenset({"--provider", "--base-url", "--model", "--api-key-file"})


def remarks_on(job: Job, grid: RequestGrid, profile: Profile, model: str) -> Iterator[str]:
    """Find what is valid in a job but may not do what its author means.

    Args:
        job: with the overlays of the chosen providers.
        grid: its requests.
        profile: of the provider that answers.
        model: the model that is asked.

    Yields:
        Remarks for the user, one sentence each.
    """
    yield from _unnamed(job, grid)
    if grid.answer_is_variable:
        yield "{answer} in prompt.sample is your variable `answer`; rename the variable to use the model's answer"
    elif ANSWER in grid.sample.names and grid.target.names == (ANSWER,) and not job.answer.each:
        yield (
            "prompt.sample contains the answer, and prompt.target is the answer, too, so the model learns nothing; "
            "set another target, or use a variable"
        )
    if job.subset and job.subset.exclude and not grid.excluded:
        yield "subset.exclude has no effect: no combination matches all values of an entry"
    yield from provider_remarks(job, profile, model)


def _unnamed(job: Job, grid: RequestGrid) -> Iterator[str]:
    """Axes and rows that no prompt uses."""
    asked = template_variables(job).asked
    templates = [job.prompt.user, job.prompt.system or "", *job.prompt.openings]
    for name in job.grid:
        if name in asked:
            continue
        values = len(grid.values_of(name, _COUNTED))
        if values < 2:  # noqa: PLR2004 - a single value has nothing to be told apart from
            continue
        count = f"{values:,}" if values < _COUNTED else "many"
        doubled = re.compile(r"\{\{\s*" + re.escape(name) + r"\s*\}\}")
        some = any(f"{{{name}}}" in opening for opening in job.prompt.openings)
        where = "only in some of prompt.openings" if some else "in no prompt"
        hint = ""
        if any(doubled.search(template) for template in templates):
            hint = f"; write {{{name}}} with single braces: double braces are literal"
        yield f"grid.{name} is used {where}: its {count} values give the same requests{hint}"
    columns = set(grid.names) - set(job.grid)
    if job.rows is not None and not asked & columns:
        yield "rows: no prompt uses a column, so all rows give the same request"


_COUNTED = 1_000_000


_MOST_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class OpenedJob:
    """A job with the overlays of the chosen providers, and its requests.

    Attributes:
        file: the job file.
        job: the job.
        grid: its requests.
        generation: name of the provider that answers.
        tuning: name of the provider that tunes.
        model: the model that answers.
        remarks: sentences for the user about the job.
    """

    file: JobFile
    job: Job
    grid: RequestGrid
    generation: str
    tuning: str
    model: str
    remarks: tuple[str, ...] = ()


def open_job(file: JobFile, *, generation: str, tuning: str, model: str) -> OpenedJob:
    """Apply the overlays of these providers, and open the grid.

    Args:
        file: the job file.
        generation: name of the provider that answers.
        tuning: name of the provider that tunes.
        model: the model to ask.

    Returns:
        The job and its requests.

    Raises:
        JobFileError: as `open_grid`.
    """
    job = file.job(generation, tuning)
    grid = open_grid(file, job, named_profile(generation, file.profiles), model)
    profile = named_profile(generation, file.profiles)
    found = remarks_on(with_max_tokens(job, profile), grid, profile, model)
    remarks = tuple(dict.fromkeys([*file.sources.remarks, *found]))
    return OpenedJob(file, job, grid, generation, tuning, model, remarks)


def open_named_job(
    path: Path | None, where: EndpointFlags, *, finetune_provider: str | None = None
) -> tuple[OpenedJob, ProviderChoice, ProviderChoice]:
    """Read a job, choose the providers, and open its grid.

    Args:
        path: the job file; None for the built-in one.
        where: the flags of the generation stage.
        finetune_provider: name of the provider that tunes; None for the job's.

    Returns:
        The job, the provider that answers, and the provider that tunes.

    Raises:
        JobFileError: the file has mistakes.
        UsageError: the provider is unknown, or has no default model and none was named.
    """
    file = read_job_file(path)
    generation = choose_generation(where, file.generation_provider, os.environ, file.profiles)
    tuning = choose_tuning(generation, finetune_provider, file.tuning_provider, file.profiles)
    with_overlays = file.job(generation.profile.name, tuning.profile.name)
    model = requested_model(generation.profile, where.model or with_overlays.generate.model)
    opened = open_job(file, generation=generation.profile.name, tuning=tuning.profile.name, model=model)
    return opened, generation, tuning


def keep_job(run: RunWriter, opened: OpenedJob, *, command: str = "") -> None:
    """Save the job in the run, so that later commands make the same requests and samples.

    The counts of stale rows and the fingerprint are left to the journal, which compares with them.

    Args:
        run: open for writing.
        opened: the job.
        command: the command that resumes the run; "" to keep the one that is noted.

    Raises:
        DiskError: it could not be written.
    """
    text = opened.file.text.encode()
    current = None
    with contextlib.suppress(FileNotFoundError):
        current = read_whole(run.directory.job, _MOST_BYTES)
    if current != text:
        with replacing(run.directory.job) as handle:
            handle.write(text)

    def change(state: RunState) -> RunState:
        job = msgspec.structs.replace(
            state.job,
            name=opened.job.name,
            folder=str(opened.file.folder.resolve()),
            file=str(opened.file.path.resolve()) if opened.file.path else "",
            command=command or state.job.command,
            generation_provider=opened.generation,
            tuning_provider=opened.tuning,
            model=opened.model,
            requests=opened.grid.count,
        )
        return msgspec.structs.replace(state, job=job)

    run.update(change)


def job_file_of(run: RunDirectory, job: JobState) -> str:
    """The job file to name in a command about a run, relative to this folder where it lies below it."""
    path = Path(job.file) if job.file and Path(job.file).is_file() else run.job
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def generate_again(run: RunDirectory, *flags: str) -> str:
    """Return the `generate` command that resumes a run, with its job file, directory and provider.

    Args:
        run: the run directory.
        flags: further flags, such as `--retry-failed`.
    """
    noted = run.read_state().job
    place = _flags_of_place(noted.command)
    out = [] if run.path == Path("runs") / noted.name else ["--out", str(run.path)]
    return command_line("generate", job_file_of(run, noted), *out, *place, *flags)


def _flags_of_place(command: str) -> list[str]:
    """What a noted command says about who answers, flags with their values."""
    kept: list[str] = []
    words = iter(shlex.split(command))
    for word in words:
        name, equals, _ = word.partition("=")
        if name in _PLACE_FLAGS:
            kept += [word] if equals else [word, next(words, "")]
    return kept


def job_in(path: Path, directory: RunDirectory) -> OpenedJob:
    """Open a job file as it is now, with the providers and the model of the run that it made.

    Args:
        path: the job file.
        directory: of the run.

    Returns:
        The job and its requests.

    Raises:
        JobFileError: the file has mistakes.
        UsageError: it cannot be read.
    """
    state: JobState = directory.read_state().job
    file = read_job_file(path)
    return open_job(file, generation=state.generation_provider, tuning=state.tuning_provider, model=state.model)


def changed_job_file(directory: RunDirectory) -> Path | None:
    """Find the job file that made the run, if it has changed since.

    Args:
        directory: of the run.

    Returns:
        Its path; None if it has not changed, or is gone.
    """
    job = directory.read_state().job
    with contextlib.suppress(OSError, UsageError):
        path = Path(job.file)
        if job.file and _text(path) != _text(directory.job):
            return path if read_job_file(path).raw.get("name") == job.name else None
    return None


def _text(path: Path) -> str:
    return read_input(path, most_bytes=LONGEST_LINE_BYTES)


def job_of_run(directory: RunDirectory) -> OpenedJob:
    """Open the job as it was run last.

    Args:
        directory: of the run.

    Returns:
        The job and its requests.

    Raises:
        UsageError: the run directory has no job.
        JobFileError: a file that the job names is missing or changed.
    """
    state = directory.read_state().job
    file = saved_job_file(directory, state)
    opened = open_job(file, generation=state.generation_provider, tuning=state.tuning_provider, model=state.model)
    if needs_matching(state, opened.grid):
        match_rows(directory, opened.grid)
    return opened
