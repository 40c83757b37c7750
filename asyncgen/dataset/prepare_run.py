"""Prepare the dataset of a run: judge records, write samples, report what was left out with the reason.

Writes the files and their entry in `run.json`; prints nothing. Judging, format and split are left to `draft`,
`samples` and `split`.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from asyncgen.dataset.draft import drafting
from asyncgen.dataset.draft_pass import ENDINGS, FENCED, SEPARATORS, SIMULATED, THOUGHTS
from asyncgen.dataset.rules.file import DPO, whole_file_faults
from asyncgen.dataset.samples import COMPLETION, PREFERENCE, may_be_stale
from asyncgen.dataset.scores import ScoreTable
from asyncgen.dataset.split import TRAIN, Split, known_plan, plan_split
from asyncgen.dataset.token_counts import Histogram, training_costs
from asyncgen.dataset.writer import collector_off, dataset_writer
from asyncgen.errors import AsyncgenError, UsageError, command_line
from asyncgen.job.answers import short_reasons
from asyncgen.job.opened import generate_again
from asyncgen.job.template import parse
from asyncgen.providers.profiles import Finetuning
from asyncgen.run.simulated import refuse_simulated
from asyncgen.run.state import DatasetState
from asyncgen.run.whole_file import replacing
from asyncgen.terminal import counted

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterator

    from asyncgen.dataset.draft import Draft
    from asyncgen.dataset.split import SplitPlan, ThinValue
    from asyncgen.dataset.token_counts import TrainingCost
    from asyncgen.job.model import Job
    from asyncgen.job.requests import RequestGrid
    from asyncgen.providers.prices import PriceList
    from asyncgen.providers.profiles import Profile
    from asyncgen.run.directory import RunDirectory, RunWriter
    from asyncgen.run.state import DatasetFile, RunState

_NAMED = 5  # values that a warning names


@dataclass(frozen=True, slots=True)
class Prepared:
    """The dataset of a run as written.

    Attributes:
        train: the training file.
        validation: the validation file; None if all samples train.
        files: files written, with sizes and hashes; the training file first.
        rejected: reason to number of records left out for it.
        near_duplicates: answers that nearly equal an earlier one to the same prompt.
        validation_prompts: different prompts on the validation side.
        trained_on: of these, the ones that are also on the training side.
        tokens: number of tokens in the training samples.
        token_label: how they were counted.
        costs: of training on them, at the chosen provider first; empty if it does not tune.
        warnings: for the user, a sentence each.
    """

    train: Path
    validation: Path | None
    files: tuple[DatasetFile, ...]
    rejected: Counter[str]
    near_duplicates: int
    validation_prompts: int
    trained_on: int
    tokens: Histogram
    token_label: str
    costs: tuple[TrainingCost, ...]
    warnings: tuple[str, ...]

    def __repr__(self) -> str:
        files = ", ".join(f"{self.train.parent / file.name} {counted(file.samples, 'sample')}" for file in self.files)
        return f"<Prepared: {files}; {self.rejected.total():,} left out>"


def prepare_run(
    run: RunWriter,
    job: Job,
    grid: RequestGrid,
    *,
    provider: Profile,
    prices: PriceList,
    drop_near_duplicates: bool = False,
    simulated: bool = False,
) -> Prepared:
    """Write `train.jsonl`, `validation.jsonl` and `rejected.jsonl`, and their entry in `run.json`.

    Args:
        run: open for writing; contains the records.
        job: its checks, dataset and fine-tuning settings are used.
        grid: the job's rows, and its short prompt.
        provider: its rules for training files apply.
        prices: of training.
        drop_near_duplicates: leave near-duplicates out; they are counted in any case.
        simulated: use answers that a simulation made up, too.

    Returns:
        What was written, and what was left out.

    Raises:
        UsageError: shards are not merged yet; there are simulated answers and `simulated` is False; or the judge's run
            is invalid.
        AsyncgenError: the provider would refuse the dataset; only `rejected.jsonl` is written.
        BadLineError: a line of the records is damaged.
        DiskError: a file cannot be read or written.
    """
    if shards := run.directory.shards():
        raise UsageError(
            f"{run.directory.path} has {counted(len(shards), 'shard')} that are not merged yet",
            help_text=command_line("merge", run.directory.path),
            code="not_merged",
        )
    if job.finetune.method == "dpo" and job.dataset.format != PREFERENCE:
        raise UsageError(
            "the job sets the method dpo, but its dataset has no rejected answers to learn from",
            help_text='set format = "preference" under [dataset], with `chosen` and `rejected`',
        )
    if drop_near_duplicates and job.dataset.format == PREFERENCE:
        raise UsageError("--drop-near-duplicates cannot be used with pairs of answers", help_text="leave it out")
    work = _Work(run, job, grid, provider, plan_split(grid, job.dataset, known_plan(run.state)))
    with collector_off():
        return _prepare(work, prices, drop_near_duplicates=drop_near_duplicates, simulated=simulated)


def _prepare(work: _Work, prices: PriceList, *, drop_near_duplicates: bool, simulated: bool) -> Prepared:
    directory, job = work.directory, work.job
    folder = Path(work.run.state.job.folder)
    scores = ScoreTable(job.dataset.scores, folder) if job.dataset.scores is not None else None
    if scores is not None and scores.simulated and not simulated:
        raise UsageError(
            f"{scores.simulated:,} of the scores that select the samples are simulated",
            help_text="let a real model judge (`asyncgen generate` with the judge's job file), or add --simulated to "
            "only test the stages",
            code="simulated",
        )
    with ExitStack() as stack:
        with replacing(directory.rejected) as rejected:
            draft = stack.enter_context(
                drafting(
                    directory,
                    job,
                    work.grid,
                    Split(work.plan, job.dataset.hold_out),
                    stale=may_be_stale(work.run.state.job, work.grid),
                    rejected=rejected,
                    model=job.finetune.model or work.rules.default_model,
                    scores=scores,
                )
            )
            draft.finish(drop_near_duplicates=drop_near_duplicates)
        refuse_simulated(draft.remarks[SIMULATED], allowed=simulated)
        files = _write(work, draft)
    tokens = Histogram(draft.tokens_of(TRAIN))
    costs = training_costs(tokens, work.provider, job.finetune.model, job.finetune.hyperparameters, prices)
    return Prepared(
        train=directory.train,
        validation=directory.validation if len(files) > 1 else None,
        files=tuple(files),
        rejected=draft.rejected,
        near_duplicates=draft.near_duplicates,
        validation_prompts=draft.sides.prompts,
        trained_on=draft.sides.leaked,
        tokens=tokens,
        token_label=draft.counter.label_with_hint,
        costs=tuple(costs),
        warnings=tuple(_warnings(work, draft, tokens, files, dropped=drop_near_duplicates)),
    )


@dataclass(frozen=True, slots=True)
class _Work:
    """The inputs and rules of a preparation."""

    run: RunWriter
    job: Job
    grid: RequestGrid
    provider: Profile
    plan: SplitPlan

    @property
    def directory(self) -> RunDirectory:
        return self.run.directory

    @property
    def rules(self) -> Finetuning:
        return self.provider.finetuning or Finetuning()

    def note(self, files: list[DatasetFile], simulated: int = 0) -> None:
        """Note the dataset in `run.json`; without files where they are about to change."""
        self.run.update(_noting(files, self.job, self.plan, simulated))


def _write(work: _Work, draft: Draft) -> list[DatasetFile]:
    """Put the samples into their files. A crash in between leaves no new file under an old hash: none is noted then."""
    directory, settings = work.directory, work.job.dataset
    with dataset_writer(
        draft.counter,
        directory.train,
        directory.validation if settings.splits else None,
        chat=settings.format != COMPLETION,
        byte_order_mark=work.rules.byte_order_mark,
        before=lambda: work.note([]),
    ) as writer:
        writer.copy(draft.lines(), draft.sides.codes)
        _refuse(work, writer.files(), draft)
    files = [file for file in writer.files() if file.samples]
    if len(files) == 1:
        directory.validation.unlink(missing_ok=True)
    work.note(files, draft.remarks[SIMULATED])
    return files


def _refuse(work: _Work, files: list[DatasetFile], draft: Draft) -> None:
    """Stop if the provider would refuse the dataset.

    Raises:
        AsyncgenError: it would; lists every problem, and why records were left out.
    """
    format_ = DPO if work.job.dataset.format == PREFERENCE else work.job.dataset.format
    faults = whole_file_faults(format_, files[0].samples, files[0].bytes, work.provider)
    causes = [fault.text for fault in faults]
    if not causes:
        return
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in short_reasons(draft.rejected).items())
    if left_out:
        causes.append(f"left out of {counted(draft.records, 'record')}: {left_out} (see {work.directory.rejected})")
    raise AsyncgenError(
        f"{work.provider.title} would refuse this dataset; it was not written",
        cause="\n".join(causes),
        help_text=f"{generate_again(work.directory, '--retry-rejected')}   (retries what was left out), or change "
        "[dataset], [checks] or [generate] repeats in the job file",
        code="refused_dataset",
    )


def _noting(files: list[DatasetFile], job: Job, plan: SplitPlan, simulated: int) -> Callable[[RunState], RunState]:
    """The change of `run.json` that notes the dataset."""
    settings = job.dataset
    chat = settings.format != COMPLETION
    has_places = bool(settings.system and parse(settings.system, answer_fields=True).names)
    dataset = DatasetState(
        files=files,
        format=settings.format,
        separator="" if chat else settings.separator,
        ending="" if chat else settings.ending,
        system=settings.system if chat and not has_places else None,
        validation=plan.share,
        seed=plan.seed,
        turn=plan.turn,
        simulated=simulated,
        ranks={name: list(values) for name, values in plan.ranks.items()},
    )
    return lambda state: msgspec.structs.replace(state, dataset=dataset)


def _warnings(
    work: _Work, draft: Draft, tokens: Histogram, files: list[DatasetFile], *, dropped: bool
) -> Iterator[str]:
    settings = work.job.dataset
    if draft.near_duplicates and not dropped:
        yield (
            f"{counted(draft.near_duplicates, 'answer is', 'answers are')} nearly the same as an earlier answer to "
            "the same prompt; --drop-near-duplicates leaves them out"
        )
    limit = work.rules.max_sample_tokens
    if limit is not None and (cut := tokens.above(limit)):
        long = f"{counted(cut, 'sample has', 'samples have')} more than {counted(limit, 'token')}"
        yield f"{long}; {work.provider.title} cuts them there silently"
    if draft.remarks[SEPARATORS]:
        prompts = counted(draft.remarks[SEPARATORS], "prompt has", "prompts have")
        yield f"{prompts} the separator {settings.separator!r} inside; choose a rarer one"
    if draft.remarks[ENDINGS]:
        yield (
            f"{counted(draft.remarks[ENDINGS], 'answer has', 'answers have')} the ending {settings.ending!r} "
            "inside, so the tuned model will stop there; choose one that occurs in no answer"
        )
    if draft.remarks[FENCED]:
        yield f"{counted(draft.remarks[FENCED], 'answer')} had a code fence around their JSON, which was removed"
    if draft.remarks[THOUGHTS]:
        yield (
            f"{counted(draft.remarks[THOUGHTS], 'answer begins', 'answers begin')} with reasoning (such as <think>), "
            "which the model would learn; set "
            'reasoning = "drop" under [dataset] to leave them out, or "think" to keep them in one form'
        )
    if settings.system and parse(settings.system, answer_fields=True).names:
        yield "the system message has variables, so `asyncgen complete` sends none: write the whole prompt"
    if settings.splits:
        yield from _thin_warnings(work, draft, files)


def _thin_warnings(work: _Work, draft: Draft, files: list[DatasetFile]) -> Iterator[str]:
    if len(files) == 1:
        yield (
            "no sample is left for validation: a prompt is on one side only, and there are too few prompts "
            "for this share"
        )
        return
    by_axis: dict[tuple[str, str], list[ThinValue]] = {}
    settings = work.job.dataset
    held = {(name, str(value)) for name, values in settings.hold_out.items() for value in values}
    for thin in draft.values.thin(settings.validation / work.grid.repeats):
        if (thin.axis, thin.value) not in held:
            by_axis.setdefault((thin.axis, thin.missing), []).append(thin)
    for (axis, missing), values in by_axis.items():
        named = ", ".join(f"{thin.value} ({thin.samples})" for thin in values[:_NAMED])
        more = f" and {len(values) - _NAMED:,} more" if len(values) > _NAMED else ""
        side = "validation" if missing == "validation" else "training"
        yield f"{axis}: too few samples to have one in {side}: {named}{more}"
