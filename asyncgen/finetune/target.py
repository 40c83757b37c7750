"""The job, provider and run that a `finetune` command is about.

Resolves an argument: nothing (the newest run), a run directory, or a job's id. Sends nothing.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from asyncgen.errors import RunInUseError, UsageError, command_line
from asyncgen.finetune.follow import MemoryLog, open_run_log, past_events
from asyncgen.finetune.uploads import newest_job, noted_job
from asyncgen.providers.choose import EndpointFlags, choose_tuner, is_same_place, named_profile
from asyncgen.providers.profiles import ProviderChoice
from asyncgen.run.directory import STATE_NAME, RunDirectory, find_run, open_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from asyncgen.finetune.api import TuningJob
    from asyncgen.finetune.follow import EventLog
    from asyncgen.run.state import FinetuningState

RUNS = Path("runs")


@dataclass(frozen=True, slots=True)
class Target:
    """A job and where it runs.

    Attributes:
        job_id: the provider's id.
        run: the run that it belongs to; None if it was created elsewhere.
        choice: the provider.
        where: the flags, with the address that the run notes.
    """

    job_id: str
    run: RunDirectory | None
    choice: ProviderChoice
    where: EndpointFlags


def find_target(argument: str | None, where: EndpointFlags, environment: Mapping[str, str] = os.environ) -> Target:
    """Find the job that a command's argument means.

    Args:
        argument: a run directory for its newest job, or a job's id; None for the newest job of the newest run.
        where: the flags; a provider named there takes precedence over the one that the run notes.
        environment: for the provider of a job that no run knows.

    Returns:
        The job, its provider and its run.

    Raises:
        UsageError: there is no run, or the run has no job.
    """
    if argument is None or Path(argument).is_dir():
        run = find_run(Path(argument) if argument else None, root=RUNS)
        noted = newest_job(run.read_state())
        if noted is None or noted.job_id is None:
            raise UsageError(
                f"{run.path} has no fine-tuning job",
                help_text=_way_to_a_job(run),
            )
        return Target(noted.job_id, run, *_noted_place(noted, where))
    found = _run_of(argument)
    if found is None:
        return Target(argument, None, choose_tuner(where, environment), where)
    return Target(argument, found[0], *_noted_place(found[1], where))


def _noted_place(noted: FinetuningState, where: EndpointFlags) -> tuple[ProviderChoice, EndpointFlags]:
    if where.provider or not all(is_same_place(address, noted.base_url) for address in where.addresses):
        return choose_tuner(where, {}), where
    return ProviderChoice(named_profile(noted.provider), "the run's job is there"), replace(
        where, base_url=noted.base_url or None
    )


def _run_of(job_id: str) -> tuple[RunDirectory, FinetuningState] | None:
    for path in sorted(RUNS.glob(f"*/{STATE_NAME}")):
        run = RunDirectory(path.parent)
        noted = noted_job(run.read_state(), job_id)
        if noted is not None:
            return run, noted
    return None


def newest_tuned_model(path: Path | None) -> str:
    """Find the model that a run tuned last.

    Args:
        path: the run directory; None for the newest run.

    Returns:
        Name of the model.

    Raises:
        UsageError: there is no run, or none of its jobs has succeeded yet.
    """
    run = find_run(path, root=RUNS)
    tuned = [noted.tuned_model for noted in run.read_state().finetuning if noted.tuned_model]
    if not tuned:
        raise UsageError(
            f"{run.path} has no tuned model yet",
            help_text=f"{_way_to_a_job(run)}; or name a model with --model",
        )
    return tuned[-1]


def owner_of_model(model: str, where: EndpointFlags) -> Target | None:
    """Find the job that made a model, among the runs here.

    Args:
        model: name of the model.
        where: the flags.

    Returns:
        The job; None if no run knows the model.
    """
    for path in sorted(RUNS.glob(f"*/{STATE_NAME}")):
        run = RunDirectory(path.parent)
        for noted in run.read_state().finetuning:
            if noted.tuned_model == model and noted.job_id:
                return Target(noted.job_id, run, *_noted_place(noted, where))
    return None


def note_state(target: Target, job: TuningJob) -> None:
    """Note the job's state in its run. Does nothing without a run, or while another process writes it.

    Args:
        target: the job.
        job: its present state.
    """
    if target.run is None:
        return
    with suppress(RunInUseError), open_run(target.run.path) as run, open_run_log(run, target.job_id) as log:
        log.note(job)


@contextmanager
def event_log(target: Target, say: Callable[[str], None]) -> Iterator[EventLog]:
    """Open the log of the target's events.

    It is the run's; in memory if there is no run, or while another process writes it.

    Args:
        target: the job.
        say: called to report that events are not kept.

    Yields:
        The log.
    """
    if target.run is None:
        yield MemoryLog()
        return
    with ExitStack() as stack:
        try:
            run = stack.enter_context(open_run(target.run.path))
        except RunInUseError:
            say(f"{target.run.path} is being written by another asyncgen: what the job tells is shown, not kept")
            yield MemoryLog(past_events(target.run.events, target.job_id))
            return
        yield stack.enter_context(open_run_log(run, target.job_id))


def _way_to_a_job(run: RunDirectory) -> str:
    """The next command on the way to a fine-tuning job."""
    if run.read_state().dataset is None:
        return f"{command_line('prepare', run.path)}   (makes the dataset first)"
    return f"{command_line('finetune create', run.path)}   (creates a job)"
