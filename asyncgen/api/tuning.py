"""From a run to a tuned model, and its answers: `prepare`, `finetune` and `complete` from Python."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncgen.api.observer import LibraryObserver, run_in_thread
from asyncgen.api.runs import Run, open_run
from asyncgen.dataset.prepare_run import Prepared, prepare_run
from asyncgen.errors import AsyncgenError, UsageError
from asyncgen.finetune.complete import Completion, PromptSettings, Unanswered, answer_limit, ask_all
from asyncgen.finetune.session import WantedTuning, tune
from asyncgen.finetune.source import find_source
from asyncgen.finetune.target import form_for, open_calls, owner_of_model
from asyncgen.job.opened import job_of_run
from asyncgen.providers.choose import AUTO, EndpointFlags, choose_generation, open_endpoint
from asyncgen.providers.profiles import PROFILES
from asyncgen.providers.user_files import load_price_list
from asyncgen.run.directory import RunDirectory
from asyncgen.run.directory import open_run as open_for_writing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncgen.finetune.api import TuningJob
    from asyncgen.generate.observer import Interrupt

_ANSWER_TOKENS = 256


def prepare(
    run: Run | str | os.PathLike[str],
    *,
    provider: str | None = None,
    drop_near_duplicates: bool = False,
    simulated: bool = False,
) -> Prepared:
    """Write the dataset of a run: `train.jsonl`, `validation.jsonl`, and `rejected.jsonl` with reasons.

    Args:
        run: a run, or its directory.
        provider: the provider that will train, whose rules the dataset must meet; None for the job's.
        drop_near_duplicates: leave out answers that are nearly the same as an earlier one to the same prompt.
        simulated: accept answers of a simulation, to rehearse the later stages.

    Returns:
        Paths, sizes and hashes of the files, counts of what was rejected, tokens, and the cost of training in USD.

    Raises:
        UsageError: the run has simulated answers (code `simulated`), or no job file.
        AsyncgenError: the provider would refuse the dataset.
        DiskError: a file is damaged or cannot be written.
        RunInUseError: another process writes the run.

    Example:
        >>> prepared = prepare("runs/campaign")
        >>> prepared.train.as_posix(), prepared.files[0].samples
        ('runs/campaign/train.jsonl', 12)
    """
    directory = RunDirectory(_path(run))
    opened = job_of_run(directory)
    prices = load_price_list(opened.file.folder, os.environ)
    profile = PROFILES[provider or opened.tuning]
    with open_for_writing(directory.path) as writer:
        return prepare_run(
            writer,
            opened.job,
            opened.grid,
            provider=profile,
            prices=prices,
            drop_near_duplicates=drop_near_duplicates,
            simulated=simulated,
        )


def finetune(
    run: Run | str | os.PathLike[str],
    *,
    provider: str | None = None,
    base_url: str | None = None,
    model: str | None = None,
    api_key_file: str | os.PathLike[str] | None = None,
    follow: bool = True,
    simulated: bool = False,
    yes: bool = False,
) -> TuningJob:
    """Upload the dataset of a run, create the fine-tuning job, and follow it to its end.

    Calling it again follows the same job, and creates no second one. Ctrl-C stops following; the job goes on.

    Args:
        run: a run with a dataset, or its directory.
        provider: the provider that tunes; None for the job's.
        base_url: the provider's address; None for that of its profile.
        model: the model to tune; None for the job's, else the provider's default.
        api_key_file: file with the API key; None to read the provider's environment variable.
        follow: wait for the end; False returns as soon as the job exists.
        simulated: accept a dataset with answers of a simulation.
        yes: consent to the cost; free tunings need none.

    Returns:
        The job as the provider described it last, with the name of the tuned model.

    Raises:
        UsageError: the run has no dataset, or consent is needed (code `needs_yes`).
        IncompleteError: the job failed or was cancelled.
        AsyncgenError: the job could not be created.
        KeyboardInterrupt: Ctrl-C.

    Example:
        >>> job = finetune("runs/campaign", provider="local", base_url=server)
        >>> job.outcome, job.tuned_model
        ('succeeded', 'ft:smollm2-135m-instruct:...')
    """
    where = EndpointFlags(provider, base_url, None, Path(api_key_file) if api_key_file is not None else None)
    source = find_source(_path(run), None, None, where, model)
    wanted = WantedTuning(
        choice=source.choice,
        where=source.where,
        order=source.order(source.settings),
        dataset=source.dataset,
        price_folder=source.price_folder,
        simulated=simulated,
    )

    async def work(interrupt: Interrupt) -> TuningJob:
        with open_for_writing(source.run) as writer:
            tuned = await tune(writer, wanted, LibraryObserver(yes=yes, interrupt=interrupt), following=follow)
        if tuned.job is None:
            raise AsyncgenError("stopped before the job was created", help_text="call finetune again")
        return tuned.job

    return run_in_thread(work)


def complete(
    prompts: Sequence[str],
    *,
    model: str | None = None,
    run: Run | str | os.PathLike[str] | None = None,
    provider: str | None = None,
    base_url: str | None = None,
    api_key_file: str | os.PathLike[str] | None = None,
    max_tokens: int = _ANSWER_TOKENS,
    **parameters: Any,
) -> list[Completion | Unanswered]:
    """Send short prompts to a tuned model, in the form of the dataset that it was tuned on.

    Args:
        prompts: texts in the form of the job's `sample`.
        model: the model to ask; None for the newest tuned model of the run.
        run: the run whose dataset gives the form, and whose newest model is asked where none is named; None for the
            run that tuned the model. A model that no run tuned is asked in a plain chat.
        provider: the provider that serves the model; None for the one that tuned it, or as in `load_job`.
        base_url: the provider's address; None for that of its profile.
        api_key_file: file with the API key; None to read the provider's environment variable.
        max_tokens: maximum tokens of an answer.
        **parameters: parameters of the API, such as `temperature=0`.

    Returns:
        One item per prompt, in the same order: the answer, or an `Unanswered` with the error.

    Raises:
        UsageError: the run has no tuned model, or the run that was named has no dataset.

    Example:
        >>> answers = complete(["florist, Paris"], provider="local", base_url=server)
        >>> answers[0].finish_reason, answers[0].usage.completion_tokens > 0
        ('stop', True)
    """
    where = EndpointFlags(provider, base_url, None, Path(api_key_file) if api_key_file is not None else None)
    named = model or _newest_model(_path(run))
    directory = _path(run) if run is not None else None
    owner = owner_of_model(named, where, directory)
    choice = owner.choice if owner else choose_generation(where, AUTO, os.environ)
    form = form_for(owner, directory)

    async def work(_: Interrupt) -> list[Completion | Unanswered]:
        asking = PromptSettings(named, form, {**answer_limit(choice.profile, form, max_tokens), **parameters})
        async with (
            open_endpoint(choice, owner.where if owner else where, named, lambda _: None) as endpoint,
            open_calls(endpoint) as calls,
        ):
            return [answer async for answer in ask_all(calls, asking, prompts)]

    return run_in_thread(work)


def _newest_model(path: Path) -> str:
    for noted in reversed(RunDirectory(path).read_state().finetuning):
        if noted.tuned_model:
            return noted.tuned_model
    raise UsageError(f"{path} has no tuned model", help_text="call finetune first, or name one with model=")


def _path(run: Run | str | os.PathLike[str] | None) -> Path:
    return run.path if isinstance(run, Run) else open_run(run).path
