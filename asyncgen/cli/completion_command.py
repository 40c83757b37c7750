"""`asyncgen completion`: what a shell needs to complete commands, options, providers, runs and models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from asyncgen.cli.output import result

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that makes bash, zsh or fish complete asyncgen's words.

    It completes commands, options, providers, runs, and the models that were tuned here.
    """
    from click.shell_completion import get_completion_class  # noqa: PLC0415 - only here

    kind = get_completion_class(shell)
    assert kind is not None, "one of the shells that click knows"
    result(kind(context.find_root().command, {}, "asyncgen", "_ASYNCGEN_COMPLETE").source().strip())


def _items(names: list[str], begun: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem  # noqa: PLC0415 - only while a shell completes

    return [CompletionItem(name) for name in names if name.startswith(begun)]


def providers(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Names of providers, the user's own among them."""
    from asyncgen.providers.choose import profiles_here  # noqa: PLC0415 - only while a shell completes

    return _items(list(profiles_here()), begun)


def runs_and_files(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Run directories and job files, and whatever file there is."""
    from click.shell_completion import CompletionItem  # noqa: PLC0415 - only while a shell completes

    from asyncgen.cli.arguments import RUNS, job_files  # noqa: PLC0415 - likewise

    names = sorted(str(state.parent) for state in RUNS.glob("*/run.json"))
    found = _items([*names, *map(str, job_files(Path()))], begun)
    return found or [CompletionItem(begun, type="file")]


def models(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Models that runs here have tuned."""
    from asyncgen.cli.arguments import RUNS  # noqa: PLC0415 - only while a shell completes
    from asyncgen.errors import AsyncgenError  # noqa: PLC0415 - likewise
    from asyncgen.run.state import read_state  # noqa: PLC0415 - likewise

    names: list[str] = []
    for path in RUNS.glob("*/run.json"):
        try:
            names += [job.tuned_model for job in read_state(path).finetuning if job.tuned_model]
        except AsyncgenError:
            continue  # a damaged run has nothing to offer
    return _items(names, begun)
