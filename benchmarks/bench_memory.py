"""Peak memory of a run of ten thousand rows, of a million, and of that million resumed.

python benchmarks/bench_memory.py                      # some minutes: a million real requests
python benchmarks/bench_memory.py --n 100000
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from measure import asyncgen_generate, fake_server, last_json, run, write_job


def peak_mb(folder: Path, count: int, base_url: str, *, already_done: int = 0) -> float:
    """Of a run of `count` rows; it must end with all of them."""
    command = asyncgen_generate(write_job(folder / "job.toml", count), folder / "run", base_url, "--concurrency", "100")
    cost = run(command, folder / "log")
    summary = last_json(folder / "log")
    if (summary["done"], summary["already_done"]) != (count, already_done):
        sys.exit(f"not all rows were done: {summary}")
    print(f"{count:>9,} rows, {already_done:>9,} there before: {cost.rss_mb:6.1f} MB", file=sys.stderr)
    return cost.rss_mb


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1_000_000, help="rows of the large run, a multiple of a hundred")
    options = parser.parse_args()
    with fake_server() as base_url, tempfile.TemporaryDirectory() as name:
        small, large = Path(name, "small"), Path(name, "large")
        small.mkdir()
        large.mkdir()
        small_mb = peak_mb(small, 10_000, base_url)
        large_mb = peak_mb(large, options.n, base_url)
        resumed_mb = peak_mb(large, options.n, base_url, already_done=options.n)
    figures = {"small_mb": small_mb, "large_mb": large_mb, "resumed_mb": resumed_mb}
    ratios = {"large_over_small": large_mb / small_mb, "resumed_over_small": resumed_mb / small_mb}
    rounded = {key: round(value, 3) for key, value in {**figures, **ratios}.items()}
    print(json.dumps({"benchmark": "memory", "n": options.n, **rounded}))


if __name__ == "__main__":
    main()
