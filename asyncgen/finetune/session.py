"""One tuning: check the dataset, price it, ask for consent, create the job and follow it to its end.

Shared by `finetune create`, `finetune follow`, `run` and the Python API. An `Observer` is told and asked; the sentences
about the job are made here: size, price and lifetime before, next step or failure after. Requests are left to the
tuners.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from asyncgen.dataset.rules.file import DPO, CheckedFile, check_training_file
from asyncgen.dataset.token_counts import token_counter, training_costs
from asyncgen.errors import IncompleteError, UsageError, command_line
from asyncgen.finetune.api import AbsentError, TrainingClosedError
from asyncgen.finetune.create import Created, Dataset, create, existing_job
from asyncgen.finetune.follow import FollowPace, TrainingWatcher, follow, open_run_log
from asyncgen.finetune.source import taught_form
from asyncgen.finetune.target import name_of_job, open_tuner
from asyncgen.generate.observer import Interrupt, Observer
from asyncgen.providers.choose import EndpointFlags, named_address, open_endpoint
from asyncgen.providers.endpoint import Secret, is_loopback
from asyncgen.providers.prices import hosting_price, is_provider_address, shutdown_date
from asyncgen.providers.user_files import load_price_list
from asyncgen.run.simulated import refuse_simulated
from asyncgen.terminal import counted, local_time, usd, usd_range

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable
    from collections.abc import Set as AbstractSet
    from contextlib import AbstractAsyncContextManager, AbstractContextManager
    from pathlib import Path

    from asyncgen.dataset.token_counts import TrainingCost
    from asyncgen.finetune.api import Event, JobOrder, Tuner, TuningJob
    from asyncgen.finetune.follow import EventLog
    from asyncgen.finetune.target import Target
    from asyncgen.providers.profiles import Profile, ProviderChoice
    from asyncgen.run.directory import RunDirectory, RunWriter

_SHORT_LIFE_DAYS = 90
_FINDINGS_SHOWN = 20


class TuningObserver(Observer, Protocol):
    """An observer that also gets reports of uploads and trainings."""

    def uploading(self) -> AbstractContextManager[Callable[[int, int], None]]:
        """Show an upload during the block.

        Returns:
            A context manager that yields a function to call with bytes sent and bytes in total.
        """

    def watching_training(self, history: Iterable[Event]) -> AbstractAsyncContextManager[TrainingWatcher]:
        """Show a training during the block.

        Args:
            history: events that an earlier command has reported; not shown again.

        Returns:
            A context manager that yields the watcher of the training.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedTuning:
    """A job to create, or to find if it exists.

    Attributes:
        choice: the provider that tunes.
        where: the flags.
        order: the job, without the ids of its files.
        dataset: its files.
        is_file: whether the dataset is the user's own file, whose form must still be noted in the run.
        another: create a new job although the same one exists.
        simulated: accept answers of a simulation.
        price_folder: folder with the user's prices, besides the configuration folder; None for none.
    """

    choice: ProviderChoice
    where: EndpointFlags
    order: JobOrder
    dataset: Dataset
    is_file: bool = False
    another: bool = False
    simulated: bool = False
    price_folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Tuned:
    """The result of a tuning.

    Attributes:
        job: its last known state; None if a signal came before there was one.
        how: as in `Created`; None for a job that was only followed.
        exit_code: 0, or that of a signal.
        answers: the tuned model can be asked as it is.
    """

    job: TuningJob | None
    how: str | None
    exit_code: int
    answers: bool = False


async def tune(run: RunWriter, wanted: WantedTuning, observer: TuningObserver, *, following: bool = True) -> Tuned:
    """Create the job, or find it if it exists, and follow it to its end.

    Args:
        run: open for writing; job and events are noted in it.
        wanted: the job.
        observer: gets reports, gives consent, and interrupts.
        following: False returns as soon as the job exists.

    Returns:
        The job, and whether it is new.

    Raises:
        UsageError: the provider would refuse the order or a file, or consent is needed.
        IncompleteError: the job failed or was cancelled.
        AsyncgenError: it could not be created or followed.
    """
    if not wanted.is_file and run.state.dataset is not None:
        refuse_simulated(run.state.dataset.simulated, allowed=wanted.simulated)
    extent = _check_files(wanted, observer)
    if wanted.is_file:
        form = taught_form(wanted.dataset.training)
        run.update(lambda state: msgspec.structs.replace(state, dataset=form))
    before = {noted.job_id for noted in run.state.finetuning}
    async with (
        open_endpoint(wanted.choice, wanted.where, wanted.order.model, observer.say) as endpoint,
        open_tuner(endpoint, wandb_key=_wandb_key(wanted)) as tuner,
    ):
        existing = await existing_job(tuner, run, wanted.order, wanted.dataset, another=wanted.another)
        if existing is None:
            await _consent(tuner, wanted, extent, observer)
        async with observer.interruptible(lambda: observer.say("stopping when the provider has answered")) as interrupt:
            created = existing or await _create_job(tuner, run, wanted, observer, interrupt)
        if created is None:
            _say_stopped(run, before, observer)
            return Tuned(None, None, interrupt.exit_code or 0)
        observer.say(created_text(created))
        if not following:
            return Tuned(created.job, created.how, 0)
        with open_run_log(run, created.job.id) as log:
            async with observer.interruptible(lambda: None) as interrupt:
                job = await _follow_to_end(tuner, created.job.id, log, observer, interrupt, pace_of(endpoint.base_url))
        return _report_end(tuner, job or created.job, created.how, observer, interrupt, run.directory)


def _say_stopped(run: RunWriter, before: AbstractSet[str | None], observer: Observer) -> None:
    """Say what a signal cut short; the job may have been created in the last moment."""
    for noted in run.state.finetuning:
        if noted.job_id and noted.job_id not in before:
            observer.say(unfollowed_text(noted.job_id, noted.status, run.directory))
    observer.say("stopped; run the same command to continue")


async def follow_job(target: Target, log: EventLog, observer: TuningObserver) -> Tuned:
    """Follow an existing job to its end.

    Args:
        target: the job, its provider and its run.
        log: keeps the events.
        observer: gets reports, and interrupts.

    Returns:
        The job as it was last.

    Raises:
        IncompleteError: the job failed or was cancelled.
        AsyncgenError: it could not be followed.
    """
    opening = open_endpoint(target.choice, target.where, "", observer.say)
    async with opening as endpoint, open_tuner(endpoint) as tuner:
        async with observer.interruptible(lambda: None) as interrupt:
            job = await _follow_to_end(tuner, target.job_id, log, observer, interrupt, pace_of(endpoint.base_url))
        if job is None:
            observer.say(unfollowed_text(target.job_id, "not known yet", target.run))
            return Tuned(None, None, interrupt.exit_code or 0)
        return _report_end(tuner, job, None, observer, interrupt, target.run)


def pace_of(base_url: str) -> FollowPace:
    """The polling interval: several times a second on this machine; elsewhere growing while nothing changes."""
    return FollowPace(first_s=0.25, longest_s=2.0) if is_loopback(base_url) else FollowPace()


def _check_files(wanted: WantedTuning, observer: Observer) -> TrainingExtent:
    """Check the files by the provider's rules; what the training will be.

    Raises:
        UsageError: the provider would refuse a file.
    """
    profile, order = wanted.choice.profile, wanted.order
    counter = token_counter(order.model)
    files = [
        check_training_file(path, profile, counter)
        for path in (wanted.dataset.training, wanted.dataset.validation)
        if path is not None
    ]
    _refuse_faulty(files, profile, observer)
    _refuse_other_method(files[0], order.method)
    prices = load_price_list(wanted.price_folder, os.environ)
    costs = training_costs(files[0].tokens, profile, order.model, order.hyperparameters, prices)
    cost = costs[0] if costs else None
    if cost is not None and not is_provider_address(profile.name, named_address(profile, wanted.where)):
        cost = replace(cost, usd=None)  # another host has prices of its own
    return TrainingExtent(files[0].examples, counter.label, cost)


def _refuse_faulty(files: list[CheckedFile], profile: Profile, observer: Observer) -> None:
    found = [finding for file in files for finding in file.findings.fatal]
    for file in files[1:]:  # a few examples are enough to validate with
        found = [finding for finding in found if (finding.file, finding.fault.rule) != (file.path, "too_few")]
    for remark in [finding for file in files for finding in file.findings.remarks][:_FINDINGS_SHOWN]:
        observer.say(f"warning: {remark}")
    if found:
        raise UsageError(
            f"{profile.title} would refuse the dataset",
            cause="\n".join(map(str, found[:_FINDINGS_SHOWN])),
            help_text=f"{command_line('prepare', files[0].path)}   (corrects what can be corrected)",
            code="bad_dataset",
        )


def _refuse_other_method(file: CheckedFile, method: str) -> None:
    """Preferences are trained by dpo, and dpo trains preferences."""
    if (file.format == DPO) != (method == "dpo"):
        wanted = "dpo" if file.format == DPO else "supervised"
        raise UsageError(
            f"{file.path} does not fit the method {method}: it contains "
            f"{'preferences' if wanted == 'dpo' else 'answers'}",
            help_text=f'--method {wanted}, or method = "{wanted}" under [finetune] in the job file',
        )


async def _consent(tuner: Tuner, wanted: WantedTuning, extent: TrainingExtent, observer: Observer) -> None:
    """Show model, samples, epochs, tokens, price and lifetime of the tuned model; ask for consent if it costs money."""
    order = wanted.order
    observer.say(f"fine-tuning {order.model} at {tuner.label} on {wanted.dataset.training}: {extent_text(extent)}")
    await _say_lifetime(tuner, order.model, observer)
    if tuner.finetuning.free:
        return
    price = price_text(extent.cost)
    observer.say(f"price: {price}")
    observer.agree(
        f"Upload the dataset to {tuner.label} and start the job?",
        why=f"a fine-tuning job at {tuner.label} costs money ({price})",
    )


async def _say_lifetime(tuner: Tuner, model: str, observer: Observer) -> None:
    """Say until when the tuned model will answer, and until when the provider tunes, where days are announced."""
    try:
        announced = (await tuner.models.get(model)).shutdown
    except AbsentError:  # some providers list no models that can only be tuned
        announced = None
    today = datetime.now(UTC).date()
    day = announced or shutdown_date(tuner.profile.name, model)
    if day is not None:
        days = (day - today).days
        warning = "warning: " if days < _SHORT_LIFE_DAYS else ""
        observer.say(f"{warning}{model} and all models tuned from it are available until {day}: {days_left(days)}")
    if tuner.finetuning.until:
        observer.say(f"{tuner.label} offers fine-tuning until {tuner.finetuning.until}{customers_note(tuner.profile)}")


async def _create_job(
    tuner: Tuner, run: RunWriter, wanted: WantedTuning, observer: TuningObserver, interrupt: Interrupt
) -> Created | None:
    with observer.uploading() as on_upload:
        work = create(tuner, run, wanted.order, wanted.dataset, another=wanted.another, on_upload=on_upload)
        try:
            return await _stoppable(work, interrupt)
        except TrainingClosedError as error:
            await _offer_deletion(tuner, error, observer)
            raise


async def _stoppable(work: Coroutine[Any, Any, Created], interrupt: Interrupt) -> Created | None:
    """Await `work`; the first signal cancels it and waits for its end, the second does not wait."""
    task = asyncio.ensure_future(work)
    for signalled in (interrupt.stop, interrupt.abandon):
        waiter = asyncio.ensure_future(signalled.wait())
        await asyncio.wait([task, waiter], return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()
        if task.done():
            return None if task.cancelled() else task.result()
        task.cancel()
    return None


async def _offer_deletion(tuner: Tuner, error: TrainingClosedError, observer: Observer) -> None:
    files = ", ".join(error.file_ids)
    if not files:
        return
    if observer.offer(f"{files} was uploaded but is not needed there any more. Delete it?"):
        for file_id in error.file_ids:
            await tuner.files.delete(file_id)
        observer.say(f"deleted {files}")
    else:
        observer.say(f"{files} was kept there; to delete it: {command_line('finetune delete', error.file_ids[0])}")


async def _follow_to_end(
    tuner: Tuner, job_id: str, log: EventLog, observer: TuningObserver, interrupt: Interrupt, pace: FollowPace
) -> TuningJob | None:
    async with observer.watching_training(log.history) as watcher:
        return await follow(tuner.jobs, job_id, log, watcher, stop=interrupt.stop, pace=pace)


def _report_end(
    tuner: Tuner, job: TuningJob, how: str | None, observer: Observer, interrupt: Interrupt, run: RunDirectory | None
) -> Tuned:
    """Say what there is to say of the job; a job that did not succeed is an error."""
    if job.outcome is None:
        observer.say(unfollowed_text(job.id, job.status, run))
        return Tuned(job, how, interrupt.exit_code or 0)
    if job.outcome != "succeeded":
        raise job_failure(job, run)
    if job.trained_tokens:
        is_theirs = is_provider_address(tuner.profile.name, tuner.place or None)
        cost = trained_cost_text(tuner.profile, job) if is_theirs else ""
        observer.say(f"trained {counted(job.trained_tokens, 'token')}{cost}")
    observer.say(success_text(tuner.profile, job))
    return Tuned(job, how, 0, answers=job.tuned_model is not None and not tuner.finetuning.next_step)


def _wandb_key(wanted: WantedTuning) -> Secret | None:
    value = os.environ.get("WANDB_API_KEY", "").strip()
    return Secret(value, "WANDB_API_KEY") if value and wanted.order.integrations else None


@dataclass(frozen=True, slots=True)
class TrainingExtent:
    """The size and cost of a training.

    Attributes:
        samples: size of the training set.
        counted: how the tokens were counted.
        cost: tokens and USD; None if the provider's model is unknown.
    """

    samples: int
    counted: str
    cost: TrainingCost | None


def extent_text(extent: TrainingExtent) -> str:
    """Samples, epochs and tokens."""
    samples = counted(extent.samples, "sample")
    if extent.cost is None:
        return samples
    cost = extent.cost
    billed = "billed " if cost.usd is None or cost.usd[1] else ""
    return f"{samples}, {counted(cost.epochs, 'epoch')}, {cost.billed_tokens:,} {billed}tokens ({extent.counted})"


def price_text(cost: TrainingCost | None) -> str:
    """The price of the job, for the user."""
    if cost is None or cost.usd is None:
        return "not known"
    span = f"about {usd_range(*cost.usd)}"
    return f"{span} (an estimate, prices of {cost.as_of})" if cost.as_of else f"{span} (an estimate)"


def customers_note(profile: Profile) -> str:
    """Who may tune at the provider, if not everybody."""
    assert profile.finetuning is not None, "the choice of a provider sees to it"
    return "" if profile.finetuning.new_customers else ", and only for customers who fine-tuned there before"


def days_left(days: int) -> str:
    """How long something lasts yet."""
    return "it is already shut down" if days <= 0 else counted(days, "more day")


def created_text(created: Created) -> str:
    """How the job came to be."""
    job = created.job
    if created.how == "new":
        return f"created {job.id}"
    if created.how == "recovered":
        return f"found {job.id}, which an earlier command created but could not record"
    return (
        f"the same job exists since {local_time(job.created)}: {job.id}, {job.status}; using it (--another creates a "
        "new one)"
    )


def trained_cost_text(profile: Profile, job: TuningJob) -> str:
    """The cost of the job, by the tokens that the provider counted; "" if it is free or unknown."""
    if profile.finetuning and profile.finetuning.free:
        return ""
    price = load_price_list(None, os.environ).training(profile.name, job.model)
    if price is None or job.trained_tokens is None:
        return ""
    return f", about {usd_range(*price.cost_usd(job.trained_tokens))}"


def success_text(profile: Profile, job: TuningJob) -> str:
    """The model of a job that succeeded, and what the user must do before it answers."""
    model = job.tuned_model or "its model"
    if profile.finetuning is None or not profile.finetuning.next_step:
        return f"{job.id} succeeded: {model}"
    step = profile.finetuning.next_step.format(model=model, job=job.id)
    download = command_line("finetune download", job.id, "--provider", profile.name)
    given = f". To download the weights: {download}" if profile.finetuning.gives_weights else ""
    return f"{job.id} succeeded: {model}. Next: {step}{_hosting_text(profile, job)}{given}"


def _hosting_text(profile: Profile, job: TuningJob) -> str:
    price = hosting_price(profile.name, job.model)
    if price is None:
        return ""
    return (
        f"; about {usd(price.usd_per_hour)} an hour, with or without calls ({price.hardware}, price of {price.as_of})"
    )


def job_failure(job: TuningJob, run: RunDirectory | None) -> IncompleteError:
    """The end of a job that failed or was cancelled, as an error."""
    cause = None
    if job.error is not None:
        code = f"{job.error.code}: " if job.error.code else ""
        param = f" (param: {job.error.param})" if job.error.param else ""
        cause = f"{code}{job.error.message}{param}"
    happened = "was cancelled" if job.outcome == "cancelled" else "failed"
    events = command_line("finetune events", name_of_job(job.id, run))
    return IncompleteError(
        f"the fine-tuning job {job.id} {happened}",
        cause=cause,
        help_text=f"{events}   (shows its events); to create another job, repeat the command that created this one",
        code=f"job_{job.outcome}",
    )


def unfollowed_text(job_id: str, status: str, run: RunDirectory | None) -> str:
    """The message when following stops before the job's end."""
    argument = name_of_job(job_id, run)
    return (
        f"stopped following {job_id}, which goes on ({status.replace('_', ' ')}). To follow it again: "
        f"{command_line('finetune follow', argument)}; to cancel it: {command_line('finetune cancel', argument)}"
    )
