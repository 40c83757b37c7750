"""The small evaluation at the end of `run`: base and tuned model side by side on a handful of new prompts.

Chooses the prompts; the rest is left to `session`. The answers are kept under `evaluations/run`, so that repeating the
`run` sends nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from asyncgen.errors import AsyncgenError, DiskError, QuotaError, RunInUseError, UsageError, command_line
from asyncgen.evaluate.asking import EngineOf, engine_of
from asyncgen.evaluate.session import WantedEvaluation, evaluate_run
from asyncgen.job.opened import OpenedJob, job_of_run
from asyncgen.job.requests import MOST_ENUMERATED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from asyncgen.evaluate.measures import ContestantResult
    from asyncgen.evaluate.result import Evaluation
    from asyncgen.generate.observer import Observer
    from asyncgen.run.directory import RunDirectory

SMALL_NAME = "run"
SMALL_ROWS = 6
_BASE, _TUNED = "base", "tuned"
# Values that are not in the grid of the built-in campaign.
_OUTSIDE_BUILT_IN = {
    "sector": ("Hotel", "Bakery", "Book Shops", "Florists"),
    "city": ("New York", "Madrid", "Vienna"),
}
_BUILT_IN_AXES = frozenset({"sector", "city", "size"})


@dataclass(frozen=True, slots=True)
class SideBySide:
    """One prompt with both answers; "" for a missing one."""

    prompt: str
    base: str
    tuned: str
    base_passed: bool
    tuned_passed: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """Base and tuned model on the same prompts.

    Attributes:
        base: figures of the base model; None if the provider does not serve it.
        tuned: figures of the tuned model.
        rows: prompts with both answers.
        source: where the prompts are from, for the reader.
        simulated: whether a simulation answered.
        evaluation: the same as a whole evaluation, for `--json`.
    """

    base: ContestantResult | None
    tuned: ContestantResult
    rows: tuple[SideBySide, ...]
    source: str
    simulated: bool
    evaluation: Evaluation


async def small_comparison(
    directory: RunDirectory,
    observer: Observer,
    *,
    base_url: str | None = None,
    api_key_file: Path | None = None,
    rows: int = SMALL_ROWS,
    engine: EngineOf = engine_of,
) -> Comparison | None:
    """Send a handful of prompts to the base and the tuned model; prompts that neither was trained on, if there are any.

    Six rows say little: do not present a difference as a finding.

    Args:
        directory: of a run with a dataset and a tuned model.
        observer: gets reports, gives consent, and interrupts.
        base_url: address of the provider that wrote the data, from a flag; None for that of its profile.
        api_key_file: file with its API key; None for its environment variable.
        rows: number of prompts.
        engine: makes the engine that asks a contestant.

    Returns:
        The comparison; None if it was interrupted.

    Raises:
        UsageError: the run has no tuned model.
        AsyncgenError: the tuned model cannot be asked.
    """
    opened = job_of_run(directory)
    noted = next((each for each in reversed(directory.read_state().finetuning) if each.tuned_model), None)
    if noted is None:
        raise UsageError(
            f"{directory.path} has no tuned model",
            help_text=command_line("finetune create", directory.path),
        )
    base = f"{_BASE}=zero-shot:{noted.provider}/{noted.model}"
    tuned = f"{_TUNED}=tuned:{noted.provider}/{noted.tuned_model}"
    wanted = WantedEvaluation(
        contestants=(base, tuned),
        axes=_new_values(opened),
        rows=rows,
        trained=True,
        name=SMALL_NAME,
        parameters={"temperature": 0},
        base_url=base_url,
        api_key_file=api_key_file,
    )
    try:
        done = await evaluate_run(directory, wanted, observer, engine=engine)
    except (UsageError, QuotaError, DiskError, RunInUseError):
        raise
    except AsyncgenError:  # some providers serve tuned models only
        done = await evaluate_run(directory, replace(wanted, contestants=(tuned,)), observer, engine=engine)
    return _comparison(done.evaluation) if done.evaluation is not None else None


def _new_values(opened: OpenedJob) -> Mapping[str, Sequence[str]]:
    """Values that the built-in campaign does not have; nothing for another job."""
    if set(opened.grid.names) != _BUILT_IN_AXES or not {"sector", "city"} <= set(opened.grid.sample.names):
        return {}
    known = {name: set(opened.grid.values_of(name, MOST_ENUMERATED)) for name in _OUTSIDE_BUILT_IN}
    new = {name: [v for v in values if v not in known[name]] for name, values in _OUTSIDE_BUILT_IN.items()}
    return new if all(new.values()) else {}


def _comparison(evaluation: Evaluation) -> Comparison:
    found = {standing.contestant.name: standing for standing in evaluation.contestants}
    return Comparison(
        found.get(_BASE),
        found[_TUNED],
        tuple(
            SideBySide(
                prompt=prompt,
                base=evaluation.answers[row].get(_BASE, ""),
                tuned=evaluation.answers[row].get(_TUNED, ""),
                base_passed=row in evaluation.passed.get(_BASE, ()),
                tuned_passed=row in evaluation.passed[_TUNED],
            )
            for row, prompt in evaluation.prompts.items()
        ),
        evaluation.source,
        any(standing.simulated for standing in evaluation.contestants),
        evaluation,
    )
