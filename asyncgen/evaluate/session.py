"""One evaluation, from the run to the verdict: shared by `evaluate`, `run` and the Python API.

Order: rows, contestants, margin noted, consent, answers, judge, measures, verdict. Files in `evaluations/NAME/` of the
run's directory:

    evaluation.json      settings, fixed before anything is bought; then the figures and the verdict
    NAME.jsonl           the answers of a contestant, a line for each row, for pages and scripts
    NAME/                the same as a run, with journal and spend
    jobs/                what each contestant was asked: job file and rows

An `Observer` is told and asked; nothing is printed here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import msgspec
import orjson

from asyncgen.errors import UsageError, command_line
from asyncgen.evaluate.asking import (
    AskOptions,
    EngineOf,
    ask_contestants,
    consent_to_plan,
    engine_of,
    plan_contestants,
    spent_usd,
)
from asyncgen.evaluate.contestants import (
    NAME,
    NAME_HELP,
    Contestant,
    PromptMaterial,
    ReadyContestant,
    default_contestants,
    enter,
    parse_contestant,
)
from asyncgen.evaluate.judge import Judging, judge_pairs
from asyncgen.evaluate.measures import Answers, ContestantResult, CopySources, read_answers, standings
from asyncgen.evaluate.result import FOLDER, SUMMARY, Evaluation, write_evaluation, write_summary
from asyncgen.evaluate.rows import RowChoice, answers_are_targets, choose_rows, read_samples
from asyncgen.evaluate.statistics import FEWEST_CLUSTERS
from asyncgen.evaluate.verdict import best_of, compare_with_best, pays_from, verdict_by_judge, verdict_on
from asyncgen.finetune.complete import form_of
from asyncgen.job.answers import checks_of
from asyncgen.job.model import Checks
from asyncgen.job.opened import OpenedJob, job_of_run
from asyncgen.json_text import NotJsonError, decode_json
from asyncgen.providers.choose import named_address
from asyncgen.providers.prices import PriceList
from asyncgen.providers.user_files import load_price_list
from asyncgen.run.directory import RunDirectory
from asyncgen.run.lock import locked
from asyncgen.run.whole_file import as_disk_error, read_whole
from asyncgen.terminal import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from asyncgen.generate.observer import Observer
    from asyncgen.run.state import DatasetState

ROWS, EXAMPLES, MARGIN_POINTS, SEED = 100, 4, 5.0, 7
_MOST_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedEvaluation:
    """Options of an evaluation, from flags or from Python arguments.

    Attributes:
        contestants: `NAME=TECHNIQUE:PROVIDER/MODEL` texts; None for the usual ones.
        axes: axis to values outside the grid; empty for the validation split.
        rows: maximum number of rows.
        trained: if nothing was held out, use prompts of the training file.
        examples: number of examples in a few-shot prompt.
        nearest: use the samples most like the row as examples.
        margin_points: percentage points by which a cheaper contestant may be worse; None for the noted margin, else 5.
        seed: of rows, examples and intervals.
        name: name of the evaluation's folder; None for one derived from the settings.
        judge: `PROVIDER/MODEL` of the judge; None for none.
        all_pairs: let the judge compare every pair.
        base_url: address of the provider that wrote the data; None for that of its profile.
        api_key_file: file with its API key; None for its environment variable.
        parameters: override those of the job.
        options: shared by all contestants.
    """

    contestants: Sequence[str] | None = None
    axes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    rows: int = ROWS
    trained: bool = False
    examples: int = EXAMPLES
    nearest: bool = False
    margin_points: float | None = None
    seed: int = SEED
    name: str | None = None
    judge: str | None = None
    all_pairs: bool = False
    base_url: str | None = None
    api_key_file: Path | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    options: AskOptions = field(default_factory=AskOptions)


@dataclass(frozen=True, slots=True)
class Evaluated:
    """How `evaluate_run` ended.

    Attributes:
        evaluation: the result; None if it was stopped before its end.
        exit_code: of the process.
    """

    evaluation: Evaluation | None
    exit_code: int


async def evaluate_run(
    directory: RunDirectory, wanted: WantedEvaluation, observer: Observer, *, engine: EngineOf = engine_of
) -> Evaluated:
    """Send held-out prompts to every contestant, and compare the answers.

    The same call resumes an interrupted evaluation.

    Args:
        directory: of a run with a dataset.
        wanted: contestants, rows and bounds.
        observer: gets reports, gives consent, and interrupts.
        engine: makes the engine that asks a contestant.

    Returns:
        The evaluation, or the reason why there is none yet.

    Raises:
        UsageError: there is no prompt to send, or consent is needed.
        AsyncgenError: it could not go on; answers that were paid for are kept.
    """
    setup = _set_up(directory, wanted)
    folder = setup.folder
    with as_disk_error(f"the folder {folder} could not be created"):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        settings = _fix_settings(setup)
        choice = setup.choice
        observer.say(f"{folder}: {len(choice.rows):,} of {counted(choice.possible, 'row')}, {choice.source}")
        entries = _enter_all(setup)
        plan = plan_contestants(entries, folder)
        consent_to_plan(plan, observer)
        code = await ask_contestants(plan, folder, wanted.options, observer, engine)
        if code not in {0, 3}:
            return Evaluated(None, code)
        answers = _read(setup, entries)
        judging = None
        if wanted.judge:
            judging, judge_code = await _judge(setup, answers, observer, engine)
            if judging is None:
                return Evaluated(None, judge_code)
            code = code or judge_code
        evaluation = _evaluated(setup, answers, judging, settings["margin"])
        write_evaluation(evaluation, settings, answers)
    return Evaluated(evaluation, code)


@dataclass(frozen=True, slots=True)
class _Setup:
    """What an evaluation compares, and where: all that is known before anything is sent."""

    opened: OpenedJob
    directory: RunDirectory
    dataset: DatasetState
    choice: RowChoice
    contestants: Sequence[Contestant]
    folder: Path
    wanted: WantedEvaluation


def _set_up(directory: RunDirectory, wanted: WantedEvaluation) -> _Setup:
    """Check what is wanted, and choose rows and contestants. Writes nothing."""
    opened = job_of_run(directory)
    dataset = _dataset_of(directory)
    choice = choose_rows(
        opened, directory, dataset, wanted.axes, most=wanted.rows, seed=wanted.seed, trained=wanted.trained
    )
    contestants = _contestants(opened, directory, wanted)
    if wanted.judge:  # an invalid name is reported before anything is sent
        _judge_of(opened, wanted)
    if wanted.name is not None and not NAME.fullmatch(wanted.name):
        raise UsageError(f"{wanted.name!r} is not a valid name for an evaluation", help_text=NAME_HELP)
    folder = directory.path / FOLDER / (wanted.name or _name(wanted))
    return _Setup(opened, directory, dataset, choice, contestants, folder, wanted)


def _dataset_of(directory: RunDirectory) -> DatasetState:
    dataset = directory.read_state().dataset
    if dataset is None or not directory.train.exists():
        raise UsageError(
            f"{directory.path} has no dataset, so it is not known which rows are held out",
            help_text=f"{command_line('prepare', directory.path)}   (creates one)",
        )
    return dataset


def _contestants(opened: OpenedJob, directory: RunDirectory, wanted: WantedEvaluation) -> list[Contestant]:
    defaults = default_contestants(opened, directory.read_state(), wanted.base_url)
    if wanted.contestants is None:
        return defaults
    found = [parse_contestant(text, opened.file.profiles) for text in wanted.contestants]
    if twice := {each.name for each in found if sum(each.name == other.name for other in found) > 1}:
        raise UsageError(f"two contestants are named {min(twice)}", help_text="give each its own name")
    return [_addressed(each, {each.place: each for each in defaults}, opened, wanted) for each in found]


def _addressed(
    contestant: Contestant, defaults: Mapping[str, Contestant], opened: OpenedJob, wanted: WantedEvaluation
) -> Contestant:
    """The contestant with the address at which the run knows its model, or its provider."""
    if contestant.place in defaults:
        return replace(contestant, base_url=defaults[contestant.place].base_url)
    known = next((each.base_url for each in defaults.values() if each.provider == contestant.provider), None)
    return replace(contestant, base_url=wanted.base_url if contestant.provider == opened.generation else known)


def _enter_all(setup: _Setup) -> list[ReadyContestant]:
    """Write the job of each contestant."""
    opened, wanted = setup.opened, setup.wanted
    material = PromptMaterial(
        form_of(setup.dataset),
        partial(read_samples, setup.directory.train, setup.dataset),
        wanted.examples,
        wanted.nearest,
        wanted.seed,
    )
    return [
        enter(
            contestant, opened, setup.choice.rows, material, setup.folder,
            parameters=wanted.parameters,
            api_key_file=wanted.api_key_file if contestant.provider == opened.generation else None,
        )
        for contestant in setup.contestants
    ]  # fmt: skip


def _name(wanted: WantedEvaluation) -> str:
    """A name that is equal for equal settings only."""
    settings = [sorted((name, list(values)) for name, values in wanted.axes.items()), wanted.examples, wanted.nearest]
    digest = blake2b(orjson.dumps([*settings, wanted.seed, dict(wanted.parameters)]), digest_size=3).hexdigest()
    word = "-".join(wanted.axes) if wanted.axes else "validation"
    return f"{word}-{digest}"


def _fix_settings(setup: _Setup) -> dict[str, Any]:
    """Write down what must not be chosen after the answers are seen: margin, rows and contestants.

    Raises:
        UsageError: another margin was written down before.
    """
    folder, choice, wanted = setup.folder, setup.choice, setup.wanted
    earlier = _summary(folder)
    margin = earlier.get("margin")
    asked = None if wanted.margin_points is None else wanted.margin_points / 100
    if margin is not None and asked is not None and asked != margin:
        raise UsageError(
            f"the margin of this evaluation was set to {100 * margin:g} points before its requests were sent",
            help_text="leave --margin out, or start another evaluation with --name NAME",
            code="margin_fixed",
        )
    if margin is None:
        margin = MARGIN_POINTS / 100 if asked is None else asked
    settings = {
        "name": folder.name,
        "margin": margin,
        "seed": wanted.seed,
        "source": choice.source,
        "rows": len(choice.rows),
        "axes": {name: list(values) for name, values in wanted.axes.items()},
        "examples": wanted.examples,
        "nearest": wanted.nearest,
    }
    begun = [
        {"name": each.name, "technique": each.technique, "provider": each.provider, "model": each.model}
        for each in setup.contestants
    ]
    if not earlier.get("sentence"):
        write_summary(folder, {**settings, "contestants": begun})
    return settings


def _summary(folder: Path) -> dict[str, Any]:
    try:
        found = decode_json(read_whole(folder / SUMMARY, _MOST_BYTES))
    except (FileNotFoundError, NotJsonError):
        return {}
    return found if isinstance(found, dict) else {}


def _read(setup: _Setup, entries: Sequence[ReadyContestant]) -> dict[str, Answers]:
    opened = setup.opened
    checks = checks_of(opened.job, opened.grid.answers) if answers_are_targets(opened) else None
    return {
        entry.contestant.name: read_answers(
            entry, RunDirectory(setup.folder / entry.contestant.name), setup.choice.rows, checks
        )
        for entry in entries
    }


def _judge_of(opened: OpenedJob, wanted: WantedEvaluation) -> Contestant:
    return parse_contestant(f"judging=zero-shot:{wanted.judge}", opened.file.profiles)


async def _judge(
    setup: _Setup, answers: Mapping[str, Answers], observer: Observer, engine: EngineOf
) -> tuple[Judging | None, int]:
    opened, wanted = setup.opened, setup.wanted
    judge = _judge_of(opened, wanted)
    base_url = wanted.base_url if judge.provider == opened.generation else None
    known = [each.entry.contestant for each in answers.values()]
    base_url = base_url or next((each.base_url for each in known if each.provider == judge.provider), None)
    return await judge_pairs(
        replace(judge, name="judge", base_url=base_url),
        opened, answers, setup.folder, wanted.options, observer, engine,
        seed=wanted.seed,
        all_pairs=wanted.all_pairs,
        api_key_file=wanted.api_key_file if judge.provider == opened.generation else None,
    )  # fmt: skip


def _evaluated(setup: _Setup, answers: Mapping[str, Answers], judging: Judging | None, margin: float) -> Evaluation:
    choice, seed = setup.choice, setup.wanted.seed
    prices = load_price_list(setup.opened.file.path and setup.opened.file.folder, os.environ)
    found = _measured(setup, answers, prices)
    answered = [each for each in found if each.n]
    if not answered:
        raise UsageError("no contestant has an answer", help_text="--retry-failed sends them again", code="no_answers")
    best = best_of(answered).contestant.name
    pairs = compare_with_best(
        {each.contestant.name: answers[each.contestant.name] for each in answered}, best, seed=seed
    )
    unit = "combinations" if answers_are_targets(setup.opened) else "prompts"
    tells = _has_checks(setup.opened, choice)
    verdict = (
        verdict_on(answered, pairs, margin, unit) if tells else verdict_by_judge(judging.pairs if judging else (), unit)
    )
    return Evaluation(
        path=setup.folder,
        rows=len(choice.rows),
        source=choice.source,
        clusters=choice.clusters,
        cluster_name=choice.cluster_name,
        margin=margin,
        seed=seed,
        contestants=tuple(found),
        comparisons=tuple(pairs),
        judging=judging,
        pays=tuple(pays_from(setup.opened, setup.directory, found, prices)),
        notes=tuple(_notes(found, choice, judging, tells=tells)),
        sentence=verdict.sentence,
        use=verdict.use,
        more_rows=verdict.more_rows,
        answers=_texts(choice, answers),
        passed=_passed(answers),
        prompts={row.id: row.prompt for row in choice.rows},
        cost_usd=sum(spent_usd(path) for path in setup.folder.iterdir() if path.is_dir()),
    )


def _measured(setup: _Setup, answers: Mapping[str, Answers], prices: PriceList) -> list[ContestantResult]:
    """Measure every contestant's answers, at the price of its model."""
    priced = {
        name: prices.price(
            each.entry.contestant.provider,
            named_address(each.entry.choice.profile, each.entry.where),
            each.entry.contestant.model,
        )
        for name, each in answers.items()
    }
    held_out = [sample.answer for sample in read_samples(setup.directory.validation, setup.dataset)]
    sources = CopySources(partial(read_samples, setup.directory.train, setup.dataset), held_out)
    return standings(list(answers.values()), sources, priced, seed=setup.wanted.seed)


def _texts(choice: RowChoice, answers: Mapping[str, Answers]) -> dict[str, dict[str, str]]:
    """Row to the text of each contestant that answered it."""
    return {
        row.id: {name: each.by_row[row.id].text for name, each in answers.items() if row.id in each.by_row}
        for row in choice.rows
    }


def _passed(answers: Mapping[str, Answers]) -> dict[str, frozenset[str]]:
    """Contestant to the rows whose answers passed."""
    return {
        name: frozenset(row for row, answer in each.by_row.items() if answer.passed) for name, each in answers.items()
    }


def _has_checks(opened: OpenedJob, choice: RowChoice) -> bool:
    """Whether an answer can fail for another reason than being cut off or empty."""
    if not answers_are_targets(opened):
        return any(row.expected is not None for row in choice.rows)
    return opened.grid.answers.reads_json or msgspec.structs.replace(opened.job.checks, attempts=1) != Checks()


def _notes(
    found: Sequence[ContestantResult], choice: RowChoice, judging: Judging | None, *, tells: bool
) -> Iterator[str]:
    if any(each.simulated for each in found):
        yield "these answers are simulated: the figures say nothing about any model"
    if choice.cluster_name and choice.clusters < FEWEST_CLUSTERS:
        name = choice.cluster_name
        held_out = counted(choice.clusters, f"value of {name} was", f"values of {name} were")
        yield f"only {held_out} held out: the figures say nothing about others"
    if not tells:
        yield "the job has no [checks] that an answer could fail, so all answers pass" + (
            "" if judging else "; --judge PROVIDER/MODEL compares them"
        )
    for name in judging.family if judging else ():
        yield f"the judge is of the same model family as {name}; judges favour their own family"
    if lost := [each for each in found if each.failed]:
        named = ", ".join(f"{each.contestant.name} {each.failed:,}" for each in lost)
        yield f"rows without an answer, which are not counted: {named}"
