"""`asyncgen help`: the reference of the job file, and the help of each command."""

from __future__ import annotations

import click

from asyncgen.cli.output import result
from asyncgen.errors import UsageError, nearest
from asyncgen.job.reference import reference

_JOB = "job"


@click.command("help")
@click.argument("topic", required=False, metavar="[TOPIC]")
@click.pass_context
def help_command(context: click.Context, topic: str | None) -> None:
    """Explain TOPIC: `job` for the keys of the job file, or a command's name."""
    parent = context.parent
    assert parent is not None
    assert isinstance(parent.command, click.Group)
    if topic is None:
        result(parent.get_help())
        return
    if topic == _JOB:
        result(reference().rstrip())
        return
    command = parent.command.get_command(parent, topic)
    if command is None:
        topics = [_JOB, *parent.command.list_commands(parent)]
        near = nearest(topic, topics)
        hint = f" (did you mean {near!r}?)" if near else ""
        raise UsageError(f"there is no help on {topic!r}{hint}", help_text="asyncgen help   (lists the commands)")
    result(command.get_help(click.Context(command, info_name=topic, parent=parent)))
