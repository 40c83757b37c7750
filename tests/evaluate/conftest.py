"""A small campaign with a dataset and a tuned model on disk; contestants are answered by functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from asyncgen.api.generation import FunctionCompleter, generate
from asyncgen.api.observer import LibraryObserver
from asyncgen.api.runs import load_job
from asyncgen.api.tuning import prepare
from asyncgen.evaluate.asking import EngineOf
from asyncgen.evaluate.contestants import ReadyContestant
from asyncgen.generate.session import OnlineEngine
from asyncgen.run.directory import RunDirectory, open_run
from asyncgen.run.state import FinetuningState

Reply = Callable[[str, Mapping[str, Any]], str]


@pytest.fixture
def observer() -> Callable[[], LibraryObserver]:
    """Makes observers that agree to everything; each belongs to one event loop."""
    return lambda: LibraryObserver(yes=True)


@pytest.fixture
def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunDirectory]:
    """Generate, prepare and note a tuned model, all in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def make(text: str, *, tuned: bool = True, write: Reply | None = None) -> RunDirectory:
        (tmp_path / "job.toml").write_text(text, encoding="utf-8")

        async def writer(request: Mapping[str, Any]) -> str:
            asked = str(request["messages"][-1]["content"])
            return write(asked, request) if write else f"Pay online: {asked.removeprefix('Write an advert for ')}"

        run = generate(load_job("job.toml"), completer=writer, yes=True)
        prepare(run.path)
        directory = RunDirectory(run.path)
        if tuned:
            note_tuned(directory)
        return directory

    return make


def note_tuned(directory: RunDirectory) -> None:
    noted = FinetuningState(
        intent="x", provider="local", base_url="", model="base-model", training_file="f", job_id="ftjob-1",
        status="succeeded", tuned_model="ft:base-model:mine",
    )  # fmt: skip
    with open_run(directory.path) as run:
        run.update(lambda state: msgspec.structs.replace(state, finetuning=[noted]))


@pytest.fixture
def answering() -> Callable[[Mapping[str, Reply]], EngineOf]:
    """An engine that answers each contestant by a function of the last message and the whole request."""

    def engine_for(replies: Mapping[str, Reply]) -> EngineOf:
        def engine(entry: ReadyContestant) -> OnlineEngine:
            reply = replies[entry.contestant.name]

            async def answer(request: Mapping[str, Any]) -> str:
                return reply(str(request["messages"][-1]["content"]), request)

            return OnlineEngine(FunctionCompleter(answer))

        return engine

    return engine_for
