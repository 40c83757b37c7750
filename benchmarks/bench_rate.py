"""Is the rate reached, and never passed? First the pace alone, then a whole run against a server that enforces it.

The pace alone: workers that do nothing else, on the real clock; the share of the rate that is reached once the burst is
used up, and the fullest window of one second. Whole runs: 162 requests, a second each, at 600 a minute from a bucket of
ten, with the rate given by --rpm, and learnt from the server's headers. The ideal is the burst at once and the rest at
the rate.

    python benchmarks/bench_rate.py
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

import uvloop
from measure import asyncgen_generate, fake_server, last_json, run, stats

from asyncgen.generate.pool.rate import RequestRates

_WORKERS = 200
_RPM, _BUCKET, _REQUESTS, _LATENCY_S = 600, 10, 162, 1.0


async def starts(per_second: float, seconds: float) -> tuple[list[float], float]:
    """When requests start, asked for by more workers than there is rate for; and the burst."""
    rates, loop = RequestRates(per_second * 60, None, None), asyncio.get_running_loop()
    times: list[float] = []
    todo = iter(range(round(rates.requests.burst + per_second * seconds)))

    async def work() -> None:
        for _ in todo:
            await rates.acquire(b"")
            times.append(loop.time())

    await asyncio.gather(*(work() for _ in range(_WORKERS)))
    return times, rates.requests.burst


def pace(per_second: float, seconds: float) -> dict[str, float]:
    times, burst = uvloop.run(starts(per_second, seconds))
    reached = (len(times) - burst) / (times[-1] - times[0])
    fullest, first = 0, 0
    for last, now in enumerate(times):
        while times[first] <= now - 1:
            first += 1
        fullest = max(fullest, last - first + 1)
    figures = {"reached": round(reached / per_second, 4), "fullest_second": fullest, "allowed": per_second + burst}
    print(f"{per_second:>6,.0f}/s: {figures}", file=sys.stderr)
    return figures


def whole_run(*, learnt: bool) -> dict[str, float]:
    """162 requests under an enforced limit; `spans` is from the first request to the last, over the ideal."""
    limits = ["--rpm", str(_RPM), "--bucket", str(_BUCKET), "--latency-ms", str(_LATENCY_S * 1000)]
    with tempfile.TemporaryDirectory() as name, fake_server(*limits, "--tell-limits") as base_url:
        job, log = Path(name, "job.toml"), Path(name, "log")
        sizes = ", ".join(f'"size {number}"' for number in range(_REQUESTS))
        job.write_text(
            f'name = "rate"\n[grid]\nsize = [{sizes}]\n[prompt]\nuser = "A {{size}} shop."\n', encoding="utf-8"
        )
        rate = [] if learnt else ["--rpm", str(_RPM)]
        run(asyncgen_generate(job, Path(name, "run"), base_url, "--model", "fake-1", *rate), log)
        seen, summary = stats(base_url), last_json(log)
    ideal_s = (_REQUESTS - _BUCKET) * 60 / _RPM
    figures = {
        "done": summary["done"],
        "refused": seen["refused"],
        "span_s": round(seen["span_s"], 2),
        "spans": round(seen["span_s"] / ideal_s, 4),
    }
    print(f"162 requests, rate {'learnt' if learnt else 'given'}: {figures}", file=sys.stderr)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of the whole runs; the worst one counts")
    options = parser.parse_args()
    paces = {str(rate): pace(rate, seconds) for rate, seconds in ((10, 10), (1000, 5), (5000, 5))}
    rounds = [{"given": whole_run(learnt=False), "learnt": whole_run(learnt=True)} for _ in range(options.rounds)]
    runs = {how: max((each[how] for each in rounds), key=lambda run: run["spans"]) for how in rounds[0]}
    print(json.dumps({"benchmark": "rate", "paces": paces, "runs": runs}))


if __name__ == "__main__":
    main()
