"""Example job files: a small general one, and one for each kind of work.

An example is a folder: `job.toml` and the files that it names. The word EXAMPLE in them stands for the job's name.
Writing them is left to `init`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

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
    """The files of an example, by where they belong.

    Args:
        example: one of `EXAMPLES`, or `GENERAL`.
        path: of the job file; the other files stand beside it, and begin with its name.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._") or "job"
    files = {path: ""}
    for relative, text in _texts(example):
        place = path if relative == _MAIN else path.with_name(relative.replace(_NAME, name))
        files[place] = text.replace(_NAME, name)
    return files


def example_title(example: str) -> str:
    """What an example is for: the first line of its job file."""
    text = resources.files("asyncgen.job").joinpath("examples", example, _MAIN).read_text(encoding="utf-8")
    return text.partition("\n")[0].removeprefix("# ").rstrip(".")


def _texts(example: str) -> Iterator[tuple[str, str]]:
    folder = resources.files("asyncgen.job").joinpath("examples", example)
    for entry in sorted(folder.iterdir(), key=lambda each: each.name):
        if entry.is_file():
            yield entry.name, entry.read_text(encoding="utf-8")
