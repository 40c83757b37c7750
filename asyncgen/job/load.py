"""Load a job file: find, read, overlay for the chosen providers, check, and open as a grid of requests.

Reports every problem at once, each with file, line and key. `[on.X]` applies to the tables of generation if X
generates, and to those of tuning if X tunes. The short prompt and its system message belong to the tuned model,
although they stand beside the long prompt. The choice of providers is left to the caller.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from asyncgen.errors import AsyncgenError, JobFileError, Problem, UsageError, command_line, nearest
from asyncgen.job.answers import AS_TEXT, AnswerReader, response_schema
from asyncgen.job.cells import TableError, cell_text, read_text
from asyncgen.job.combinations import Combinations
from asyncgen.job.requests import RequestGrid
from asyncgen.job.rules import Columns, parameter_problems, parameters_are_known, problems_of
from asyncgen.job.run_rows import RunRows
from asyncgen.job.schema import typed_job
from asyncgen.job.sources import Sources, file_problem
from asyncgen.job.template import answer_is_variable, sample_names, template_variables
from asyncgen.json_text import NotJsonError, decode_json
from asyncgen.providers.choose import named_profile
from asyncgen.providers.profiles import PROFILES, Profile
from asyncgen.providers.user_files import load_profiles
from asyncgen.run.directory import RunDirectory
from asyncgen.run.whole_file import open_regular
from asyncgen.terminal import counted
from asyncgen.toml_text import line_of, parse_toml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from asyncgen.job.model import Job
    from asyncgen.run.records import Record
    from asyncgen.run.state import JobState

_TUNING_TABLES = ("dataset", "finetune")
_TUNING_PROMPT_KEYS = ("sample", "target")
_TAKEN_AS_THEY_ARE = ("generate", "parameters")  # below this key, a table is the value of a parameter


def with_overlays(raw: Mapping[str, Any], generation: str, tuning: str) -> dict[str, Any]:
    """Apply the overlays of the chosen providers.

    Args:
        raw: tables of the job file.
        generation: the provider that answers; its overlay applies to all tables but those of tuning.
        tuning: the provider that tunes; its overlay applies to [dataset], [finetune] and the short prompt.

    Returns:
        The tables, without `on`.
    """
    base = {key: value for key, value in raw.items() if key != "on"}
    overlays = table_in(raw, "on")
    first, _ = _by_stage(table_in(overlays, generation))
    _, second = _by_stage(table_in(overlays, tuning))
    return merged(merged(base, first), second)


def _by_stage(overlay: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split an overlay into the tables of generation and those of tuning."""
    generating = {key: value for key, value in overlay.items() if key not in _TUNING_TABLES}
    tuning = {key: value for key, value in overlay.items() if key in _TUNING_TABLES}
    if prompt := table_in(overlay, "prompt"):
        generating["prompt"] = {key: value for key, value in prompt.items() if key not in _TUNING_PROMPT_KEYS}
        tuning["prompt"] = {key: value for key, value in prompt.items() if key in _TUNING_PROMPT_KEYS}
    return generating, tuning


def merged(below: Mapping[str, Any], above: Mapping[str, Any], path: tuple[str, ...] = ()) -> dict[str, Any]:
    """Merge tables key by key: `false` removes what is below, anything else replaces it.

    Inside the value of a parameter, `false` is an ordinary value.

    Args:
        below: the lower table.
        above: the overlay.
        path: keys that lead to this table.

    Returns:
        The merged table.
    """
    result = dict(below)
    is_value = path[: len(_TAKEN_AS_THEY_ARE)] == _TAKEN_AS_THEY_ARE and len(path) > len(_TAKEN_AS_THEY_ARE)
    for key, value in above.items():
        old = result.get(key)
        if value is False and key in result and not is_value:
            del result[key]
        elif isinstance(old, dict) and isinstance(value, dict):
            result[key] = merged(old, value, (*path, key))
        else:
            result[key] = value
    return result


def table_in(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the table of that name; an empty one if there is none.

    Args:
        raw: tables of the job file.
        key: name of the table.
    """
    value = raw.get(key, {})
    return value if isinstance(value, dict) else {}


BUILT_IN_NAME = "built-in job"
_LARGEST_JOB_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class JobFile:
    """A job file that has been checked for every provider it names.

    Attributes:
        path: the file; None for the built-in job.
        folder: folder that relative paths in the file start from.
        text: its content, without a byte order mark.
        raw: its tables.
        sources: the files that it names, opened on first use.
        profiles: the providers that can be named, the user's own included.
    """

    path: Path | None
    folder: Path
    text: str
    raw: Mapping[str, Any]
    sources: Sources = field(compare=False, repr=False)
    profiles: Mapping[str, Profile] = field(default_factory=lambda: PROFILES, compare=False, repr=False)

    @property
    def label(self) -> str:
        """How messages name the file."""
        return str(self.path) if self.path else BUILT_IN_NAME

    @property
    def generation_provider(self) -> str:
        """`generate.provider`, as in the file."""
        return str(table_in(self.raw, "generate").get("provider", "auto"))

    @property
    def tuning_provider(self) -> str:
        """`finetune.provider`, as in the file."""
        return str(table_in(self.raw, "finetune").get("provider", "auto"))

    def job(self, generation: str, tuning: str) -> Job:
        """Build the job with the overlays of the chosen providers.

        Args:
            generation: the provider that answers.
            tuning: the provider that tunes: its overlay applies to [dataset], [finetune] and the short prompt.

        Returns:
            The job.
        """
        problems: list[Problem] = []
        job = typed_job(with_overlays(self.raw, generation, tuning), problems)
        assert job is not None
        assert not problems
        return job


def built_in_text() -> str:
    """The text of the built-in job file, with its comments."""
    return resources.files("asyncgen.job").joinpath("direct_marketing.toml").read_text(encoding="utf-8")


def read_job_file(path: Path | None, folder: Path | None = None, *, following: tuple[Path, ...] = ()) -> JobFile:
    """Read and check a job file.

    Args:
        path: the file; None for the built-in job.
        folder: folder that relative paths start from; None for that of the file.
        following: run directories whose rows lead to this file; a job must not follow itself.

    Returns:
        The job file.

    Raises:
        UsageError: the file cannot be read.
        JobFileError: it has mistakes; `problems` lists all of them.
    """
    text = _read(path) if path else built_in_text()
    label = str(path) if path else BUILT_IN_NAME
    raw = parse_toml(text)
    if isinstance(raw, Problem):
        help_text = "correct the file there; a job file is TOML (https://toml.io)"
        raise JobFileError(f"{label} is not TOML", (replace(raw, file=label),), help_text=help_text)
    folder = folder or (path.parent if path else Path())
    sources = Sources(folder, lambda name: _open_run(folder, name, following))
    file = JobFile(path, folder, text, raw, sources, load_profiles(folder, os.environ))
    problems = list(dict.fromkeys(_all_problems(file)))
    if problems:
        raise job_file_error(file, problems)
    return file


def open_grid(file: JobFile, job: Job, profile: Profile, model: str) -> RequestGrid:
    """Compile a job to its requests for a model.

    Args:
        file: the job file, for paths and line numbers.
        job: as `file.job` returns it for the chosen providers.
        profile: of the provider that answers.
        model: the model to ask.

    Returns:
        The requests.

    Raises:
        JobFileError: a file of values is wrong, the model refuses a parameter, or the provider cannot continue an
            opening.
    """
    problems: list[Problem] = []
    if job.prompt.openings and not profile.continues_assistant:
        text = (
            f"{profile.name} cannot continue a given beginning of an answer; set openings under [on.NAME.prompt] only"
        )
        problems.append(Problem("prompt.openings", text))
    problems += _problems_of(file, job)
    job = with_max_tokens(job, profile)
    if parameters_are_known(profile):
        problems += parameter_problems(model, job.generate.parameters)
    table = file.sources.table(job, problems)
    axes = {name: file.sources.axis(name, values, problems) for name, values in job.grid.items()}
    answers = answer_reader(file, job, problems)
    if problems:
        raise job_file_error(file, list(dict.fromkeys(problems)))
    combinations = Combinations(
        axes,
        table,
        (job.subset.size, job.subset.seed) if job.subset and job.subset.size is not None else None,
        [{name: cell_text(value, name) or "" for name, value in each.items()} for each in job.subset.exclude]
        if job.subset
        else (),
        template_variables(job).used,
    )
    if not combinations.count:
        raise job_file_error(file, [Problem("subset.exclude", "it excludes every combination")])
    columns = table.columns if table is not None else ()
    return RequestGrid(
        job,
        combinations,
        model,
        answers=answers,
        sample_names=sample_names(job, columns, job.grid, all_columns=bool(job.rows and job.rows.file)),
        answer_is_variable=answer_is_variable(job, columns),
    )


def _excluded(job: Job) -> list[dict[str, str]]:
    entries = job.subset.exclude if job.subset else []
    return [{name: cell_text(value, name) or "" for name, value in entry.items()} for entry in entries]


def with_max_tokens(job: Job, profile: Profile) -> Job:
    """Move `generate.max_tokens` into the parameters, under the provider's name for it.

    Args:
        job: with its overlay applied.
        profile: of the provider that answers.

    Returns:
        The changed job; the same one if it sets no limit.
    """
    generate = job.generate
    if generate.max_tokens is None:
        return job
    parameters = {**generate.parameters, profile.max_tokens_name: generate.max_tokens}
    return msgspec.structs.replace(job, generate=msgspec.structs.replace(generate, parameters=parameters))


def answer_reader(file: JobFile, job: Job, problems: list[Problem]) -> AnswerReader:
    """Build the parser of a job's answers.

    Args:
        file: the job file, for the path of the schema.
        job: with its overlay applied.
        problems: gets a problem if the schema cannot be used.

    Returns:
        The parser.
    """
    if job.answer.format != "json":
        return AS_TEXT
    key, schema = "generate.parameters.response_format", response_schema(job)
    try:
        if job.answer.schema is not None:
            key = "answer.schema"
            schema = decode_json(read_text(file.folder / job.answer.schema))
        return AnswerReader(job.answer, schema, template_variables(job).fields)
    except (OSError, TableError) as error:
        problems.append(file_problem(key, str(job.answer.schema), error))
    except NotJsonError as error:
        problems.append(Problem(key, f"{job.answer.schema}: {error}"))
    except ValueError as error:
        problems.append(Problem(key, f"not a JSON Schema: {error}"))
    return AS_TEXT


def job_file_error(file: JobFile, problems: list[Problem]) -> JobFileError:
    """Return the error for these problems, each with its file and line.

    Args:
        file: the job file.
        problems: at least one.
    """
    placed = tuple(
        replace(each, file=each.file or file.label, line=each.line or line_of(file.text, each.key)) for each in problems
    )
    count = counted(len(placed), "problem")
    return JobFileError(
        f"{count} in {file.label}",
        placed,
        help_text="correct the job file; `asyncgen plan` checks it and sends nothing",
    )


def _read(path: Path) -> str:
    try:
        return read_text(path, most_bytes=_LARGEST_JOB_BYTES)
    except FileNotFoundError as error:
        near = nearest(path.name, _job_files(path.parent))
        if near is not None:
            meant = path.with_name(near)
            raise UsageError(f"there is no job file {path} (did you mean {str(meant)!r}?)") from error
        help_text = f"{command_line('init', path)}   (writes one)"
        raise UsageError(f"there is no job file {path}", help_text=help_text) from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read", cause=error.strerror) from error
    except TableError as error:
        if path.is_dir():
            there = ", ".join(str(path / name) for name in _job_files(path))
            help_text = f"there is {there}" if there else "asyncgen init job.toml   (writes one)"
            raise UsageError(f"{path} is a folder; this command needs a job file", help_text=help_text) from error
        place = f"{path}:{error.line}" if error.line else str(path)
        raise UsageError(f"{place}: {error}") from error


def _job_files(folder: Path) -> list[str]:
    try:
        return sorted(each.name for each in folder.iterdir() if each.suffix == ".toml")
    except OSError:
        return []


def _all_problems(file: JobFile) -> Iterator[Problem]:
    """Problems of the tables themselves, then those that only an overlay causes."""
    raw = {key: value for key, value in file.raw.items() if key != "on"}
    yield from (plain := _problems(file, raw))
    overlays = file.raw.get("on", {})
    if not isinstance(overlays, dict):
        yield Problem("on", "expected tables [on.PROVIDER....]")
        return
    for name, overlay in overlays.items():
        if name not in file.profiles and (near := nearest(name, file.profiles)):
            yield Problem(f"on.{name}", f"no such provider; possible: {', '.join(file.profiles)}", near)
        elif not isinstance(overlay, dict):
            yield Problem(f"on.{name}", "expected a table")
        else:
            if name not in file.profiles:
                file.sources.remarks[f"on.{name}: there is no provider of this name"] = None
            found = _problems(file, merged(raw, overlay))
            yield from (replace(each, key=f"on.{name}.{each.key}") for each in found if each not in plain)


def _problems(file: JobFile, raw: dict[str, Any]) -> list[Problem]:
    problems: list[Problem] = []
    job = typed_job(raw, problems)
    if job is not None:
        problems += _problems_of(file, job)
    return problems


def _problems_of(file: JobFile, job: Job) -> list[Problem]:
    """Problems of a typed job whose columns are known."""
    problems: list[Problem] = []
    source = file.sources.rows(job, problems)
    if problems:
        return problems
    columns = Columns(source.columns, source.name) if source is not None else Columns()
    return problems_of(job, columns, file.profiles)


def _open_run(folder: Path, name: str, following: tuple[Path, ...]) -> RunRows:
    """Open the rows of another run, whose answers are parsed as its own job does.

    Raises:
        TableError: there is no run, its job cannot be opened, or it follows itself.
        OSError: its records cannot be read.
    """
    if "\0" in name:
        raise TableError("not a valid folder name: it contains a NUL character")
    directory = RunDirectory(folder / name if (folder / name).exists() else Path(name))
    path = directory.path.resolve()
    if path in following:
        raise TableError("the runs depend on each other in a circle")
    try:
        if not directory.state.exists():
            raise TableError("there is no run yet; generate it first, and give its directory")
        if directory.shards():
            raise TableError(f"it has shards that are not merged yet: {command_line('merge', directory.path)}")
        state = directory.read_state().job
        source = read_job_file(directory.job, Path(state.folder), following=(*following, path))
        job = source.job(state.generation_provider, state.tuning_provider)
        problems: list[Problem] = []
        answers = answer_reader(source, job, problems)
        if problems:
            raise job_file_error(source, problems)
        is_stale = _never
        if state.stale:
            answering = named_profile(state.generation_provider, source.profiles)
            is_stale = _staleness(open_grid(source, job, answering, state.model))
    except AsyncgenError as error:
        raise TableError(f"its job cannot be opened: {error.cause or error}") from error
    return RunRows(directory.records, answers, is_stale)


def _never(_: Record) -> bool:
    return False


def _staleness(grid: RequestGrid) -> Any:
    def is_stale(record: Record) -> bool:
        key = grid.key_of(record.variables, record.repeat)
        return key is None or key.hex() != record.key

    return is_stale


def saved_job_file(directory: RunDirectory, state: JobState) -> JobFile:
    """Read the job file as it was run last, without its rows.

    Args:
        directory: of the run.
        state: what the run notes of its job.

    Returns:
        The job file.

    Raises:
        UsageError: the run directory has no job.
        JobFileError: the file has mistakes.
        DiskError: it cannot be read.
    """
    if not directory.job.exists() or not state.model:
        raise UsageError(
            f"the job of {directory.path} is not known",
            help_text=f"use its job file: {command_line('generate', 'job.toml', '--out', directory.path)}",
        )
    os.close(open_regular(directory.job, os.O_RDONLY))  # another kind of file is a disk error, not a job error
    return read_job_file(directory.job, Path(state.folder))
