"""The dataset of a file: prompts and completions as chat samples, or training lines that are there already.

Owns what is done to such files and the names of the results (`STEM_prepared.jsonl` beside the file, or its training
and validation halves). Prints nothing: a `Dialogue` hears what is found and says what may be done. The file itself
is never changed. For prompts and completions in their own format, see `pairs.prepare`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from asyncgen.dataset.histogram import Histogram
from asyncgen.dataset.pairs.checks import CHAT_CHECKS
from asyncgen.dataset.pairs.prepare import look_at
from asyncgen.dataset.pairs.write import output_paths
from asyncgen.dataset.rules.file import (
    CHAT,
    COMPLETION,
    DPO,
    check_training_file,
    example_texts,
    format_of,
    prompt_of,
    whole_file_faults,
)
from asyncgen.dataset.samples import Sample, texts, training_line
from asyncgen.dataset.split import Split, SplitPlan
from asyncgen.dataset.token_counts import token_counter
from asyncgen.dataset.writer import dataset_writer
from asyncgen.errors import AsyncgenError
from asyncgen.json_text import NotJsonError, decode_loosely
from asyncgen.providers.profiles import Finetuning
from asyncgen.text_lines import BYTE_ORDER_MARK, raw_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from asyncgen.dataset.pairs.prepare import Dialogue, Plan
    from asyncgen.dataset.rules.chat import Fault
    from asyncgen.dataset.rules.file import CheckedFile
    from asyncgen.job.model import DatasetSettings
    from asyncgen.providers.profiles import Profile

_SHOWN = 20


@dataclass(frozen=True, slots=True)
class PreparedFile:
    """What became of a file.

    Attributes:
        format: "chat", "completion" or "dpo".
        files: what was written; empty where the file can be used as it is, or writing was declined.
        declined: the user did not want the result written.
        samples: in each of the files; in `source` where none was written.
        tokens: of the training samples.
        token_label: how they were counted.
    """

    source: Path
    format: str
    files: tuple[Path, ...]
    declined: bool
    samples: tuple[int, ...]
    tokens: Histogram
    token_label: str


def holds_training_lines(path: Path) -> bool:
    """Whether a file is JSONL of messages or of DPO examples, by its first line that says anything."""
    if path.suffix.lower() != ".jsonl":
        return False
    for _, line in raw_lines(path):
        text = line.removeprefix(BYTE_ORDER_MARK).strip()
        if text:
            try:
                return format_of(decode_loosely(text)) in {CHAT, DPO}
            except NotJsonError:
                return False
    return False


def prepare_chat_file(path: Path, dialogue: Dialogue, settings: DatasetSettings, provider: Profile) -> PreparedFile:
    """Make chat samples of a file of prompts and completions.

    Args:
        path: of any of the six formats.
        dialogue: hears what is found and answers what is recommended.
        settings: system message, validation share and seed.
        provider: who will train; its rules hold.

    Raises:
        AsyncgenError: the file cannot be read, or the provider would refuse the result.
        DiskError: the result could not be written.
    """
    plan = look_at(path, dialogue, CHAT_CHECKS)
    lines = (
        (training_line(settings, sample), texts(settings, sample), sample.prompt)
        for sample in _chat_samples(path, plan)
    )
    return _write(_Target(path, CHAT, settings, provider), dialogue, lines)


def prepare_training_lines(
    path: Path, dialogue: Dialogue, settings: DatasetSettings, provider: Profile
) -> PreparedFile:
    """Check a file of messages or of DPO examples, and write a mended copy where one is needed.

    Args:
        path: JSONL.
        dialogue: hears what is found and answers what is recommended.
        settings: validation share and seed.
        provider: who will train; its rules hold.

    Raises:
        AsyncgenError: the provider would refuse the file; with the first findings, each with its line.
        DiskError: the result could not be written.
    """
    counter = token_counter((provider.finetuning or Finetuning()).default_model)
    checked = check_training_file(path, provider, counter)
    dialogue.found(f"There are {checked.examples:,} examples of the format {checked.format or 'unknown'}")
    for finding in checked.findings.remarks[:_SHOWN]:
        dialogue.found(f"WARNING: {finding}")
    _refuse_findings(checked, provider)
    changes = _marks(checked, provider, dialogue)
    unique = bool(checked.duplicates) and dialogue.accepts(
        f"Drop the {checked.duplicates:,} lines that repeat another?"
    )
    if checked.duplicates and not unique:
        dialogue.found(f"WARNING: {checked.duplicates:,} lines repeat another one")
    if not (changes or unique or settings.validation):
        return PreparedFile(
            path,
            checked.format,
            (),
            declined=False,
            samples=(checked.examples,),
            tokens=checked.tokens,
            token_label=counter.label,
        )
    target = _Target(path, checked.format, settings, provider)
    return _write(target, dialogue, _training_lines(path, unique=unique))


@dataclass(frozen=True, slots=True)
class _Target:
    """What is to be written, and by which rules."""

    source: Path
    format: str
    settings: DatasetSettings
    provider: Profile

    @property
    def rules(self) -> Finetuning:
        return self.provider.finetuning or Finetuning()


def _chat_samples(path: Path, plan: Plan) -> Iterator[Sample]:
    for row in plan.rows():
        sample = Sample(row.prompt.strip(), row.completion.strip())
        if not sample.prompt:
            raise AsyncgenError(
                f"row {row.label + 1} of {path} has no prompt, and a chat needs one",
                help_text="fill the prompts in, or train on completions alone with --format completion",
                code="bad_data",
            )
        if sample.answer:
            yield sample


def _training_lines(path: Path, *, unique: bool) -> Iterator[tuple[bytes, list[str], str]]:
    seen: set[int] = set()
    for _, raw in raw_lines(path):
        line = raw.removeprefix(BYTE_ORDER_MARK).strip()
        if not line:
            continue
        example = decode_loosely(line)
        identity = hash(orjson.dumps(example, option=orjson.OPT_SORT_KEYS))
        if unique and identity in seen:
            continue
        seen.add(identity)
        yield line + b"\n", list(example_texts(example)), prompt_of(example)


def _marks(checked: CheckedFile, provider: Profile, dialogue: Dialogue) -> bool:
    """Whether the byte order mark has to be changed, and say so."""
    wanted = (provider.finetuning or Finetuning()).byte_order_mark
    if wanted == checked.marked:
        return False
    article = "wants" if wanted else "does not take"
    dialogue.necessary(f"{provider.title} {article} a byte order mark at the beginning of the file")
    return True


def _refuse_findings(checked: CheckedFile, provider: Profile) -> None:
    findings = checked.findings
    if not findings.fatal_count:
        return
    shown = [str(finding) for finding in findings.fatal[:_SHOWN]]
    if findings.fatal_count > len(shown):
        shown.append(f"... and {findings.fatal_count - len(shown):,} more")
    raise AsyncgenError(
        f"{provider.title} would refuse {checked.path}: {findings.fatal_count:,} faults",
        cause="\n".join(shown),
        help_text="mend these lines, then give the same command again",
        code="refused_dataset",
    )


def _write(target: _Target, dialogue: Dialogue, lines: Iterable[tuple[bytes, list[str], str]]) -> PreparedFile:
    counter = token_counter(target.rules.default_model)
    share = target.settings.validation
    if not dialogue.accepts("Write the result to a new JSONL file?"):
        return PreparedFile(
            target.source, target.format, (), declined=True, samples=(), tokens=Histogram(), token_label=counter.label
        )
    paths = output_paths(target.source, split=share > 0)
    split = Split(SplitPlan(share, target.settings.seed, 0, {"prompt": []}))
    with dataset_writer(
        counter,
        paths[0],
        paths[1] if share else None,
        chat=target.format != COMPLETION,
        byte_order_mark=target.rules.byte_order_mark,
    ) as writer:
        for line, line_texts, prompt in lines:
            # A line's side depends on nothing but its prompt, so that none is on both.
            writer.add(line, line_texts, validates=split.validates({"prompt": prompt}))
        files = writer.files()
        _refuse_whole(target, whole_file_faults(target.format, files[0].samples, files[0].bytes, target.provider))
    if share and not files[1].samples:
        paths[1].unlink()
        dialogue.found("WARNING: no sample is left for validation: there are too few for this share")
    written = [(path, file.samples) for path, file in zip(paths, files, strict=True) if file.samples]
    return PreparedFile(
        source=target.source,
        format=target.format,
        files=tuple(path for path, _ in written),
        declined=False,
        samples=tuple(samples for _, samples in written),
        tokens=writer.tokens,
        token_label=counter.label,
    )


def _refuse_whole(target: _Target, faults: Iterable[Fault]) -> None:
    causes = [fault.text for fault in faults]
    if causes:
        raise AsyncgenError(
            f"{target.provider.title} would refuse the samples of {target.source}; they were not written",
            cause="\n".join(causes),
            help_text="see `asyncgen providers` for what others take, and name one with --provider",
            code="refused_dataset",
        )
