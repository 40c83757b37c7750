"""How reliably the tuned small model names what it is asked for: many trainings that differ in their seed alone.

Each training goes through the local server, as in `asyncgen run`. The tuned model is then asked, at temperature 0, for
the prompt that `run` shows, for others outside the campaign's grid, and for those that the dataset held out. An answer
counts when it has size, sector and city as the prompt has them; "passed" when it passes the job's checks as well.

asyncgen run --provider local --until prepare          # makes runs/direct-marketing
python benchmarks/bench_tuning.py runs/direct-marketing
python benchmarks/bench_tuning.py runs/direct-marketing --seeds 6 --epochs 3 --learning-rate 0.6 --threads 2
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import openai

from asyncgen.job.answers import AnswerChecks
from asyncgen.job.opened import OpenedJob, job_of_run
from asyncgen.run.directory import RunDirectory

SHOWN = {"size": "small", "sector": "Hotel", "city": "New York"}
SECTORS = ("Hotel", "Bakery", "Book Shops", "Florists", "Shoe Stores", "Gyms")
CITIES = ("New York", "Madrid", "Vienna", "Rome", "Dublin")
SIZES = ("small", "medium", "large")
ANSWER_TOKENS = 120
TICK_S = 0.5

Values = Mapping[str, str]


@dataclass
class AnswerTokens:
    """Answers to one kind of prompt."""

    asked: int = 0
    named: int = 0
    passed: int = 0

    def count(self, named: bool, passed: bool) -> None:
        self.asked += 1
        self.named += named
        self.passed += named and passed

    def __str__(self) -> str:
        return f"{self.named}/{self.asked} ({self.passed})"


@dataclass
class Training:
    """One seed's training; the loss is the mean over the last epoch's steps."""

    seed: int
    loss: float
    shown: AnswerTokens
    outside: AnswerTokens
    held_out: AnswerTokens
    missed: list[str]


@contextmanager
def server(folder: Path, options: argparse.Namespace) -> Iterator[openai.OpenAI]:
    """A local server of its own, with a client."""
    command = [sys.executable, "-m", "asyncgen", "serve", "--port", "0", "--json", "--data-dir", str(folder)]
    for name in ("threads", "lora_rank", "lora_layers"):
        if (value := getattr(options, name)) is not None:
            command += [f"--{name.replace('_', '-')}", str(value)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            base_url = json.loads(process.stdout.readline())["base_url"]
            with openai.OpenAI(base_url=base_url, api_key="none", timeout=600) as client:
                yield client
        finally:
            process.terminate()


def outside_prompts(count: int) -> Iterator[Values]:
    """Sectors and cities that the campaign does not have, up to 29 pairs; the prompt that `run` shows is left out."""
    for number in range(1, count + 1):
        yield {
            "size": SIZES[(number + number // len(SECTORS)) % len(SIZES)],
            "sector": SECTORS[number % len(SECTORS)],
            "city": CITIES[number % len(CITIES)],
        }


def held_out_prompts(run: RunDirectory, opened: OpenedJob) -> Iterator[Values]:
    """The combinations of the validation split."""
    lines = run.validation.read_text(encoding="utf-8").splitlines()
    held_out = {json.loads(line)["messages"][0]["content"] for line in lines}
    rows = [json.loads(line)["variables"] for line in run.records.read_text(encoding="utf-8").splitlines()]
    for prompt, values in {opened.grid.sample.render(row): row for row in rows}.items():
        if prompt in held_out:
            yield values


def train(client: openai.OpenAI, file: str, seed: int, options: argparse.Namespace) -> tuple[str, float]:
    """Run one job to its end; the tuned model, and the last epoch's mean loss."""
    hyperparameters: dict[str, Any] = {
        "n_epochs": options.epochs,
        "learning_rate_multiplier": options.learning_rate,
    }
    job = client.fine_tuning.jobs.create(
        model=client.models.list().data[0].id,
        training_file=file,
        seed=seed,
        suffix="bench",
        method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},  # type: ignore[arg-type]
    )
    while job.status not in {"succeeded", "failed", "cancelled"}:
        time.sleep(TICK_S)
        job = client.fine_tuning.jobs.retrieve(job.id)
    if job.fine_tuned_model is None:
        sys.exit(f"the training with seed {seed} {job.status}: {job.error}")
    events = client.fine_tuning.jobs.list_events(job.id, limit=100).data
    losses = [event.data["train_loss"] for event in events if event.type == "metrics" and "train_loss" in event.data]  # type: ignore[index,operator]
    last = losses[: max(1, len(losses) // options.epochs)]  # newest first
    return job.fine_tuned_model, sum(last) / len(last)


def answer(client: openai.OpenAI, model: str, prompt: str) -> str:
    reply = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": prompt}], temperature=0, max_tokens=ANSWER_TOKENS
    )
    return reply.choices[0].message.content or ""


def asked(
    client: openai.OpenAI, model: str, opened: OpenedJob, prompts: Sequence[Values], missed: list[str]
) -> AnswerTokens:
    """Ask for all prompts; answers that lack a value are added to `missed`."""
    tally = AnswerTokens()
    checks = AnswerChecks(opened.job.checks, opened.grid.answers)
    for values in prompts:
        prompt = opened.grid.sample.render(values)
        text = answer(client, model, prompt)
        named = all(value.casefold() in text.casefold() for value in values.values())
        tally.count(named, not checks.failures(text, values))
        if not named:
            missed.append(f"{prompt}: {text}")
    return tally


def measure(options: argparse.Namespace) -> list[Training]:
    run = RunDirectory(options.run)
    opened = job_of_run(run)
    outside, held_out = list(outside_prompts(options.prompts)), list(held_out_prompts(run, opened))
    trainings = []
    with tempfile.TemporaryDirectory() as folder, server(Path(folder), options) as client:
        file = client.files.create(file=run.train, purpose="fine-tune").id
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            missed: list[str] = []
            model, loss = train(client, file, seed, options)
            shown, new, old = (asked(client, model, opened, p, missed) for p in ([SHOWN], outside, held_out))
            trainings.append(Training(seed, loss, shown, new, old, missed))
            client.models.delete(model)
            print(f"{seed:6}{loss:8.3f}{shown!s:>12}{new!s:>14}{old!s:>14}", file=sys.stderr)
            for text in missed:
                print(f"        {text}", file=sys.stderr)
    return trainings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run of the built-in campaign, prepared")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=1.0, help="its multiplier")
    parser.add_argument("--prompts", type=int, default=20, help="outside the grid")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--lora-rank", type=int)
    parser.add_argument("--lora-layers", type=int)
    options = parser.parse_args()
    print(f"{'seed':>6}{'loss':>8}{'shown':>12}{'outside':>14}{'held out':>14}", file=sys.stderr)
    trainings = measure(options)
    totals = {
        kind: {
            "asked": sum(getattr(training, kind).asked for training in trainings),
            "named": sum(getattr(training, kind).named for training in trainings),
            "passed": sum(getattr(training, kind).passed for training in trainings),
        }
        for kind in ("shown", "outside", "held_out")
    }
    for kind, total in totals.items():
        words = "{named} of {asked} name all three values, {passed} pass the checks as well".format(**total)
        print(f"{kind.replace('_', ' '):10}{words}", file=sys.stderr)
    cpu_s = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime / len(trainings)
    print(f"CPU of the server for each training and its answers: {cpu_s:.0f} s", file=sys.stderr)
    given = {name: value for name, value in vars(options).items() if name != "run"}
    print(json.dumps({**given, **totals, "cpu_s": cpu_s, "trainings": [asdict(each) for each in trainings]}))


if __name__ == "__main__":
    main()
