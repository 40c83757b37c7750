"""The legacy tool as an oracle: openai 0.27.8 in its own environment, one process for the session.

The environment is made once, by pip, in the folder `ASYNCGEN_LEGACY_ENV` or in pytest's cache. Where pip
cannot fetch the packages, the tests that need the oracle are skipped and say why.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from asyncgen.dataset.pairs.prepare import PreparedPairs, prepare_pairs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PACKAGES = ("openai==0.27.8", "pandas==1.5.3", "numpy<2", "openpyxl")
CHILD = Path(__file__).with_name("legacy_child.py")


@dataclass(frozen=True)
class Verdict:
    """What the legacy tool did: "done", "refused" (it said why) or "crashed: ..."; and the files it left."""

    outcome: str
    said: str
    files: dict[str, bytes]


class Oracle:
    def __init__(self, python: Path) -> None:
        self._process = subprocess.Popen(
            [python, "-W", "ignore", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def prepare(self, path: Path) -> Verdict:
        """Have the legacy tool prepare a copy of `path` in a folder of its own."""
        folder = path.parent / "legacy"
        folder.mkdir()
        copy = Path(shutil.copy(path, folder))
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(str(copy)) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return Verdict(answer["outcome"], answer["said"], written(folder))

    def close(self) -> None:
        self._process.communicate(timeout=10)


def written(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*_prepared*")}


def environment(folder: Path) -> Path:
    """The Python of the legacy environment, made where it is not there yet."""
    python = folder / "bin" / "python"
    ready = folder / "ready"
    if ready.exists():
        return python
    base = shutil.which("python3.11") or sys.executable  # pandas 1.5.3 has wheels up to 3.11
    shutil.rmtree(folder, ignore_errors=True)
    commands: tuple[list[str | Path], ...] = (
        [base, "-m", "venv", folder],
        [python, "-m", "pip", "install", "--quiet", "--retries=1", "--only-binary=pandas,numpy", *PACKAGES],
    )
    for command in commands:
        try:
            subprocess.run(command, capture_output=True, text=True, timeout=50, check=True)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"the legacy tool cannot be installed: {error.stderr.strip().splitlines()[-1:]}")
        except subprocess.TimeoutExpired:
            pytest.skip("the legacy tool cannot be installed: pip takes too long")
    ready.touch()
    return python


@pytest.fixture(scope="session")
def oracle(request: pytest.FixtureRequest) -> Iterator[Oracle]:
    cache = request.config.cache
    assert cache is not None
    given = os.environ.get("ASYNCGEN_LEGACY_ENV")
    child = Oracle(environment(Path(given) if given else cache.mkdir("legacy-openai-0.27.8")))
    yield child
    child.close()


class Yes:
    """Says yes to everything, as `-y` does, and remembers what it heard."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.asked: list[str] = []

    def found(self, text: str) -> None:
        self.heard.append(text)

    def necessary(self, text: str) -> None:
        self.heard.append(text)

    def accepts(self, question: str) -> bool:
        self.asked.append(question)
        return True

    def insists(self, question: str) -> bool:
        return self.accepts(question)


@pytest.fixture
def yes() -> Yes:
    return Yes()


@pytest.fixture
def prepare() -> Callable[[Path], tuple[PreparedPairs, dict[str, bytes]]]:
    """Prepare a file with every question answered with yes; the answer has the result and the files."""

    def run(path: Path) -> tuple[PreparedPairs, dict[str, bytes]]:
        return prepare_pairs(path, Yes()), written(path.parent)

    return run
