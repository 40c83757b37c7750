"""Facts about how a run is shown."""

from __future__ import annotations

import asyncio

import pytest

from asyncgen.cli import screen as shown_progress
from asyncgen.cli.screen import answer_lines, block, line, progress_display
from asyncgen.generate.engine import used
from asyncgen.generate.pool.progress import Progress
from asyncgen.run.records import Record, Usage
from asyncgen.run.state import Spend


def test_the_first_plain_line_knows_the_rate_and_what_was_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = Progress(requests=100)

    async def scene() -> str:
        told: asyncio.Queue[str] = asyncio.Queue()
        monkeypatch.setattr(shown_progress, "_PLAIN_S", 0.05)
        monkeypatch.setattr(shown_progress, "say", told.put_nowait)
        async with progress_display(progress, lambda: "7 tokens in, 3 out"):
            progress.settled = 40
            return await told.get()

    line_told = asyncio.run(scene())
    assert "40 of 100 done" in line_told
    assert " 0.0 rows/min" not in line_told
    assert line_told.endswith("; 7 tokens in, 3 out")


def test_a_pause_is_told_with_its_end_and_its_cause() -> None:
    progress = Progress(requests=10, paused_until=500.0, pause_cause="as the server asks: too many requests")
    assert "paused for 1 min 40 s (as the server asks: too many requests)" in line(progress, 400.0)
    assert "paused for 1 min 40 s (as the server asks: too many requests)" in "\n".join(block(progress, 400.0, 80))
    assert "waits" not in line(progress, 500.0)


def test_a_wait_for_a_limit_is_named_when_nothing_goes_for_long() -> None:
    progress = Progress(requests=10, sent_at=100.0, waits_for="3 tokens per minute (set by the server)")
    assert "waits" not in line(progress, 120.0)
    assert "nothing sent for 45 s (waiting for the limit of 3 tokens per minute (set by the server))" in line(
        progress, 145.0
    )


def test_money_is_told_where_there_is_a_price() -> None:
    spend = Spend(usage=Usage(prompt_tokens=1200, completion_tokens=34), cost_usd=0.25)
    assert used(spend, has_price=True) == "1,200 tokens in, 34 out, 0.25 USD"
    assert used(spend, has_price=False) == "1,200 tokens in, 34 out"


def record(prompt: str = "small Hotel in Paris", completion: str = "Pay online.") -> Record:
    return Record(
        key="0" * 32,
        index=0,
        repeat=0,
        variables={},
        prompt=prompt,
        completion=completion,
        model="m",
        finish_reason="stop",
        usage=Usage(),
        attempts=1,
        check_failures=[],
        latency_s=0.1,
        created=0,
    )


def test_no_time_left_is_guessed_before_enough_is_known() -> None:
    progress = Progress(requests=100, began_at=100.0)
    progress.per_second(100.0)
    progress.settled = 4
    assert "about" not in line(progress, 110.0)
    progress.settled = 20
    assert "about" not in line(progress, 101.0)
    assert "about 40 s" in line(progress, 110.0)


def test_a_lost_connection_is_told_at_once_with_how_long_it_lasts() -> None:
    progress = Progress(requests=10, began_at=100.0)
    progress.note_trouble("no connection to 127.0.0.1:9803", 110.0)
    progress.note_trouble("no connection to 127.0.0.1:9803", 118.0)
    assert "no connection to 127.0.0.1:9803 for 12 s, retrying" in line(progress, 122.0)


def test_a_server_that_is_waited_for_is_told_from_the_first_line_on() -> None:
    progress = Progress(requests=10, began_at=100.0)
    progress.note_trouble("waiting for the server: no connection to 127.0.0.1:9803 (connection refused)", 100.0)
    assert "waiting for the server: no connection to 127.0.0.1:9803" in line(progress, 105.0)


def test_a_silent_start_says_what_it_waits_for() -> None:
    progress = Progress(requests=10, began_at=100.0, sent=4)
    assert "no answer yet" not in line(progress, 103.0)
    assert "no answer yet" in line(progress, 106.0)
    progress.settled = 1
    assert "no answer yet" not in line(progress, 107.0)


def test_the_latest_answer_is_shown_under_its_row_within_the_width() -> None:
    lines = answer_lines(record(completion="word " * 200), 60)
    assert lines[0] == "small Hotel in Paris"
    assert 1 < len(lines) <= 4
    assert all(len(text) <= 60 for text in lines)
