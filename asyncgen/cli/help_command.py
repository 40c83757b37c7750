"""`asyncgen help`: the reference of the job file, and the help of each command."""

from __future__ import annotations

import click

from asyncgen.cli.help import unknown_command
from asyncgen.cli.output import result
from asyncgen.errors import UsageError
from asyncgen.job.reference import reference

_JOB = "job"


@click.command("help")
@click.argument("topic", nargs=-1, metavar="[TOPIC]")
@click.pass_context
def help_command(context: click.Context, topic: tuple[str, ...]) -> None:
    """Explain TOPIC: `job` for the keys of the job file, or a command's name."""
    parent = context.parent
    assert parent is not None
    assert isinstance(parent.command, click.Group)
    if not topic:
        result(parent.get_help())
        return
    if topic == (_JOB,):
        result(reference().rstrip())
        return
    command: click.Command = parent.command
    for word in topic:
        found = command.get_command(parent, word) if isinstance(command, click.Group) else None
        if found is None:
            names = command.list_commands(parent) if isinstance(command, click.Group) else []
            what = unknown_command(word, [*names, _JOB], parent.command_path)
            raise UsageError(what, help_text="asyncgen help   (lists the commands)")
        command, parent = found, click.Context(found, info_name=word, parent=parent)
    result(command.get_help(parent))
