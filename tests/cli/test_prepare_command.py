"""`asyncgen prepare`, as it is typed: exit codes, streams, questions."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]

CSV = "prompt,completion\n" + "".join(f'"Shop {number}, Paris",Text {number} is new!\n' for number in range(12))


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


@pytest.fixture
def generated(asyncgen: Run, simulated: Callable[..., str]) -> Path:
    """The built-in job's run, answered by the simulation."""
    address = ("--provider", "local", "--base-url", simulated(), "--model", "m")
    ran = asyncgen("run", "--until", "generate", *address, "-q")
    assert ran.returncode == 0, ran.stderr
    return Path("runs/direct-marketing")


def answer(ran: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(ran.stdout.splitlines()[-1])


def test_the_newest_run_becomes_a_dataset(asyncgen: Run, generated: Path, work: Path) -> None:
    ran = asyncgen("prepare", "--validation", "0.1", "--simulated")
    assert ran.returncode == 0, ran.stderr
    assert "train.jsonl: 147 samples" in ran.stdout
    assert "5 validation prompts, none of them in the training data" in ran.stdout
    assert f"next: asyncgen finetune create {generated}" in ran.stderr
    assert len((work / generated / "validation.jsonl").read_text().splitlines()) == 15


def test_flags_come_before_the_job_file_and_json_tells_all(asyncgen: Run, generated: Path, work: Path) -> None:
    ran = asyncgen(
        "prepare",
        str(generated),
        "--simulated",
        "--format",
        "completion",
        "--separator",
        r"\n\n###\n\n",
        "--ending",
        "END",
        "--validation",
        "0",
        "--json",
    )
    assert ran.returncode == 0, ran.stderr
    told = answer(ran)
    assert told["files"][0]["samples"] == 162
    assert told["training"][0]["provider"] == "local"
    assert told["rejected"] == {}
    sample = json.loads((work / generated / "train.jsonl").read_text().splitlines()[0])
    assert sample["prompt"].endswith("\n\n###\n\n")
    assert sample["completion"].endswith("END")
    state = json.loads((work / generated / "run.json").read_text())
    assert state["dataset"]["ending"] == "END"


def test_rules_are_those_of_the_provider_named(asyncgen: Run, generated: Path) -> None:
    ran = asyncgen("prepare", "--format", "completion", "--provider", "openai", "--simulated", "--json")
    assert ran.returncode == 1
    assert answer(ran)["error"]["code"] == "refused_dataset"
    assert "OpenAI accepts files of the format chat" in ran.stderr


def test_a_csv_becomes_pairs_as_the_legacy_tool_made_them(asyncgen: Run, work: Path) -> None:
    (work / "a.csv").write_text(CSV)
    ran = asyncgen("prepare", "a.csv", "--format", "completion", "-y")
    assert ran.returncode == 0, ran.stderr
    assert "end each prompt in `, Paris`" in ran.stdout  # which all had already, so that nothing was added
    assert 'set stop=[" is new!"]' in ran.stdout
    assert "next: asyncgen finetune create a_prepared.jsonl" in ran.stderr
    assert json.loads((work / "a_prepared.jsonl").read_text().splitlines()[0])["completion"].startswith(" 0 is new!")
    assert (work / "a.csv").read_text() == CSV


def test_a_csv_becomes_chats(asyncgen: Run, work: Path) -> None:
    (work / "a.csv").write_text(CSV)
    ran = asyncgen("prepare", "a.csv", "-y", "--system", "You sell.", "--json")
    assert ran.returncode == 0, ran.stderr
    assert answer(ran)["files"] == ["a_prepared.jsonl"]
    assert len(json.loads((work / "a_prepared.jsonl").read_text().splitlines()[0])["messages"]) == 3


def test_a_classification_is_split_and_both_halves_are_in_the_next_command(asyncgen: Run, work: Path) -> None:
    rows = "".join(f"text {number} ->,{' yes' if number % 2 else ' no'}\n" for number in range(40))
    (work / "my labels.csv").write_text("prompt,completion\n" + rows)
    ran = asyncgen("prepare", "my labels.csv", "--format", "completion", "-y")
    assert ran.returncode == 0, ran.stderr
    train, valid = "'my labels_prepared_train.jsonl'", "'my labels_prepared_valid.jsonl'"
    assert f"next: asyncgen finetune create {train} --validation {valid}" in ran.stderr


def test_without_a_terminal_and_without_yes_nothing_is_guessed(asyncgen: Run, work: Path) -> None:
    (work / "a.csv").write_text(CSV)
    ran = asyncgen("prepare", "a.csv", "--format", "completion")
    assert ran.returncode == 2
    assert "is not a terminal" in ran.stderr
    assert "--yes" in ran.stderr
    assert [path.name for path in work.iterdir()] == ["a.csv"]


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs pseudo-terminals")
def test_on_a_terminal_each_remedy_is_asked_for(work: Path, environment: dict[str, str], asyncgen: Run) -> None:
    (work / "a.csv").write_text("prompt,completion\nShop A in Paris,First text.\nBakery in Rome,Second one!\n")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "asyncgen", "prepare", "a.csv", "--format", "completion"],
        cwd=work, env=environment, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    os.write(ours, b"n\ny\n\n\n")  # the separator: no; ending, space and writing: yes
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:
        pass  # the terminal is gone with the process
    process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 0
    assert shown.count(b"[Y/n]") == 4
    first = json.loads((work / "a_prepared.jsonl").read_text().splitlines()[0])
    assert first == {"prompt": "Shop A in Paris", "completion": " First text.\n"}


def test_chats_with_faults_are_refused_with_each_line(asyncgen: Run, work: Path) -> None:
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    lines = [*[good] * 10, {"messages": [{"role": "user", "content": "a"}]}]
    (work / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ran = asyncgen("prepare", "a.jsonl", "-y")
    assert ran.returncode == 1
    assert "a.jsonl:11: the last message must be from the assistant" in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nothing.csv"], 2, "there is no file nothing.csv"),
        (["."], 2, "not a run"),
        ([], 2, "there is no run"),
        (["a.csv", "--drop-near-duplicates"], 2, "is for runs"),
        (["a.csv", "--format", "completion", "--validation", "0.1"], 2, "splits classification data only"),
        (["a.csv", "--separator", "x"], 2, "--separator is for the completion format"),
        (["a.csv", "--format", "completion", "--system", "x"], 2, "--system is for the chat format"),
        (["a.csv", "--validation", "1"], 2, "validation"),
        (["a.csv", "--provider", "nobody"], 2, "provider"),
        (["a.pdf"], 2, "extension .pdf"),
    ],
)
def test_what_cannot_be_is_told(asyncgen: Run, work: Path, arguments: list[str], code: int, message: str) -> None:
    (work / "a.csv").write_text(CSV)
    (work / "a.pdf").write_text("x")
    ran = asyncgen("prepare", *arguments)
    assert ran.returncode == code
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr


def test_creating_a_job_from_another_kind_of_file_says_to_prepare_it(asyncgen: Run, work: Path) -> None:
    (work / "a.csv").write_text(CSV)
    ran = asyncgen("finetune", "create", "a.csv", "--provider", "openai", "-y", OPENAI_API_KEY="sk-none")
    assert ran.returncode == 2
    assert "asyncgen prepare a.csv" in ran.stderr


def test_columns_can_be_named(asyncgen: Run, work: Path) -> None:
    (work / "a.csv").write_text(CSV.replace("prompt,completion", "question,answer"))
    ran = asyncgen("prepare", "a.csv", "-y")
    assert ran.returncode == 1
    command = ran.stderr.partition("name the columns: ")[2].split()
    told = answer(asyncgen("prepare", "a.csv", "-y", "--json", *command))
    assert (told["read"], told["rows"], told["left_out"]) == (12, [12], {})


def test_model_text_in_a_file_cannot_move_the_cursor(asyncgen: Run, work: Path) -> None:
    rows = "".join(f"\x1b]0;taken\x07Shop {number},Text {number}\x1b[2J\n" for number in range(12))
    (work / "a.csv").write_text("prompt,completion\n" + rows)
    ran = asyncgen("prepare", "a.csv", "--format", "completion", "-y")
    assert ran.returncode == 0, ran.stderr
    assert "\x1b" not in ran.stdout + ran.stderr


def test_a_simulations_answers_are_no_samples_unless_told(asyncgen: Run, generated: Path, work: Path) -> None:
    ran = asyncgen("prepare", str(generated))
    assert ran.returncode == 2
    assert "--simulated" in ran.stderr
    assert not (work / generated / "train.jsonl").exists()


def test_a_job_file_is_read_as_it_is_today(asyncgen: Run, simulated: Callable[..., str], work: Path) -> None:
    job = work / "ads.toml"
    job.write_text(
        'name = "ads"\n[grid]\ncity = ["Bonn", "Oslo", "Rome"]\n[prompt]\nuser = "Write for {city}."\n'
        "[generate]\nrepeats = 5\n"
    )
    asked = asyncgen("generate", "ads.toml", "--provider", "local", "--base-url", simulated(), "--model", "m", "-q")
    assert asked.returncode == 0, asked.stderr
    job.write_text(job.read_text() + "[checks]\nmax_words = 1\n")
    ran = asyncgen("prepare", "runs/ads", "--simulated")
    assert ran.returncode == 0, ran.stderr
    assert "ads.toml has changed since" in ran.stderr
    today = asyncgen("prepare", "ads.toml", "--simulated")
    assert today.returncode == 1
    assert "check: max_words" in today.stderr
    assert "with the current settings of ads.toml" in today.stderr
    assert asyncgen("report", "ads.toml").returncode == 0
