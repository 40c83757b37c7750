"""A run on a Ray cluster of several nodes, as real processes: actors, nodes and the driver are killed.

Run: pytest -m ray
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from asyncgen.run.directory import RunDirectory
from asyncgen.run.jsonl import read_rows
from asyncgen.run.records import decode_record

pytest.importorskip("ray", reason="Ray is not installed: pip install 'asyncgen[ray]'")
pytestmark = [pytest.mark.ray, pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]
ROWS = 160
CONCURRENCY = 8
WITHIN_S = 60
CANARY = "sk-canary-0123456789abcdef"
_STORE_BYTES = 80 * 2**20
_LEAST_SHARED_BYTES = 200 * 10**6


@dataclass
class Nodes:
    """A cluster with its head without CPUs, and nodes of one CPU each."""

    cluster: Any
    nodes: list[Any] = field(default_factory=list)

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def have(self, count: int) -> None:
        while len(self.nodes) < count:
            self.nodes.append(self.cluster.add_node(num_cpus=1, object_store_memory=_STORE_BYTES))

    def kill(self, node: Any) -> None:
        """Kill a node and all of its workers at once."""
        workers = workers_of(node)
        self.cluster.remove_node(node, allow_graceful=False)
        self.nodes.remove(node)
        for worker in workers:
            kill(worker)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    if Path("/dev/shm").is_dir() and shutil.disk_usage("/dev/shm").total < _LEAST_SHARED_BYTES:
        pytest.skip("Ray needs 200 MB of shared memory in /dev/shm")
    import ray  # noqa: PLC0415 - it is an extra
    from ray.cluster_utils import Cluster  # noqa: PLC0415 - as above

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("ASYNCGEN_API_KEY", CANARY)  # in the environment in which Ray is started on each node
        before = signal.getsignal(signal.SIGTERM)
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "object_store_memory": _STORE_BYTES, "include_dashboard": False},
        )
        try:
            yield Nodes(cluster)
        finally:
            ray.shutdown()
            cluster.shutdown()
            signal.signal(signal.SIGTERM, before)


def workers_of(node: Any) -> list[int]:
    """The processes of our actors on a node."""
    [raylet] = node.all_processes["raylet"]
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_bytes()
        except OSError:  # it ended meanwhile
            continue
        if parent == raylet.process.pid and b"RowWorker" in command:
            found.append(int(folder.name))
    return found


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def assert_nobody_shows_the_key() -> None:
    """No process has it on its command line, where every user of the machine reads it."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            assert CANARY.encode() not in (folder / "cmdline").read_bytes()


def wait_for(met: Callable[[], Any]) -> Any:
    """Wait until a condition is met; returns what it said."""
    until = time.monotonic() + WITHIN_S
    while not (found := met()):
        assert time.monotonic() < until, "not within a minute"
        time.sleep(0.02)
    return found


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `asyncgen generate job.toml --json ARGUMENTS` in `tmp_path`."""
    begun: list[subprocess.Popen[str]] = []

    def start(server: Any, *arguments: str, concurrency: int = CONCURRENCY) -> subprocess.Popen[str]:
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "ASYNCGEN_API_KEY") if name in os.environ}
        command = [
            sys.executable, "-m", "asyncgen", "generate", "job.toml", "--json", "--base-url", server.base_url,
            "--model", "m", "--concurrency", str(concurrency), *arguments,
        ]  # fmt: skip
        begun.append(
            subprocess.Popen(
                command,
                cwd=tmp_path,
                env={**kept, "HOME": str(tmp_path)},
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.communicate()


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a command ended with; nothing else may stand on its stdout."""
    out, err = process.communicate(timeout=2 * WITHIN_S)
    assert out.count("\n") == 1, out + err
    found: dict[str, Any] = json.loads(out)
    return {**found, "exit": process.returncode, "said": err}


def settled(run: RunDirectory) -> list[str]:
    return [record.key for _, record in read_rows(run.records, decode_record)] if run.records.exists() else []


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_rate_is_never_passed_by_any_number_of_workers_even_through_the_death_of_one(
    count: int, nodes: Nodes, run: RunDirectory, begin: Callable[..., Any], counting_server: Callable[..., Any]
) -> None:
    nodes.have(count)
    server = counting_server(latency_s=0.2, per_second=20.0)
    process = begin(server, "--ray", nodes.address, "--rpm", "1200")
    assert server.wait_for(lambda server: server.received.total() >= 30, WITHIN_S)
    [worker, *_] = workers_of(nodes.nodes[0])
    kill(worker)
    done = result(process)
    assert (done["exit"], done["done"], done["left"]) == (0, ROWS, 0), done
    assert f": {count} worker" in done["said"]
    keys = settled(run)
    assert len(keys) == len(set(keys)) == ROWS
    assert server.received.total() <= ROWS + max(CONCURRENCY // count, 1), "paid again at most what was in flight"
    assert server.refused == 0
    assert server.keys == {f"Bearer {CANARY}"}


def test_a_killed_node_costs_at_most_what_was_in_flight_there(
    nodes: Nodes, run: RunDirectory, begin: Callable[..., Any], counting_server: Callable[..., Any]
) -> None:
    nodes.have(2)
    server = counting_server(latency_s=0.5)
    process = begin(server, "--ray", nodes.address)
    assert server.wait_for(lambda server: server.received.total() >= 40, WITHIN_S)
    nodes.kill(nodes.nodes[0])
    done = result(process)
    assert (done["exit"], done["done"]) == (0, ROWS), done
    keys = settled(run)
    assert len(keys) == len(set(keys)) == ROWS
    assert server.received.total() <= ROWS + CONCURRENCY
    assert "lost " in done["said"]


def test_a_run_goes_from_one_machine_to_ray_and_back_through_signals_and_the_death_of_the_driver(
    nodes: Nodes, run: RunDirectory, begin: Callable[..., Any], counting_server: Callable[..., Any]
) -> None:
    nodes.have(2)
    server = counting_server(latency_s=0.3)
    alone = begin(server)
    assert server.wait_for(lambda server: server.received.total() >= 16, WITHIN_S)
    alone.send_signal(signal.SIGINT)
    assert result(alone)["exit"] == 130
    assert len(settled(run)) == server.received.total()

    drained = begin(server, "--ray", nodes.address)
    assert server.wait_for(lambda server: server.received.total() >= 60, WITHIN_S)
    status = [sys.executable, "-m", "asyncgen", "status", str(run.path), "--json"]
    seen = json.loads(subprocess.run(status, capture_output=True, check=True).stdout)
    assert 16 <= seen["done"] < ROWS
    assert_nobody_shows_the_key()
    drained.send_signal(signal.SIGTERM)
    done = result(drained)
    assert (done["exit"], done["stopped"]) == (143, "interrupted"), done
    assert f"--ray {nodes.address}" in done["said"], "the command that goes on"
    before = server.received.total()
    assert len(settled(run)) == before < ROWS, "what was in flight was waited for, and nothing is paid twice"

    killed = begin(server, "--ray", nodes.address)
    assert server.wait_for(lambda server: server.received.total() >= before + 30, WITHIN_S)
    killed.kill()
    killed.communicate()
    # Workers whose driver is dead are ended by Ray, or their leases end.
    wait_for(lambda: not any(map(workers_of, nodes.nodes)))
    kept = len(settled(run))

    again = result(begin(server))
    assert (again["exit"], again["already_done"], again["done"]) == (0, kept, ROWS), again
    keys = settled(run)
    assert len(keys) == len(set(keys)) == ROWS
    assert server.received.total() <= ROWS + CONCURRENCY
    sent = server.received.total()
    finished = result(begin(server, "--ray", nodes.address))
    assert (finished["exit"], finished["done"]) == (0, ROWS)
    assert server.received.total() == sent, "a finished run sends nothing"
    assert server.keys == {f"Bearer {CANARY}"}
    for path in Path(nodes.cluster.head_node.get_session_dir_path()).rglob("*"):
        assert not path.is_file() or CANARY.encode() not in path.read_bytes(), path


def test_a_cluster_for_the_time_of_the_run_asks_several_servers(
    run: RunDirectory, begin: Callable[..., Any], counting_server: Callable[..., Any]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "many-machines.md").read_text(encoding="utf-8")
    [line] = [line for line in page.splitlines() if line.startswith("    asyncgen ") and "--ray" in line]
    assert line.split()[:3] == ["asyncgen", "generate", "job.toml"]
    one, other = counting_server(latency_s=0.05), counting_server(latency_s=0.05)
    done = result(begin(one, *line.split()[3:], "--base-url", other.base_url))
    assert (done["exit"], done["done"]) == (0, ROWS), done
    assert one.received.total() + other.received.total() == ROWS
    assert min(one.received.total(), other.received.total()) >= ROWS // 4


def test_shards_of_a_run_may_each_use_the_cluster(
    nodes: Nodes, run: RunDirectory, begin: Callable[..., Any], counting_server: Callable[..., Any]
) -> None:
    nodes.have(2)
    server = counting_server(latency_s=0.05)
    for shard in ("0/2", "1/2"):
        done = result(begin(server, "--ray", nodes.address, "--shard", shard))
        assert (done["exit"], done["left"], done["shard"]) == (0, 0, shard), done
    done = result(begin(server))
    assert (done["exit"], done["done"], server.received.total()) == (0, ROWS, ROWS), "merged, and nothing was left"
    assert len(set(settled(run))) == ROWS


def test_without_a_cluster_the_error_says_so_before_anything_is_sent(
    run: RunDirectory, begin: Callable[..., Any], counting_server: Callable[..., Any]
) -> None:
    server = counting_server()
    done = result(begin(server, "--ray", "127.0.0.1:1"))
    assert done["error"]["code"] == "no_cluster"
    assert "127.0.0.1:1" in done["error"]["message"]
    assert server.received.total() == 0
