"""What is seen of batches, in lines and on a terminal. Run: pytest tests/cli/test_batch_display.py."""

from __future__ import annotations

import os
import pty
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from asyncgen.cli.batch_command import _Lines, watching
from asyncgen.generate.batch.join import JoinResult
from asyncgen.generate.batch.send import Watcher
from asyncgen.generate.pool.progress import Progress
from asyncgen.run.state import BatchState


def batch(status: str, answered: int = 0, failed: int = 0) -> BatchState:
    return BatchState(
        intent="1-a", provider="p", base_url="u", model="m", requests=50,
        batch_id="batch_1\x1b[31m", status=status, answered=answered, failed=failed,
    )  # fmt: skip


def tell_a_life(watcher: Watcher) -> None:
    for sent in (0, 500, 1000, 1000):
        watcher.uploading(batch(""), sent, 1000)
    watcher.changed(batch("validating"))
    watcher.changed(batch("in_progress"))
    watcher.changed(batch("in_progress", 10))
    watcher.changed(batch("completed", 48, 2))
    watcher.collected(batch("completed"), JoinResult(answered=48, failed=2, open=0, unread=1))


def test_off_a_terminal_every_new_state_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(requests=50)
    with watching(progress) as watcher:
        tell_a_life(watcher)
    assert capsys.readouterr().err.splitlines() == [
        "sent 1.0 kB, 50 rows",
        "batch_1[31m: validating, 0 of 50 done",
        "batch_1[31m: in_progress, 0 of 50 done",
        "batch_1[31m: completed, 48 of 50 done, 2 failed",
        "batch_1[31m: 48 answers saved, 2 failed, 1 lines that match no row",
    ]
    assert (progress.settled, progress.failed) == (48, 2)


def test_counts_are_a_line_every_half_minute(capsys: pytest.CaptureFixture[str]) -> None:
    now_s = iter([0.0, 10.0, 29.0, 31.0, 40.0, 62.0])
    watcher = _Lines(Progress(), lambda: next(now_s))
    for answered in range(6):
        watcher.changed(batch("in_progress", answered))
    told = [line.split(", ")[1] for line in capsys.readouterr().err.splitlines()]
    assert told == ["0 of 50 done", "3 of 50 done", "5 of 50 done"]


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """Stderr as a terminal; what was written there, once it is asked for."""
    outer, inner = pty.openpty()
    with os.fdopen(outer, "rb", buffering=0) as reading, os.fdopen(inner, "w", encoding="utf-8") as writing:
        monkeypatch.setattr(sys, "stderr", writing)
        monkeypatch.setenv("TERM", "xterm")
        os.set_blocking(outer, False)
        yield lambda: b"".join(iter(partial(reading.read, 100_000), None)).decode()  # a terminal gives a part at a time


def test_on_a_terminal_every_batch_is_a_bar_and_what_was_kept_stands_above(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as seen:
        with watching(Progress(requests=50)) as watcher:
            tell_a_life(watcher)
        shown = seen()
    assert "48 answers saved, 2 failed" in shown
    assert "\x1b[?25l" in shown, "a live block"
    assert "batch_1\x1b[31m" not in shown, "what a server sends moves no cursor"
