"""The whole way from Python: generate, read, prepare. Run: python docs/example.py JOB.toml [BASE_URL MODEL]."""

from __future__ import annotations

import sys

import asyncgen


def show(snapshot: asyncgen.ProgressSnapshot) -> None:
    """One line a second or so; nothing is printed without it."""
    print(f"{snapshot.done} of {snapshot.requests}, {snapshot.in_flight} in flight", file=sys.stderr)


def main(path: str, base_url: str | None = None, model: str | None = None) -> None:
    """Generate the rows of a job file, and print what came."""
    job = asyncgen.load_job(path, base_url=base_url, model=model)
    print(f"{job.name}: {asyncgen.plan(job).left} of {len(job)} requests are left")

    try:
        run = asyncgen.generate(job, max_cost=None if base_url else 5.0, on_progress=show)
    except asyncgen.QuotaError as error:
        print(f"stopped: {error.what}; the same program goes on later")
        raise SystemExit(5) from error

    for record in run.records():
        print(record.variables, record.completion[:60])
    for failure in run.failures():
        print("failed:", failure.variables, failure.error.message)

    status = run.status()
    print(f"{len(run)} answers, {status.failed} failed, in {run.path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
