"""Every next step that a command prints works: it is run, and so is what it prints in turn, until nothing new comes.

Names have blanks and quotes in them. The simulated server stands in for a provider.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands import commands_in

Here = Callable[..., Any]
_STEP = ("next:", "      ", "help:", "To go on:", "-> ", "when all shards", "left ", "stopped")
NAME = "it's my job.toml"
_STAYS = {"serve", "view"}  # go on until they are stopped


def steps_in(text: str) -> Iterator[list[str]]:
    """The command lines that the printed next steps name, as words."""
    for line in text.splitlines():
        if line.startswith(_STEP) or any(sign in line for sign in _STEP[3:]):
            yield from map(shlex.split, commands_in(line))


def follow(here: Here, *first: str) -> list[list[str]]:
    """Run a command, which succeeds, and every step that is printed from then on; gives all in their order."""
    waiting, done = [list(first)], list[list[str]]()
    while waiting:
        words = waiting.pop(0)
        if words in done or words[0] in _STAYS:
            continue
        ran = here(*words)
        done.append(words)
        assert ran.code == 0, f"asyncgen {shlex.join(words)}, after {done[-2:]}: {ran.err}"
        waiting += steps_in(f"{ran.out}\n{ran.err}")
        assert len(done) < 40
    return done


@pytest.fixture
def job(asked: Here, write_job: Callable[[str, str], None]) -> str:
    write_job(NAME, "a-job")
    return NAME


def names(done: list[list[str]]) -> list[str]:
    return [words[0] for words in done]


def test_a_new_job_is_led_to_its_tuned_model(asked: Here) -> None:
    done = follow(asked, "init", NAME)
    assert names(done)[:5] == ["init", "plan", "generate", "prepare", "finetune"]
    assert "complete" in names(done)


def test_a_server_without_a_model_to_tune_is_led_to_tuning_on_this_machine(
    asked: Here, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASYNCGEN_PROVIDER", "custom")
    monkeypatch.delenv("ASYNCGEN_FINETUNE_PROVIDER")
    done = follow(asked, "generate", job, "--model", "m")
    assert ["finetune", "create", "runs/a-job", "--provider", "local", "--simulated"] in done
    assert "complete" in names(done)


def test_the_question_to_a_tuned_model_is_a_prompt_of_the_dataset(asked: Here, job: str) -> None:
    assert asked("run", job, "--until", "finetune").code == 0
    prompt = json.loads(Path("runs/a-job/validation.jsonl").read_text().splitlines()[0])["messages"][-2]["content"]
    [step] = [step for step in steps_in(asked("status").err) if step[0] == "complete"]
    assert (step[1], step[3]) == ("-m", prompt)


def test_a_run_elsewhere_is_led_to_its_tuned_model(asked: Here, job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base_url = os.environ["ASYNCGEN_BASE_URL"]
    for name in ("ASYNCGEN_BASE_URL", "ASYNCGEN_PROVIDER", "ASYNCGEN_FINETUNE_PROVIDER"):
        monkeypatch.delenv(name)
    place = ("--base-url", base_url, "--model", "m", "--simulated")
    assert asked("generate", job, "--out", "else where", "--base-url", base_url).code == 0
    assert asked("prepare", "else where", "--simulated").code == 0
    for flags in ((), ("--no-follow", "--another")):
        created = asked("finetune", "create", "else where", *place, *flags)
        assert created.code == 0
        for words in steps_in(created.err):
            assert asked(*words).code == 0, words
    follow(asked, "status", "else where")


def test_each_kind_of_work_is_led_to_a_plan(asked: Here) -> None:
    assert names(follow(asked, "init", "--list"))[:3] == ["init", "init", "plan"]


def test_the_built_in_run_ends_with_steps_that_work(asked: Here) -> None:
    done = follow(asked, "run")
    assert {"run", "complete", "show", "init", "plan"} <= set(names(done))


@pytest.mark.parametrize("stage", ["generate", "prepare"])
def test_a_run_that_ends_before_its_last_stage_names_the_next_one(asked: Here, job: str, stage: str) -> None:
    assert {"prepare", "finetune", "complete"} & set(names(follow(asked, "run", job, "--until", stage)))


def test_a_preview_leads_to_the_whole(asked: Here, job: str) -> None:
    assert names(follow(asked, "preview", job))[:2] == ["preview", "generate"]


def test_a_part_leads_to_the_rest(asked: Here, job: str) -> None:
    done = follow(asked, "generate", job, "--limit", "3", "--out", "a 'run'")
    assert names(done)[:3] == ["generate", "generate", "prepare"]


@pytest.fixture
def in_copies(
    asked: Here, write_job: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Iterator[str]]:
    """Make a folder as it is after some stage, and give each command a copy of it to run in."""

    def each(until: str, commands: list[str]) -> Iterator[str]:
        if until != "nothing":
            write_job(NAME, "a-job")
        if until == "preview":
            assert asked("preview", NAME).code == 0
        elif until in {"generate", "prepare", "finetune"}:
            assert asked("run", NAME, "--until", until).code == 0
        for number, command in enumerate(commands):
            shutil.copytree(tmp_path / "work", tmp_path / f"copy {number}")
            monkeypatch.chdir(tmp_path / f"copy {number}")
            yield command

    return each


@pytest.mark.parametrize("until", ["preview", "generate", "prepare", "finetune"])
def test_looking_at_a_run_names_steps_that_work(
    asked: Here, in_copies: Callable[..., Iterator[str]], until: str
) -> None:
    commands = ["status", "report", "doctor", "runs"]
    for command in in_copies(until, commands + (["evaluate"] if until in {"prepare", "finetune"} else [])):
        follow(asked, command)


def test_failed_rows_are_led_to_their_reasons(
    asked: Here, job: str, simulated_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASYNCGEN_BASE_URL", simulated_server(faults={"400": 0.3}).base_url)
    asked("generate", job)
    failed = asked("status")
    assert failed.code == 0
    for words in steps_in(failed.err):
        assert asked(*words).code == 0


def test_a_batch_is_led_to_its_answers(asked: Here, job: str) -> None:
    assert "prepare" in names(follow(asked, "generate", job, "--batch"))
    follow(asked, "batch", "list")
    follow(asked, "batch", "show")


def test_shards_are_led_to_their_merging(asked: Here, job: str) -> None:
    asked("generate", job, "--shard", "0/2")
    assert {"merge", "status"} <= set(names(follow(asked, "generate", job, "--shard", "1/2")))


def test_a_damaged_run_is_led_out_by_repair(asked: Here, job: str) -> None:
    asked("generate", job)
    path = Path("runs/a-job/records.jsonl")
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join([lines[0], "not a line\n", *lines[1:]]), encoding="utf-8")
    failed = asked("report")
    assert failed.code == 6
    [repair] = steps_in(failed.err)
    assert repair[0] == "repair"
    done = follow(asked, *repair)
    assert len(done) > 1


EARLY = [
    "generate", "status", "report", "show", "prepare", "export -o a.csv", "finetune create", "finetune follow",
    "finetune events", "evaluate", "merge", "repair", "batch list", "batch show", "complete",
    "generate nothing.toml", "status nothing", "finetune create nothing", "plan nothing.toml",
]  # fmt: skip


@pytest.mark.parametrize("until", ["nothing", "init", "generate"])
def test_a_command_that_comes_too_early_names_steps_that_work(
    asked: Here, in_copies: Callable[..., Iterator[str]], until: str
) -> None:
    seen: list[list[str]] = []
    for command in in_copies(until, EARLY):
        for words in steps_in(asked(*shlex.split(command)).err):
            if words in seen:
                continue
            seen.append(words)
            ran = asked(*words)
            if ran.code == 2 and "are simulated" in ran.err:  # with a real model the flag is not needed
                ran = asked(*words, "--simulated")
            assert ran.code == 0, f"{command} after {until} names {shlex.join(words)}: {ran.err}"


def interrupted(words: list[str], once: Callable[[], bool]) -> str:
    """What a command in a process of its own says when Ctrl-C is pressed as soon as `once` says so."""
    with subprocess.Popen(
        [sys.executable, "-m", "asyncgen", *words], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        ends = time.monotonic() + 60
        while not once() and process.poll() is None and time.monotonic() < ends:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == 130, said
    return said


def has(path: str, text: str) -> Callable[[], bool]:
    return lambda: Path(path).exists() and text in Path(path).read_text(encoding="utf-8", errors="replace")


@pytest.mark.parametrize("command", ["generate", "run"])
def test_an_interrupted_generation_names_the_command_that_ends_it(
    asked: Here, job: str, command: str, simulated_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASYNCGEN_BASE_URL", simulated_server(latency_s=0.5).base_url)
    out = ["--out", "my 'run'"]
    said = interrupted([command, job, *out, "--concurrency", "1"], has("my 'run'/records.jsonl", "completion"))
    [step] = steps_in(said)
    assert step[1:4] == [job, *out]
    assert asked(*step).code == 0


def test_a_training_that_is_left_names_the_commands_that_find_it(
    asked: Here, job: str, simulated_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASYNCGEN_BASE_URL", simulated_server(training_s=4.0).base_url)
    assert asked("run", job, "--until", "prepare").code == 0
    said = interrupted(["finetune", "create", "--simulated"], has("runs/a-job/events.jsonl", "step"))
    follow_it, cancel_it = steps_in(said)
    assert follow_it[:2] == ["finetune", "follow"]
    assert asked(*follow_it).code == 0
    assert cancel_it[:2] == ["finetune", "cancel"]
    again = interrupted(["finetune", "create", "--simulated", "--another"], has("runs/a-job/run.json", "running"))
    assert json.loads(Path("runs/a-job/run.json").read_text(encoding="utf-8"))["finetuning"]
    _, cancel_it = steps_in(again)
    assert asked(*cancel_it).code == 0
    assert os.environ["ASYNCGEN_BASE_URL"]
