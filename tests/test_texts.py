"""What the program says: numbers stand with their noun in the singular or the plural, by one function."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import asyncgen

ROOT = Path(asyncgen.__file__).parent
_NOUNS = (
    "rows|answers|requests|samples|records|epochs|tokens|prompts|lines|models|jobs|combinations|shards|batches|values|"
    "steps|days|variables|examples|messages|problems|runs|servers|failures|pairs|keys|labels|columns|axes|attempts"
)
_PLURAL = re.compile(rf" (?:[a-z-]+ )?(?:{_NOUNS})\b(?! a (?:minute|second|sample))(?!/)")
_BETWEEN = re.compile(r" (?:of|and|in|from|for|to|with|as|or|are|is|the|at|on) ")
_SCRIPTS = {"train_with_trl.py", "train_with_tinker.py"}  # stand alone, without this package


def counts_in(path: Path) -> Iterator[tuple[int, str]]:
    """Places where a number that may be one is put before a noun in the plural."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.JoinedStr):
            continue
        for value, after in zip(node.values, node.values[1:], strict=False):
            if isinstance(value, ast.FormattedValue) and isinstance(after, ast.Constant) and is_count(value):
                found = _PLURAL.match(str(after.value))
                if found and not _BETWEEN.match(found[0]):
                    yield node.lineno, f"{ast.unparse(value.value)}{found[0]}"


def is_count(value: ast.FormattedValue) -> bool:
    """Whether a place holds a whole number that is not known: formatted by commas, or counted by `len`."""
    if isinstance(value.value, ast.Name) and value.value.id.strip("_").isupper():
        return False
    spec = value.format_spec
    is_grouped = isinstance(spec, ast.JoinedStr) and ast.unparse(spec) == "f','"
    is_length = isinstance(value.value, ast.Call) and getattr(value.value.func, "id", "") == "len"
    return is_grouped or is_length


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_number_and_its_noun_agree(path: Path) -> None:
    if path.name not in _SCRIPTS:
        assert not list(counts_in(path)), "terminal.counted says `1 row` and `2 rows`"
