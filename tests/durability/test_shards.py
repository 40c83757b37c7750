"""A run in shards, as real processes: nothing is lost, nothing doubled, and paid again at most what was in flight.

Run: pytest tests/durability/test_shards.py
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncgen.run.directory import RunDirectory
from asyncgen.run.jsonl import rows_in
from asyncgen.run.records import decode_record

pytestmark = pytest.mark.timeout(600)  # a dozen interpreters are started, perhaps on a busy machine
ROWS = 240
CONCURRENCY = 8


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start `asyncgen ARGUMENTS` in `tmp_path`, with variables of the environment added."""
    begun: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, program: tuple[str, ...] = (), **variables: str) -> subprocess.Popen[bytes]:
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        environment = {**kept, "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1", **variables}
        words = program or (sys.executable, "-m", "asyncgen")
        begun.append(
            subprocess.Popen(
                [*words, *arguments], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        )
        return begun[-1]

    yield start
    for process in begun:
        if process.poll() is None:
            process.kill()
        process.communicate()


def generate(server: Any, *more: str) -> tuple[str, ...]:
    return ("generate", "job.toml", "--base-url", server.base_url, "--model", "m",
            "--concurrency", str(CONCURRENCY), *more)  # fmt: skip


def array(begin: Callable[..., Any], server: Any, count: int) -> list[subprocess.Popen[bytes]]:
    """The tasks of a Slurm array, all at once."""
    sizes = {"SLURM_ARRAY_TASK_COUNT": str(count), "SLURM_ARRAY_TASK_MAX": str(count - 1), "SLURM_ARRAY_TASK_MIN": "0"}
    return [begin(*generate(server, "--shard"), SLURM_ARRAY_TASK_ID=str(task), **sizes) for task in range(count)]


def output(process: subprocess.Popen[bytes]) -> str:
    return process.communicate(timeout=60)[0].decode()


def answer(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output(process).splitlines()[-1])
    return found


def settled(paths: list[Path]) -> list[str]:
    return [record.key for record in rows_in(paths, decode_record)]


def test_an_array_killed_in_part_and_submitted_again_in_another_size_loses_and_doubles_nothing(
    run: RunDirectory, begin: Callable[..., Any], counting_server: Callable[..., Any], tmp_path: Path
) -> None:
    server = counting_server(latency_s=0.05)
    tasks = array(begin, server, 4)
    assert server.wait_for(lambda server: server.received.total() >= 60)
    tasks[2].kill()
    said = [output(task) for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0, -signal.SIGKILL, 0], said
    assert "its share of the run's limits: 2 in flight" in said[0]
    kept = settled(run.record_files())
    assert len(set(kept)) == len(kept) < ROWS

    status = answer(begin("status", "runs/job", "--json"))
    assert (status["done"], status["left"]) == (len(kept), ROWS - len(kept))
    assert [shard["straggler"] for shard in status["shards"]] == [False, False, True, False]
    assert sum(shard["done"] for shard in status["shards"]) == len(kept)
    report = answer(begin("report", "runs/job", "--json"))
    assert report["words"]["count"] == len(kept)
    assert answer(begin("export", "runs/job", "-o", "all.jsonl", "--json"))["rows"] == len(kept)
    assert answer(begin("prepare", "runs/job", "--json"))["error"]["code"] == "not_merged"

    tasks = array(begin, server, 2)
    said = [output(task) for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], said
    assert "of plan 2" in said[0]
    assert set(settled([run.records])) == set(kept), "the first shards were merged"
    merged = answer(begin("merge", "runs/job", "--json"))
    assert (merged["shards"], merged["records"]) == (2, ROWS - len(kept))
    keys = settled([run.records])
    assert len(keys) == len(set(keys)) == ROWS
    assert not run.shards()
    assert ROWS <= server.received.total() <= ROWS + CONCURRENCY // 4, "paid again at most what was in flight"
    spend = run.read_state().spend
    assert (spend.records, spend.usage.prompt_tokens) == (ROWS, 10 * ROWS)
    assert answer(begin(*generate(server, "--json")))["done"] == ROWS
    assert server.received.total() <= ROWS + CONCURRENCY // 4, "a finished run sends nothing"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR1, 138), (signal.SIGTERM, 143)])
def test_a_shard_finishes_what_is_in_flight_when_its_time_is_up_and_goes_on_later(
    number: signal.Signals, code: int, run: RunDirectory, begin: Callable[..., Any], counting_server: Callable[..., Any]
) -> None:
    server = counting_server(latency_s=0.2)
    shard = begin(*generate(server, "--shard", "/2"), JOB_COMPLETION_INDEX="1")
    assert server.wait_for(lambda server: server.received.total() >= 6)
    shard.send_signal(number)
    assert "--shard /2" in output(shard)
    assert shard.returncode == code
    keys = settled(run.record_files())
    assert len(keys) == server.received.total() == server.answered
    server.latency_s = 0.0
    again = begin(*generate(server, "--shard", "1/2", "--json"))
    found = answer(again)
    assert (again.returncode, found["left"], found["shard"]) == (0, 0, "1/2")
    assert all(int(key[:16], 16) % 2 == 1 for key in settled(run.record_files()))
    assert server.received.total() == found["done"] == found["requests"]


def test_while_a_shard_is_at_work_nothing_else_writes_the_run(
    run: RunDirectory, begin: Callable[..., Any], counting_server: Callable[..., Any]
) -> None:
    server = counting_server(answers=2)
    shard = begin(*generate(server, "--shard", "0/2"))
    assert server.wait_for(lambda server: server.received.total() >= 4)
    others = [begin(*generate(server, "--json", *more)) for more in ((), ("--shard", "0/2"), ("--shard", "0/3"))] + [
        begin("merge", "runs/job", "--json")
    ]
    for other in others:
        assert answer(other)["error"]["code"] == "in_use"
        assert other.returncode == 7
    shard.kill()
    shard.wait()
    assert answer(begin("merge", "runs/job", "--json"))["records"] == 2


def test_a_shard_stops_when_a_new_plan_was_made_behind_its_back(
    run: RunDirectory, begin: Callable[..., Any], counting_server: Callable[..., Any]
) -> None:
    server = counting_server(latency_s=0.1)
    shard = begin(*generate(server, "--shard", "0/2", "--json"))
    assert server.wait_for(lambda server: server.received.total() >= 6)
    plan = json.loads(run.plan.read_bytes())
    run.plan.write_text(json.dumps(plan | {"generation": 2}), encoding="utf-8")
    found = answer(shard)
    assert (found["error"]["code"], shard.returncode) == ("in_use", 7)
    assert "plan 2 is current" in found["error"]["message"]
    assert len(settled(run.record_files())) == server.answered


def test_the_script_for_slurm_runs_every_task_and_queues_a_stopped_one_again(
    run: RunDirectory, begin: Callable[..., Any], counting_server: Callable[..., Any], tmp_path: Path
) -> None:
    server = counting_server(latency_s=0.2)
    script = output(begin(*generate(server, "--shard-script", "slurm", "--shard", "2")))
    (tmp_path / "shards.sh").write_text(script, encoding="utf-8")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (
        ("asyncgen", f'exec "{sys.executable}" -m asyncgen "$@"\n'),
        ("scontrol", 'echo "$@" >> scontrol.log\n'),
    ):
        (programs / name).write_text(f"#!/bin/sh\n{text}", encoding="utf-8")
        (programs / name).chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}"
    sizes = {"SLURM_ARRAY_JOB_ID": "77", "PATH": path}
    tasks = [begin("shards.sh", program=("bash",), SLURM_ARRAY_TASK_ID=str(task), **sizes) for task in range(2)]
    assert server.wait_for(lambda server: server.received.total() >= 20)
    tasks[1].send_signal(signal.SIGUSR1)
    said = output(tasks[1])
    assert tasks[1].returncode == 138, said
    assert (tmp_path / "scontrol.log").read_text(encoding="utf-8") == "requeue 77_1\n"
    server.latency_s = 0.0
    assert output(tasks[0])
    assert tasks[0].returncode == 0
    again = begin("shards.sh", program=("bash",), SLURM_ARRAY_TASK_ID="1", **sizes)
    assert output(again)
    assert again.returncode == 0
    assert len(settled(run.record_files())) == server.received.total() == ROWS


def test_the_script_for_kubernetes_runs_a_command_that_takes_its_number_from_the_index(
    run: RunDirectory, begin: Callable[..., Any], counting_server: Callable[..., Any]
) -> None:
    yaml = pytest.importorskip("yaml")
    server = counting_server()
    text = output(begin(*generate(server, "--shard-script", "k8s", "--shard", "3")))
    spec = yaml.safe_load(text)["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 3, 3)
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never", "podFailurePolicy asks for it"
    name, *words = pod["containers"][0]["command"]
    assert name == "asyncgen"
    for index in range(3):
        task = begin(*words, JOB_COMPLETION_INDEX=str(index))
        said = output(task)
        assert task.returncode == 0, said
    assert len(settled(run.record_files())) == server.received.total() == ROWS


def test_every_asyncgen_command_of_the_page_on_many_machines_works(
    run: RunDirectory, begin: Callable[..., Any], counting_server: Callable[..., Any]
) -> None:
    server = counting_server()
    page = Path(__file__).parents[2] / "docs" / "many-machines.md"
    lines = [line.strip() for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("    asyncgen ")]
    lines = [line for line in lines if "--ray" not in line]  # those are in test_ray.py
    assert len(lines) == 6
    place = {"ASYNCGEN_BASE_URL": server.base_url, "ASYNCGEN_MODEL": "m"}
    for line in lines:
        process = begin(*line.partition(" > ")[0].split()[1:], **place)
        said = output(process)
        assert process.returncode == 0, f"{line}: {said}"
    assert len(set(settled([run.records]))) == server.received.total() == ROWS
