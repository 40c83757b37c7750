"""Time and peak memory of prepare, report and export on a run of many records.

`prepare` and `report` are measured on one core and on all: there they read the records in several processes, and the
memory is that of the largest one.

python benchmarks/bench_dataset.py                     # 1,000,000 records, about 600 MB in a temporary folder
python benchmarks/bench_dataset.py --records 100000
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from measure import Cost, run

from asyncgen.generate.journal.stale import Stale, accept_stale
from asyncgen.job.load import read_job_file
from asyncgen.job.opened import OpenedJob, keep_job, open_job
from asyncgen.run.directory import open_run
from asyncgen.run.records import Record, Usage, encode_line

REPEATS = 10
WORDS = [f"word{number}" for number in range(40)]


def write_run(folder: Path, records: int) -> Path:
    """A run of `records` answers of thirty words, ten to each row of the grid."""
    rows = max(records // REPEATS, 1)
    job = folder / "job.toml"
    job.write_text(
        f"""name = "benchmark"
[grid]
sector = {json.dumps([f"Sector {number}" for number in range(100)])}
city = {json.dumps([f"City {number}" for number in range(-(-rows // 100))])}
[prompt]
user = "Write one message for a {{sector}} in {{city}}."
sample = "{{sector}}, {{city}}"
[generate]
repeats = {REPEATS}
[checks]
max_sentences = 2
[dataset]
validation = 0.1
seed = 7
""",
        encoding="utf-8",
    )
    opened = open_job(read_job_file(job), generation="openai", tuning="openai", model="gpt-6-luna")
    out = folder / "run"
    with open_run(out, job_name="benchmark") as made:
        keep_job(made, opened)
        accept_stale(made, opened.grid, Stale(0, 0, 0, ()))
        with made.directory.records.open("wb") as file:
            file.writelines(map(encode_line, answers(opened)))
    return out


def answers(opened: OpenedJob) -> Iterator[Record]:
    rng = random.Random(7)
    for request in opened.grid.requests():
        yield Record(
            key=request.key.hex(),
            index=request.index,
            repeat=request.repeat,
            variables=opened.grid.variables(request),
            prompt=opened.grid.prompt(request),
            completion=" ".join(rng.choices(WORDS, k=30)).capitalize() + ".",
            model="gpt-6-luna-2026-09-22",
            finish_reason="stop",
            usage=Usage(120, 0, 40, 0),
            attempts=1,
            check_failures=[],
            latency_s=0.731,
            created=1_790_000_000,
            request_id="req_0123456789abcdef",
        )


def measure(folder: Path, records: int) -> dict[str, Cost]:
    out = str(write_run(folder, records))
    csv, hub = str(folder / "answers.csv"), f"{folder / 'hub'}/"
    commands = {
        "prepare RUN": ["prepare", out],
        "prepare RUN --drop-near-duplicates": ["prepare", out, "--drop-near-duplicates"],
        "report RUN": ["report", out],
        "export RUN -o FILE.csv": ["export", out, "-o", csv],
        "export RUN -o FOLDER/": ["export", out, "-o", hub],
        "prepare FILE.csv": ["prepare", csv, "--yes"],
        "prepare FILE.csv --format completion": ["prepare", csv, "--format", "completion", "--yes"],
    }
    costs = {}
    for name, command in commands.items():
        line = [sys.executable, "-m", "asyncgen", *command, "--quiet"]
        costs[name] = run(line, folder / "log")
        if name in {"prepare RUN", "report RUN"}:
            costs[f"{name}, all cores"] = run(line, folder / "log", on_all_cores=True)
    return costs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    records = parser.parse_args().records
    with tempfile.TemporaryDirectory() as folder:
        costs = measure(Path(folder), records)
    print(f"{'':38}{'CPU s':>9}{'wall s':>9}{'peak MB':>9}", file=sys.stderr)
    for name, cost in costs.items():
        print(f"{name:38}{cost.cpu_s:9.1f}{cost.wall_s:9.1f}{cost.rss_mb:9.0f}", file=sys.stderr)
    print(json.dumps({"records": records, "costs": {name: asdict(cost) for name, cost in costs.items()}}))


if __name__ == "__main__":
    main()
