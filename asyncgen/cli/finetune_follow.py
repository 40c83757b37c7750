"""`asyncgen finetune follow`: a job's events until it ends."""

from __future__ import annotations

from typing import Any

import click

from asyncgen.cli.finetune_create import show_tuned
from asyncgen.cli.finetune_options import job_argument, place_options, where_of
from asyncgen.cli.options import output_options


@click.command("follow")
@job_argument
@place_options
@output_options
def follow(job: str | None, as_json: bool, **options: Any) -> int:
    """Show what JOB tells until it ends, each event once, whatever breaks on the way.

    Ctrl-C stops following, never the job. Ends with 0 when the job succeeded, with 3 when it did not.
    """
    from asyncgen.cli.loop import run as run_loop  # noqa: PLC0415 - imports asyncio
    from asyncgen.cli.tuning import follow_job  # noqa: PLC0415 - imports the SDK
    from asyncgen.cli.tuning_target import event_log, find_target  # noqa: PLC0415 - with the run's state

    target = find_target(job, where_of(options))
    with event_log(target) as log:
        tuned = run_loop(follow_job(target.choice, target.where, target.job_id, log))
    show_tuned(tuned, target.run.path if target.run else None, as_json=as_json)
    return tuned.exit_code
