"""`live.json`: what a generating process says of itself, for whoever looks on."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from asyncgen.generate.engine import kept_live
from asyncgen.generate.live_file import FRESH_S, LIVE_NAME, LiveFile, LiveState, PauseNote, Pauses, read_live
from asyncgen.generate.pool.progress import Progress


def state(updated: float) -> LiveState:
    return LiveState(
        updated=updated, began=1.0, requests=10, done=4, failed=1, left=5, in_flight=3, concurrency=8, per_second=2.0,
        eta_s=None, retries=0, rate_limited=0, pauses=(PauseNote(2.0, 3.0, "why"),),
    )  # fmt: skip


def test_what_is_written_is_read_and_gone_at_the_end(tmp_path: Path) -> None:
    file, now = LiveFile(tmp_path), time.time()
    file.write(state(now))
    assert read_live(tmp_path) == state(now)
    file.remove()
    assert (read_live(tmp_path), list(tmp_path.iterdir())) == (None, [])


def test_the_leftover_of_a_killed_process_is_not_believed(tmp_path: Path) -> None:
    LiveFile(tmp_path).write(state(1000.0))
    assert read_live(tmp_path, lambda: 1000.0 + FRESH_S - 1) is not None
    assert read_live(tmp_path, lambda: 1000.0 + FRESH_S + 1) is None
    assert read_live(tmp_path, lambda: 0.0) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"updated": "soon"}'])
def test_a_file_that_is_no_state_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LIVE_NAME).write_bytes(content)
    assert read_live(tmp_path) is None


def test_a_folder_that_cannot_be_written_ends_no_run(tmp_path: Path) -> None:
    file = LiveFile(tmp_path / "gone")
    file.write(state(1.0))
    file.remove()


def test_a_run_says_how_it_goes_while_it_goes(tmp_path: Path) -> None:
    progress = Progress(requests=10, already_done=2, settled=3, sent=9, ended=4)

    async def run() -> LiveState:
        async with kept_live(tmp_path, progress, 8):
            while (found := read_live(tmp_path)) is None:  # noqa: ASYNC110 - a file says nothing when it comes
                await asyncio.sleep(0.01)
            return found

    found = asyncio.run(run())
    assert (found.done, found.left, found.in_flight, found.concurrency) == (5, 5, 5, 8)
    assert list(tmp_path.iterdir()) == []


def test_a_pause_is_noted_once_and_made_longer_while_it_lasts() -> None:
    pauses, progress = Pauses(), Progress()
    pauses.update(progress, 100.0, 1000.0)
    assert not pauses.newest
    progress.paused_until, progress.pause_cause = 110.0, "429"
    pauses.update(progress, 101.0, 1001.0)
    pauses.update(progress, 102.0, 1002.0)
    assert list(pauses.newest) == [PauseNote(1001.0, 1010.0, "429")]
    progress.paused_until = 120.0
    pauses.update(progress, 105.0, 1005.0)
    assert list(pauses.newest) == [PauseNote(1001.0, 1020.0, "429")]
    pauses.update(progress, 130.0, 1030.0)
    progress.paused_until = 140.0
    pauses.update(progress, 131.0, 1031.0)
    assert [note.began for note in pauses.newest] == [1001.0, 1031.0]
