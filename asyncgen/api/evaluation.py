"""`evaluate` from Python: techniques and models compared on prompts that no model was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from asyncgen.api.observer import LibraryObserver, OnProgress, run_in_thread
from asyncgen.api.runs import Run, open_run
from asyncgen.evaluate.asking import AskOptions
from asyncgen.evaluate.session import EXAMPLES, ROWS, SEED, Evaluated, WantedEvaluation, evaluate_run
from asyncgen.run.directory import RunDirectory

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from asyncgen.evaluate.result import Evaluation
    from asyncgen.generate.observer import Interrupt


def evaluate(
    run: Run | str | os.PathLike[str] | None = None,
    *,
    contestants: Sequence[str] | None = None,
    axes: Mapping[str, Sequence[str]] | None = None,
    n: int = ROWS,
    k: int = EXAMPLES,
    nearest: bool = False,
    judge: str | None = None,
    all_pairs: bool = False,
    margin: float | None = None,
    seed: int = SEED,
    name: str | None = None,
    base_url: str | None = None,
    api_key_file: str | os.PathLike[str] | None = None,
    concurrency: int | None = None,
    rpm: float | None = None,
    tpm: float | None = None,
    max_cost: float | None = None,
    retry_failed: bool = False,
    yes: bool = False,
    on_progress: OnProgress | None = None,
) -> Evaluation:
    """Send held-out prompts to every contestant, and compare the answers.

    The answers are kept under `evaluations/` in the run; the same call sends only the requests that are missing.

    Args:
        run: a run with a dataset, or its directory; None for the newest one.
        contestants: `NAME=TECHNIQUE:PROVIDER/MODEL` texts; None for the base model, the tuned model, and the model that
            wrote the data.
        axes: axis name to values outside the grid; None for the prompts of the validation split.
        n: maximum number of prompts.
        k: number of examples in a few-shot prompt.
        nearest: use the samples that are most like each prompt as examples, not the same ones for all prompts.
        judge: `PROVIDER/MODEL` of a model that compares the answers, in both orders; None for no judge.
        all_pairs: let the judge compare every pair of contestants, not each with the first one.
        margin: percentage points by which a cheaper contestant may be worse; None for 5.
        seed: seed of the choice of prompts and examples, and of the intervals.
        name: name of the evaluation's folder; None for one derived from the settings.
        base_url: address of the provider that wrote the data; None for that of its profile.
        api_key_file: file with that provider's API key; None to read its environment variable.
        concurrency: maximum number of requests in flight.
        rpm: maximum requests per minute.
        tpm: maximum tokens per minute.
        max_cost: maximum cost in USD, over all contestants and calls.
        retry_failed: ask again for rows that failed.
        yes: consent to a cost above 1 USD.
        on_progress: called twice a second with a `ProgressSnapshot` of the contestant that is being asked.

    Returns:
        Figures for each contestant, comparisons of pairs with 95 % intervals, and a one-sentence conclusion.

    Raises:
        UsageError: no prompt was held out, or consent is needed (code `needs_yes`).
        AsyncgenError: the evaluation could not go on; answers that were paid for are kept.
        KeyboardInterrupt: Ctrl-C, after the requests in flight.

    Example:
        >>> result = evaluate("runs/campaign", axes={"city": ["Paris"]}, n=2, base_url=server)
        >>> [standing.contestant.name for standing in result.contestants]
        ['zero-shot', 'few-shot', 'prompt', 'tuned']
    """
    path = run.path if isinstance(run, Run) else open_run(run).path
    wanted = WantedEvaluation(
        contestants=contestants,
        axes=axes or {},
        rows=n,
        examples=k,
        nearest=nearest,
        judge=judge,
        all_pairs=all_pairs,
        margin_points=margin,
        seed=seed,
        name=name,
        base_url=base_url,
        api_key_file=None if api_key_file is None else Path(api_key_file),
        options=AskOptions(
            max_cost=max_cost, concurrency=concurrency, rpm=rpm, tpm=tpm, retry_failed=retry_failed
        ),
    )  # fmt: skip

    async def work(interrupt: Interrupt) -> Evaluated:
        observer = LibraryObserver(yes=yes, on_progress=on_progress, interrupt=interrupt)
        return await evaluate_run(RunDirectory(path), wanted, observer)

    done = run_in_thread(work)
    if done.evaluation is None:
        raise KeyboardInterrupt  # nothing else stops it without an error
    return done.evaluation
