"""Options and arguments shared by several commands: names, help texts and environment variables.

What they do is left to each command.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def _complete(name: str) -> Callable[[click.Context, click.Parameter, str], list[Any]]:
    """A completion of `help`, which is imported when a shell asks."""

    def complete(context: click.Context, parameter: click.Parameter, begun: str) -> list[Any]:
        module = import_module("asyncgen.cli.help")
        found: list[Any] = getattr(module, name)(context, parameter, begun)
        return found

    return complete


def _quietly(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        context.find_root().meta["asyncgen.quiet"] = True


file_argument = click.argument(
    "file",
    required=False,
    type=click.Path(path_type=Path),
    metavar="[FILE]",
    shell_complete=_complete("runs_and_files"),
)
run_argument = click.argument(
    "run",
    required=False,
    type=click.Path(path_type=Path),
    metavar="[RUN]",
    shell_complete=_complete("runs_and_files"),
)

out_option = click.option(
    "--out",
    type=click.Path(path_type=Path),
    envvar="ASYNCGEN_OUT",
    metavar="DIR",
    help="The run directory.  [default: runs/NAME]",
)
provider_option = click.option(
    "--provider",
    envvar="ASYNCGEN_PROVIDER",
    metavar="NAME",
    shell_complete=_complete("providers"),
    help="The provider.  [default: the first one whose API key is set, else local]",
)
base_url_option = click.option(
    "--base-url",
    multiple=True,
    envvar="ASYNCGEN_BASE_URL",
    metavar="URL",
    help="The base URL of the API, up to /v1. Repeat it to spread the requests over several servers.",
)
model_option = click.option(
    "--model",
    envvar="ASYNCGEN_MODEL",
    metavar="NAME",
    shell_complete=_complete("models"),
    help="The model.  [default: the job's, else the provider's]",
)
api_key_file_option = click.option(
    "--api-key-file",
    type=click.Path(path_type=Path),
    envvar="ASYNCGEN_API_KEY_FILE",
    metavar="FILE",
    help="Read the API key from this file instead of the environment.",
)
concurrency_option = click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    envvar="ASYNCGEN_CONCURRENCY",
    metavar="N",
    help="At most N requests in flight.  [default: 64, or the provider's setting]",
)
rpm_option = click.option(
    "--rpm",
    type=click.FloatRange(min=0, min_open=True),
    envvar="ASYNCGEN_RPM",
    metavar="N",
    help="At most N requests per minute.  [default: what the server allows]",
)
tpm_option = click.option(
    "--tpm",
    type=click.FloatRange(min=0, min_open=True),
    envvar="ASYNCGEN_TPM",
    metavar="N",
    help="At most N tokens per minute.  [default: what the server allows]",
)
max_cost_option = click.option(
    "--max-cost",
    type=click.FloatRange(min=0, min_open=True),
    envvar="ASYNCGEN_MAX_COST",
    metavar="USD",
    help="Stop before the run costs more, over all invocations.",
)
limit_option = click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="Send at most N requests in this invocation."
)
shard_option = click.option(
    "--shard",
    is_flag=False,
    flag_value="",
    metavar="[I/N]",
    help="Process part I of N of the remaining rows; I starts at 0. For job arrays: without a value, the array's "
    "environment variables decide.",
)
ray_option = click.option(
    "--ray",
    envvar="ASYNCGEN_RAY",
    metavar="ADDRESS|local",
    help="Send the requests from the nodes of a Ray cluster: HOST:PORT, auto, or local (a test on this machine).",
)
retry_failed_option = click.option("--retry-failed", is_flag=True, help="Retry rows that failed.")
yes_option = click.option("--yes", "-y", is_flag=True, envvar="ASYNCGEN_YES", help="Answer yes to every question.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object on stdout.")
quiet_option = click.option(
    "--quiet",
    "-q",
    is_flag=True,
    envvar="ASYNCGEN_QUIET",
    expose_value=False,
    callback=_quietly,
    is_eager=True,
    help="Print no progress and no notes.",
)
# `main` searches for the flag itself: an error may occur before a command has read its options.
debug_option = click.option("--debug", is_flag=True, expose_value=False, help="Print the traceback of an error.")


def _verbosely(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        context.find_root().meta["asyncgen.verbose"] = True


verbose_option = click.option(
    "--verbose",
    is_flag=True,
    envvar="ASYNCGEN_VERBOSE",
    expose_value=False,
    callback=_verbosely,
    help="Print more: every training step, file paths, prices of other providers.",
)


def _all(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


output_options: Callable[[Command], Command] = _all(json_option, quiet_option, debug_option)
endpoint_options: Callable[[Command], Command] = _all(
    provider_option, base_url_option, model_option, api_key_file_option
)
limit_options: Callable[[Command], Command] = _all(concurrency_option, rpm_option, tpm_option, max_cost_option)
