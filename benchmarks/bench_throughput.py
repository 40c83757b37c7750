"""CPU per request and at start-up, as multiples of the tightest loop; runs are interleaved, medians are shown.

python benchmarks/bench_throughput.py                  # asyncgen, the bound, and a plain loop
python benchmarks/bench_throughput.py --peers          # the openai SDK on both transports too
python benchmarks/bench_throughput.py --instructions   # counted by valgrind, for a machine that others use too
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from measure import HERE, Cost, asyncgen_generate, fake_server, instructions, run, stats, write_job

Client = Callable[[str, int, Path], list[str]]
Figure = TypeVar("Figure")


def script(name: str, concurrency: int, *more: str) -> Client:
    def command(base_url: str, count: int, folder: Path) -> list[str]:
        out = str(folder / "out.jsonl")
        return [sys.executable, str(HERE / name), base_url, str(count), str(concurrency), out, *more]

    return command


def asyncgen(concurrency: int) -> Client:
    def command(base_url: str, count: int, folder: Path) -> list[str]:
        job = write_job(folder / "job.toml", count)
        return asyncgen_generate(job, folder / "run", base_url, "--concurrency", str(concurrency))

    return command


def work(client: Client, count: int, measure: Callable[[list[str], Path], Figure]) -> Figure:
    """What `measure` says of a client that sends `count` requests to a fresh server."""
    with tempfile.TemporaryDirectory() as name, fake_server() as base_url:
        folder = Path(name)
        figure = measure(client(base_url, count, folder), folder / "log")
        served = stats(base_url)["served"]
    if served != count:
        sys.exit(f"{served} requests were served, not {count}")
    return figure


def per_request_ms(costs: dict[int, Cost], count: int) -> float:
    """CPU of a request once the client runs: what a run of one request costs is left out."""
    return (costs[count].cpu_s - costs[1].cpu_s) / (count - 1) * 1000


def table(rounds: list[dict[str, dict[int, Cost]]], count: int) -> dict[str, dict[str, float]]:
    """Medians over the rounds; a ratio compares runs of the same round, since the machine's speed changes."""
    rows: dict[str, dict[str, float]] = {}
    for name in rounds[0]:
        mine = [per_request_ms(costs[name], count) for costs in rounds]
        bound = [per_request_ms(costs["tight loop"], count) for costs in rounds]
        rows[name] = {
            "cpu_ms_per_request": round(statistics.median(mine), 4),
            "times_the_bound": round(statistics.median(one / other for one, other in zip(mine, bound, strict=True)), 3),
            "start_cpu_s": round(statistics.median(costs[name][1].cpu_s for costs in rounds), 3),
            "rss_mb": round(statistics.median(costs[name][count].rss_mb for costs in rounds), 1),
        }
    return rows


def show(rows: dict[str, dict[str, float]]) -> None:
    columns = list(rows["tight loop"])
    print(f"{'':16}" + "".join(f"{column:>24}" for column in columns), file=sys.stderr)
    for name, row in rows.items():
        print(f"{name:16}" + "".join(f"{row[column]:>24}" for column in columns), file=sys.stderr)


def count_instructions(clients: dict[str, Client], count: int) -> dict[str, dict[str, float]]:
    """Thousands of instructions of a request, millions at start-up."""
    rows: dict[str, dict[str, float]] = {}
    for name, client in clients.items():
        start = work(client, 1, instructions)
        each = (work(client, count, instructions) - start) / (count - 1)
        bound = rows["tight loop"]["thousands_per_request"] * 1000 if rows else each
        rows[name] = {
            "thousands_per_request": round(each / 1000, 1),
            "times_the_bound": round(each / bound, 3),
            "millions_at_start": round(start / 1e6),
        }
    return rows


def time_rounds(clients: dict[str, Client], count: int, number_of_rounds: int) -> dict[str, dict[str, float]]:
    """CPU and memory, from rounds in which every client runs, in one order and then in the other."""
    rounds: list[dict[str, dict[int, Cost]]] = []
    for number in range(number_of_rounds):
        order = list(clients.items()) if number % 2 == 0 else list(reversed(clients.items()))
        rounds.append({name: {n: work(client, n, run) for n in (count, 1)} for name, client in order})
    return table(rounds, count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, help="requests, a multiple of a hundred; 10000, or 2000 with --instructions")
    parser.add_argument("--concurrency", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--peers", action="store_true", help="run the openai SDK too (minutes)")
    parser.add_argument("--instructions", action="store_true", help="count instructions in place of time (minutes)")
    options = parser.parse_args()
    clients = {
        "tight loop": script("tight_loop.py", options.concurrency),
        "plain loop": script("tight_loop.py", options.concurrency, "plain"),
        "asyncgen": asyncgen(options.concurrency),
    }
    if options.peers:
        clients["sdk, aiohttp"] = script("sdk_loop.py", options.concurrency, "aiohttp")
        clients["sdk, httpx"] = script("sdk_loop.py", options.concurrency, "httpx")
    count = options.n or (2000 if options.instructions else 10_000)
    for client in clients.values():
        work(client, 1, run)  # writes the bytecode of what changed
    counted = options.instructions
    rows = count_instructions(clients, count) if counted else time_rounds(clients, count, options.rounds)
    show(rows)
    print(json.dumps({"benchmark": "throughput", "n": count, "concurrency": options.concurrency, "clients": rows}))


if __name__ == "__main__":
    main()
