"""`asyncgen init`: the built-in job file, to start one's own from."""

from __future__ import annotations

from pathlib import Path

import click

from asyncgen.cli.options import output_options
from asyncgen.cli.output import json_result, result, say
from asyncgen.errors import DiskError, UsageError
from asyncgen.job.load import built_in_text


@click.command("init")
@click.argument("path", required=False, type=click.Path(path_type=Path), default=Path("direct_marketing.toml"))
@output_options
def init(path: Path, as_json: bool) -> None:
    """Write the built-in job file to PATH (direct_marketing.toml), with a comment at every setting."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(built_in_text())
    except FileExistsError as error:
        raise UsageError(f"{path} is there already", help_text="name another file: asyncgen init PATH") from error
    except OSError as error:
        raise DiskError(f"{path} cannot be written", cause=error.strerror) from error
    if as_json:
        json_result({"path": str(path)})
    else:
        result(str(path))
    say(f"next: edit it, then `asyncgen plan {path}` shows what would be sent")
