"""`evaluate` from Python: techniques and models compared on prompts that no model was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from asyncgen.api.loop import run_in_thread
from asyncgen.api.observer import LibraryObserver, OnProgress
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
    """Ask every contestant prompts that were held out from training, and compare the answers.

    Answers are kept under `evaluations/` in the run; the same call asks only for what is missing.

    Args:
        run: a run with a dataset, or its directory; None for the newest one.
        contestants: texts `NAME=TECHNIQUE:PROVIDER/MODEL`; None for base and tuned model, and whoever wrote the data.
        axes: axis to values outside the grid; None for the validation side.
        n: the most prompts asked.
        k: examples shown in few-shot.
        nearest: show the samples most like each prompt, not the same ones for all.
        judge: `PROVIDER/MODEL` that compares the answers, in both orders.
        all_pairs: it compares everybody with everybody.
        margin: points by which a cheaper contestant may be worse; None for 5. Fixed before anything is bought.
        seed: decides prompts, examples and intervals.
        name: of the evaluation; None for one made of the settings.
        base_url: of the provider that wrote the data.
        api_key_file: its key.
        concurrency: maximum number of requests in flight.
        rpm: requests a minute.
        tpm: tokens a minute.
        max_cost: USD, over all contestants and calls.
        retry_failed: ask again for rows that failed.
        yes: consent to costs above 1 USD.
        on_progress: called twice a second with a `ProgressSnapshot` of the contestant that is asked.

    Returns:
        The figures, the comparisons and the sentence that they come to.

    Raises:
        UsageError: nothing was held out, or consent is needed (code `needs_yes`).
        AsyncgenError: what ended it; answers that were paid for are kept.

    Example:
        >>> found = evaluate("runs/campaign", axes={"city": ["Madrid", "Vienna"]})  # doctest: +SKIP
        >>> print(found.sentence)  # doctest: +SKIP
        tuned passes 41.7 points more often than zero-shot (95 % ...): use tuned
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
        raise KeyboardInterrupt  # nothing else stops it without an error of its own
    return done.evaluation
