"""`asyncgen finetune`: the provider's fine-tuning jobs, and the commands that are about them."""

from __future__ import annotations

import click

from asyncgen.cli.finetune_create import create
from asyncgen.cli.finetune_end import cancel, delete
from asyncgen.cli.finetune_follow import follow
from asyncgen.cli.finetune_look import checkpoints, events, list_jobs, show
from asyncgen.cli.finetune_results import results


@click.group("finetune")
def finetune() -> None:
    """Create, follow and look after fine-tuning jobs.

    JOB is a job's id, or a run directory for its newest job, or left out for that of the newest run.
    """


for command in (create, follow, list_jobs, show, events, checkpoints, results, cancel, delete):
    finetune.add_command(command)
