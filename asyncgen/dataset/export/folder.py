"""Export a Hugging Face dataset folder: samples by split, the job file, and a card.

The folder is built beside its destination and then moved there, so that it is complete or absent. A folder of any other
kind is never replaced. The text of the card is left to `card`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Any

import orjson

from asyncgen.dataset.export.card import MADE_BY, CardFacts, dataset_card
from asyncgen.dataset.export.files import Exported
from asyncgen.dataset.near_duplicates import AnswersByPrompt
from asyncgen.dataset.samples import COMPLETION, messages, pair
from asyncgen.dataset.select import Selection
from asyncgen.dataset.sides import TRAIN, SampleSides
from asyncgen.dataset.split import Split
from asyncgen.dataset.writer import HashedFile
from asyncgen.errors import UsageError
from asyncgen.run.reviews import NO_REVIEWS
from asyncgen.run.whole_file import disk_error

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from asyncgen.dataset.samples import Sample
    from asyncgen.dataset.split import SplitPlan
    from asyncgen.job.model import DatasetSettings
    from asyncgen.job.of_run import OpenedJob
    from asyncgen.run.records import Record
    from asyncgen.run.reviews import Reviews
    from asyncgen.run.state import DatasetFile

CARD = "README.md"
JOB_COPY = "job.toml"
_SHOWN = 5
_NAMES = {"train": "data/train.jsonl", "validation": "data/validation.jsonl"}
_COLUMNS = (
    "`prompt`: what is asked, `completion`: the answer; both lists of messages, as TRL and others read them",
    "`model`: that wrote it; `repeat`: its number among the texts for the same row",
)


def export_folder(
    path: Path, records: Iterable[Record], opened: OpenedJob, plan: SplitPlan, reviews: Reviews = NO_REVIEWS
) -> Exported:
    """Write the folder; only records that are samples go in.

    Args:
        path: where it is to stand; an earlier export there is replaced.
        records: in the order wanted.
        opened: the run's job.
        plan: of the run's split, so that samples come to the sides where `prepare` put them.
        reviews: what a person rejected.

    Raises:
        UsageError: something else stands there, or there is no sample.
        DiskError: it could not be written; what stood there is unchanged.
    """
    with whole_folder(path, {CARD, JOB_COPY, *_NAMES.values()}) as new:
        return _fill(new, records, opened, plan, reviews)


@contextmanager
def whole_folder(path: Path, names: Collection[str]) -> Iterator[Path]:
    """A new folder to fill, which stands at `path` once the block has ended well; an earlier export is replaced.

    Args:
        path: where it is to stand.
        names: that an export there may hold, as paths within the folder.

    Raises:
        UsageError: something else stands there.
        DiskError: it could not be written; what stood there is unchanged.
    """
    path = Path(os.path.realpath(path))  # a link stays one
    _refuse_stranger(path, names)
    new, old = (path.with_name(f".{path.name}.{os.getpid()}.{end}") for end in ("new", "old"))
    try:
        new.mkdir(parents=True)
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
        raise UsageError(f"{path} is there already, and is no export of asyncgen", help_text="name another folder")
    others = [str(each.relative_to(path)) for each in path.rglob("*") if not each.is_dir() or each.is_symlink()]
    if strangers := sorted(set(others) - set(names)):
        raise UsageError(
            f"{path} would be replaced, and holds files that are no part of an export: {', '.join(strangers[:_SHOWN])}",
            help_text="move them away, or name another folder",
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
        raise UsageError("no answer of this run can be a sample yet", help_text="asyncgen report   (tells why)")
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
    """Write the row of every sample; the answer tells their sides, no prompt on both."""
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
    """A row: prompt and completion as lists of messages, so that trainers learn the completion and nothing else.

    TRL takes texts under these names for plain text: it joins them without the model's chat template. A column
    `messages` beside them would be passed over.
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
