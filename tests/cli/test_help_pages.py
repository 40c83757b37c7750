"""Every command's help as it is shown: no marks of click's in it, examples on lines of their own."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from asyncgen.cli.main import cli


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from commands(found, (*path, name))


def page(path: tuple[str, ...]) -> str:
    shown = CliRunner().invoke(cli, [*path, "--help"], terminal_width=80)
    assert shown.exit_code == 0
    return shown.output


@pytest.mark.parametrize("path", list(commands(cli)), ids=" ".join)
def test_no_help_page_shows_a_mark_of_clicks(path: tuple[str, ...]) -> None:
    assert "\\b" not in page(path)
    assert "\b" not in page(path)


@pytest.mark.parametrize(
    ("path", "line"),
    [(("prepare",), "asyncgen prepare answers.csv"), (("export",), "asyncgen export -o answers.parquet")],
    ids=" ".join,
)
def test_examples_stand_on_lines_of_their_own(path: tuple[str, ...], line: str) -> None:
    assert any(shown.strip().startswith(line) for shown in page(path).splitlines())
