import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
JOB = """
name = "small"
[grid]
city = ["Paris", "Berlin"]
size = ["small", "large"]
[prompt]
user = "Write to {size} shops in {city}."
sample = "{city}, {size}"
[generate]
repeats = 2
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "work" / "job.toml"
    path.write_text(JOB, encoding="utf-8")
    return path


def last_line(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def lines(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def test_every_combination_is_asked_for_and_a_second_time_none(
    asyncgen: Run, simulated: Callable[..., str], job: Path
) -> None:
    where = ("--base-url", simulated(), "--model", "any", "--json")
    first = asyncgen("generate", "job.toml", *where)
    assert first.returncode == 0, first.stderr
    counts = last_line(first)
    elapsed = counts.pop("elapsed_s")
    assert elapsed > 0
    assert counts == {
        "requests": 8, "done": 8, "failed": 0, "already_done": 0, "stale": 0, "left": 0, "retries": 0,
        "maybe_paid_twice": 0, "cost_usd": None, "stopped": None, "run": "runs/small",
    }  # fmt: skip
    records = lines(job.parent / "runs" / "small" / "records.jsonl")
    assert {(record["prompt"], record["repeat"]) for record in records} == {
        (f"{city}, {size}", repeat) for city in ("Paris", "Berlin") for size in ("small", "large") for repeat in (0, 1)
    }
    assert sorted(record["index"] for record in records) == list(range(8))
    again = asyncgen("generate", "job.toml", *where)
    assert last_line(again)["already_done"] == 8
    assert lines(job.parent / "runs" / "small" / "records.jsonl") == records


# What a job may need, and one like the job above does not: shards, moved records, estimates, limits, several servers.
UNUSED = {
    "asyncgen.generate.distributed", "asyncgen.generate.batch.engine", "asyncgen.generate.journal.repair",
    "asyncgen.generate.plan.costs", "asyncgen.generate.plan.request_tokens", "asyncgen.generate.http.servers",
    "asyncgen.providers.local_server", "asyncgen.providers.openai_client", "asyncgen.providers.published_prices",
    "asyncgen.finetune", "asyncgen.dataset", "asyncgen.evaluate", "asyncgen.serve", "asyncgen.view", "asyncgen.api",
    "aiolimiter", "difflib", "genai_prices", "jsonschema_rs", "openai", "pyarrow", "rich", "statistics",
}  # fmt: skip


@pytest.mark.usefixtures("asyncgen")  # makes the folder
def test_a_plain_run_imports_nothing_that_it_does_not_use(
    simulated: Callable[..., str], job: Path, environment: dict[str, str]
) -> None:
    arguments = ["generate", "job.toml", "--base-url", simulated(), "--model", "any", "--json"]
    code = (
        "import sys\nfrom asyncgen.cli.main import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print(sorted({UNUSED!r} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=job.parent, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_limit_stops_early_and_the_next_time_goes_on(asyncgen: Run, simulated: Callable[..., str], job: Path) -> None:
    where = ("--base-url", simulated(), "--model", "any", "--json")
    first = last_line(asyncgen("generate", "job.toml", *where, "--limit", "3"))
    assert (first["done"], first["left"], first["stopped"]) == (3, 5, "limit")
    rest = last_line(asyncgen("generate", "job.toml", *where))
    assert (rest["done"], rest["already_done"], rest["stopped"]) == (8, 3, None)


def test_a_preview_shows_answers_and_keeps_them(asyncgen: Run, simulated: Callable[..., str], job: Path) -> None:
    where = ("--base-url", simulated(), "--model", "any")
    shown = asyncgen("preview", "job.toml", "-n", "2", *where)
    assert shown.returncode == 0, shown.stderr
    assert len({line for line in shown.stdout.splitlines() if not line.startswith(" ")}) == 2
    assert last_line(asyncgen("generate", "job.toml", *where, "--json"))["already_done"] == 2


def test_a_preview_without_a_usable_answer_leads_back_to_the_job_file(
    asyncgen: Run, simulated: Callable[..., str], job: Path
) -> None:
    job.write_text(f"{JOB}[checks]\nmust_contain = ['is in no answer']\n", encoding="utf-8")
    shown = asyncgen("preview", "job.toml", "-n", "2", "--base-url", simulated(), "--model", "any")
    assert "[checks] in the job file" in shown.stderr
    assert "next: asyncgen preview job.toml" in shown.stderr


def test_a_city_more_pays_for_its_own_rows_only(asyncgen: Run, simulated: Callable[..., str], job: Path) -> None:
    where = ("--base-url", simulated(), "--model", "any", "--json")
    asyncgen("generate", "job.toml", *where)
    job.write_text(JOB.replace('"Paris"', '"Rome", "Paris"'), encoding="utf-8")
    more = last_line(asyncgen("generate", "job.toml", *where))
    assert (more["requests"], more["done"], more["already_done"], more["stale"]) == (12, 12, 8, 0)


def test_rows_that_would_be_left_behind_need_consent(asyncgen: Run, simulated: Callable[..., str], job: Path) -> None:
    where = ("--base-url", simulated(), "--model", "any", "--json")
    asyncgen("generate", "job.toml", *where)
    before = (job.parent / "runs" / "small" / "records.jsonl").read_bytes()
    job.write_text(JOB.replace("Write to", "Write for"), encoding="utf-8")
    refused = asyncgen("generate", "job.toml", *where)
    assert refused.returncode == 2
    assert "8 rows of runs/small no longer belong to the job: prompt.user changed" in refused.stderr
    assert refused.stderr.count("no longer belong to the job") == 1
    assert "--yes" in refused.stderr
    assert (job.parent / "runs" / "small" / "records.jsonl").read_bytes() == before
    agreed = last_line(asyncgen("generate", "job.toml", *where, "--yes"))
    assert (agreed["done"], agreed["already_done"], agreed["stale"]) == (8, 0, 8)
    assert last_line(asyncgen("generate", "job.toml", *where))["already_done"] == 8


def test_a_folder_of_another_job_is_refused_and_left_alone(
    asyncgen: Run, simulated: Callable[..., str], job: Path
) -> None:
    where = ("--base-url", simulated(), "--model", "any")
    asyncgen("generate", "job.toml", *where)
    job.write_text(JOB.replace('"small"\n', '"other"\n', 1), encoding="utf-8")
    refused = asyncgen("generate", "job.toml", "--out", "runs/small", *where)
    assert refused.returncode == 2
    assert "belongs to the job 'small', not to 'other'" in refused.stderr


def test_what_was_chosen_is_said_first(asyncgen: Run, simulated: Callable[..., str], job: Path) -> None:
    base_url = simulated()
    done = asyncgen("generate", "job.toml", "--base-url", base_url, "--model", "any")
    assert done.stderr.splitlines()[0] == f"custom, any at {base_url} (--base-url is set, and no provider)"


def test_quiet_says_nothing(asyncgen: Run, simulated: Callable[..., str], job: Path) -> None:
    done = asyncgen("generate", "job.toml", "--base-url", simulated(), "--model", "any", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_rows_that_fail_are_told_with_exit_3_and_asked_again_on_demand(
    asyncgen: Run, simulated: Callable[..., str], job: Path
) -> None:
    refusing = simulated("--fault", "refusal=1")
    failed = asyncgen("generate", "job.toml", "--base-url", refusing, "--model", "any", "--json")
    assert failed.returncode == 3
    assert (last_line(failed)["failed"], last_line(failed)["left"]) == (8, 0)
    assert {failure["error"]["type"] for failure in lines(job.parent / "runs/small/failures.jsonl")} == {"refusal"}
    where = ("--base-url", simulated(), "--model", "any", "--json")
    assert last_line(asyncgen("generate", "job.toml", *where))["failed"] == 8
    again = asyncgen("generate", "job.toml", *where, "--retry-failed")
    assert again.returncode == 0
    assert (last_line(again)["done"], last_line(again)["failed"]) == (8, 0)


def test_where_no_answer_is_rejected_none_is_said_to_be_replaced(
    asyncgen: Run, simulated: Callable[..., str], job: Path
) -> None:
    where = ("--base-url", simulated(), "--model", "any")
    asyncgen("generate", "job.toml", *where)
    asyncgen("prepare", "runs/small", "--simulated")
    again = asyncgen("generate", "job.toml", *where, "--retry-rejected")
    assert "no answer is rejected" in again.stderr
    assert not (job.parent / "runs/small/replaced.jsonl").exists()


def test_twins_in_a_table_of_rows_are_asked_for_once(
    asyncgen: Run, simulated: Callable[..., str], tmp_path: Path
) -> None:
    folder = tmp_path / "work"
    (folder / "stores.csv").write_text("city\nParis\nBerlin\nParis\n", encoding="utf-8")
    (folder / "rows.toml").write_text(
        'name = "rows"\n[rows]\nfile = "stores.csv"\n[prompt]\nuser = "Write to {city}."\n', encoding="utf-8"
    )
    where = ("--base-url", simulated(), "--model", "any", "--json")
    done = last_line(asyncgen("generate", "rows.toml", *where))
    assert (done["requests"], done["done"], done["left"]) == (3, 3, 0)
    assert len(lines(folder / "runs" / "rows" / "records.jsonl")) == 2
    again = last_line(asyncgen("generate", "rows.toml", *where))
    assert (again["done"], again["left"]) == (3, 0)
    status = last_line(asyncgen("status", "--json"))
    assert (status["requests"], status["done"], status["left"]) == (3, 3, 0)


def test_rejected_answers_are_asked_for_again_and_the_old_ones_kept(
    asyncgen: Run, simulated: Callable[..., str], job: Path
) -> None:
    where = ("--base-url", simulated(), "--model", "any", "--json")
    job.write_text(
        JOB.replace("repeats = 2", "repeats = 6") + "[checks]\nmust_match = ['\\b[a-g]\\w*[.]$']\n", encoding="utf-8"
    )
    first = last_line(asyncgen("generate", "job.toml", *where))
    run = job.parent / "runs" / "small"
    asyncgen("prepare", "runs/small")
    rejected = len(lines(run / "rejected.jsonl"))
    assert 0 < rejected < first["done"]
    again = last_line(asyncgen("generate", "job.toml", *where, "--retry-rejected"))
    assert (again["done"], again["already_done"]) == (24, 24 - rejected)
    assert len(lines(run / "replaced.jsonl")) == rejected
    assert len({record["key"] for record in lines(run / "records.jsonl")}) == 24


@pytest.fixture
def slow_server() -> Iterator[str]:
    """A server that takes half a second for each answer and counts; its base URL."""
    program = Path(__file__).parents[2] / "benchmarks" / "fake_server.py"
    command = f"ulimit -Sn 4096 && exec {sys.executable} {program} --latency-ms 500"
    with subprocess.Popen(["bash", "-c", command], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        server.terminate()


def test_a_thousand_places_are_a_thousand_requests_at_the_server_though_the_system_starts_with_few_open_files(
    environment: dict[str, str], tmp_path: Path, slow_server: str
) -> None:
    cities = ", ".join(f'"city {number}"' for number in range(4000))
    job = f'name = "many"\n[grid]\ncity = [{cities}]\n[prompt]\nuser = "Write to {{city}}."\n'
    (tmp_path / "job.toml").write_text(job, encoding="utf-8")
    words = f"generate job.toml --base-url {slow_server} --model any --concurrency 1000 --json"
    command = f"ulimit -Sn 256 && exec {sys.executable} -m asyncgen {words}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert last_line(done)["done"] == 4000
    with urllib.request.urlopen(slow_server.removesuffix("/v1") + "/stats") as answer:
        assert json.load(answer)["most_in_flight"] == 1000


def test_more_places_than_the_system_allows_are_refused_with_the_number_that_it_does(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "job.toml").write_text(JOB, encoding="utf-8")
    words = "generate job.toml --base-url http://127.0.0.1:9/v1 --model any --concurrency 5000"
    command = ["bash", "-c", f"ulimit -n 1000 && exec {sys.executable} -m asyncgen {words}"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--concurrency 872" in done.stderr


def test_what_may_be_paid_twice_is_said_at_the_end(asyncgen: Run, simulated: Callable[..., str], job: Path) -> None:
    where = ("--base-url", simulated("--fault", "truncated=0.4"), "--model", "any", "--json")
    for number in range(10):  # the server throws dice
        done = asyncgen("generate", "job.toml", "--out", f"runs/{number}", *where)
        if twice := last_line(done)["maybe_paid_twice"]:
            sent = "1 request was" if twice == 1 else f"{twice} requests were"
            assert f"{sent} sent again and may have been paid twice" in done.stderr
            return
    raise AssertionError("no answer was cut off in ten runs")
