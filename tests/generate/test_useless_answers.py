"""A run whose first answers all fail their checks stops, keeps them, and asks whether to go on."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from asyncgen.api.generation import FunctionCompleter
from asyncgen.api.observer import LibraryObserver
from asyncgen.generate.engine import GenerateOptions
from asyncgen.generate.http.completer import StopReason
from asyncgen.generate.session import Generated, OnlineEngine, generate_opened
from asyncgen.job.opened import open_named_job
from asyncgen.providers.choose import EndpointFlags
from asyncgen.providers.endpoint import Endpoint
from asyncgen.run.directory import RunDirectory
from asyncgen.run.jsonl import read_rows
from asyncgen.run.records import decode_record

JOB = """
name = "job"
[grid]
city = ["Paris", "Rome", "Oslo", "Bonn"]
[prompt]
user = "Write to {city}."
[generate]
provider = "local"
model = "m"
repeats = 25
[checks]
must_match = ["nobody writes this"]
"""
ROWS = 100


class Answering(LibraryObserver):
    """Answers the question in a given way, and keeps it."""

    def __init__(self, *, answer: bool | None) -> None:
        super().__init__()
        self._answer = answer
        self.questions: list[str] = []

    def offer(self, question: str) -> bool | None:
        self.questions.append(question)
        return self._answer


def generated(folder: Path, observer: LibraryObserver, **options: Any) -> Generated:
    async def reply(_request: Mapping[str, Any]) -> str:
        return "Simple text."

    (folder / "job.toml").write_text(JOB, encoding="utf-8")
    opened, choice, _ = open_named_job(folder / "job.toml", EndpointFlags())
    endpoint = Endpoint(choice.profile, "python:test", None, "m", "a function")
    return asyncio.run(
        generate_opened(
            opened, choice, GenerateOptions(out=folder / "run", concurrency=4, **options), observer,
            engine=OnlineEngine(FunctionCompleter(reply)), endpoint=endpoint,
        )
    )  # fmt: skip


def kept(folder: Path) -> int:
    keys = [record.key for _, record in read_rows(RunDirectory(folder / "run").records, decode_record)]
    assert len(set(keys)) == len(keys)
    return len(keys)


def test_who_says_yes_gets_every_row_in_one_invocation(tmp_path: Path) -> None:
    observer = Answering(answer=True)
    done = generated(tmp_path, observer)
    [question] = observer.questions
    assert "must_match" in question
    assert "[checks]" in question, "the remedy"
    assert done.outcome.error is None
    assert (done.progress.settled, done.progress.already_done, done.progress.left) == (ROWS, 0, 0)
    assert done.progress.check_failures == ROWS
    assert kept(tmp_path) == ROWS


def test_who_says_no_keeps_what_was_answered(tmp_path: Path) -> None:
    done = generated(tmp_path, Answering(answer=False))
    assert done.outcome.error is not None
    assert done.outcome.error.code == "declined"
    assert 20 <= done.progress.settled == kept(tmp_path) <= 30


def test_where_nobody_can_be_asked_the_run_ends_with_the_reason(tmp_path: Path) -> None:
    done = generated(tmp_path, Answering(answer=None))
    assert done.outcome.error is not None
    assert done.outcome.error.code == "useless"
    assert kept(tmp_path) < ROWS


def test_consent_given_before_is_not_asked_for(tmp_path: Path) -> None:
    done = generated(tmp_path, LibraryObserver(yes=True))
    assert done.outcome.error is None
    assert kept(tmp_path) == ROWS


def test_a_limit_holds_for_both_parts_together(tmp_path: Path) -> None:
    done = generated(tmp_path, Answering(answer=True), limit=40)
    assert done.progress.settled == kept(tmp_path) == 40


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs pseudo-terminals")
@pytest.mark.parametrize(("answer", "code", "rows"), [(b"y\n", 0, ROWS), (b"n\n", 1, None)])
def test_on_a_terminal_the_question_is_asked_in_place(
    tmp_path: Path, simulated_server: Callable[..., Any], answer: bytes, code: int, rows: int | None
) -> None:
    (tmp_path / "job.toml").write_text(JOB, encoding="utf-8")
    ours, theirs = pty.openpty()
    command = ["generate", "job.toml", "--out", "run", "--base-url", simulated_server().base_url, "--concurrency", "4"]
    process = subprocess.Popen(
        [sys.executable, "-m", "asyncgen", *command, "--json"],
        cwd=tmp_path, env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TERM": "dumb"},
        stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, text=True,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
            if b"Continue anyway?" in shown and answer:
                os.write(ours, answer)
                answer = b""
    except OSError:
        pass  # the terminal is gone with the process
    out, _ = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == code, shown
    found = json.loads(out.splitlines()[-1])
    assert found["done"] == kept(tmp_path)
    if rows is not None:
        assert (found["done"], found["already_done"]) == (rows, 0)


@pytest.mark.parametrize(("limit", "left"), [(20, 80), (21, 79), (23, 77)])
def test_a_limit_holds_over_both_parts_of_an_invocation(tmp_path: Path, limit: int, left: int) -> None:
    observer = Answering(answer=True)
    done = generated(tmp_path, observer, limit=limit)
    assert (done.progress.settled, done.progress.left, done.outcome.error) == (limit, left, None)
    assert done.outcome.stopped is StopReason.LIMIT
    assert kept(tmp_path) == limit
    assert len(observer.questions) <= 1
