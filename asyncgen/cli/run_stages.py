"""The four stages of `asyncgen run`, each the command of its name.

Owns their order, what one needs of the one before, and the words at which stage a run stopped. Everything a stage has
done is on disk, so nothing here needs to be remembered from one invocation to the next.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asyncgen.cli.generate_command import summarise
from asyncgen.cli.loop import run as run_loop
from asyncgen.cli.output import result, say, this_command
from asyncgen.cli.prepare_lines import run_lines, run_object
from asyncgen.cli.screen import Screen
from asyncgen.dataset.prepare_run import prepare_run
from asyncgen.errors import AsyncgenError, IncompleteError
from asyncgen.finetune.complete import Asking, Completion, answer_limit, ask, form_of
from asyncgen.finetune.open_tuner import open_calls
from asyncgen.finetune.session import WantedTuning, tune
from asyncgen.finetune.source import find_source
from asyncgen.generate.engine import GenerateOptions
from asyncgen.generate.session import generate_rows
from asyncgen.job.of_run import OpenedJob, job_of_run
from asyncgen.json_text import decode_loosely
from asyncgen.providers.choose import Where, named_profile, open_endpoint
from asyncgen.providers.prices_file import load_price_list
from asyncgen.providers.profiles import Profile, ProviderChoice
from asyncgen.run.directory import RunDirectory, open_run

# The built-in campaign's model is asked for stores of a sector and a city that it never met.
_OUTSIDE_BUILT_IN = {"sector": "Hotel", "city": "New York", "size": "small"}
_ANSWER_TOKENS = 120


@dataclass
class RunPipeline:
    """One invocation of `run`.

    Args:
        job: the job file; None for the built-in one.
        options: the flags, as the generating stage takes them.
        yes: every question is answered with yes.
        prompt: what the tuned model is asked; None for one that it was not trained on.

    Attributes:
        report: what the stages came to, for `--json`.
    """

    job: Path | None
    options: GenerateOptions
    prompt: str | None
    yes: bool = field(kw_only=True)
    report: dict[str, Any] = field(default_factory=dict)
    _run: RunDirectory = field(default_factory=lambda: RunDirectory(Path()))
    _tuned_model: str = ""

    def until(self, last: str, names: Sequence[str]) -> int:
        """Go through the stages up to `last`; returns the exit code.

        Raises:
            AsyncgenError: a stage did not succeed; which one has been said.
        """
        stages: dict[str, Callable[[], int]] = {
            "generate": self._generate,
            "prepare": self._prepare,
            "finetune": self._finetune,
            "complete": self._complete,
        }
        code = 0
        for number, name in enumerate(names[: names.index(last) + 1], 1):
            say(f"stage {number} of {len(names)}: {name}")
            try:
                stage_code = stages[name]()
            except AsyncgenError:
                _say_where(name)
                raise
            code = code or stage_code
            if stage_code not in {0, IncompleteError.exit_code}:
                _say_where(name)
                return stage_code
        return code

    def _generate(self) -> int:
        generated = run_loop(generate_rows(self.job, self.options, Screen(yes=self.yes)))
        summarise(generated)
        self._run = RunDirectory(generated.run)
        self.report["generate"] = generated.as_json()
        self.report["run"] = str(generated.run)
        return generated.exit_code

    def _prepare(self) -> int:
        opened = job_of_run(self._run)
        prices = load_price_list(opened.file.folder, os.environ)
        with open_run(self._run.path) as run:
            # Where a simulation answers and this machine, or the same server, is tuned, it is a rehearsal.
            prepared = prepare_run(
                run,
                opened.job,
                opened.grid,
                provider=named_profile(opened.tuning, opened.file.profiles),
                prices=prices,
                simulated=opened.tuning in {opened.generation, "local"},
            )
        for line in (
            *(f"warning: {warning}" for warning in prepared.warnings),
            *run_lines(prepared, opened.job.dataset),
        ):
            say(line)
        self.report["prepare"] = run_object(prepared)
        return 0

    def _finetune(self) -> int:
        source = find_source(self._run.path, None, None, self._tuning_where(job_of_run(self._run)), None)
        wanted = WantedTuning(
            choice=ProviderChoice(source.choice.profile, "who tunes, by the run's job"),
            where=source.where,
            order=source.order(source.settings),
            dataset=source.dataset,
            price_folder=source.price_folder,
        )
        with open_run(self._run.path) as run:
            tuned = run_loop(tune(run, wanted, Screen(yes=self.yes)))
        if tuned.job is not None:
            self._tuned_model = tuned.job.tuned_model or ""
            self.report["finetune"] = {"id": tuned.job.id, "status": tuned.job.status, "model": self._tuned_model}
        return tuned.exit_code

    def _complete(self) -> int:
        opened = job_of_run(self._run)
        profile = named_profile(opened.tuning, opened.file.profiles)
        if profile.finetuning is not None and profile.finetuning.next_step:
            say(f"{profile.title} needs a step of yours before the model answers; it is named above")
            return 0
        prompt = self.prompt or self._unseen_prompt(opened)
        answer = run_loop(self._ask(opened, profile, prompt))
        result(f"{prompt}\n    {answer.text.strip()}")
        self.report["complete"] = {"model": answer.model, "prompt": prompt, "completion": answer.text}
        return 0

    async def _ask(self, opened: OpenedJob, profile: Profile, prompt: str) -> Completion:
        dataset = self._run.read_state().dataset
        assert dataset is not None, "the stage prepare noted it"
        form = form_of(dataset)
        limit = answer_limit(profile, form, _ANSWER_TOKENS)
        asking = Asking(self._tuned_model, form, {"temperature": 0, **limit})
        choice = ProviderChoice(profile, "it tuned the model")
        where = self._tuning_where(opened)
        async with open_endpoint(choice, where, self._tuned_model, say) as endpoint, open_calls(endpoint) as calls:
            return await ask(calls, asking, prompt)

    def _tuning_where(self, opened: OpenedJob) -> Where:
        """The address given for the answers is also the tuner's when both are the same provider."""
        same = opened.tuning == opened.generation
        return Where(
            provider=opened.tuning,
            base_url=self.options.where.base_url if same else None,
            api_key_file=self.options.where.api_key_file if same else None,
        )

    def _unseen_prompt(self, opened: OpenedJob) -> str:
        if set(opened.grid.names) == set(_OUTSIDE_BUILT_IN):
            return opened.grid.sample.render(_OUTSIDE_BUILT_IN)
        held_out = self._run.validation if self._run.validation.exists() else self._run.train
        with held_out.open("rb") as lines:
            sample = decode_loosely(lines.readline().lstrip(b"\xef\xbb\xbf"))
        if "messages" in sample:
            return str(next(message["content"] for message in sample["messages"] if message["role"] == "user"))
        return str(sample["prompt"]).removesuffix(opened.job.dataset.separator)


def _say_where(name: str) -> None:
    say(f"the run stopped at the stage {name}; this goes on from there: {this_command()}")
