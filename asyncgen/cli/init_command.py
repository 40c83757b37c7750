"""`asyncgen init`: a job file to start one's own from, a general one or one for a kind of work.

An example is a folder: `job.toml` and the files that it names. The word EXAMPLE in them stands for the job's name.
"""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import click

from asyncgen.cli.options import output_options
from asyncgen.cli.output import json_result, result, say
from asyncgen.errors import DiskError, UsageError, command_line

if TYPE_CHECKING:
    from collections.abc import Iterator

GENERAL = "general"
EXAMPLES = (
    "campaign",
    "classify",
    "qa",
    "json",
    "chain",
    "dialogue",
    "reasoning",
    "preferences",
    "translate",
)
_NAME = "EXAMPLE"
_MAIN = "job.toml"


def example_files(example: str, path: Path) -> dict[Path, str]:
    """The files of an example, by path.

    Args:
        example: one of `EXAMPLES`, or `GENERAL`.
        path: of the job file; the other files are next to it, and their names begin with its name.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._") or "job"
    files = {path: ""}
    for relative, text in _texts(example):
        place = path if relative == _MAIN else path.with_name(relative.replace(_NAME, name))
        files[place] = text.replace(_NAME, name)
    return files


def example_title(example: str) -> str:
    """The purpose of an example: the first line of its job file."""
    text = resources.files("asyncgen.job").joinpath("examples", example, _MAIN).read_text(encoding="utf-8")
    return text.partition("\n")[0].removeprefix("# ").rstrip(".")


def _texts(example: str) -> Iterator[tuple[str, str]]:
    folder = resources.files("asyncgen.job").joinpath("examples", example)
    for entry in sorted(folder.iterdir(), key=lambda each: each.name):
        if entry.is_file():
            yield entry.name, entry.read_text(encoding="utf-8")


@click.command("init")
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--example", type=click.Choice(EXAMPLES), metavar="NAME", help="Write this example; see --list.")
@click.option("--list", "as_list", is_flag=True, help="List the examples. Writes nothing.")
@output_options
def init(path: Path | None, *, example: str | None, as_list: bool, as_json: bool) -> None:
    """Write a small job file to PATH. The job is named after the file.

    Default PATH: job.toml, or NAME.toml for an example. Files that an example needs, such as a table, are written next
    to it.
    """
    if as_list:
        _list(as_json=as_json)
        return
    files = example_files(example or GENERAL, path or Path(f"{example or 'job'}.toml"))
    _write(files)
    job, *others = files
    if as_json:
        json_result({"path": str(job), "files": [str(each) for each in files]})
    else:
        for each in files:
            result(str(each))
    beside = f" ({', '.join(other.name for other in others)} belongs to it)" if others else ""
    say(f"next: edit it{beside}, then run `{command_line('plan', job)}` to see what would be sent")


def _list(*, as_json: bool) -> None:
    titles = {name: example_title(name) for name in EXAMPLES}
    if as_json:
        json_result({"examples": titles})
        return
    for name, title in titles.items():
        result(f"{name:12} {title}")
    say(f"next: {command_line('init', '--example', 'classify')}   (or another example)")


def _write(files: dict[Path, str]) -> None:
    """Write all of the files, or none: what is there already is never touched.

    Raises:
        UsageError: one of them is there.
        DiskError: one cannot be written.
    """
    there = [path for path in files if path.exists() or path.is_symlink()]
    if there:
        raise UsageError(f"{there[0]} already exists", help_text="name another file")
    written: list[Path] = []
    try:
        for path, text in files.items():
            with path.open("x", encoding="utf-8") as file:
                written.append(path)
                file.write(text)
    except (OSError, ValueError) as error:
        for path in written:
            path.unlink(missing_ok=True)
        cause = error.strerror if isinstance(error, OSError) else "not a valid file name"
        raise DiskError(f"{next(iter(files))} could not be written", cause=cause) from error
