"""Command lines in texts: found, and parsed by the command line's own parser.

A text that the program shows may name commands of ours. Such a command stands in backticks, or it ends before two
blanks, a line's end, a comma, a semicolon or a closing bracket; so nobody has to guess which words to copy.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

import click

from asyncgen.cli.main import cli

if TYPE_CHECKING:
    from collections.abc import Iterator

_IN_BACKTICKS = re.compile(r"`asyncgen ([^`\n]+)`")
_NAMES = "|".join(map(re.escape, cli.list_commands(click.Context(cli))))
_BARE = re.compile(rf"(?:^|(?<=[\s(>]))asyncgen (?=(?:{_NAMES})(?:[^\w-]|$))", re.MULTILINE)
_QUOTED = r"'[^'\n]*'|\"[^\"\n]*\""
_ENDED = re.compile(rf"(?:{_QUOTED}|\\.|[^\s'\"\\;,()<]|[;,()](?=\w)| (?! |or ))*")
_PLACEHOLDER = re.compile(r"\[?[A-Z][A-Z_]+\]?")  # a word to be put in, which no shell knows


def commands_in(text: str) -> Iterator[str]:
    """The command lines that a text names, without `asyncgen`."""
    text = re.sub(r"<!--.*?-->", "", text)
    for found in _IN_BACKTICKS.finditer(text):
        yield found[1]
    rest = _IN_BACKTICKS.sub("", text)
    for found in _BARE.finditer(rest):
        ended = _ENDED.match(rest, found.end())
        assert ended is not None
        yield ended[0].strip()


def fault_of(command: str) -> str:
    """Why a command line is none that can be given; "" for one that can."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        return str(error)
    if placeholders := [word for word in words if _PLACEHOLDER.fullmatch(word)]:
        return f"{placeholders[0]} is not a word to be copied"
    shell = next((place for place, word in enumerate(words) if word in {">", ">>", "|", "&&"}), len(words))
    try:
        _parse(cli, words[:shell], None)
    except click.ClickException as error:
        return error.format_message()
    return ""


def _parse(command: click.Command, words: list[str], parent: click.Context | None) -> None:
    name = words[0] if words else ""
    if {"-h", "--help", "--version"} & set(words):
        return
    if isinstance(command, click.Group):
        context = click.Context(command, parent=parent, **command.context_settings)
        found = command.get_command(context, name)
        if found is None:
            raise click.UsageError(f"there is no command {name!r}")
        _parse(found, words[1:], context)
        return
    command.make_context(command.name, list(words), parent=parent)


def refuse_broken(text: str | None) -> None:
    """Fail where a text names a command line that cannot be given."""
    for command in commands_in(text or ""):
        fault = fault_of(command)
        assert not fault, f"{text!r} names `asyncgen {command}`, which cannot be given: {fault}"
