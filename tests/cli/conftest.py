import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


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
        return subprocess.run(
            [sys.executable, "-m", "asyncgen", *arguments],
            cwd=folder,
            env={**environment, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

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
