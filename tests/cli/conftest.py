import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from asyncgen.cli.main import main
from tests.commands import refuse_broken

Run = Callable[..., subprocess.CompletedProcess[str]]
_PAGES = ("Usage: asyncgen", "_ASYNCGEN_COMPLETE")  # help and completion: no steps of what was done


def refuse_broken_steps(out: str, err: str) -> None:
    """Fail where a command printed a command line, as a next step or in an error, that cannot be given."""
    for text in (out, err):
        if not any(page in text for page in _PAGES):
            refuse_broken(text)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which no key is set and every folder of the user is a new one."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "SYSTEMROOT") if name in os.environ}
    home = tmp_path / "home"
    home.mkdir()
    return {**kept, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture
def asyncgen(tmp_path: Path, environment: dict[str, str]) -> Run:
    """Run the command line in a process of its own, in an empty folder."""
    folder = tmp_path / "work"
    folder.mkdir()

    def run(*arguments: str, timeout_s: float = 60, **variables: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "asyncgen", *arguments],
            cwd=folder,
            env={**environment, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        refuse_broken_steps(done.stdout, done.stderr)
        return done

    return run


@pytest.fixture
def simulated(environment: dict[str, str]) -> Iterator[Callable[..., str]]:
    """Start simulated servers on loopback; each call gives the base URL of a new one."""
    with ExitStack() as stack:

        def start(*arguments: str) -> str:
            command = [sys.executable, "-m", "asyncgen", "serve", "--engine", "simulated", "--port", "0", "--json"]
            server = subprocess.Popen(
                [*command, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            stack.enter_context(server)
            stack.callback(server.terminate)
            assert server.stdout is not None
            base_url: str = json.loads(server.stdout.readline())["base_url"]
            return base_url

        yield start


@dataclass(frozen=True, slots=True)
class Done:
    """What a command came to."""

    code: int
    out: str
    err: str


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run the command line in this process, in an empty folder, without a key; quicker than a process of its own."""
    for name in list(os.environ):
        if name.startswith("ASYNCGEN_") or name.endswith(("_API_KEY", "_BASE_URL")):
            monkeypatch.delenv(name)
    home, work = tmp_path / "home", tmp_path / "work"
    for folder in (home, work):
        folder.mkdir(exist_ok=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(work)

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["asyncgen", *arguments])
        with pytest.raises(SystemExit) as caught:
            main(list(arguments))
        shown = capsys.readouterr()
        refuse_broken_steps(shown.out, shown.err)
        return Done(int(caught.value.code or 0), shown.out, shown.err)

    return run


@pytest.fixture
def asked(
    here: Callable[..., Done], simulated_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Done]:
    """The command line, with the simulated server as everybody's address."""
    monkeypatch.setenv("ASYNCGEN_PROVIDER", "local")
    monkeypatch.setenv("ASYNCGEN_FINETUNE_PROVIDER", "local")
    monkeypatch.setenv("ASYNCGEN_BASE_URL", simulated_server().base_url)
    monkeypatch.setenv("ASYNCGEN_YES", "1")
    return here


@pytest.fixture
def write_job() -> Callable[[str, str], None]:
    """Write a job of twelve rows to a file, under a name."""

    def write(path: str, name: str) -> None:
        Path(path).write_text(f'name = "{name}"\n{_TABLES}', encoding="utf-8")

    return write


_TABLES = """
[grid]
city = ["Paris", "Rome", "Oslo", "Bonn", "Kyiv", "Bern"]
tone = ["dry", "warm"]
[prompt]
user = "Write to {city}, {tone}."
sample = "{city}, {tone}"
[generate]
model = "m"
[dataset]
validation = 0.2
"""
