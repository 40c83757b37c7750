"""Every command's help as it is shown: a line, examples that work, options in groups, within 80 columns."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from typing import Any

import click
import pytest
from click.testing import CliRunner

from asyncgen.cli.help import EXAMPLES
from asyncgen.cli.main import cli

Here = Callable[..., Any]


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from commands(found, (*path, name))


PATHS = list(commands(cli))


def page(path: tuple[str, ...]) -> str:
    shown = CliRunner().invoke(cli, [*path, "--help"], terminal_width=80, prog_name="asyncgen")
    assert shown.exit_code == 0
    return shown.output


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_a_page_begins_with_a_line_and_examples_and_keeps_within_80_columns(path: tuple[str, ...]) -> None:
    shown = page(path)
    assert "\\b" not in shown
    assert "\b" not in shown
    assert [line for line in shown.splitlines() if len(line) > 80] == []
    first, _, rest = shown.strip().partition("\n\n")
    assert first.rstrip().endswith(".")
    assert rest.startswith("Examples:\n  asyncgen")
    cut = [line for line in shown.splitlines() if line.endswith("...") and not line.rstrip(".").endswith(("]", "T"))]
    assert cut == [], "a text is cut off"
    assert "RANGE" not in shown


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_every_line_of_options_says_something_and_help_comes_with_the_output(path: tuple[str, ...]) -> None:
    before, _, output = page(path).partition("\nOutput:\n")
    assert "-h, --help" in output.partition("\n\n")[0]
    assert [line for line in before.splitlines() if line.strip() in {"[FILE]", "[RUN]", "[RUN|FILE]"}] == []


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_every_command_has_two_examples_that_parse(path: tuple[str, ...]) -> None:
    examples = EXAMPLES[" ".join(path)]
    assert len(examples) >= 2
    for command, _ in examples:
        assert_parses(command.partition(" >")[0])


def assert_parses(command: str) -> None:
    """See that commands and options are there and take these values; nothing is run."""
    program, *words = shlex.split(command)
    assert program == "asyncgen"
    current: click.Command = cli
    context = click.Context(cli, info_name="asyncgen", **cli.context_settings)
    while isinstance(current, click.Group) and words and not words[0].startswith("-"):
        found = current.get_command(context, words[0])
        assert found is not None, command
        current, words = found, words[1:]
    current.make_context("asyncgen", words, parent=context)


@pytest.mark.parametrize(
    ("word", "meant"),
    [("generat", "generate"), ("tune", "finetune"), ("train", "finetune"), ("fine-tune", "finetune"),
     ("chat", "complete"), ("ask", "complete"), ("ls", "runs"), ("new", "init")],
)  # fmt: skip
def test_a_word_that_is_no_command_is_told_the_one_that_was_meant(here: Here, word: str, meant: str) -> None:
    done = here(word)
    assert done.code == 2
    assert f"did you mean 'asyncgen {meant}'?" in done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("finetune", "creat"), "did you mean 'asyncgen finetune create'?"),
        (("status", "--jsonn"), "there is no option --jsonn (did you mean --json?)"),
        (("preview", "-n", "x"), "-n must be a whole number, 1 or more, not 'x'"),
        (("preview", "-n", "0"), "-n must be a whole number, 1 or more, not '0'"),
        (("generate", "--max-cost", "0"), "--max-cost must be a number above 0, not"),
        (("run", "--until", "end"), "--until must be one of generate, prepare,"),
        (("generate", "--out"), "--out needs a value"),
        (("status", "a", "b"), "too many arguments: b"),
        (("export",), "--output is missing"),
    ],
)
def test_a_wrong_command_line_is_told_in_our_words(here: Here, arguments: tuple[str, ...], words: str) -> None:
    done = here(*arguments)
    assert done.code == 2
    assert words in done.err


@pytest.mark.parametrize(
    ("variable", "value"),
    [("ASYNCGEN_BASE_URL", "127.0.0.1:1/v1"), ("ASYNCGEN_RPM", "fast"), ("ASYNCGEN_CONCURRENCY", "0")],
)
def test_a_wrong_value_of_a_variable_is_told_under_its_name(
    here: Here, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    here("init", "job.toml")
    monkeypatch.setenv(variable, value)
    done = here("generate", "job.toml", "--provider", "custom", "--model", "m")
    assert done.code == 2
    assert done.err.startswith(f"error: {variable}")


def test_the_version_and_the_help_have_short_forms_too(here: Here) -> None:
    assert here("-V").out == here("--version").out
    assert here("status", "-h").out == here("status", "--help").out == here("help", "status").out
    assert here("help", "finetune", "create").out == here("finetune", "create", "--help").out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_completion(here: Here, shell: str) -> None:
    done = here("completion", shell)
    assert done.code == 0
    assert "_ASYNCGEN_COMPLETE" in done.out


def test_completion_knows_providers() -> None:
    command = cli.get_command(click.Context(cli), "generate")
    assert command is not None
    option = next(each for each in command.params if each.name == "provider")
    found = option.shell_complete(click.Context(command), "open")
    assert "openai" in {item.value for item in found}


def test_help_on_one_table_of_the_job_file_shows_its_keys_alone(here: Here) -> None:
    limits, by_key = here("help", "job", "limits").out, here("help", "job", "max_cost").out
    assert limits == by_key
    assert limits.startswith("## [limits]")
    assert "checks." not in limits
    assert here("help", "job", "dataset", "scores").out.startswith("## [dataset.scores]")


def test_help_on_an_unknown_table_names_the_nearest_one(here: Here) -> None:
    told = here("help", "job", "check")
    assert told.code == 2
    assert "did you mean 'checks'?" in told.err


def on_a_terminal(columns: int, lines: int, *words: str, **variables: str) -> str:
    """What a command shows on a terminal of that size."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (lines, columns))
    inherited = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
    environment = {**inherited, "TERM": "xterm", "NO_COLOR": "1", **variables}
    command = [sys.executable, "-m", "asyncgen", *words]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as child:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # how the end of a terminal is told
            while part := os.read(ours, 100_000):
                shown += part
    os.close(ours)
    assert child.returncode == 0
    return shown.decode().replace("\r\n", "\n")


def test_the_reference_is_wrapped_on_a_terminal_and_a_long_page_goes_through_the_pager() -> None:
    section = on_a_terminal(60, 60, "help", "job", "limits", PAGER="false")
    assert "limits.max_cost" in section
    assert max(map(len, section.splitlines())) <= 60
    paged = on_a_terminal(60, 20, "help", "job", PAGER="wc -l").strip()
    assert int(paged) > 100


def test_an_option_of_commands_before_the_command_is_told_where_it_stands(here: Here) -> None:
    done = here("--json")
    assert done.code == 2
    assert "--version" not in done.err
    assert "options follow the command" in done.err
