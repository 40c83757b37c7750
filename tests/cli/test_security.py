"""SECURITY.md names a test for each threat, or says why there is none; and the tests are there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest

from asyncgen.cli.main import cli

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parent.parent.parent
ROWS = [line.strip("|").split("|") for line in (ROOT / "SECURITY.md").read_text().splitlines() if line[:2] == "| "]
THREATS = [[cell.strip() for cell in row] for row in ROWS if row[0].strip() not in {"what", "threat"}]
CANARY = "hotel-of-Ms-Canary-31415"


@pytest.mark.parametrize("row", THREATS, ids=lambda row: row[0])
def test_each_threat_has_a_test_that_is_there_or_a_reason(row: list[str]) -> None:
    named = re.findall(r"`(tests/[^`]+)`", row[-1])
    assert named or row[1].startswith("no test: ")
    for each in named:
        path, _, function = each.partition("::")
        assert (ROOT / path).exists(), each
        assert not function or f"def {function}(" in (ROOT / path).read_text(), each


def _options() -> Iterator[click.Option]:
    context = click.Context(cli)
    commands = [cli.get_command(context, name) for name in cli.list_commands(context)]
    for command in commands:
        assert command is not None
        for each in command.commands.values() if isinstance(command, click.Group) else [command]:
            yield from (param for param in each.params if isinstance(param, click.Option))


def test_no_option_takes_the_value_of_a_key() -> None:
    about_keys = {name for option in _options() for name in option.opts if "key" in name}
    assert about_keys == {"--api-key-file"}


def test_prompts_are_in_no_message_of_a_run(
    tmp_path: Path, here: Callable[..., Any], simulated_server: Callable[..., Any]
) -> None:
    job = tmp_path / "job.toml"
    job.write_text(f'name = "ads"\n[grid]\nof = ["{CANARY}"]\n[prompt]\nuser = "Advertise the {{of}}."\n')
    way = ["--provider", "custom", "--model", "simulated", "--base-url", simulated_server(faults={"400": 1.0}).base_url]
    done = here("generate", str(job), *way, "--yes", "--debug")
    assert CANARY not in done.out + done.err
