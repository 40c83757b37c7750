"""What it costs to send a run's requests from several processes: shards, and the workers of a Ray cluster.

Two parts. Ways: one process, two shards, and Ray with one worker and with two, against the server that costs next to
nothing; CPU a request and requests a second, as multiples of the one process in the same round. CPU is taken while a
run is between a tenth and nine tenths of its requests, so that starts do not count; the workers' and the driver's CPU
stand apart. The driver alone: workers in its process whose answers cost nothing, their own time taken off; rows a
second of one core, bytes moved and memory a row; and what it costs to read the keys of a row again at the next start,
and to pass over a row of the job. README.md reckons with these what a large run takes.

    python benchmarks/bench_distributed.py                 # needs the extra `ray`
    python benchmarks/bench_distributed.py --driver-only
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop
from measure import CORES, asyncgen_generate, fake_server, stats, write_job

from asyncgen.api.observer import LibraryObserver
from asyncgen.generate.distributed.dispatch import Dispatcher
from asyncgen.generate.distributed.messages import (
    SentRow,
    WorkerCounts,
    WorkerEnd,
    WorkerReport,
    WorkSpec,
    decode_order,
    encode,
)
from asyncgen.generate.distributed.plan import missing_rows
from asyncgen.generate.engine import EngineResult, GenerateOptions, Session
from asyncgen.generate.http.completer import Answer
from asyncgen.generate.journal.settled import read_settled
from asyncgen.generate.pool.settle import RecordMaker, RowInWork
from asyncgen.generate.session import generate_rows
from asyncgen.job.opened import open_named_job
from asyncgen.providers.choose import EndpointFlags
from asyncgen.providers.profiles import ProviderChoice
from asyncgen.run.key_set import KeySet
from asyncgen.run.records import Usage, encode_line

_TICK_S = 0.05
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_TEXT = "Small shops in Brussels can take cards, phones and links from today: one contract, one price, no rental."
_ROWS_AT_ONCE = 64  # that a free worker answers in an exchange, as a real one does at thousands a second
_STORE_BYTES = 80 * 2**20


# The ways, as processes.


@dataclass
class Sample:
    """What processes had used at one moment."""

    at: float
    served: int
    cpu_s: dict[str, float]


def process_table() -> Iterator[tuple[int, int, float, bytes]]:
    """Number, parent, CPU and command line of every process."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        yield int(folder.name), int(fields[1]), (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND, command


def cpu_by_role(clients: Sequence[subprocess.Popen[bytes]]) -> dict[str, float]:
    """CPU of the clients, of our workers on Ray, and of Ray itself."""
    own = {client.pid for client in clients}
    used = {"clients": 0.0, "workers": 0.0, "ray": 0.0}
    for pid, _, cpu_s, command in process_table():
        if pid in own:
            used["clients"] += cpu_s
        elif b"RowWorker" in command:
            used["workers"] += cpu_s
        elif b"raylet" in command or b"gcs_server" in command:
            used["ray"] += cpu_s
    return used


def steady(start: Callable[[str, Path], list[list[str]]], count: int) -> dict[str, float]:
    """What a request costs in the middle of a run: CPU in microseconds by role, and requests a second."""
    with tempfile.TemporaryDirectory() as name, fake_server() as base_url, ExitStack() as stack:
        folder = Path(name)
        log = stack.enter_context((folder / "log").open("wb"))
        clients = [
            stack.enter_context(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT))
            for command in start(base_url, folder)
        ]
        samples: list[Sample] = []
        while any(client.poll() is None for client in clients):
            samples.append(Sample(time.monotonic(), stats(base_url)["served"], cpu_by_role(clients)))
            time.sleep(_TICK_S)
        if any(client.returncode for client in clients):
            sys.exit(f"a client failed:\n{(folder / 'log').read_text(encoding='utf-8')[-2000:]}")
        if (served := stats(base_url)["served"]) != count:
            sys.exit(f"{served} requests were served, not {count}")
    middle = [sample for sample in samples if count / 10 <= sample.served <= count * 9 / 10]
    if len(middle) < 2:
        sys.exit("the run was too short to be measured: give a larger --n")
    first, last = middle[0], middle[-1]
    requests = last.served - first.served
    used = {role: (last.cpu_s[role] - first.cpu_s[role]) / requests * 1e6 for role in last.cpu_s}
    return {"per_second": requests / (last.at - first.at), "cpu_us": sum(used.values()), **used}


def one_process(base_url: str, folder: Path, count: int, concurrency: int, *more: str) -> list[str]:
    job = write_job(folder / "job.toml", count)
    return asyncgen_generate(job, folder / "run", base_url, "--concurrency", str(concurrency), *more)


def two_shards(base_url: str, folder: Path, count: int, concurrency: int) -> list[list[str]]:
    return [one_process(base_url, folder, count, concurrency, "--shard", f"{shard}/2") for shard in range(2)]


@contextmanager
def cluster() -> Iterator[Any]:
    """A Ray cluster on this machine whose head has no CPU; `add_node` adds a place for one worker."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster  # noqa: PLC0415 - it is an extra

    head = {"num_cpus": 0, "object_store_memory": _STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield cluster
    finally:
        cluster.shutdown()


def ways(count: int, concurrency: int, rounds: int) -> dict[str, dict[str, float]]:
    """Medians of each way, and its multiples of the one process of the same round."""
    found: dict[str, list[dict[str, float]]] = {}

    def take(name: str, start: Callable[[str, Path], list[list[str]]]) -> None:
        found.setdefault(name, []).append(steady(start, count))

    def alone(*more: str) -> Callable[[str, Path], list[list[str]]]:
        return lambda url, folder: [one_process(url, folder, count, concurrency, *more)]

    for _ in range(rounds):
        take("one process", alone())
        take("two shards", lambda url, folder: two_shards(url, folder, count, concurrency))
        with cluster() as nodes:
            for workers in ("1 worker", "2 workers"):
                nodes.add_node(num_cpus=1, object_store_memory=_STORE_BYTES)
                take(f"ray, {workers}", alone("--ray", str(nodes.address)))
    base = found["one process"]
    table: dict[str, dict[str, float]] = {}
    for name, runs in found.items():
        table[name] = {key: round(statistics.median(run[key] for run in runs), 1) for key in runs[0]}
        for key in ("per_second", "cpu_us"):
            ratios = [run[key] / one[key] for run, one in zip(runs, base, strict=True)]
            table[name][f"times_{key}"] = round(statistics.median(ratios), 2)
        print(f"{name:16}{table[name]}", file=sys.stderr)
    return table


# The driver alone.


class FreeWorker:
    """A worker whose answers cost the driver nothing: the time that it takes itself is counted, and taken off."""

    def __init__(self) -> None:
        self.own_s = 0.0
        self.bytes_in = self.bytes_out = self.exchanges = 0
        self._reports = 0
        self._answered = 0
        self._rows: deque[SentRow] = deque()

    async def open(self, spec: WorkSpec) -> bytes:
        began = time.thread_time()
        self._grid = spec.form.grid()
        self._record = RecordMaker(self._grid, _no_checks(), time.time).record
        self.own_s += time.thread_time() - began
        return encode(WorkerReport(session="free", slots=_ROWS_AT_ONCE))

    async def exchange(self, message: bytes) -> bytes:
        began = time.thread_time()
        order = decode_order(message)
        lines, settled = [], []
        self._rows.extend(order.rows)
        for _ in range(min(len(self._rows), _ROWS_AT_ONCE)):
            sent = self._rows.popleft()
            request = self._grid.request_at(sent.index, sent.repeat, sent.values)
            row = RowInWork(request, attempts=1)
            usage = Usage(prompt_tokens=60, completion_tokens=24)
            row.answered(Answer(_TEXT, "stop", "fake-1", usage, request_id="req_0", latency_s=0.5))
            lines.append(encode_line(self._record(row)))
            settled.append((request.key, usage))
        self._reports += 1
        self._answered += len(settled)
        reply = encode(
            WorkerReport(
                session="free", number=self._reports, order=order.number, lines=b"".join(lines),
                settled=tuple(settled), slots=_ROWS_AT_ONCE, end=WorkerEnd() if order.is_last else None,
                counts=WorkerCounts(sent=self._answered, ended=self._answered, usable=self._answered),
            )
        )  # fmt: skip
        self.bytes_in += len(message)
        self.bytes_out += len(reply)
        self.exchanges += 1
        self.own_s += time.thread_time() - began
        await asyncio.sleep(0)
        return reply

    async def drain(self, drops: bool) -> None:
        """Nothing is in flight."""


def _no_checks() -> Any:
    from asyncgen.job.answers import AnswerChecks  # noqa: PLC0415 - of the worker, not of the driver
    from asyncgen.job.model import Checks  # noqa: PLC0415 - as above

    return AnswerChecks(Checks())


class DriverOnly:
    """An engine: the dispatcher over free workers."""

    def __init__(self, workers: int) -> None:
        self.workers = [FreeWorker() for _ in range(workers)]
        self.cpu_s = self.wall_s = 0.0

    async def run(self, session: Session) -> EngineResult:
        spec = WorkSpec(
            form=session.opened.grid.form,
            choice=ProviderChoice(session.endpoint.profile, "a benchmark"),
            addresses=(session.endpoint.base_url,),
            key_file=None,
            concurrency=256,
        )
        dispatcher = Dispatcher(session, [(worker, spec) for worker in self.workers])
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        outcome = await dispatcher.run(asyncio.Event(), asyncio.Event())
        self.cpu_s, self.wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
        return EngineResult(outcome)


def driver_alone(count: int, workers: int) -> dict[str, float]:
    """In this process: what a row costs the driver, its files and its fsyncs included."""
    engine = DriverOnly(workers)
    with tempfile.TemporaryDirectory() as name:
        job = write_job(Path(name, "job.toml"), count)
        where = EndpointFlags(base_url="http://127.0.0.1:9/v1", provider="openai")
        options = GenerateOptions(where=where, out=Path(name, "run"))
        done = uvloop.run(generate_rows(job, options, LibraryObserver(yes=True), engine=engine))
        if done.progress.settled != count:
            sys.exit(f"{done.progress.settled} rows were written, not {count}")
        file_bytes = done.files.records.stat().st_size
        peak = peak_bytes()
        read_us = cpu_us(lambda: read_settled(done.files, expected=count)) / count
        opened, _, _ = open_named_job(job, where)
        walk_us = cpu_us(lambda: missing_rows(opened.grid, 2, KeySet(), KeySet())) / count
    free = engine.workers
    driver_s = engine.cpu_s - sum(worker.own_s for worker in free)
    return {
        "rows": count,
        "cpu_us_a_row": driver_s / count * 1e6,
        "rows_a_second": count / driver_s,
        "bytes_to_workers_a_row": sum(worker.bytes_in for worker in free) / count,
        "bytes_home_a_row": sum(worker.bytes_out for worker in free) / count,
        "bytes_of_file_a_row": file_bytes / count,
        "read_again_us_a_row": read_us,
        "walk_us_a_row": walk_us,
        "rss_bytes": peak,
        "rows_an_exchange": count / sum(worker.exchanges for worker in free),
    }


def driver(rounds: int, count: int, workers: int) -> dict[str, float]:
    """Medians of the driver alone, each round in a process of its own; and its memory, by two sizes of run."""
    found = [in_a_process(count, workers) for _ in range(rounds)]
    small = in_a_process(count // 10, workers)
    table = {key: round(statistics.median(run[key] for run in found), 2) for key in found[0]}
    grown = statistics.median(run["rss_bytes"] for run in found) - small["rss_bytes"]
    table["rss_bytes_a_row"] = round(grown / (count - count // 10), 1)
    print(f"the driver alone: {table}", file=sys.stderr)
    return table


def in_a_process(count: int, workers: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--one-driver", str(count), "--workers", str(workers)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def cpu_us(work: Callable[[], object]) -> float:
    """CPU of a piece of work in microseconds."""
    began = time.process_time()
    work()
    return (time.process_time() - began) * 1e6


def peak_bytes() -> int:
    import resource  # noqa: PLC0415 - not on every system

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=30_000, help="requests of each way, a multiple of a hundred")
    parser.add_argument("--rows", type=int, default=200_000, help="rows of the driver alone")
    parser.add_argument("--concurrency", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=4, help="of the driver alone")
    parser.add_argument("--driver-only", action="store_true")
    parser.add_argument("--one-driver", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one_driver:
        print(json.dumps(driver_alone(options.one_driver, options.workers)))
        return
    alone = driver(options.rounds, options.rows, options.workers)
    table = {} if options.driver_only else ways(options.n, options.concurrency, options.rounds)
    print(json.dumps({"benchmark": "distributed", "cores": len(CORES), "driver": alone, "ways": table}))


if __name__ == "__main__":
    main()
