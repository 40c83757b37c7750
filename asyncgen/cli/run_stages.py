"""The four stages of `asyncgen run`: generate, prepare, finetune, complete.

Each stage is the command of its name. Decides their order, what a stage needs of the one before, and what is printed
when a run stops. All state is on disk, so that nothing has to be remembered from one invocation to the next.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asyncgen.cli.arguments import next_command
from asyncgen.cli.evaluate_command import small_lines
from asyncgen.cli.generate_command import summarise
from asyncgen.cli.loop import run as run_loop
from asyncgen.cli.output import is_verbose, result, say, this_command
from asyncgen.cli.plan_command import RunForecast, find_problems, refuse_problems, tuning_flags
from asyncgen.cli.prepare_command import run_lines, run_object
from asyncgen.cli.screen import Screen
from asyncgen.dataset.prepare_run import prepare_run
from asyncgen.errors import AsyncgenError, IncompleteError
from asyncgen.evaluate.result import as_json as as_object
from asyncgen.evaluate.small import small_comparison
from asyncgen.finetune.session import WantedTuning, tune
from asyncgen.finetune.source import find_source, tuning_command
from asyncgen.generate.engine import GenerateOptions
from asyncgen.generate.session import generate_opened
from asyncgen.job.opened import OpenedJob, job_of_run, open_named_job
from asyncgen.providers.choose import named_profile
from asyncgen.providers.profiles import LOCAL, ProviderChoice
from asyncgen.providers.user_files import load_price_list
from asyncgen.run.directory import RunDirectory, open_run
from asyncgen.terminal import counted, duration, usd

_INTERRUPTED = 130
_SIGNALLED = frozenset({129, 130, 143})


@dataclass
class RunPipeline:
    """One invocation of `run`.

    Args:
        job: the job file; None for the built-in one.
        options: the flags, in the form of the generation stage.
        yes: answer every question with yes.
        finetune_model: the model to tune; None for the job's, else the provider's default.

    Attributes:
        report: results of the stages, for `--json`.
    """

    job: Path | None
    options: GenerateOptions
    finetune_model: str | None
    yes: bool = field(kw_only=True)
    report: dict[str, Any] = field(default_factory=dict)
    _run: RunDirectory = field(default_factory=lambda: RunDirectory(Path()))
    _tuned_model: str = ""
    _is_simulated: bool = False
    _is_rehearsal: bool = False
    _interrupted: int = 0

    def until(self, last: str, names: Sequence[str]) -> int:
        """Go through the stages up to `last`; returns the exit code.

        Raises:
            AsyncgenError: a stage did not succeed; which one has been said.
        """
        stages: dict[str, Callable[[], int]] = {
            "prepare": self._prepare,
            "finetune": self._finetune,
            "complete": self._complete,
        }
        began = time.monotonic()
        opened, generation = self._opened(tuning=last in {"finetune", "complete"})
        stages["generate"] = lambda: self._generate(opened, generation)
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
                if name != "generate" or stage_code not in _SIGNALLED:  # otherwise the stage has reported it
                    _say_where(name)
                return stage_code
            if self._interrupted and name != last:  # during the last rows: the next stages are not begun
                _say_where(name)
                return self._interrupted
        self._say_end(last, time.monotonic() - began)
        return code

    def _opened(self, *, tuning: bool) -> tuple[OpenedJob, ProviderChoice]:
        """Open the job, and check that every stage is possible. Sends nothing.

        Raises:
            AsyncgenError: a stage is impossible; the cause lists every problem.
        """
        opened, generation, tuner = open_named_job(
            self.job, self.options.where, finetune_provider=self.options.finetune_provider
        )
        where = tuning_flags(opened, self.options.where)
        ahead = RunForecast(opened, generation, self.options.where, tuner, where, self.finetune_model, self.yes)
        refuse_problems(find_problems(ahead, tuning=tuning))
        return opened, generation

    def _say_end(self, last: str, elapsed_s: float) -> None:
        """Print what was made, where it is, what it cost, and the next steps."""
        generated = self.report["generate"]
        cost = "" if generated["cost_usd"] is None else f", {usd(generated['cost_usd'])}"
        model = ", 1 tuned model" if self._tuned_model else ""
        made = f"{counted(generated['done'], 'answer')}{model}{cost}"
        say(f"done in {duration(elapsed_s)}: {made}, all in {self._run.path}")
        for number, command in enumerate(self._next_steps(last)):
            say(f"{'next: ' if not number else '      '}{command}")

    def _next_steps(self, last: str) -> list[str]:
        run = self._run.path
        look = f"{next_command('show', run)}   (shows the answers)"
        rehearsal = "--simulated" if self._is_simulated else None
        if last == "generate":
            return [next_command("prepare", run, rehearsal), look]
        if last == "prepare":
            return [tuning_command(self._run, *([rehearsal] if rehearsal else [])), look]
        prompt = self.report.get("complete", {}).get("prompt", "YOUR PROMPT")
        steps = [f"{next_command('complete', prompt)}   (asks the tuned model)"] if self._tuned_model else []
        init_step = "init my-job.toml" if self.job is None else ""
        last_step = f"{next_command(init_step)}   (starts your own job)" if init_step else next_command("report", run)
        return [*steps, look, last_step]

    def _generate(self, opened: OpenedJob, generation: ProviderChoice) -> int:
        generated = run_loop(generate_opened(opened, generation, self.options, Screen(yes=self.yes)))
        summarise(generated)
        self._run = RunDirectory(generated.run)
        # Answers of the simulation are not uploaded to a provider that charges for training on them.
        self._is_simulated = generated.simulated
        self._is_rehearsal = generated.simulated and opened.tuning in {opened.generation, LOCAL}
        self._interrupted = generated.interrupted
        self.report["generate"] = generated.as_json()
        self.report["run"] = str(generated.run)
        return generated.exit_code

    def _prepare(self) -> int:
        opened = job_of_run(self._run)
        prices = load_price_list(opened.file.folder, os.environ)
        with open_run(self._run.path) as run:
            prepared = prepare_run(
                run,
                opened.job,
                opened.grid,
                provider=named_profile(opened.tuning, opened.file.profiles),
                prices=prices,
                simulated=self._is_rehearsal,
            )
        for line in (
            *(f"warning: {warning}" for warning in prepared.warnings),
            *run_lines(prepared, opened.job.dataset, "", detailed=is_verbose()),
        ):
            say(line)
        self.report["prepare"] = run_object(prepared)
        return 0

    def _finetune(self) -> int:
        source = find_source(
            self._run.path, None, None, tuning_flags(job_of_run(self._run), self.options.where), self.finetune_model
        )
        wanted = WantedTuning(
            choice=ProviderChoice(source.choice.profile, "named in the run's job"),
            where=source.where,
            order=source.order(source.settings),
            dataset=source.dataset,
            price_folder=source.price_folder,
            simulated=self._is_rehearsal,
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
            say(f"{profile.title} needs a manual step before the model can answer; see above")
            return 0
        where = self.options.where
        found = run_loop(
            small_comparison(
                self._run,
                _QuietScreen(yes=self.yes),
                base_url=where.addresses[0] if where.addresses else None,
                api_key_file=where.api_key_file,
            )
        )
        if found is None:
            return _INTERRUPTED
        if found.simulated:
            say("note: these answers are simulated")
        for line in small_lines(found):
            result(line)
        say(f"prompts: {found.source}")
        first = found.rows[0]
        self.report["complete"] = {
            "model": self._tuned_model, "prompt": first.prompt, "completion": first.tuned, "before": first.base or None,
        }  # fmt: skip
        self.report["evaluate"] = as_object(found.evaluation)
        return 0


class _QuietScreen(Screen):
    """A screen without messages: those about every contestant would hide the answers."""

    def say(self, text: str) -> None:
        pass


def _say_where(name: str) -> None:
    say(f"the run stopped at the stage {name}; to continue: {this_command()}")
