"""How soon a run that was interrupted sends again: a million rows settled, the last hundred missing.

The missing rows stand at the end, so that all others are read and passed over first. The files are made by asyncgen's
own writer, not by a million requests. For comparison, the CPU that plain Python takes to read the keys of the same
file into a set: asyncgen checks each line, compares each row of the grid, and holds a sixth of the memory.

    python benchmarks/bench_resume.py
    python benchmarks/bench_resume.py --n 100000
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import msgspec
from measure import asyncgen_generate, fake_server, last_json, run, stats, write_job

from asyncgen.job.load import read_job_file
from asyncgen.job.opened import open_job
from asyncgen.job.requests import RequestGrid
from asyncgen.run.directory import open_run
from asyncgen.run.records import Record, Usage, encode_line
from asyncgen.run.state import RunState

_MISSING = 100
_LINES_AT_ONCE = 10_000


def lines(grid: RequestGrid, first: int, last: int) -> Iterator[bytes]:
    """Records for these rows of the grid."""
    text = "Small shops in Brussels can take cards, phones and links from today: one contract, no rental."
    for request in islice(grid.requests(), first, last):
        yield encode_line(
            Record(
                key=request.key.hex(),
                index=request.index,
                repeat=request.repeat,
                variables=grid.variables(request),
                prompt=grid.prompt(request),
                completion=text,
                model="fake-1",
                finish_reason="stop",
                usage=Usage(60, 0, 24, 0),
                attempts=1,
                check_failures=[],
                latency_s=0.5,
                created=1_790_000_000,
            )
        )


def settle(job: Path, folder: Path, first: int, last: int) -> None:
    """Write these rows into the run, and count them as the run's state would."""
    grid = open_job(read_job_file(job), generation="openai", tuning="local", model="fake-1").grid
    rows = lines(grid, first, last)
    with open_run(folder, job_name="benchmark") as opened:
        with opened.directory.records.open("ab") as file:
            while block := b"".join(islice(rows, _LINES_AT_ONCE)):
                file.write(block)

        def count(state: RunState) -> RunState:
            return msgspec.structs.replace(state, spend=msgspec.structs.replace(state.spend, records=last))

        opened.update(count)


_PLAIN_READ = """
import sys, orjson
with open(sys.argv[1], "rb") as file:
    keys = {orjson.loads(line)["key"] for line in file}
"""


def resume(job: Path, folder: Path, log: Path, count: int) -> dict[str, float]:
    """Run what is missing; the missing rows are cut off again afterwards."""
    records = folder / "records.jsonl"
    size = records.stat().st_size
    with fake_server() as base_url:
        began = time.monotonic()
        cost = run(asyncgen_generate(job, folder, base_url), log)
        seen = stats(base_url)
    summary = last_json(log)
    if summary["done"] != count or seen["served"] != _MISSING:
        sys.exit(f"the run did not end as it should: {summary}, {seen}")
    os.truncate(records, size)
    plain = run([sys.executable, "-c", _PLAIN_READ, str(records)], log)
    return {
        "first_request_s": seen["first"] - began,
        "cpu_s": cost.cpu_s,
        "rss_mb": cost.rss_mb,
        "plain_read_cpu_s": plain.cpu_s,
        "plain_read_rss_mb": plain.rss_mb,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1_000_000, help="rows, a multiple of a hundred")
    parser.add_argument("--rounds", type=int, default=3, help="medians of so many are shown")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        job, folder, log = write_job(Path(name, "job.toml"), options.n), Path(name, "run"), Path(name, "log")
        settle(job, folder, 0, options.n - _MISSING)
        resume(job, folder, log, options.n)  # notes which job the rows are of
        rounds = [resume(job, folder, log, options.n) for _ in range(options.rounds)]
        megabytes = (folder / "records.jsonl").stat().st_size / 1e6
    figures = {name: round(statistics.median(each[name] for each in rounds), 2) for name in rounds[0]}
    figures["records_mb"] = round(megabytes)
    figures["times_a_plain_read"] = round(figures["cpu_s"] / figures["plain_read_cpu_s"], 2)
    print(", ".join(f"{key} {value}" for key, value in figures.items()), file=sys.stderr)
    print(json.dumps({"benchmark": "resume", "n": options.n, **figures}))


if __name__ == "__main__":
    main()
