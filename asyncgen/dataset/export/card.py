"""The dataset card of an exported folder: README.md, as the Hugging Face Hub reads it.

Facts: the Hub's documentation of dataset cards (front matter with `configs` and `size_categories`).
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from asyncgen import __version__
from asyncgen.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from asyncgen.run.state import DatasetFile

MADE_BY = "<!-- made by asyncgen export -->"
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_VALUES_NAMED = 12
_MARKS = str.maketrans("`|<>[]", "'/‹›()")


@dataclass(slots=True)
class CardFacts:
    """What is gathered while the rows are written.

    Attributes:
        first: Unix seconds of the oldest answer.
        last: of the newest.
        simulated: rows that a simulation made up.
        values: of each variable, with how many rows have it; only the first few thousand of an axis.
    """

    models: Counter[str] = field(default_factory=Counter)
    first: int | None = None
    last: int | None = None
    simulated: int = 0
    values: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, model: str, created: int, variables: Mapping[str, str], *, simulated: bool = False) -> None:
        """Note one row."""
        self.models[model] += 1
        self.simulated += simulated
        self.first = created if self.first is None else min(self.first, created)
        self.last = created if self.last is None else max(self.last, created)
        for name, value in variables.items():
            counts = self.values.setdefault(name, Counter())
            if value in counts or len(counts) <= 10 * _VALUES_NAMED:
                counts[value] += 1


def dataset_card(
    job: str,
    provider: str,
    facts: CardFacts,
    files: Mapping[str, DatasetFile],
    job_sha256: str,
    *,
    columns: Sequence[str],
    variable_columns: bool,
    training: Sequence[str] = (),
) -> str:
    """The card.

    Args:
        job: its name.
        provider: that answered.
        facts: of the rows.
        files: split to its file, by path within the folder.
        job_sha256: of the job file as it was run.
        columns: what the rows hold, a sentence each.
        variable_columns: they hold the variables, too, under `variables`.
        training: how a model is trained on it, a line each.
    """
    rows = sum(file.samples for file in files.values())
    body = [
        *_body(job, provider, facts, files, job_sha256),
        *_columns(facts, columns, variable_columns=variable_columns),
    ]
    how = ["", "## Training", "", *training] if training else []
    return "\n".join([*_front_matter(job, rows, files), *body, *how, ""])


def _front_matter(job: str, rows: int, files: Mapping[str, DatasetFile]) -> Iterator[str]:
    size = next((name for limit, name in _SIZES if rows < limit), "n>1M")
    yield "---"
    yield f"pretty_name: {json.dumps(job)}"
    yield "tags:"
    yield "- synthetic"
    yield "task_categories:"
    yield "- text-generation"
    yield "size_categories:"
    yield f"- {size}"
    yield "configs:"
    yield "- config_name: default"
    yield "  data_files:"
    for split, file in files.items():
        yield f"  - split: {split}"
        yield f"    path: {file.name}"
    yield "---"
    yield MADE_BY


def _body(
    job: str, provider: str, facts: CardFacts, files: Mapping[str, DatasetFile], job_sha256: str
) -> Iterator[str]:
    yield f"# {_plain(job)}"
    yield ""
    yield "Texts written by a language model from the rows of a grid, to fine-tune a smaller one on. No human wrote or"
    yield "read them all; whoever uses them answers for checking them, and for the terms of the model's provider."
    yield ""
    if facts.simulated:
        yield f"**A simulation made up {facts.simulated:,} of these rows**: no model wrote them, and none should learn"
        yield "from them."
        yield ""
    models = ", ".join(f"`{_plain(model)}` ({count:,})" for model, count in facts.models.most_common())
    yield f"- model: {models}, at {_plain(provider)}"
    if facts.first is not None and facts.last is not None:
        yield f"- written: {_day(facts.first)} to {_day(facts.last)}"
    yield f"- job file: `job.toml` (sha256 `{job_sha256}`)"
    yield f"- made with: asyncgen {__version__}"
    yield ""
    yield "| split | file | rows | sha256 |"
    yield "|---|---|---:|---|"
    for split, file in files.items():
        yield f"| {split} | {file.name} | {file.samples:,} | `{file.sha256}` |"


def _columns(facts: CardFacts, columns: Sequence[str], *, variable_columns: bool) -> Iterator[str]:
    yield ""
    yield "## Columns"
    yield ""
    yield from (f"- {column}" for column in columns)
    prefix = "variables." if variable_columns else ""
    if not variable_columns and facts.values:
        yield from ("", "## What the rows were made from", "")
    for name, counts in facts.values.items():
        named = ", ".join(_plain(value) for value, _ in counts.most_common(_VALUES_NAMED))
        more = ", ..." if len(counts) > _VALUES_NAMED else ""
        yield f"- `{prefix}{_plain(name)}`: {named}{more}"


def _plain(text: str) -> str:
    """Text without what Markdown or HTML would take for its own."""
    return one_line(text, 80).translate(_MARKS)


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).date().isoformat()
