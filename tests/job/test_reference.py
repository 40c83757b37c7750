"""The reference of the job file is whole, and its examples are right."""

import tomllib
from pathlib import Path

import pytest

from asyncgen.errors import Problem
from asyncgen.job.reference import _KEYS, documented_keys, reference
from asyncgen.job.schema import typed_job

DOCS = Path(__file__).parents[2] / "docs" / "job-file.md"
LEAST = {"name": "x", "prompt": {"user": "u"}}


def test_the_page_in_the_docs_is_the_reference() -> None:
    assert DOCS.read_text(encoding="utf-8") == reference(), "write it again: asyncgen help job > docs/job-file.md"


def test_every_key_has_words_or_an_example() -> None:
    assert [key for key in documented_keys() if key not in _KEYS] == []


@pytest.mark.parametrize("key", [key for key, example in documented_keys().items() if example])
def test_the_example_of_a_key_is_of_its_type(key: str) -> None:
    *tables, name = key.split(".")
    header = ".".join(tables)
    lines = f"[[{header}]]\n" if header == "prompt.examples" else f"[{header}]\n" if header else ""
    needed = {"dataset.scores": 'run = "r"\nfield = "f"\n', "prompt.examples": 'completion = "c"\n'}.get(header, "")
    rest = "".join(line for line in needed.splitlines(keepends=True) if not line.startswith(f"{name} ="))
    raw = tomllib.loads(f"{lines}{rest}{name} = {documented_keys()[key]}\n")
    problems: list[Problem] = []
    assert typed_job({**LEAST, **raw, "prompt": {"user": "u", **raw.get("prompt", {})}}, problems) is not None
    assert problems == []
