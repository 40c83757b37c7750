"""How soon a run that was interrupted sends again: a million rows settled, the last hundred missing.

The missing rows stand at the end, so that all others are read and passed over first. The files are made by asyncgen's
own writer, not by a million requests.

    python benchmarks/bench_resume.py
    python benchmarks/bench_resume.py --n 100000
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import msgspec
from measure import asyncgen_generate, fake_server, last_json, run, stats, write_job

from asyncgen.job.load import read_job_file
from asyncgen.job.of_run import open_job
from asyncgen.job.requests import RequestGrid
from asyncgen.records import Record, Usage, encode_line
from asyncgen.run_directory import open_run
from asyncgen.run_state import RunState

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1_000_000, help="rows, a multiple of a hundred")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        job, folder, log = write_job(Path(name, "job.toml"), options.n), Path(name, "run"), Path(name, "log")
        with fake_server() as base_url:
            run(asyncgen_generate(job, folder, base_url, "--limit", str(_MISSING)), log)
        settle(job, folder, _MISSING, options.n - _MISSING)
        with fake_server() as base_url:
            began = time.monotonic()
            cost = run(asyncgen_generate(job, folder, base_url), log)
            seen = stats(base_url)
        megabytes = (folder / "records.jsonl").stat().st_size / 1e6
        summary = last_json(log)
    if summary["done"] != options.n or seen["served"] != _MISSING:
        sys.exit(f"the run did not end as it should: {summary}, {seen}")
    figures = {
        "first_request_s": round(seen["first"] - began, 2),
        "cpu_s": round(cost.cpu_s, 2),
        "rss_mb": round(cost.rss_mb, 1),
        "records_mb": round(megabytes),
    }
    print(", ".join(f"{key} {value}" for key, value in figures.items()), file=sys.stderr)
    print(json.dumps({"benchmark": "resume", "n": options.n, **figures}))


if __name__ == "__main__":
    main()
