"""Facts about how a run is shown. Run: pytest tests/cli/test_progress.py."""

from __future__ import annotations

import asyncio

import pytest

from asyncgen.cli import progress as shown_progress
from asyncgen.cli.progress import block, line, shown
from asyncgen.generate.pool.progress import Progress
from asyncgen.generate.session import used
from asyncgen.run.records import Usage
from asyncgen.run.state import Spend


def test_the_first_plain_line_knows_the_rate_and_what_was_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = Progress(requests=100)

    async def scene() -> str:
        told: asyncio.Queue[str] = asyncio.Queue()
        monkeypatch.setattr(shown_progress, "_PLAIN_S", 0.05)
        monkeypatch.setattr(shown_progress, "say", told.put_nowait)
        async with shown(progress, lambda: "7 tokens in, 3 out"):
            progress.settled = 40
            return await told.get()

    line_told = asyncio.run(scene())
    assert "40 of 100 done" in line_told
    assert " 0.0 rows/min" not in line_told
    assert line_told.endswith("; 7 tokens in, 3 out")


def test_a_pause_is_told_with_its_end_and_its_cause() -> None:
    progress = Progress(requests=10, paused_until=500.0, pause_cause="as the server asks: too many requests")
    assert "waits 1 min 40 s (as the server asks: too many requests)" in line(progress, 400.0)
    assert "waits 1 min 40 s (as the server asks: too many requests)" in "\n".join(block(progress, 400.0, 80))
    assert "waits" not in line(progress, 500.0)


def test_a_wait_for_a_limit_is_named_when_nothing_goes_for_long() -> None:
    progress = Progress(requests=10, sent_at=100.0, waits_for="3 tokens a minute (as the server tells)")
    assert "waits" not in line(progress, 120.0)
    assert "nothing sent for 45 s (waits for the limit of 3 tokens a minute (as the server tells))" in line(
        progress, 145.0
    )


def test_money_is_told_where_there_is_a_price() -> None:
    spend = Spend(usage=Usage(prompt_tokens=1200, completion_tokens=34), cost_usd=0.25)
    assert used(spend, has_price=True) == "1,200 tokens in, 34 out, $0.2500"
    assert used(spend, has_price=False) == "1,200 tokens in, 34 out"
