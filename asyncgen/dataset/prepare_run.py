"""The dataset of a run: records are judged, written as samples, and what was left out is told with its reason.

Owns the files and what `run.json` says of them. Prints nothing. How a record is judged, a sample written and a side
chosen is the business of `judge`, `samples` and `split`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import orjson

from asyncgen.dataset.rules.file import whole_file_faults
from asyncgen.dataset.samples import CHAT, Sample, texts, training_line
from asyncgen.dataset.select import TAKEN, judge_records, may_be_stale
from asyncgen.dataset.split import SideCounts, Split, known_plan, plan_split
from asyncgen.dataset.token_counts import token_counter
from asyncgen.dataset.training_costs import training_costs
from asyncgen.dataset.writer import collector_off, dataset_writer
from asyncgen.errors import AsyncgenError, UsageError
from asyncgen.json_text import decoder
from asyncgen.providers.profiles import Finetuning
from asyncgen.run.jsonl import read_lines, read_rows
from asyncgen.run.records import decode_record
from asyncgen.run.state import DatasetState
from asyncgen.run.whole_file import replacing

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from asyncgen.dataset.histogram import Histogram
    from asyncgen.dataset.select import Verdicts
    from asyncgen.dataset.split import SplitPlan, ThinValue
    from asyncgen.dataset.token_counts import TokenCounter
    from asyncgen.dataset.training_costs import TrainingCost
    from asyncgen.job.model import Job
    from asyncgen.job.requests import RequestGrid
    from asyncgen.providers.prices import PriceList
    from asyncgen.providers.profiles import Profile
    from asyncgen.run.directory import Run, RunDirectory
    from asyncgen.run.state import DatasetFile, RunState

_NAMED = 5  # values that a warning names


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run's dataset as written.

    Attributes:
        train: the training file.
        validation: the validation file; None where all samples train.
        files: what was written, with sizes and hashes; the training file first.
        rejected: reason to how many records were left out for it.
        near_duplicates: answers that are nearly an earlier one to the same prompt.
        tokens: of the training samples.
        token_label: how they were counted.
        costs: of training on them, at the chosen provider first; empty where it does not tune.
        warnings: what the user should know, a sentence each.
    """

    train: Path
    validation: Path | None
    files: tuple[DatasetFile, ...]
    rejected: Counter[str]
    near_duplicates: int
    tokens: Histogram
    token_label: str
    costs: tuple[TrainingCost, ...]
    warnings: tuple[str, ...]


def prepare_run(
    run: Run,
    job: Job,
    grid: RequestGrid,
    *,
    provider: Profile,
    prices: PriceList,
    drop_near_duplicates: bool = False,
) -> Prepared:
    """Write `train.jsonl`, `validation.jsonl` and `rejected.jsonl`, and note them in `run.json`.

    Args:
        run: holds the records.
        job: its checks, dataset and fine-tuning settings count.
        grid: the rows of the job, and its short prompt.
        provider: who will train; its rules hold.
        prices: for what training would cost.
        drop_near_duplicates: leave near-duplicates out; they are counted in any case.

    Raises:
        AsyncgenError: the provider would refuse the dataset; then only `rejected.jsonl` is written.
        BadLineError: a line of the records is damaged.
        DiskError: a file could not be read or written.
    """
    if job.finetune.method == "dpo":
        raise UsageError(
            "the job asks for the method dpo, and a run has no worse answers to learn from",
            help_text="write a JSONL file of input, preferred_output and non_preferred_output: asyncgen prepare FILE",
        )
    work = _Work(run.directory, job, grid, provider)
    with collector_off():
        return _prepare(run, work, prices, drop_near_duplicates=drop_near_duplicates)


def _prepare(run: Run, work: _Work, prices: PriceList, *, drop_near_duplicates: bool) -> Prepared:
    job, provider = work.job, work.provider
    verdicts = judge_records(
        work.directory.records,
        job,
        work.grid,
        stale=may_be_stale(run.state.job, work.grid),
        drop_near_duplicates=drop_near_duplicates,
    )
    _write_rejected(work.directory, verdicts)
    plan = plan_split(work.grid, job.dataset, known_plan(run.state))
    counter = token_counter(job.finetune.model or work.rules.default_model, verdicts.ratio.ratio)
    written = _write_samples(work, verdicts, Split(plan, job.dataset.hold_out), counter)
    run.update(_noting(written.files, job, plan))
    costs = training_costs(written.tokens, provider, job.finetune.model, job.finetune.hyperparameters, prices)
    return Prepared(
        train=work.directory.train,
        validation=work.directory.validation if len(written.files) > 1 else None,
        files=tuple(written.files),
        rejected=verdicts.rejected(),
        near_duplicates=verdicts.near_duplicates,
        tokens=written.tokens,
        token_label=counter.label,
        costs=tuple(costs),
        warnings=tuple(_warnings(work, verdicts, written, dropped=drop_near_duplicates)),
    )


@dataclass(frozen=True, slots=True)
class _Work:
    """What is prepared, by which rules."""

    directory: RunDirectory
    job: Job
    grid: RequestGrid
    provider: Profile

    @property
    def rules(self) -> Finetuning:
        return self.provider.finetuning or Finetuning()


@dataclass(frozen=True, slots=True)
class _Written:
    files: list[DatasetFile]
    tokens: Histogram
    sides: SideCounts


def _write_rejected(directory: RunDirectory, verdicts: Verdicts) -> None:
    with replacing(directory.rejected) as file:
        for place, (_, line) in enumerate(read_lines(directory.records)):
            if reason := verdicts.reason(place):
                record = decode_record(line)
                file.write(
                    orjson.dumps(
                        {
                            "key": record.key,
                            "index": record.index,
                            "repeat": record.repeat,
                            "variables": record.variables,
                            "prompt": record.prompt,
                            "completion": record.completion,
                            "reason": reason,
                        },
                        option=orjson.OPT_APPEND_NEWLINE,
                    )
                )


class _Row(msgspec.Struct, frozen=True, gc=False):
    """What a sample is made of; decoding the whole record would take twice as long."""

    key: str
    repeat: int
    variables: dict[str, str]
    completion: str


_decode_row = decoder(_Row)


def _write_samples(work: _Work, verdicts: Verdicts, split: Split, counter: TokenCounter) -> _Written:
    """The second pass over the records."""
    directory, settings = work.directory, work.job.dataset
    is_foreign = may_be_stale(directory.read_state().job, work.grid)
    sides = SideCounts()
    with dataset_writer(
        counter,
        directory.train,
        directory.validation if settings.splits else None,
        chat=settings.format == CHAT,
        byte_order_mark=work.rules.byte_order_mark,
    ) as writer:
        for place, (_, row) in enumerate(read_rows(directory.records, _decode_row)):
            if verdicts.codes[place] == TAKEN:
                row = (work.grid.own(row) or row) if is_foreign else row  # noqa: PLW2901 - the same row, as the job has it
                sample = Sample(work.grid.prompt_of(row.variables, row.completion), row.completion.strip())
                validates = split.validates(row.variables)
                writer.add(training_line(settings, sample), texts(settings, sample), validates=validates)
                if settings.splits:
                    sides.add(row.variables, validates=validates)
        _refuse(work, writer.files(), verdicts)
    files = [file for file in writer.files() if file.samples]
    if len(files) == 1:
        directory.validation.unlink(missing_ok=True)
    return _Written(files, writer.tokens, sides)


def _refuse(work: _Work, files: list[DatasetFile], verdicts: Verdicts) -> None:
    """End it where the provider would.

    Raises:
        AsyncgenError: with everything that is wrong, and the reasons why records were left out.
    """
    faults = whole_file_faults(work.job.dataset.format, files[0].samples, files[0].bytes, work.provider)
    causes = [fault.text for fault in faults]
    if not causes:
        return
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in verdicts.rejected().most_common())
    if left_out:
        causes.append(f"left out of {len(verdicts.codes):,} records: {left_out} (see {work.directory.rejected})")
    raise AsyncgenError(
        f"{work.provider.title} would refuse this dataset; it was not written",
        cause="\n".join(causes),
        help_text="asyncgen generate --retry-rejected   (asks again for what was left out), or change [dataset], "
        "[checks] or [generate] repeats in the job file",
        code="refused_dataset",
    )


def _noting(files: list[DatasetFile], job: Job, plan: SplitPlan) -> Callable[[RunState], RunState]:
    """The change of `run.json` that notes the dataset."""
    settings = job.dataset
    chat = settings.format == CHAT
    dataset = DatasetState(
        files=files,
        format=settings.format,
        separator="" if chat else settings.separator,
        ending="" if chat else settings.ending,
        system=settings.system if chat else None,
        validation=plan.share,
        seed=plan.seed,
        turn=plan.turn,
        ranks={name: list(values) for name, values in plan.ranks.items()},
    )
    return lambda state: msgspec.structs.replace(state, dataset=dataset)


def _warnings(work: _Work, verdicts: Verdicts, written: _Written, *, dropped: bool) -> Iterator[str]:
    settings = work.job.dataset
    if verdicts.near_duplicates and not dropped:
        yield (
            f"{verdicts.near_duplicates:,} answers are nearly an earlier answer to the same prompt; "
            "--drop-near-duplicates leaves them out"
        )
    limit = work.rules.max_sample_tokens
    if limit is not None and (cut := written.tokens.above(limit)):
        yield f"{cut:,} samples have more than {limit:,} tokens; {work.provider.title} cuts them there without a word"
    if verdicts.separators:
        yield f"{verdicts.separators:,} prompts have the separator {settings.separator!r} inside; choose a rarer one"
    if verdicts.endings:
        yield (
            f"{verdicts.endings:,} answers have the ending {settings.ending!r} inside, and the tuned model will stop "
            "there; choose one that no answer has"
        )
    if settings.splits:
        yield from _thin_warnings(work, written)


def _thin_warnings(work: _Work, written: _Written) -> Iterator[str]:
    if len(written.files) == 1:
        yield "no sample is left for validation: there are too few for this share"
        return
    by_axis: dict[tuple[str, str], list[ThinValue]] = {}
    settings = work.job.dataset
    held = {(name, str(value)) for name, values in settings.hold_out.items() for value in values}
    for thin in written.sides.thin(settings.validation / work.grid.repeats):
        if (thin.axis, thin.value) not in held:
            by_axis.setdefault((thin.axis, thin.missing), []).append(thin)
    for (axis, missing), values in by_axis.items():
        named = ", ".join(f"{thin.value} ({thin.samples})" for thin in values[:_NAMED])
        more = f" and {len(values) - _NAMED:,} more" if len(values) > _NAMED else ""
        side = "validation" if missing == "validation" else "training"
        yield f"{axis}: too few samples for one to fall to {side}: {named}{more}"
