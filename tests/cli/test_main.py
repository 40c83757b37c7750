import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from asyncgen.cli.main import _COMMANDS, cli

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_help_imports_nothing_heavy(environment: dict[str, str]) -> None:
    program = (
        "import sys; sys.argv = ['asyncgen', '--help']\n"
        "from asyncgen.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'aiohttp', 'openai', 'rich', 'asyncio', 'numpy', 'xllamacpp', 'genai_prices', 'pyarrow', 'msgspec'}\n"
        "print('imported:', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("imported: []\n")


@pytest.mark.parametrize("name", list(_COMMANDS))
def test_every_command_of_the_list_is_there_and_explains_itself(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.help
    assert command.name == name


@pytest.mark.parametrize("name", list(_COMMANDS))
def test_every_command_answers_help_with_its_options(asyncgen: Run, name: str) -> None:
    done = asyncgen(name, "--help")
    assert done.returncode == 0
    assert "--help" in done.stdout


def test_the_command_alone_shows_help(asyncgen: Run) -> None:
    done = asyncgen()
    assert done.returncode == 0
    assert "asyncgen run" in done.stdout


def test_an_unknown_command_is_named_with_the_next_step(asyncgen: Run) -> None:
    done = asyncgen("genrate")
    assert done.returncode == 2
    assert "did you mean 'asyncgen generate'?" in done.stderr
    assert "asyncgen --help" in done.stderr


def test_an_error_is_an_envelope_on_the_last_line_with_json(asyncgen: Run) -> None:
    done = asyncgen("plan", "none.toml", "--json")
    assert done.returncode == 2
    error = json.loads(done.stdout.splitlines()[-1])["error"]
    assert error["code"] == "usage"
    assert "asyncgen init" in error["help"]
    assert "Traceback" not in done.stderr


def test_debug_shows_where_an_error_came_from(asyncgen: Run) -> None:
    assert "Traceback" in asyncgen("plan", "none.toml", "--debug").stderr


def test_every_mistake_of_a_job_file_is_shown_with_its_line(asyncgen: Run, tmp_path: Path) -> None:
    (tmp_path / "work" / "job.toml").write_text(
        'name = "x"\n[grid]\ncity = []\n[prompt]\nuser = "{town}"\n', encoding="utf-8"
    )
    done = asyncgen("plan", "job.toml")
    assert done.returncode == 2
    assert "error: 2 problems in job.toml" in done.stderr
    assert "job.toml:3: grid.city: an axis needs at least one value" in done.stderr
    assert "job.toml:5: prompt.user: {town} is not an axis" in done.stderr


def test_init_writes_the_built_in_job_once(asyncgen: Run, tmp_path: Path) -> None:
    assert asyncgen("init", "mine.toml").stdout == "mine.toml\n"
    text = (tmp_path / "work" / "mine.toml").read_text(encoding="utf-8")
    assert "[grid]" in text
    again = asyncgen("init", "mine.toml")
    assert again.returncode == 2
    assert "mine.toml already exists" in again.stderr
    assert (tmp_path / "work" / "mine.toml").read_text(encoding="utf-8") == text


def test_a_bug_is_told_without_its_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module("asyncgen.cli.init_command")

    def broken() -> str:
        raise RuntimeError("Bearer sk-secret")

    main = importlib.import_module("asyncgen.cli.main").main
    with pytest.raises(SystemExit) as caught:
        main(["init", "/nonexistent/x.toml"])
    assert caught.value.code == 6  # the folder comes first
    monkeypatch.setattr(module.Path, "open", lambda *_args, **_kwargs: broken())
    with pytest.raises(SystemExit) as caught:
        main(["init", "x.toml"])
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert "internal error in asyncgen: RuntimeError" in error
    assert "sk-secret" not in error


def test_output_to_a_reader_that_has_gone_is_no_traceback(environment: dict[str, str]) -> None:
    command = f"{sys.executable} -m asyncgen --help | head -1"
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, check=False)
    assert "Generate fine-tuning data" in done.stdout
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
