"""What the README and the pages in docs/ tell to type can be typed."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from asyncgen.cli.main import cli
from asyncgen.job.load import read_job_file
from asyncgen.providers.profiles import LOCAL, PROFILES
from asyncgen.run.state import VERSION

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {path.name: path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]}
COMMAND = re.compile(r"(?:^    |^\$ |`|&& )(asyncgen [^`\n|]*)", re.MULTILINE)


def commands() -> Iterator[list[str]]:
    for text in PAGES.values():
        for match in COMMAND.finditer(text):
            words = shlex.split(match[1].partition("  #")[0].partition(" \\")[0], comments=True)
            if words[1:] and not words[1].isupper():
                yield words[1:]


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_command_and_flag_in_the_pages_is_there(words: list[str]) -> None:
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
    text = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)[0]
    assert tomllib.loads(text)["name"]
    (tmp_path / "job.toml").write_text(text, encoding="utf-8")
    assert read_job_file(tmp_path / "job.toml").job("openai", "local").name == "direct-marketing"


def test_every_provider_and_exit_code_is_in_the_readme() -> None:
    for code in (0, 1, 2, 3, 4, 5, 6, 7, 130, 143, 129):
        assert re.search(rf"^\|.*\b{code}\b", README, re.MULTILINE), code
    assert all(name in README for name in PROFILES)


def test_the_page_on_files_names_the_form_of_run_json() -> None:
    assert f"of this form ({VERSION})" in PAGES["run-files.md"]


def test_the_readme_says_where_the_local_server_cuts_samples() -> None:
    local = PROFILES[LOCAL].finetuning
    assert local is not None
    assert f"the first {local.max_sample_tokens:,} tokens of a sample" in PAGES["server.md"]


def test_every_page_that_is_linked_is_there() -> None:
    for text in PAGES.values():
        for target in re.findall(r"\]\(((?!https?:)[^)#]+)", text):
            assert any((folder / target).exists() for folder in (ROOT, ROOT / "docs")), target


def test_the_example_program_runs_to_its_end(tmp_path: Path, simulated_server: Any) -> None:
    job = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)[0]
    job = job.replace('must_contain = ["{city}"]\n', "")  # which what a simulation makes up does not satisfy
    (tmp_path / "job.toml").write_text(job, encoding="utf-8")
    command = [sys.executable, str(ROOT / "docs" / "example.py"), "job.toml", simulated_server().base_url, "simulated"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "36 answers, 0 failed, in runs/direct-marketing"


def test_the_readmes_job_runs_as_it_stands(tmp_path: Path, simulated_server: Any) -> None:
    (tmp_path / "campaign.toml").write_text(re.findall(r"```toml\n(.*?)```", README, re.DOTALL)[0], encoding="utf-8")
    words = ["--base-url", simulated_server().base_url, "--model", "simulated", "--yes"]
    command = [sys.executable, "-m", "asyncgen", "generate", "campaign.toml", *words, "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["done"] == 36
