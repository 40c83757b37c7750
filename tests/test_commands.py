"""Every command line of ours that a text of the program names can be given as it stands."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import asyncgen
from asyncgen.errors import command_line
from tests.commands import commands_in, fault_of

ROOT = Path(asyncgen.__file__).parent
_MAKERS = {"command_line", "next_command"}
_PLACE = "\0"


def docstrings(tree: ast.Module) -> set[int]:
    """The nodes that are not text of the program."""
    return {
        id(node.value)
        for parent in ast.walk(tree)
        if isinstance(parent, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        for node in parent.body
        if isinstance(node, ast.Expr)
    }


def is_maker(node: ast.AST) -> bool:
    name = getattr(node, "func", None)
    return isinstance(node, ast.Call) and (getattr(name, "id", None) or getattr(name, "attr", None)) in _MAKERS


def texts_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of each literal; what is put in is one character that no shell word has, a made command `1`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    passed = docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            passed |= {id(part) for part in node.values}
    for node in ast.walk(tree):
        if id(node) in passed:
            continue
        if isinstance(node, ast.JoinedStr):
            yield (
                node.lineno,
                "".join(str(part.value) if isinstance(part, ast.Constant) else _PLACE for part in node.values),
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def word_of(argument: ast.expr) -> str | None:
    """What an argument of such a call becomes: its text, `1` where that is not known, None where it may be none."""
    if isinstance(argument, ast.IfExp):  # `"--flag" if ... else None`
        return word_of(argument.body)
    if isinstance(argument, ast.Constant):
        return None if argument.value is None else str(argument.value)
    return None if isinstance(argument, ast.Starred | ast.Name) else "1"


def made_in(path: Path) -> Iterator[tuple[int, str]]:
    """Line and command line of each call that makes one; arguments that are not known are `1`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if is_maker(node):
            assert isinstance(node, ast.Call)
            first, *rest = node.args
            if isinstance(first, ast.Constant):
                words = [word for arg in rest if (word := word_of(arg)) is not None]
                yield node.lineno, command_line(str(first.value), *words).removeprefix("asyncgen ")


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_that_the_code_names_can_be_given(path: Path) -> None:
    for line, text in texts_of(path):
        for command in commands_in(text):
            assert _PLACE not in command, f"{path}:{line}: `asyncgen {command}` is made without errors.command_line"
            assert not fault_of(command), f"{path}:{line}: asyncgen {command}: {fault_of(command)}"
    for line, command in made_in(path):
        assert not fault_of(command), f"{path}:{line}: asyncgen {command}: {fault_of(command)}"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("asyncgen runs   (lists them)", ["runs"]),
        ("add --yes, or `asyncgen plan` first", ["plan"]),
        ("asyncgen show 'a; b, (c)' -n 3; to end: asyncgen status", ["show 'a; b, (c)' -n 3", "status"]),
        ("asyncgen init a.toml   (writes one), or asyncgen run   (the example)", ["init a.toml", "run"]),
        ("asyncgen 0.2.0 serves a model", []),
    ],
)
def test_commands_are_found_in_texts(text: str, found: list[str]) -> None:
    assert list(commands_in(text)) == found


@pytest.mark.parametrize(
    "command", ["generat", "show --rejecte", "generate a.toml b.toml", "preview -n none", "show 'x", "init PATH"]
)
def test_a_command_that_cannot_be_given_is_found_out(command: str) -> None:
    assert fault_of(command)


@pytest.mark.parametrize("name", ["my run", "it's", 'a "b"', "a;b", "$HOME", "-x", "ü\\n"])
def test_paths_come_through_a_shell_as_they_are(name: str) -> None:
    made = command_line("status", Path(name)).replace("asyncgen status", "printf %s")
    assert subprocess.check_output(["sh", "-c", made], text=True).removeprefix("./") == name
