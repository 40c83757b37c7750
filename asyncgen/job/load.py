"""The job file: found, read, laid over for the providers chosen, checked, and opened as a grid of requests.

Owns the order of these steps and the places (file, line, key) of what is wrong. Everything wrong is reported at once.
Does not know which providers are chosen: the command line tells.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from asyncgen.errors import JobFileError, Problem, UsageError
from asyncgen.job.combinations import Combinations
from asyncgen.job.model import Job, ValuesFile
from asyncgen.job.parameters import parameter_problems
from asyncgen.job.places import line_of
from asyncgen.job.requests import RequestGrid
from asyncgen.job.rules import problems_of
from asyncgen.job.schema import typed_job
from asyncgen.job.tables import Table, TableError, cell_text, open_table, read_lines
from asyncgen.nearest import nearest
from asyncgen.providers import PROFILES, Profile

BUILT_IN_NAME = "built-in job"
# Whose tables lie over which: those of a stage are laid over by the provider of that stage. The short prompt is the
# tuned model's, though it stands beside the long one.
_TUNING_TABLES = ("dataset", "finetune")
_TUNING_PROMPT_KEYS = ("sample",)


@dataclass(frozen=True, slots=True)
class JobFile:
    """A job file that holds a checked job for every provider it names.

    Attributes:
        path: None for the built-in job.
        folder: relative paths in the file start here.
        text: the file as it is.
    """

    path: Path | None
    folder: Path
    text: str
    raw: Mapping[str, Any]

    @property
    def label(self) -> str:
        return str(self.path) if self.path else BUILT_IN_NAME

    @property
    def generation_provider(self) -> str:
        """`generate.provider` as the file has it."""
        return str(_get(self.raw, "generate").get("provider", "auto"))

    @property
    def tuning_provider(self) -> str:
        """`finetune.provider` as the file has it."""
        return str(_get(self.raw, "finetune").get("provider", "auto"))

    def job(self, generation: str, tuning: str) -> Job:
        """The job with `[on.NAME]` laid over.

        Of `tuning` for [dataset], [finetune] and the tuned model's short prompt; of `generation` for the rest.
        """
        problems: list[Problem] = []
        job = typed_job(_laid_over(self.raw, generation, tuning), problems)
        assert job is not None
        assert not problems
        return job


def built_in_text() -> str:
    """The built-in job file, comments and all."""
    return resources.files("asyncgen.job").joinpath("direct_marketing.toml").read_text(encoding="utf-8")


def read_job_file(path: Path | None, folder: Path | None = None) -> JobFile:
    """Read and check a job file.

    Args:
        path: None for the built-in job.
        folder: where relative paths start; the file's own folder when None.

    Raises:
        UsageError: the file cannot be read.
        JobFileError: it is wrong, with every problem found.
    """
    text = _read(path) if path else built_in_text()
    label = str(path) if path else BUILT_IN_NAME
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise JobFileError(f"{label} is not TOML", (Problem("", str(error), file=label),)) from error
    file = JobFile(path, folder or (path.parent if path else Path()), text, raw)
    problems = list(dict.fromkeys(_all_problems(file)))
    if problems:
        raise job_file_error(file, problems)
    return file


def open_grid(file: JobFile, job: Job, profile: Profile, model: str) -> RequestGrid:
    """The requests of `job` for a model.

    Args:
        file: where the job came from, for paths and places.
        job: as `file` gives it for the providers chosen.
        profile: who will answer.
        model: who is asked.

    Raises:
        JobFileError: a file of values is wrong, the model refuses a parameter, or the provider cannot begin answers.
    """
    problems: list[Problem] = []
    if job.prompt.openings and not profile.continues_assistant:
        text = f"{profile.name} does not continue an answer that was begun; leave openings to [on.NAME.prompt]"
        problems.append(Problem("prompt.openings", text))
    problems += parameter_problems(model, job.generate.parameters)
    table = _table(file, job, problems)
    axes = {name: _axis(file, name, values, problems) for name, values in job.grid.items()}
    if problems:
        raise job_file_error(file, problems)
    subset = (job.subset.size, job.subset.seed) if job.subset else None
    return RequestGrid(job, Combinations(axes, table, subset), model)


def job_file_error(file: JobFile, problems: list[Problem]) -> JobFileError:
    """The error for these problems, each with its file and line."""
    placed = tuple(
        replace(each, file=each.file or file.label, line=each.line or line_of(file.text, each.key)) for each in problems
    )
    count = "1 problem" if len(placed) == 1 else f"{len(placed)} problems"
    return JobFileError(
        f"{count} in {file.label}",
        placed,
        help_text="correct the job file; `asyncgen plan` checks it and sends nothing",
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UsageError(
            f"there is no job file {path}", help_text=f"asyncgen init {path} writes the built-in one to start from"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else f"not UTF-8 at byte {error.start}"
        raise UsageError(f"{path} cannot be read", cause=cause) from error


def _all_problems(file: JobFile) -> Iterator[Problem]:
    """Problems of the tables as they stand, then those that only an overlay brings."""
    raw = {key: value for key, value in file.raw.items() if key != "on"}
    yield from (plain := _problems(file, raw))
    overlays = file.raw.get("on", {})
    if not isinstance(overlays, dict):
        yield Problem("on", "expected tables [on.PROVIDER....]")
        return
    for name, overlay in overlays.items():
        if name not in PROFILES:
            known = ", ".join(PROFILES)
            yield Problem(f"on.{name}", f"no such provider; they are {known}", nearest(name, PROFILES))
        elif not isinstance(overlay, dict):
            yield Problem(f"on.{name}", "expected a table")
        else:
            found = _problems(file, _merged(raw, overlay))
            yield from (replace(each, key=f"on.{name}.{each.key}") for each in found if each not in plain)


def _problems(file: JobFile, raw: dict[str, Any]) -> list[Problem]:
    problems: list[Problem] = []
    job = typed_job(raw, problems)
    if job is not None:
        broken: list[Problem] = []
        table = _table(file, job, broken)
        if not broken:
            broken = problems_of(job, table.columns if table is not None else ())
        problems += broken
    return problems


def _laid_over(raw: Mapping[str, Any], generation: str, tuning: str) -> dict[str, Any]:
    base = {key: value for key, value in raw.items() if key != "on"}
    overlays = _get(raw, "on")
    first, _ = _by_stage(_get(overlays, generation))
    _, second = _by_stage(_get(overlays, tuning))
    return _merged(_merged(base, first), second)


def _by_stage(overlay: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """An overlay in two: what counts for who generates, and what for who tunes."""
    generating = {key: value for key, value in overlay.items() if key not in _TUNING_TABLES}
    tuning = {key: value for key, value in overlay.items() if key in _TUNING_TABLES}
    if prompt := _get(overlay, "prompt"):
        generating["prompt"] = {key: value for key, value in prompt.items() if key not in _TUNING_PROMPT_KEYS}
        tuning["prompt"] = {key: value for key, value in prompt.items() if key in _TUNING_PROMPT_KEYS}
    return generating, tuning


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Tables are merged key by key; anything else above replaces what is below."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _get(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = raw.get(key, {})
    return value if isinstance(value, dict) else {}


def _table(file: JobFile, job: Job, problems: list[Problem]) -> Table | None:
    if job.rows is None:
        return None
    return _opened(file, "rows.file", job.rows.file, problems)


def _opened(file: JobFile, key: str, name: str, problems: list[Problem]) -> Table | None:
    try:
        return open_table(file.folder / name)
    except (OSError, TableError) as error:
        problems.append(_file_problem(key, name, error))
        return None


def _axis(file: JobFile, name: str, values: list[Any] | ValuesFile, problems: list[Problem]) -> list[str]:
    """An axis' values; a file's are taken once each, in the order of their first place."""
    key = f"grid.{name}"
    if isinstance(values, list):
        return [cell_text(value, name, None) for value in values]
    found: list[str] = []
    if values.column is not None:
        table = _opened(file, key, values.file, problems)
        if table is not None and values.column not in table.columns:
            text = f"{values.file} has no column {values.column!r}; it has {', '.join(table.columns)}"
            problems.append(Problem(key, text, nearest(values.column, table.columns)))
        elif table is not None:
            place = table.columns.index(values.column)
            found = [row[place] for row in table]
    else:
        try:
            found = read_lines(file.folder / values.file)
        except (OSError, TableError) as error:
            problems.append(_file_problem(key, values.file, error))
    if not found and not problems:
        problems.append(Problem(key, f"{values.file} has no values"))
    return list(dict.fromkeys(found))


def _file_problem(key: str, name: str, error: OSError | TableError) -> Problem:
    if isinstance(error, TableError):
        place = f"{name}:{error.line}" if error.line else name
        return Problem(key, f"{place}: {error}")
    return Problem(key, f"{name}: {error.strerror}")
