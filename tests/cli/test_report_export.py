"""`asyncgen report` and `asyncgen export`, as they are typed."""

import csv
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


@pytest.fixture
def generated(asyncgen: Run, simulated: Callable[..., str]) -> Path:
    """A part of the built-in job's run, answered by the simulation."""
    ran = asyncgen("preview", "-n", "50", "--provider", "local", "--base-url", simulated(), "--model", "m", "-q")
    assert ran.returncode == 0, ran.stderr
    return Path("runs/direct-marketing")


def test_the_report_covers_each_axis_and_names_the_next_step(asyncgen: Run, generated: Path) -> None:
    ran = asyncgen("report", NO_COLOR="1")
    assert ran.returncode == 0, ran.stderr
    assert "162: 50 filled, 112 left" in ran.stdout
    for name in ("sector", "Grocery Stores", "city", "Brussels", "size", "words per answer", "first words of answers"):
        assert name in ran.stdout
    assert "next: asyncgen generate runs/direct-marketing/job.toml --provider local" in ran.stderr


def test_names_of_a_table_are_not_listed_one_by_one(asyncgen: Run, simulated: Callable[..., str], work: Path) -> None:
    rows = "".join(f"Firm {number},{'Ghent' if number % 2 else 'Paris'}\n" for number in range(30))
    (work / "customers.csv").write_text(f"company,city\n{rows}", encoding="utf-8")
    job = 'name = "t"\n[rows]\nfile = "customers.csv"\n[prompt]\nuser = "Write to {company} in {city}."\n'
    (work / "job.toml").write_text(job, encoding="utf-8")
    asyncgen("generate", "job.toml", "--base-url", simulated(), "--model", "m", "--limit", "10", "-q")
    ran = asyncgen("report", NO_COLOR="1")
    assert "company: 30 values in 30 rows" in ran.stdout
    assert "Firm 7" not in ran.stdout
    assert "Ghent" in ran.stdout


def test_the_report_for_machines_has_the_same_figures(asyncgen: Run, generated: Path) -> None:
    ran = asyncgen("report", str(generated), "--json")
    report = json.loads(ran.stdout.splitlines()[-1])
    assert report["coverage"]["filled"] == 50
    assert sum(value["filled"] for value in report["axes"]["city"].values()) == 50
    assert report["coverage"]["left"] == 112


def test_the_page_is_written_whole(asyncgen: Run, generated: Path, work: Path) -> None:
    ran = asyncgen("report", "--html", "report.html")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "report.html"
    assert (work / "report.html").read_text(encoding="utf-8").rstrip().endswith("</html>")


def test_a_report_can_be_shown_where_there_are_no_blocks(asyncgen: Run, generated: Path) -> None:
    ran = asyncgen("report", PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONUTF8="0")
    assert ran.returncode == 0, ran.stderr
    assert "####" in ran.stdout


def test_csv_jsonl_and_folder_come_from_the_same_rows(asyncgen: Run, generated: Path, work: Path) -> None:
    for name in ("a.csv", "a.jsonl", "hub/"):
        ran = asyncgen("export", "-o", name, "--simulated")
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.strip() == f"{name}: 50 rows"
    with (work / "a.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    records = [json.loads(line) for line in (work / "a.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows == [["prompt", "completion"], *([record["prompt"], record["completion"]] for record in records)]
    assert [record["index"] for record in records] == sorted(record["index"] for record in records)
    assert (work / "hub" / "README.md").exists()


def test_formulas_are_defused_and_raw_csv_keeps_them(asyncgen: Run, generated: Path, work: Path) -> None:
    path = work / generated / "records.jsonl"
    lines = path.read_text().splitlines()
    first = json.loads(lines[0]) | {"completion": "=1+1"}
    path.write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
    ran = asyncgen("export", "-o", "a.csv", "--simulated", "--json")
    assert json.loads(ran.stdout.splitlines()[-1]) == {"output": "a.csv", "rows": 50, "defused": 1, "simulated": 50}
    assert ",'=1+1\n" in (work / "a.csv").read_text()
    asyncgen("export", "-o", "a.csv", "--simulated", "--raw-csv")
    assert ",=1+1\n" in (work / "a.csv").read_text()


@pytest.mark.parametrize(
    "command", [["report", "nowhere"], ["export", "nowhere", "-o", "a.csv"], ["export"], ["report"]]
)
def test_what_cannot_be_is_told(asyncgen: Run, command: list[str]) -> None:
    ran = asyncgen(*command)
    assert ran.returncode == 2
    assert "Traceback" not in ran.stderr
    assert "help:" in ran.stderr


# Sends the signal at the moment at which the finished output is to be put in its place.
_SIGNALLED = """
import os, sys
number, sys.argv = int(sys.argv[1]), ["asyncgen", *sys.argv[2:]]
sys.addaudithook(lambda event, _: os.kill(os.getpid(), number) if event == "os.rename" else None)
from asyncgen.cli.main import main
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("command", [("export", "-o", "new.csv"), ("export", "-o", "hub/"), ("prepare",)])
def test_a_signal_that_ends_a_command_leaves_no_temporary_file_behind(
    asyncgen: Run,
    simulated: Callable[..., str],
    environment: dict[str, str],
    work: Path,
    command: tuple[str, ...],
    number: signal.Signals,
) -> None:
    asyncgen("preview", "-n", "12", "--provider", "local", "--base-url", simulated(), "--model", "m", "-q")
    before = [path for path in sorted(work.rglob("*")) if path.name != ".lock"]
    program = [sys.executable, "-c", _SIGNALLED, str(int(number)), *command, "--simulated", "-q"]
    ended = subprocess.run(program, cwd=work, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 128 + number, ended.stderr
    assert "Traceback" not in ended.stderr
    assert [path for path in sorted(work.rglob("*")) if path.name != ".lock"] == before
