"""The examples in the docstrings of the public names run, and print what they say.

Each runs in a folder of its own, with every public name imported. The folder holds `campaign.toml`, and, unless the
example generates the run itself, the finished run `runs/campaign` with its dataset and tuned model. `answer` is an
async function that answers every request, `server` the address of a simulated server.
"""

from __future__ import annotations

import doctest
import inspect
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

import asyncgen
from asyncgen.providers.local_server import ServerInfo
from asyncgen.providers.profiles import PROFILES
from asyncgen.serve.server import ServeSettings
from asyncgen.serve.simulation.engine import SimulationSettings

CAMPAIGN = """
name = "campaign"
[grid]
sector = ["bakery", "florist", "pharmacy", "garage"]
city = ["Bonn", "Oslo", "Rome"]
[prompt]
user = "Write an advert for a {sector} in {city}."
sample = "{sector}, {city}"
"""
# These examples generate the run, so it is not there before.
GENERATING = {"Failure", "GenerateArguments", "ProgressSnapshot", "agenerate", "generate", "preview", "stream"}
PUBLIC = {name: getattr(asyncgen, name) for name in asyncgen.__all__ if name != "__version__"}


async def answer(request: Mapping[str, Any]) -> str:
    return "An advert."


def examples() -> Iterator[doctest.DocTest]:
    """Of the public names and of the methods of public classes."""
    for name, value in PUBLIC.items():
        yield from doctest.DocTestFinder(recurse=True).find(value, name, module=inspect.getmodule(value), globs={})


@pytest.fixture(scope="module")
def server(
    running: Callable[[ServeSettings], AbstractContextManager[ServerInfo]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    settings = ServeSettings(data_dir=tmp_path_factory.mktemp("server"), simulation=SimulationSettings())
    with running(settings) as info:
        yield info.base_url


@pytest.fixture(scope="module")
def finished(server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that went through every stage."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "campaign.toml").write_text(CAMPAIGN, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        asyncgen.generate(asyncgen.load_job("campaign.toml", provider="local"), completer=answer, concurrency=1)
        asyncgen.prepare("runs/campaign")
        asyncgen.finetune("runs/campaign", provider="local", base_url=server)
    return folder


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_has_an_example(name: str) -> None:
    value = PUBLIC[name]
    assert ">>>" in str(value.__doc__)
    assert "+SKIP" not in str(value.__doc__)


@pytest.mark.parametrize("example", [test for test in examples() if test.examples], ids=lambda test: test.name)
def test_an_example_prints_what_it_says(
    example: doctest.DocTest, finished: Path, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    if example.name in GENERATING:
        shutil.rmtree(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    for profile in PROFILES.values():
        if profile.key_variable:
            monkeypatch.delenv(profile.key_variable, raising=False)
    example.globs.update(PUBLIC, answer=answer, server=server)
    said: list[str] = []
    found = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=said.append)
    assert found.failed == 0, "".join(said)
