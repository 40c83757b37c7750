"""`asyncgen serve`: the local server.

Owns its options. Does not know how the server works, and imports it only when it runs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import asyncio

    from asyncgen.serve.server import ServeSettings

_PORT = 8093
_SIMULATION_ONLY = "(simulated)"


@click.command("serve")
@click.option("--engine", type=click.Choice(["llama", "simulated"]), default="llama", show_default=True)
@click.option(
    "--model-path",
    type=click.Path(path_type=Path),
    envvar="ASYNCGEN_MODEL_PATH",
    help="A GGUF file; else the small model, fetched once.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=_PORT, show_default=True, help="0: a free one.")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="ASYNCGEN_DATA_DIR",
    help="Where files, jobs and models are kept.",
)
@click.option("--slots", type=click.IntRange(1, 64), default=8, show_default=True, help="Answers at once (llama).")
@click.option("--threads", type=click.IntRange(1), help="Of the processor; all, if left out (llama).")
@click.option("--latency-ms", type=click.FloatRange(0), default=0, help=f"Time an answer takes {_SIMULATION_ONLY}.")
@click.option("--rpm", type=click.FloatRange(0, min_open=True), help=f"Requests a minute {_SIMULATION_ONLY}.")
@click.option("--tpm", type=click.FloatRange(0, min_open=True), help=f"Tokens a minute {_SIMULATION_ONLY}.")
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="NAME=PROBABILITY",
    help=f"A fault to meet now and then; can be repeated {_SIMULATION_ONLY}.",
)
@click.option("--seed", type=int, default=0, show_default=True, help=f"Of the faults {_SIMULATION_ONLY}.")
@click.option("--until-idle", is_flag=True, hidden=True)
@click.option("--log-file", type=click.Path(path_type=Path, dir_okay=False), hidden=True)
def serve(**options: object) -> None:
    """Serve a small model, or a simulation of one, over the OpenAI API.

    \b
    asyncgen serve                          a small real model on this machine
    asyncgen serve --model-path MODEL.gguf  any other
    asyncgen serve --engine simulated --latency-ms 50 --rpm 600 --fault 500=0.05
    """
