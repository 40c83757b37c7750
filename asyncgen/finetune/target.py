"""The job, provider and run that a `finetune` command is about.

Resolves an argument: nothing (the newest run), a run directory, or a job's id. Sends nothing.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from asyncgen.errors import RunInUseError, UsageError
from asyncgen.finetune.follow import MemoryLog, open_run_log, past_events
from asyncgen.finetune.uploads import newest_job, noted_job
from asyncgen.providers.choose import Where, choose_tuner, is_same_place, named_profile
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
    """A job and where it is.

    Attributes:
        run: the run that the job belongs to; None for one that was created elsewhere.
        choice: the provider.
        where: the flags, with the address that the run notes.
    """

    job_id: str
    run: RunDirectory | None
    choice: ProviderChoice
    where: Where


def find_target(argument: str | None, where: Where, environment: Mapping[str, str] = os.environ) -> Target:
    """The job that the argument means.

    Args:
        argument: None for the newest run's newest job; a run directory for its newest job; else a job's id.
        where: the flags; a provider named there goes before the one that the run notes.
        environment: for the provider of a job that no run knows.

    Raises:
        UsageError: there is no run, or the run has no job.
    """
    if argument is None or Path(argument).is_dir():
        run = find_run(Path(argument) if argument else None, root=RUNS)
        noted = newest_job(run.read_state())
        if noted is None or noted.job_id is None:
            raise UsageError(
                f"{run.path} has no fine-tuning job", help_text=f"asyncgen finetune create {run.path}   (creates one)"
            )
        return Target(noted.job_id, run, *_noted_place(noted, where))
    found = _run_of(argument)
    if found is None:
        return Target(argument, None, choose_tuner(where, environment), where)
    return Target(argument, found[0], *_noted_place(found[1], where))


def _noted_place(noted: FinetuningState, where: Where) -> tuple[ProviderChoice, Where]:
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
    """The model that a run tuned last.

    Args:
        path: of the run; None for the newest run.

    Raises:
        UsageError: there is no run, or none of its jobs has made a model yet.
    """
    run = find_run(path, root=RUNS)
    tuned = [noted.tuned_model for noted in run.read_state().finetuning if noted.tuned_model]
    if not tuned:
        raise UsageError(
            f"{run.path} has no tuned model yet",
            help_text=f"asyncgen finetune create {run.path}   (makes one); or name a model with --model",
        )
    return tuned[-1]


def owner_of_model(model: str, where: Where) -> Target | None:
    """The job of a run that made the model; None where no run knows it."""
    for path in sorted(RUNS.glob(f"*/{STATE_NAME}")):
        run = RunDirectory(path.parent)
        for noted in run.read_state().finetuning:
            if noted.tuned_model == model and noted.job_id:
                return Target(noted.job_id, run, *_noted_place(noted, where))
    return None


def note_state(target: Target, job: TuningJob) -> None:
    """Note the job's state in its run, unless it has none or another process writes it and will see for itself."""
    if target.run is None:
        return
    with suppress(RunInUseError), open_run(target.run.path) as run, open_run_log(run, target.job_id) as log:
        log.note(job)


@contextmanager
def event_log(target: Target, say: Callable[[str], None]) -> Iterator[EventLog]:
    """The memory of the target's follower: the run's, unless it has none or another process writes it.

    Args:
        target: whose events are followed.
        say: is told that events are not kept.
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
