"""Export a run's prepared dataset as a folder: with a trainer's configuration, or plain.

The rows are those of `train.jsonl` and `validation.jsonl`, each on its side, so that a model trained elsewhere can be
evaluated on the same held-out prompts as one tuned by `finetune`. Row forms are left to `trainers`, configurations
to `trainers`.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from asyncgen.dataset.export.folder import CARD, JOB_COPY, CardFacts, whole_folder, write_card
from asyncgen.dataset.export.train_with_trl import HUB_NAMES, RATES
from asyncgen.dataset.export.trainers import TRAINERS, TrainerSettings, prepared_samples, trl_rows
from asyncgen.dataset.samples import COMPLETION, PREFERENCE, Selection
from asyncgen.dataset.token_counts import token_counter
from asyncgen.dataset.writer import HashedFile
from asyncgen.errors import UsageError, command_line
from asyncgen.providers.prices import epochs_of
from asyncgen.providers.profiles import Finetuning
from asyncgen.run.reviews import read_reviews

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from asyncgen.dataset.export.trainers import PreparedSample, Trainer
    from asyncgen.dataset.token_counts import TokenCounter
    from asyncgen.job.opened import OpenedJob
    from asyncgen.run.directory import RunDirectory
    from asyncgen.run.records import Record
    from asyncgen.run.state import DatasetFile, DatasetState

RANK, BATCH = 16, 8
_RANK_NAMES = ("lora_r", "lora_rank", "rank")
# Organization and name, as on the Hub; Together appends a suffix to the names of models that it tunes.
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_TOGETHERS_OWN = re.compile(r"-Reference$")
_SUGGESTED = "Qwen/Qwen3-4B-Instruct-2507"
_MARGIN, _TEMPLATE_TOKENS, _STEP, _SHORTEST = 1.25, 64, 256, 512
_BATCH_OF_TEXTS = 1000


@dataclass(frozen=True, slots=True)
class ExportedForTrainer:
    """What was written.

    Attributes:
        rows: rows of the training file.
        validation_rows: rows of the validation file.
        plan: content of the configuration; None for a plain folder.
        command: the command to type next; "" for a plain folder.
        remarks: sentences for the user.
    """

    rows: int
    validation_rows: int
    plan: TrainerSettings | None = None
    command: str = ""
    remarks: tuple[str, ...] = ()


def export_for_trainer(
    path: Path, trainer: str, directory: RunDirectory, opened: OpenedJob, records: Iterable[Record], model: str | None
) -> ExportedForTrainer:
    """Write the prepared dataset with the configuration of a trainer.

    Args:
        path: the folder; an earlier export there is replaced.
        trainer: a name of `TRAINERS`.
        directory: of the run.
        opened: the run's job, with model, suffix and hyperparameters.
        records: of the run, for models, dates and variables on the card.
        model: the model to train, a name on the Hub or a folder; None for the job's.

    Returns:
        Counts, the command to type, and remarks.

    Raises:
        UsageError: the run has no dataset, the trainer cannot learn from it, the model is not available, or something
            else is at `path`.
        DiskError: it could not be written; what was there is unchanged.
    """
    kind = TRAINERS[trainer]
    dataset = noted_dataset(directory)
    _refuse_unlearnable(kind, dataset, opened)
    model = trained_model(model, opened, trainer)
    names = {"train": "train.jsonl", "validation": kind.validation}
    with whole_folder(path, _all_names()) as folder:
        made = _write_rows(folder, directory, dataset, names, kind.rows, token_counter(model))
        plan = _plan(opened, dataset, made, model)
        for name, text in kind.files(plan).items():
            (folder / name).write_text(text, encoding="utf-8")
        command = kind.command.format(folder=shlex.quote(str(path)))
        training = [f"For {kind.title} ({kind.needs}):", "", "```", kind.command.format(folder="."), "```"]
        facts = _facts(records, opened, directory)
        write_card(folder, opened, facts, made.files, columns=_columns(made.columns), training=training)
    rows, held_out = (made.files[side].samples if side in made.files else 0 for side in names)
    return ExportedForTrainer(rows, held_out, plan, command, tuple(_remarks(kind, made, directory, held_out)))


def export_prepared_folder(
    path: Path, directory: RunDirectory, opened: OpenedJob, records: Iterable[Record]
) -> ExportedForTrainer:
    """Write the prepared dataset as a Hugging Face folder.

    For preferences and samples chosen by scores, each of which comes from several rows of the run.

    Args:
        path: the folder; an earlier export there is replaced.
        directory: of the run.
        opened: the run's job.
        records: of the run, for models, dates and variables on the card.

    Returns:
        Counts and remarks.

    Raises:
        UsageError: the run has no dataset, or something else is at `path`.
        DiskError: it could not be written; what was there is unchanged.
    """
    dataset = noted_dataset(directory)
    names = {"train": "data/train.jsonl", "validation": "data/validation.jsonl"}
    with whole_folder(path, {CARD, JOB_COPY, *names.values()}) as folder:
        (folder / "data").mkdir()
        made = _write_rows(folder, directory, dataset, names, trl_rows, None)
        write_card(folder, opened, _facts(records, opened, directory), made.files, columns=_columns(made.columns))
    rows, held_out = (made.files[side].samples if side in made.files else 0 for side in names)
    return ExportedForTrainer(rows, held_out, remarks=tuple(_age_remarks(directory)))


def noted_dataset(directory: RunDirectory) -> DatasetState:
    """The dataset that the run notes.

    Raises:
        UsageError: it has none, or its file is gone.
    """
    dataset = directory.read_state().dataset
    if dataset is None or not dataset.files or not directory.train.is_file():
        raise UsageError(
            f"{directory.path} has no dataset yet",
            help_text=f"{command_line('prepare', directory.path)}   (creates one)",
        )
    return dataset


def trained_model(named: str | None, opened: OpenedJob, trainer: str) -> str:
    """Choose the model to train.

    Args:
        named: by the user, used as it is; None for the job's.
        opened: the run's job, whose model is used if its weights are available.
        trainer: name of the trainer; Tinker has its own list of models.

    Returns:
        Name of the model.

    Raises:
        UsageError: no model is known.
    """
    if named:
        return named
    settings = opened.job.finetune
    model = settings.model or "smollm2-135m-instruct"
    model = HUB_NAMES.get(model, model)
    open_name = _TOGETHERS_OWN.sub("", model)
    if not _HUB_NAME.fullmatch(open_name):
        raise UsageError(
            f"the weights of {model} are not available",
            cause="your own trainer needs a model from the Hugging Face Hub or in a folder",
            help_text=f"add --model NAME, such as --model {_SUGGESTED}",
        )
    if trainer == "tinker" and open_name in HUB_NAMES.values():
        raise UsageError(
            f"Tinker does not train {open_name}",
            cause="it only trains the models of its own list, and the job names none of them",
            help_text=f"add --model NAME, such as --model {_SUGGESTED}",
        )
    return open_name


def _refuse_unlearnable(kind: Trainer, dataset: DatasetState, opened: OpenedJob) -> None:
    others = ", ".join(
        name
        for name, other in TRAINERS.items()
        if (other.pairs or dataset.format != PREFERENCE) and (other.tools or not _has_tools(opened))
    )
    if dataset.format == PREFERENCE and not kind.pairs:
        raise UsageError(
            f"{kind.title} cannot be configured to learn from pairs of answers",
            help_text=f"use --for with one of {others}",
        )
    if _has_tools(opened) and not kind.tools:
        raise UsageError(f"{kind.title} does not read tools from a file", help_text=f"use --for with one of {others}")


def _has_tools(opened: OpenedJob) -> bool:
    return bool(opened.job.generate.parameters.get("tools"))


@dataclass(frozen=True, slots=True)
class _Made:
    """The rows that were written."""

    files: Mapping[str, DatasetFile]
    columns: tuple[str, ...]
    longest: int
    thoughts: bool
    tools: bool
    more_answers: bool


def _write_rows(
    folder: Path,
    directory: RunDirectory,
    dataset: DatasetState,
    names: Mapping[str, str],
    rows: Callable[[PreparedSample], Iterator[dict[str, Any]]],
    counter: TokenCounter | None,
) -> _Made:
    """Write both files; tokens are counted if there is a counter."""
    files: dict[str, DatasetFile] = {}
    columns: dict[str, None] = {}
    longest, thoughts, tools, samples = 0, False, False, 0
    sources = {"train": directory.train, "validation": directory.validation if len(dataset.files) > 1 else None}
    for side, source in sources.items():
        if source is None:
            continue
        with (folder / names[side]).open("wb") as file:
            written = HashedFile(names[side], file)
            texts: list[list[str]] = []
            for sample in prepared_samples(source, dataset):
                samples += 1
                thoughts = thoughts or any("reasoning_content" in turn for turn in sample.turns)
                tools = tools or bool(sample.tools)
                texts.append(sample.texts if counter else [])
                for row in rows(sample):
                    columns.update(dict.fromkeys(row))
                    written.add(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
                if len(texts) == _BATCH_OF_TEXTS:
                    longest, texts = max(longest, _longest(counter, texts)), []
            longest = max(longest, _longest(counter, texts))
            file.flush()
            os.fsync(file.fileno())
        if written.samples:
            files[side] = written.noted()
        else:
            (folder / names[side]).unlink()
    if "train" not in files:
        raise UsageError(f"{directory.train} has no samples", help_text=command_line("prepare", directory.path))
    count = sum(file.samples for file in files.values())
    return _Made(files, tuple(columns), longest, thoughts, tools, more_answers=count > samples)


def _longest(counter: TokenCounter | None, texts: list[list[str]]) -> int:
    return max(counter.samples(texts, chat=True), default=0) if counter else 0


def _plan(opened: OpenedJob, dataset: DatasetState, made: _Made, model: str) -> TrainerSettings:
    settings = opened.job.finetune
    given = settings.hyperparameters
    method = "dpo" if dataset.format == PREFERENCE else "supervised"
    rows = made.files["train"].samples
    rank = _whole(next((given[name] for name in _RANK_NAMES if name in given), None), RANK)
    rate = _number(given.get("learning_rate"), RATES[method] * _number(given.get("learning_rate_multiplier"), 1.0))
    return TrainerSettings(
        name=opened.job.name,
        model=model,
        method=method,
        suffix=settings.suffix,
        rows=rows,
        validation_rows=made.files["validation"].samples if "validation" in made.files else 0,
        epochs=epochs_of(rows, given, Finetuning()),
        batch_size=_whole(given.get("batch_size"), BATCH),
        learning_rate=rate,
        rank=rank,
        alpha=_whole(given.get("lora_alpha"), 2 * rank),
        max_length=_max_length(made.longest),
        seed=settings.seed if settings.seed is not None else opened.job.dataset.seed,
        texts=dataset.format == COMPLETION,
        thoughts=made.thoughts,
        tools=made.tools,
        beta=_number(given.get("beta"), 0.1),
    )


def _whole(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else otherwise


def _number(value: Any, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else otherwise


def _max_length(longest: int) -> int:
    """So many tokens that nothing is cut: another tokenizer counts otherwise, and a template adds its own."""
    wanted = longest * _MARGIN + _TEMPLATE_TOKENS
    return max(_SHORTEST, _STEP * -(-int(wanted) // _STEP))


def _facts(records: Iterable[Record], opened: OpenedJob, directory: RunDirectory) -> CardFacts:
    facts = CardFacts()
    selection = Selection(opened.job, opened.grid, stale=False, reviews=read_reviews(directory.path))
    for record in records:
        if selection.judge(record)[0]:
            facts.add(record.model, record.created, record.variables)
    return facts


_SENTENCES = {
    "messages": "the conversation; for a pair, everything before its answers",
    "prompt": "the prompt",
    "completion": "the answer to learn",
    "chosen": "the better answer",
    "rejected": "the worse answer",
    "tools": "the tools offered to the model",
}


def _columns(names: Iterable[str]) -> list[str]:
    return [f"`{name}`: {_SENTENCES[name]}" for name in names]


def _all_names() -> set[str]:
    """Every file that an export for any trainer may contain."""
    configured = {name for trainer in TRAINERS.values() for name in trainer.files(_ANY_PLAN)}
    return {CARD, JOB_COPY, "train.jsonl", *(trainer.validation for trainer in TRAINERS.values()), *configured}


_ANY_PLAN = TrainerSettings(
    name="", model="", method="supervised", suffix=None, rows=1, validation_rows=1, epochs=1, batch_size=1,
    learning_rate=1.0, rank=1, alpha=1, max_length=1, seed=0,
)  # fmt: skip


def _remarks(kind: Trainer, made: _Made, directory: RunDirectory, held_out: int) -> Iterator[str]:
    yield from _age_remarks(directory)
    if held_out and not kind.measures:
        yield (
            f"the configuration of {kind.title} has no validation file: {kind.validation} is for "
            "`asyncgen evaluate` and is not trained on"
        )
    if made.more_answers:
        yield (
            f"a conversation with several answers becomes a row for each answer, because {kind.title} learns only the "
            "last one"
        )
    yield f"needs: {kind.needs}"


def _age_remarks(directory: RunDirectory) -> Iterator[str]:
    if directory.records.exists() and directory.records.stat().st_mtime_ns > directory.train.stat().st_mtime_ns:
        yield f"there are newer answers than the dataset; `{command_line('prepare', directory.path)}` adds them"
