"""Resolve FILE and RUN arguments, and build the command line of a next step.

Chooses the job file if none is named, and which options of this command belong to the next one. The layout of a run is
left to `run.directory`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import click
from click.core import ParameterSource

from asyncgen.errors import UsageError, command_line, nearest
from asyncgen.run.directory import STATE_NAME, RunDirectory, find_run, is_job_file

RUNS = Path("runs")
_JOB_TABLES = re.compile(r"^\s*\[\s*(prompt|grid|rows)\s*\]", re.MULTILINE)
_LARGEST_BYTES = 16 * 1024 * 1024


def job_file(given: Path | None, *, built_in: bool) -> Path | None:
    """Find the job file that a command is about.

    Args:
        given: FILE; None if it was omitted.
        built_in: use the built-in job if FILE was omitted.

    Returns:
        The path; None for the built-in job.

    Raises:
        UsageError: there is no such file, or none was named and the choice is ambiguous.
    """
    if given is None:
        return None if built_in else _only_job_file()
    if not str(given).strip() or given == Path():
        raise UsageError("expected a job file, not a folder", help_text=_which(job_files(Path())))
    if given.is_dir():
        own = given / "job.toml"
        if (given / STATE_NAME).exists() and own.exists():
            raise UsageError(
                f"{given} is a run directory; this command needs a job file",
                help_text=f"{command_line('status', given)}   (shows its progress)",
            )
        raise UsageError(f"{given} is a folder; this command needs a job file", help_text=_which(job_files(given)))
    if not os.path.lexists(given):
        near = nearest(given.name, [path.name for path in job_files(given.parent)])
        meant = f" (did you mean {given.parent / near}?)" if near else ""
        raise UsageError(f"there is no file {given}{meant}", help_text=_which(job_files(given.parent)))
    return given


def job_files(folder: Path) -> list[Path]:
    """The job files in a folder: TOML files with a table of prompts or of rows."""
    try:
        return sorted(path for path in folder.glob("*.toml") if path.is_file() and _looks_like_job(path))
    except OSError:
        return []


def _looks_like_job(path: Path) -> bool:
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            return False
        return _JOB_TABLES.search(path.read_text(encoding="utf-8", errors="replace")) is not None
    except OSError:
        return False


def _only_job_file() -> Path:
    found = job_files(Path())
    if len(found) == 1:
        return found[0]
    what = "there are several job files here" if found else "there is no job file here"
    raise UsageError(what, help_text=_which(found), code="no_job_file")


def _which(found: list[Path]) -> str:
    if found:
        return "job files: " + ", ".join(map(str, found))
    return "asyncgen init my-job.toml   (writes one), or asyncgen run   (runs the built-in example)"


def run_directory(given: Path | None) -> RunDirectory:
    """The run that a command is about: a run directory, or the job file that made it; the newest one for None.

    Raises:
        UsageError: there is none.
    """
    return find_run(given, root=RUNS)


def with_run(given: str | Path | None) -> Path | None:
    """Return an argument unchanged, or the run that it made if it is a job file."""
    if given is None:
        return None
    return run_directory(Path(given)).path if is_job_file(Path(given)) else Path(given)


def next_command(name: str, *arguments: str | Path | None, keep: tuple[str, ...] = ()) -> str:
    """A command line for the user to copy, with the options of the present command that apply to it too.

    Args:
        name: of the command, without `asyncgen`.
        arguments: of it; None is left out.
        keep: names of this command's parameters, such as "base_url"; only what was given on the command line counts,
            for a variable of the environment is still there.
    """
    return command_line(name, *arguments, *_options_of(keep))


def given_options(left_out: set[str]) -> list[str]:
    """The options that were given on the command line, except those whose parameters are named in `left_out`."""
    context = click.get_current_context(silent=True)
    if context is None:
        return []
    return _options_of(tuple(name for option in context.command.params if (name := option.name or "") not in left_out))


def _options_of(names: tuple[str, ...]) -> list[str]:
    context = click.get_current_context(silent=True)
    if context is None:
        return []
    options = {option.name: option for option in context.command.params if isinstance(option, click.Option)}
    words: list[str] = []
    for name in names:
        if name in options and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            words += _as_arguments(options[name], context.params)
    return words


def _as_arguments(option: click.Option, values: Mapping[str, object]) -> list[str]:
    flag = max(option.opts, key=len)
    value = values.get(option.name or "")
    if option.is_flag:
        return [flag]
    several = value if isinstance(value, tuple | list) else (value,)
    return [word for each in several for word in (flag, str(each))]
