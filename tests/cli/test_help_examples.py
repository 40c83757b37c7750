"""The examples on the help pages are run, in a folder with files and a finished run, against the simulated server."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openpyxl import Workbook

from asyncgen.cli.help import EXAMPLES

Here = Callable[..., Any]
CSV = "prompt,completion\n" + "".join(f"Shop {number} in Paris,Text {number} is new!\n" for number in range(12))
# What has ended cannot be ended again, a simulation has no adapter, and there is no cluster here; the command is right,
# and says so.
REFUSED = {
    "generate": ("--ray needs Ray", "no Ray cluster can be joined"),
    "batch cancel": ("already collected",),
    "finetune cancel": ("succeeded",),
    "finetune download": ("its training was simulated", "has no checkpoint of step"),
}
LAST = ("batch cancel", "finetune cancel", "finetune delete")


@pytest.fixture
def finished(asked: Here, write_job: Callable[[str, str], None]) -> dict[str, str]:
    """A folder with files and a run that has been through every stage; gives the ids to put into the examples."""
    write_job("job.toml", "job")
    Path("answers.csv").write_text(CSV, encoding="utf-8")
    book = Workbook()
    for row in [("question", "answer"), *((f"What is {number}?", f"It is {number}.") for number in range(12))]:
        book.active.append(row)
    book.save("faq.xlsx")
    for words in (("generate", "job.toml", "--batch"), ("run", "job.toml", "--until", "complete")):
        ran = asked(*words)
        assert ran.code == 0, ran.err
    shutil.copy("runs/job/train.jsonl", "train.jsonl")
    state = json.loads(Path("runs/job/run.json").read_text(encoding="utf-8"))
    [tuning], [batch] = state["finetuning"], state["batches"]
    return {
        "ftjob-abc": tuning["job_id"],
        "ft:model:name:1": tuning["tuned_model"],
        "file-abc": tuning["training_file"],
        "batch_abc123": batch["batch_id"],
    }


def starts(words: list[str]) -> str:
    """What a command that stays says until it listens; it is stopped then."""
    with subprocess.Popen(
        [sys.executable, "-m", "asyncgen", *words], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if "http://" in line:
                break
        process.send_signal(signal.SIGINT)
    return said


def stays(words: list[str]) -> bool:
    return words[0] == "serve" or (words[0] == "view" and "--export" not in words)


@pytest.mark.timeout(600)
def test_the_examples_of_every_page_work(
    here: Here, finished: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = sorted(EXAMPLES, key=lambda page: page in LAST)
    for number, page in enumerate(pages):
        for place, (example, _) in enumerate(EXAMPLES[page]):
            folder = tmp_path / f"{number}.{place}"
            shutil.copytree(tmp_path / "work", folder)
            monkeypatch.chdir(folder)
            monkeypatch.setattr("sys.stdin", io.StringIO("Paris, dry\n"))
            command = example.partition(" >")[0]
            for name, real in finished.items():
                command = command.replace(name, real)
            words = shlex.split(command)[1:]
            if stays(words):
                if "--engine" in words or words[0] == "view":  # the real model is fetched by its own tests
                    more = ["--no-browser"] if words[0] == "view" else []
                    assert "http://" in starts([*words, "--port", "0", *more]), command
                continue
            ran = here(*words)
            if ran.code == 2 and "are simulated" in ran.err:  # with a real model the flag is not needed
                ran = here(*words, "--simulated")
            if ran.code != 0 and page in REFUSED:
                assert any(reason in ran.err for reason in REFUSED[page]), f"{command}: {ran.err}"
            else:
                assert ran.code == 0, f"{command}: {ran.err}"
