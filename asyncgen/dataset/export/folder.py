"""Export a Hugging Face dataset folder: samples by split, the job file, and a card.

The folder is built beside its destination and then moved there, so that it is complete or absent. A folder of any other
kind is never replaced. The card is README.md, as the Hub reads it (front matter with `configs` and `size_categories`,
by the Hub's documentation of dataset cards).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Any

import orjson

from asyncgen import __version__
from asyncgen.dataset.export.files import Exported
from asyncgen.dataset.near_duplicates import AnswersByPrompt
from asyncgen.dataset.samples import COMPLETION, Selection, messages, pair
from asyncgen.dataset.split import TRAIN, SampleSides, Split
from asyncgen.dataset.writer import HashedFile
from asyncgen.errors import UsageError
from asyncgen.run.reviews import NO_REVIEWS
from asyncgen.run.whole_file import disk_error
from asyncgen.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from asyncgen.dataset.samples import Sample
    from asyncgen.dataset.split import SplitPlan
    from asyncgen.job.model import DatasetSettings
    from asyncgen.job.opened import OpenedJob
    from asyncgen.run.records import Record
    from asyncgen.run.reviews import Reviews
    from asyncgen.run.state import DatasetFile


CARD = "README.md"
JOB_COPY = "job.toml"
_SHOWN = 5
_NAMES = {"train": "data/train.jsonl", "validation": "data/validation.jsonl"}
_COLUMNS = (
    "`prompt` and `completion`: the prompt and the answer, as lists of messages, the format of TRL and others",
    "`model`: the model that wrote the answer; `repeat`: the number of the answer among those for the same row",
)


def export_folder(
    path: Path, records: Iterable[Record], opened: OpenedJob, plan: SplitPlan, reviews: Reviews = NO_REVIEWS
) -> Exported:
    """Write a Hugging Face dataset folder. Records that are not samples are left out.

    Args:
        path: the folder; an earlier export there is replaced.
        records: in the order to write.
        opened: the run's job.
        plan: how `prepare` split the run.
        reviews: decisions of a person on answers.

    Returns:
        Counts of what was written.

    Raises:
        UsageError: something else is at `path`, or there is no sample.
        DiskError: it could not be written; what was there is unchanged.
    """
    with whole_folder(path, {CARD, JOB_COPY, *_NAMES.values()}) as new:
        return _fill(new, records, opened, plan, reviews)


@contextmanager
def whole_folder(path: Path, names: Collection[str]) -> Iterator[Path]:
    """Fill a new folder, which replaces an earlier export at `path` when the block ends without an error.

    Args:
        path: the folder.
        names: files that an export there may contain, as paths within the folder.

    Yields:
        The folder to fill.

    Raises:
        UsageError: something else is at `path`.
        DiskError: it could not be written; what was there is unchanged.
    """
    path = Path(os.path.realpath(path))  # a link stays one
    _refuse_stranger(path, names)
    new, old = (path.with_name(f".{path.name}.{os.getpid()}.{end}") for end in ("new", "old"))
    try:
        new.mkdir(parents=True, mode=0o700)  # prompts and answers may be personal data
        yield new
        if path.exists():
            path.rename(old)
        new.rename(path)
    except OSError as error:
        raise disk_error(f"{path} could not be written", error) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _refuse_stranger(path: Path, names: Collection[str]) -> None:
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    card = path / CARD
    if not (card.is_file() and MADE_BY in card.read_text(encoding="utf-8", errors="replace")):
        raise UsageError(f"{path} already exists and is not an export of asyncgen", help_text="choose another folder")
    others = [str(each.relative_to(path)) for each in path.rglob("*") if not each.is_dir() or each.is_symlink()]
    if strangers := sorted(set(others) - set(names)):
        raise UsageError(
            f"{path} would be replaced, but it contains files that are not part of an export: "
            f"{', '.join(strangers[:_SHOWN])}",
            help_text="move them away, or choose another folder",
        )


def _fill(folder: Path, records: Iterable[Record], opened: OpenedJob, plan: SplitPlan, reviews: Reviews) -> Exported:
    facts = CardFacts()
    (folder / "data").mkdir()
    with ExitStack() as stack:
        draft = stack.enter_context(TemporaryFile(dir=folder))
        sides = SampleSides(Split(plan, opened.job.dataset.hold_out))
        codes = _draft(draft, records, opened, sides, facts, reviews)
        files_of = {
            side: HashedFile(name, stack.enter_context((folder / name).open("wb"))) for side, name in _NAMES.items()
        }
        draft.seek(0)
        for code, line in zip(codes, draft, strict=True):
            files_of["train" if code == TRAIN else "validation"].add(line)
        for written in files_of.values():
            written.file.flush()
            os.fsync(written.file.fileno())
    files = {side: written.noted() for side, written in files_of.items() if written.samples}
    if not files:
        raise UsageError("this run has no answer that can be a sample yet", help_text="asyncgen report   (shows why)")
    for side, name in _NAMES.items():
        if side not in files:
            (folder / name).unlink()
    write_card(folder, opened, facts, files, columns=_COLUMNS, variable_columns=True)
    return Exported(rows=sum(file.samples for file in files.values()))


def write_card(
    folder: Path,
    opened: OpenedJob,
    facts: CardFacts,
    files: Mapping[str, DatasetFile],
    *,
    columns: Sequence[str],
    variable_columns: bool = False,
    training: Sequence[str] = (),
) -> None:
    """Write the job file and the card of `opened` into the folder; arguments as `dataset_card` has them."""
    job_text = opened.file.text.encode()
    (folder / JOB_COPY).write_bytes(job_text)
    card = dataset_card(
        opened.job.name,
        opened.generation,
        facts,
        files,
        hashlib.sha256(job_text).hexdigest(),
        columns=columns,
        variable_columns=variable_columns,
        training=training,
    )
    (folder / CARD).write_text(card, encoding="utf-8")


def _draft(
    draft: IO[bytes],
    records: Iterable[Record],
    opened: OpenedJob,
    sides: SampleSides,
    facts: CardFacts,
    reviews: Reviews,
) -> bytearray:
    """Write the row of every sample, and decide their splits so that no prompt is in both."""
    selection = Selection(opened.job, opened.grid, stale=False, reviews=reviews)
    prompts = AnswersByPrompt()
    for record in records:
        for sample in selection.judge(record)[0]:
            prompts.add(sample.prompt, len(sides.codes))
            sides.add(record.variables)
            draft.write(_line(record, sample, opened.job.dataset))
            facts.add(record.model, record.created, record.variables, simulated=record.simulated)
    for numbers in prompts.groups():
        sides.settle(numbers)
    return sides.codes


def _line(record: Record, sample: Sample, settings: DatasetSettings) -> bytes:
    """A row: prompt and completion as lists of messages, so that trainers learn the completion only.

    TRL treats texts under these names as plain text, without the model's chat template. It would ignore a column
    `messages` next to them.
    """
    row: dict[str, Any] = {}
    if settings.format == COMPLETION:
        row["prompt"], row["completion"] = pair(settings, sample)
    else:
        *asked, answer = messages(settings, sample)
        row["prompt"], row["completion"] = asked, [answer]
        if sample.tools:
            row["tools"] = sample.tools
    row |= {"variables": record.variables, "repeat": record.repeat, "model": record.model}
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


MADE_BY = "<!-- made by asyncgen export -->"
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_VALUES_NAMED = 12
_MARKS = str.maketrans("`|<>[]", "'/‹›()")


@dataclass(slots=True)
class CardFacts:
    """Facts for the card, collected while the rows are written.

    Attributes:
        first: Unix seconds of the oldest answer.
        last: Unix seconds of the newest answer.
        simulated: simulated rows.
        values: variable to its values with their number of rows; only the first few thousand values.
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
    """Render the dataset card.

    Args:
        job: name of the job.
        provider: the provider that answered.
        facts: of the rows.
        files: split to its file, as path within the folder.
        job_sha256: hash of the job file as it was run.
        columns: a sentence about each column.
        variable_columns: whether rows contain the variables, under `variables`.
        training: lines that explain how to train a model on it.

    Returns:
        The card, in Markdown.
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
    yield "Texts written by a language model, to fine-tune a smaller model. No human wrote or"
    yield "read all of them. Check them before use, and respect the terms of the model's provider."
    yield ""
    if facts.simulated:
        yield f"**{facts.simulated:,} of these rows are simulated**: no model wrote them, and no model should learn"
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
        yield from ("", "## Values of the rows", "")
    for name, counts in facts.values.items():
        named = ", ".join(_plain(value) for value, _ in counts.most_common(_VALUES_NAMED))
        more = ", ..." if len(counts) > _VALUES_NAMED else ""
        yield f"- `{prefix}{_plain(name)}`: {named}{more}"


def _plain(text: str) -> str:
    """Text without what Markdown or HTML would take for its own."""
    return one_line(text, 80).translate(_MARKS)


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).date().isoformat()
