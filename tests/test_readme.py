"""What the README tells to type can be typed."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from asyncgen.cli.main import cli
from asyncgen.job.load import read_job_file
from asyncgen.providers.profiles import LOCAL, PROFILES
from asyncgen.run.state import VERSION

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
COMMAND = re.compile(r"(?:^    |^\$ |`|&& )(asyncgen [^`\n]*)", re.MULTILINE)


def commands() -> Iterator[list[str]]:
    for match in COMMAND.finditer(README):
        words = shlex.split(match[1].partition("  #")[0].partition(" \\")[0], comments=True)
        yield words[1:]


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_command_and_flag_in_the_readme_is_there(words: list[str]) -> None:
    command: click.Command | None = cli
    context = click.Context(cli)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        command = command.get_command(context, words[0])
        words = words[1:]
    assert command is not None
    known = {name for parameter in command.get_params(context) for name in (*parameter.opts, *parameter.secondary_opts)}
    assert {word.partition("=")[0] for word in words if word.startswith("-") and word != "-"} <= known


def test_every_command_is_in_the_readme() -> None:
    missing = [name for name in cli.list_commands(click.Context(cli)) if f"asyncgen {name}" not in README]
    assert missing == []


def test_the_job_file_in_the_readme_is_a_job(tmp_path: Path) -> None:
    (tmp_path / "cities.txt").write_text("Brussels\nParis\n", encoding="utf-8")
    text = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)[0]
    assert tomllib.loads(text)["name"]
    (tmp_path / "job.toml").write_text(text, encoding="utf-8")
    assert read_job_file(tmp_path / "job.toml").job("openai", "local").name == "direct-marketing"


def test_every_provider_and_exit_code_is_in_the_readme() -> None:
    for code in (0, 1, 2, 3, 4, 5, 6, 7, 130, 143, 129):
        assert re.search(rf"^\|.*\b{code}\b", README, re.MULTILINE), code
    assert all(name in README for name in PROFILES)


def test_the_readme_names_the_form_of_run_json() -> None:
    assert f"of this form ({VERSION})" in README


def test_the_readme_says_where_the_local_server_cuts_samples() -> None:
    local = PROFILES[LOCAL].finetuning
    assert local is not None
    assert f"the first {local.max_sample_tokens:,} tokens of a sample" in README
