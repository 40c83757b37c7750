"""`asyncgen run`: the whole way, from a job file to a tuned model's answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from asyncgen.cli.arguments import job_file
from asyncgen.cli.options import (
    endpoint_options,
    file_argument,
    limit_options,
    out_option,
    output_options,
    retry_failed_option,
    verbose_option,
    yes_option,
)
from asyncgen.cli.output import json_result

STAGES = ("generate", "prepare", "finetune", "complete")


@click.command("run")
@file_argument
@out_option
@endpoint_options
@click.option(
    "--finetune-provider", envvar="ASYNCGEN_FINETUNE_PROVIDER", metavar="NAME", help="The provider for fine-tuning."
)
@click.option("--finetune-model", envvar="ASYNCGEN_FINETUNE_MODEL", metavar="NAME", help="The model to fine-tune.")
@click.option("--until", type=click.Choice(STAGES), default=STAGES[-1], help="Stop after this stage.")
@limit_options
@retry_failed_option
@yes_option
@verbose_option
@output_options
def run(file: Path | None, *, until: str, finetune_model: str | None, as_json: bool, **options: Any) -> int:
    """Run all stages of FILE, or of the built-in example: generate, prepare, fine-tune, and try the tuned model.

    To continue after an interruption, repeat the command. Without an API key, everything runs on this machine.
    """
    from asyncgen.cli.run_stages import RunPipeline  # noqa: PLC0415 - imports aiohttp
    from asyncgen.generate.engine import GenerateOptions  # noqa: PLC0415 - as above

    job = job_file(file, built_in=True)
    pipeline = RunPipeline(job, GenerateOptions.from_mapping(options), finetune_model, yes=options["yes"])
    code = pipeline.until(until, STAGES)
    if as_json:
        json_result(pipeline.report)
    return code
