"""From a run to a tuned model, and its answers: `prepare`, `finetune` and `complete` from Python."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncgen.api.loop import run_in_thread
from asyncgen.api.observer import LibraryObserver
from asyncgen.api.runs import Run, open_run
from asyncgen.dataset.prepare_run import Prepared, prepare_run
from asyncgen.errors import AsyncgenError, UsageError
from asyncgen.finetune.complete import Asking, Completion, Unanswered, answer_limit, ask_all, form_of
from asyncgen.finetune.open_tuner import open_calls
from asyncgen.finetune.session import WantedTuning, tune
from asyncgen.finetune.source import find_source
from asyncgen.finetune.target import owner_of_model
from asyncgen.job.of_run import job_of_run
from asyncgen.providers.choose import Where, open_endpoint
from asyncgen.providers.prices import load_price_list
from asyncgen.providers.profiles import PROFILES
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
        provider: who will train; None for the job's.
        drop_near_duplicates: leave answers out that are nearly an earlier one to the same prompt.
        simulated: take a simulation's answers, too: a rehearsal.

    Raises:
        AsyncgenError: the provider would refuse the dataset, or a file is damaged.

    Example:
        >>> prepare("runs/campaign").train  # doctest: +SKIP
        PosixPath('runs/campaign/train.jsonl')
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

    The same call finds the job that it created. Ctrl-C stops following, never the job.

    Args:
        run: a run that `prepare` made a dataset of, or its directory.
        provider: who tunes; None for the job's.
        base_url: the provider's address.
        model: to tune; None for the job's, else the provider's default.
        api_key_file: a file that holds the key.
        follow: else return as soon as the job exists.
        simulated: learn from a simulation's answers, too: a rehearsal.
        yes: consent to what it costs; free tunings need none.

    Raises:
        IncompleteError: the job failed or was cancelled.
        AsyncgenError: it could not be created.

    Example:
        >>> finetune("runs/campaign", provider="local").tuned_model  # doctest: +SKIP
        'ft:smollm2-135m-instruct:local:campaign:9a0ce40f'
    """
    where = Where(provider, base_url, None, Path(api_key_file) if api_key_file is not None else None)
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
            raise AsyncgenError("stopped before the job existed", help_text="call finetune again")
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
    """Ask a tuned model short prompts, in the form that its dataset taught it.

    Args:
        prompts: as the job's `sample` renders them.
        model: whom to ask; None for the newest tuned model of the run.
        run: whose dataset gives the form; None for the run that tuned the model, else the newest one.
        provider: who serves the model; None for who tuned it.
        base_url: its address.
        api_key_file: a file that holds the key.
        max_tokens: of an answer.
        **parameters: of the API, such as `temperature=0`.

    Returns:
        An answer for each prompt, in their order; `Unanswered` holds the error where there is none.

    Raises:
        UsageError: the run has no tuned model or no dataset.

    Example:
        >>> complete(["Hotel, New York, small"])[0].text  # doctest: +SKIP
        'Safe online payments bring new customers to your small Hotel in New York.'
    """
    where = Where(provider, base_url, None, Path(api_key_file) if api_key_file is not None else None)
    named = model or _newest_model(_path(run))
    owner = owner_of_model(named, where)
    if owner is None or owner.run is None:
        raise UsageError(f"no run here tuned {named}", help_text="name the run with run=")
    dataset = owner.run.read_state().dataset
    if dataset is None:
        raise UsageError(f"{owner.run.path} has no dataset", help_text="call prepare first")
    form = form_of(dataset)

    async def work(_: Interrupt) -> list[Completion | Unanswered]:
        asking = Asking(named, form, {**answer_limit(owner.choice.profile, form, max_tokens), **parameters})
        async with (
            open_endpoint(owner.choice, owner.where, named, lambda _: None) as endpoint,
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
