"""Prepare a training file from a user's file: rows of any form become chat samples or preferences, checked and written.

Results are `STEM_prepared.jsonl` beside the file, or its training and validation halves. A `Dialogue` is told what is
found and asked what may be done; nothing is printed. The input file is never changed, and every row is either written
or reported as left out. For prompts and completions in their own format, see `pairs.prepare`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from asyncgen.dataset.files.forms import PAIR, WantedColumns
from asyncgen.dataset.files.rows import open_rows
from asyncgen.dataset.files.scan import FileScan
from asyncgen.dataset.pairs.prepare import output_paths, taken_names
from asyncgen.dataset.rules.file import example_texts, prompt_of, whole_file_faults
from asyncgen.dataset.samples import Sample, training_line
from asyncgen.dataset.split import Split, SplitPlan
from asyncgen.dataset.token_counts import Histogram, token_counter
from asyncgen.dataset.writer import dataset_writer
from asyncgen.errors import AsyncgenError
from asyncgen.providers.profiles import Finetuning
from asyncgen.terminal import counted, first_of
from asyncgen.text_files import BYTE_ORDER_MARK, open_input

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from asyncgen.dataset.pairs.prepare import Dialogue
    from asyncgen.dataset.rules.chat import Fault
    from asyncgen.dataset.token_counts import TokenCounter
    from asyncgen.job.model import DatasetSettings
    from asyncgen.providers.profiles import Profile

_REMARKS_SHOWN = 20
_FEW_ROWS = 100


@dataclass(frozen=True, slots=True)
class PreparedFile:
    """The result for a file.

    Attributes:
        format: "chat" or "dpo".
        files: what was written; empty if the file can be used as it is, or writing was declined.
        declined: whether the user declined to write the result.
        samples: samples of each file; those of `source` if none was written.
        read: rows of the source.
        left_out: number of rows left out, by reason: "empty", "duplicate".
        tokens: of the training samples.
        token_label: how they were counted.
    """

    source: Path
    format: str
    files: tuple[Path, ...]
    declined: bool
    samples: tuple[int, ...]
    read: int
    left_out: dict[str, int]
    tokens: Histogram
    token_label: str


def prepare_file(
    path: Path, dialogue: Dialogue, settings: DatasetSettings, provider: Profile, wanted: WantedColumns | None = None
) -> PreparedFile:
    """Make a training file from a file of samples in any known form, or find that it can be used as it is.

    Args:
        path: a file of any kind that `files.rows` reads; it is not changed.
        dialogue: shows findings, and answers questions about recommended changes.
        settings: system message, validation share and seed.
        provider: the provider that will train, whose rules apply.
        wanted: the columns that the user named; None for none.

    Returns:
        The files written, and what was changed.

    Raises:
        AsyncgenError: the file cannot be read, or the provider would refuse the result; the cause lists the first
            findings with their lines.
        DiskError: the result could not be written.
    """
    wanted = wanted or WantedColumns()
    file = open_rows(path, wanted)
    for text in file.found:
        dialogue.found(text)
    counter = token_counter((provider.finetuning or Finetuning()).default_model)
    scan = FileScan(file, wanted, provider, counter, settings.system)
    scan.run()
    _tell(scan, dialogue)
    work = _Work(scan, settings, provider, counter)
    changes = _necessary(work, dialogue)
    unique = bool(scan.repeated) and dialogue.accepts(f"Drop the {scan.repeated:,} duplicates?")
    if scan.repeated and not unique:
        dialogue.found(f"WARNING: {counted(scan.repeated, 'row repeats', 'rows repeat')} another one")
    if changes or unique or settings.validation:
        return _write(work, dialogue, unique=unique)
    with open_input(path) as source:
        size = source.seek(0, 2)
    work.refuse(whole_file_faults(scan.format, scan.read, size, provider))
    return work.prepared((), (scan.read,), scan.checked.tokens, unique=False)


@dataclass(frozen=True, slots=True)
class _Work:
    """A file that was read, and the result to make of it."""

    scan: FileScan
    settings: DatasetSettings
    provider: Profile
    counter: TokenCounter

    @property
    def rules(self) -> Finetuning:
        return self.provider.finetuning or Finetuning()

    @property
    def marked(self) -> bool:
        """Whether the file begins with a byte order mark."""
        with open_input(self.scan.file.path) as file:
            return file.read(len(BYTE_ORDER_MARK)) == BYTE_ORDER_MARK

    def refuse(self, faults: Iterable[Fault]) -> None:
        """Refuse what is wrong with the samples as a whole."""
        causes = [fault.text for fault in faults]
        if causes:
            raise AsyncgenError(
                f"{self.provider.title} would refuse the samples of {self.scan.file.path}",
                cause="\n".join(causes),
                help_text="`asyncgen providers` lists what others accept; choose one with --provider",
                code="refused_dataset",
            )

    def prepared(
        self,
        files: tuple[Path, ...],
        samples: tuple[int, ...],
        tokens: Histogram,
        *,
        unique: bool,
        declined: bool = False,
    ) -> PreparedFile:
        left_out = {"empty": self.scan.blank, "duplicate": self.scan.repeated if unique else 0}
        return PreparedFile(
            source=self.scan.file.path,
            format=self.scan.format,
            files=files,
            declined=declined,
            samples=samples,
            read=self.scan.read,
            left_out={reason: count for reason, count in left_out.items() if count},
            tokens=tokens,
            token_label=self.counter.label_with_hint,
        )


def _tell(scan: FileScan, dialogue: Dialogue) -> None:
    rows = scan.read - scan.blank
    is_one = rows == 1
    kind = ("pair", "pairs") if scan.form == PAIR else ("example", "examples")
    what = f"{kind[not is_one]} {'of prompt and completion' if scan.form == PAIR else f'of the form {scan.form}'}"
    advice = (
        "" if rows >= _FEW_ROWS else "; at least a few hundred are recommended, and each doubling helps about as much"
    )
    dialogue.found(f"There {'is' if is_one else 'are'} {rows:,} {what}{advice}")
    if scan.unused and not scan.fits:
        unused = [f"`{name}`" for name in scan.unused]
        dialogue.found(f"Left out, because samples cannot contain them: {first_of(unused)}")
    for text in scan.blank_words():
        dialogue.found(text)
    if scan.thoughts.count:
        dialogue.found(
            f"WARNING: {counted(scan.thoughts.count, 'answer begins', 'answers begin')} with reasoning (such as "
            f"<think>), which the model will learn to write: {scan.thoughts.words(scan.file.place)}"
        )
    for finding in scan.checked.findings.remarks[:_REMARKS_SHOWN]:
        dialogue.found(f"WARNING: {finding}")


def _necessary(work: _Work, dialogue: Dialogue) -> bool:
    """Whether something has to be changed in any case, and say so."""
    scan, wants_mark = work.scan, work.rules.byte_order_mark
    steps = []
    if not scan.fits:
        steps.append(f"Convert {scan.file.kind} to lines of {'preferences' if scan.format == 'dpo' else 'chats'}")
    if scan.blank:
        steps.append(f"Remove the {counted(scan.blank, 'row')} without a sample")
    if scan.without_system:
        steps.append(f"Add the system message to {scan.without_system:,} chats that have none")
    if scan.fits and work.marked != wants_mark:
        article = "wants" if wants_mark else "does not accept"
        steps.append(f"{work.provider.title} {article} a byte order mark at the beginning of the file")
    for step in steps:
        dialogue.necessary(step)
    return bool(steps)


def _write(work: _Work, dialogue: Dialogue, *, unique: bool) -> PreparedFile:
    scan, share = work.scan, work.settings.validation
    if not dialogue.accepts("Write the result to a new JSONL file?"):
        return work.prepared((), (), Histogram(), unique=unique, declined=True)
    paths = output_paths(scan.file.path, split=share > 0)
    if taken := taken_names(scan.file.path, paths):
        dialogue.found(taken)
    split = Split(SplitPlan(share, work.settings.seed, 0, {"prompt": []}))
    with dataset_writer(
        work.counter,
        paths[0],
        paths[1] if share else None,
        chat=True,
        byte_order_mark=work.rules.byte_order_mark,
    ) as writer:
        for line, line_texts, prompt in _lines(work, unique=unique):
            # A line's side depends on nothing but its prompt, so that the same prompt is never on both.
            writer.add(line, line_texts, validates=split.validates({"prompt": prompt}))
        files = writer.files()
        work.refuse(whole_file_faults(scan.format, files[0].samples, files[0].bytes, work.provider))
    if share and not files[1].samples:
        paths[1].unlink()
        dialogue.found(
            "WARNING: no sample is left for validation: a prompt is on one side only, and there are too few prompts "
            "for this share"
        )
    written = [(path, file.samples) for path, file in zip(paths, files, strict=True) if file.samples]
    return work.prepared(
        tuple(path for path, _ in written), tuple(samples for _, samples in written), writer.tokens, unique=unique
    )


def _lines(work: _Work, *, unique: bool) -> Iterator[tuple[bytes, list[str], str]]:
    """Each sample's line, its texts, and its prompt."""
    settings = work.settings
    for row, sample in work.scan.samples(unique=unique):
        if isinstance(sample, Sample):
            yield *training_line(settings, sample), sample.prompt
            continue
        stays = work.scan.fits and sample == row.values
        line = row.raw if stays else orjson.dumps(sample)
        yield line + b"\n", list(example_texts(sample)), prompt_of(sample) if settings.validation else ""
