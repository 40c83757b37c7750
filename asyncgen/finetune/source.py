"""What to tune on: the dataset of a run with its job's settings, or a training file.

Resolves `[RUN|FILE]`, the provider that tunes, and the run in which the job is noted. Infers the form that a training
file teaches from what all its samples begin or end with; a run's dataset has its form noted. Sends nothing.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncgen.errors import UsageError, command_line
from asyncgen.finetune.api import JobOrder
from asyncgen.finetune.create import Dataset
from asyncgen.finetune.target import RUNS
from asyncgen.job.load import JobFile, read_job_file, saved_job_file
from asyncgen.job.model import FinetuneSettings
from asyncgen.json_text import decode_json
from asyncgen.providers.choose import AUTO, EndpointFlags, choose_tuner, choose_tuning, local_model_given, named_profile
from asyncgen.providers.profiles import LOCAL, ProviderChoice
from asyncgen.run.directory import STATE_NAME, RunDirectory, find_run
from asyncgen.run.jsonl import read_lines
from asyncgen.run.state import DatasetState
from asyncgen.text_files import open_input

if TYPE_CHECKING:
    from collections.abc import Iterator


_TABLES = frozenset({".csv", ".tsv", ".xlsx", ".parquet"})


def order_of(model: str, settings: FinetuneSettings) -> JobOrder:
    """Build the order of a job from the table [finetune].

    Args:
        model: the model to tune.
        settings: of the job.

    Returns:
        The order, without the ids of its files.
    """
    return JobOrder(
        model=model,
        method=settings.method,
        suffix=settings.suffix,
        seed=settings.seed,
        hyperparameters=settings.hyperparameters,
        metadata=settings.metadata,
        integrations=settings.integrations,
    )


@dataclass(frozen=True, slots=True)
class TuningSource:
    """A dataset, and what is known of the job to create from it.

    Attributes:
        run: the run that the job is noted in.
        new_run_name: name of the run to create for a file; None if the run exists.
        dataset: the files.
        settings: [finetune] of the run's job; the defaults for a file.
        choice: the provider that tunes.
        where: the flags.
        model: the model to tune.
        price_folder: folder with the user's prices, besides the configuration folder; None for none.
    """

    run: Path
    new_run_name: str | None
    dataset: Dataset
    settings: FinetuneSettings
    choice: ProviderChoice
    where: EndpointFlags
    model: str
    price_folder: Path | None = None

    def order(self, settings: FinetuneSettings) -> JobOrder:
        """Build the order of the job from settings.

        Args:
            settings: those of the run's job, perhaps changed by flags.

        Returns:
            The order, without the ids of its files.
        """
        return order_of(self.model, settings)


def find_source(
    argument: Path | None, validation: Path | None, out: Path | None, where: EndpointFlags, model: str | None
) -> TuningSource:
    """Resolve the argument of a tuning command to a dataset.

    Args:
        argument: a run directory, a training file, or None for the newest run.
        validation: a validation file, if the argument is a file.
        out: the run in which a file's job is noted.
        where: the flags.
        model: to tune; None for the job's, else the provider's default.

    Returns:
        The files, with provider, model and settings.

    Raises:
        UsageError: there is no such run or file, or the run has no dataset.
        JobFileError: the run's job cannot be read any more.
    """
    if argument is None or argument.is_dir():
        return _of_run(find_run(argument, root=RUNS), where, model)
    if not os.path.lexists(argument):
        raise UsageError(f"{argument} is neither a run nor a file", help_text="asyncgen runs   (lists the runs here)")
    open_input(argument).close()
    if argument.suffix.lower() in _TABLES:
        raise UsageError(
            f"{argument} is a table; a training file must be JSON Lines",
            help_text=f"{command_line('prepare', argument)}   (converts it)",
            code="bad_dataset",
        )
    choice = _for_file(where)
    inside = argument.parent if (argument.parent / STATE_NAME).exists() and out is None else None
    return TuningSource(
        run=inside or out or RUNS / argument.stem,
        new_run_name=None if inside else argument.stem,
        dataset=Dataset(argument, validation),
        settings=FinetuneSettings(),
        choice=choice,
        where=where,
        model=model_to_tune(choice, model),
    )


def _of_run(directory: RunDirectory, where: EndpointFlags, model: str | None) -> TuningSource:
    dataset = _dataset_of(directory)
    if not directory.job.exists():
        settings, choice, folder = FinetuneSettings(), _for_file(where), None
    else:
        noted = directory.read_state().job
        file = saved_job_file(directory, noted)
        choice = _for_run(where, file, noted.tuning_provider)
        settings = file.job(noted.generation_provider, choice.profile.name).finetune
        folder = file.folder
    return TuningSource(
        run=directory.path,
        new_run_name=None,
        dataset=dataset,
        settings=settings,
        choice=choice,
        where=where,
        model=model_to_tune(choice, model or settings.model),
        price_folder=folder,
    )


def _dataset_of(directory: RunDirectory) -> Dataset:
    state = directory.read_state()
    names = {file.name for file in state.dataset.files if file.samples} if state.dataset else set()
    if directory.train.name not in names or not directory.train.exists():
        raise UsageError(
            f"{directory.path} has no dataset yet",
            help_text=f"{command_line('prepare', directory.path)}   (creates one)",
        )
    return Dataset(directory.train, directory.validation if directory.validation.name in names else None)


def _for_run(where: EndpointFlags, file: JobFile, noted: str) -> ProviderChoice:
    """The provider that tunes a run: from the flags, else the job file, else as chosen at the start of the run."""
    if where.provider or where.addresses:
        return choose_tuner(where, os.environ, file.profiles)
    if file.tuning_provider != AUTO:
        return ProviderChoice(named_profile(file.tuning_provider, file.profiles), "named in the job file")
    return ProviderChoice(named_profile(noted, file.profiles), "chosen at the start of the run")


def _for_file(where: EndpointFlags) -> ProviderChoice:
    """The provider that tunes a file.

    It is that of the flags, else the one with a key if it tunes for new customers, else `local`.
    """
    choice = choose_tuner(where)
    return choice if where.provider or where.addresses else choose_tuning(choice)


def question_arguments(model: str, directory: RunDirectory | None) -> tuple[str, ...]:
    """Return the arguments of the `complete` that asks a tuned model with a prompt of its dataset.

    Args:
        model: the tuned model.
        directory: of the run that tuned it; None for a job of no run. `complete` finds a model's provider by the runs
            under `runs/`, so another one is named.
    """
    if directory is None:
        return "-m", model, "YOUR PROMPT"
    which = ("-m", model) if directory.path.parent == RUNS else ("--run", str(directory.path))
    return *which, example_prompt(directory)


def tuning_command(directory: RunDirectory, *flags: str) -> str:
    """Return the command that tunes on a run's dataset: on this machine if no model of its provider is known.

    Args:
        directory: of the run.
        flags: further flags, such as `--simulated`.

    Raises:
        JobFileError: the run's job cannot be read any more.
    """
    state = directory.read_state().job
    if directory.job.exists() and not os.environ.get("ASYNCGEN_FINETUNE_MODEL"):
        file = read_job_file(directory.job, Path(state.folder))
        finetuning = named_profile(state.tuning_provider, file.profiles).finetuning
        named = file.job(state.generation_provider, state.tuning_provider).finetune.model
        if not named and (finetuning is None or finetuning.default_model is None):
            flags = ("--provider", LOCAL, *flags)
    return command_line("finetune create", directory.path, *flags)


def model_to_tune(choice: ProviderChoice, named: str | None) -> str:
    """Choose the model to tune.

    Args:
        choice: the provider that tunes.
        named: by a flag or the job file; None for the provider's default.

    Returns:
        The name of the model.

    Raises:
        UsageError: none was named, and the provider has no default.
    """
    finetuning = choice.profile.finetuning
    given_here = local_model_given(choice.profile, os.environ)
    model = named or given_here or (finetuning.default_model if finetuning else None)
    if model is None:
        raise UsageError(
            f"no model to fine-tune is set, and {choice.profile.name} has no default",
            help_text="--model NAME (run: --finetune-model NAME), or `model` under [finetune] in the job file; "
            f"--provider {LOCAL} (run: --finetune-provider {LOCAL}) fine-tunes a small model on this machine",
        )
    return model


_NO_WORD_AT_THE_END = re.compile(r"\W*\Z")


# Endings without a line break that the legacy preparation tool offered; any other may be a natural full stop.
_ENDINGS = frozenset({" END", " [END]", "***", "+++", "&&&", "$$$", "@@@", "%%%"})


def taught_form(path: Path) -> DatasetState:
    """The format, separator, ending and system message that all samples of the file share.

    Args:
        path: a training file that was found valid.

    Raises:
        DiskError: it cannot be read.
    """
    samples = _samples(path)
    first = next(samples, {})
    if "prompt" not in first and "completion" not in first:
        return DatasetState(files=[], format="chat", system=_common_system(first, samples))
    prompts, completions = str(first.get("prompt", "")), str(first.get("completion", ""))
    for sample in samples:
        prompts = common_suffix(prompts, str(sample.get("prompt", "")))
        completions = common_suffix(completions, str(sample.get("completion", "")))
    return DatasetState(files=[], format="completion", separator=separator_in(prompts), ending=ending_in(completions))


def _samples(path: Path) -> Iterator[dict[str, Any]]:
    for _, line in read_lines(path):
        sample = decode_json(line)
        if isinstance(sample, dict):
            yield sample


_LONGEST_EXAMPLE = 200  # characters of a prompt that a command can show


def example_prompt(directory: RunDirectory) -> str:
    """Find a short prompt of the run's dataset, for a command to be copied.

    Args:
        directory: of the run.

    Returns:
        The first prompt, of the validation file if there is one; "YOUR PROMPT" if it is long, or has several lines.

    Raises:
        DiskError: the file cannot be read.
    """
    path = next((path for path in (directory.validation, directory.train) if path.exists()), None)
    sample = next(_samples(path), {}) if path else {}
    messages = sample.get("messages") or sample.get("input", {}).get("messages") or []
    asked = [str(message.get("content")) for message in messages if message.get("role") == "user"]
    dataset = directory.read_state().dataset
    separator = dataset.separator if dataset else ""
    prompt = (asked[0] if asked else str(sample.get("prompt", "")).removesuffix(separator)).strip()
    return prompt if 0 < len(prompt) <= _LONGEST_EXAMPLE and prompt.isprintable() else "YOUR PROMPT"


def _common_system(first: dict[str, Any], others: Iterator[dict[str, Any]]) -> str | None:
    system = _system(first)
    if system is None or any(_system(sample) != system for sample in others):
        return None
    return system


def _system(sample: dict[str, Any]) -> str | None:
    messages = sample.get("messages") or sample.get("input", {}).get("messages") or [{}]
    content = messages[0].get("content")
    return content if messages[0].get("role") in ("system", "developer") and isinstance(content, str) else None


def common_suffix(first: str, second: str) -> str:
    """What both texts end with."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(reversed(first), reversed(second), strict=False))
    return first[len(first) - sum(1 for _ in same) :]


def separator_in(suffix: str) -> str:
    """The separator in what all prompts end with: no letters or digits, which only happen to be the same."""
    found = _NO_WORD_AT_THE_END.search(suffix)
    return found[0] if found and len(found[0]) > 1 else ""


def ending_in(suffix: str) -> str:
    """The ending in what all completions end with; a full stop is none, or it would end the answer too early."""
    if "\n" in suffix:
        return suffix[suffix.index("\n") :]
    return next((ending for ending in _ENDINGS if suffix.endswith(ending)), "")
