"""asyncgen.cli.finetune_display: a training in lines."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asyncgen.cli.finetune_display import TrainingDisplay, training_shown
from asyncgen.errors import AsyncgenError
from asyncgen.finetune.api import Event, TuningJob

NOW = 1_800_000_000


def metrics(step: int, loss: float, **more: Any) -> Event:
    data = {"step": step, "total_steps": 40, "train_loss": loss, **more}
    return Event(job="j", id=f"e{step}", created_at=NOW, message=f"Step {step}", data=data)


def job(**fields: Any) -> TuningJob:
    return TuningJob(**{"id": "j", "status": "running", "outcome": None, "created": NOW - 130, **fields})


def display(*history: Event) -> TrainingDisplay:
    return TrainingDisplay(history, now=lambda: NOW)


def test_the_line_has_state_step_loss_curve_and_times() -> None:
    shown_line = display(metrics(1, 3.0), metrics(2, 2.0), metrics(3, 1.0))
    shown_line.on_job(job(estimated_finish=NOW + 61))
    assert shown_line.line() == "running  step 3 of 40  2 min 10 s, about 1 min 01 s left  loss 1  █▅▁"


def test_there_is_no_line_before_the_first_answer_and_little_before_the_first_step() -> None:
    empty = display()
    assert empty.line() == ""
    empty.on_job(job(status="validating_files"))
    assert empty.line() == "validating files  2 min 10 s"


def test_events_are_said_with_their_level_and_history_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    told = display(Event(job="j", id="old", created_at=NOW, message="old"))
    told.on_event(Event(job="j", id="e", created_at=NOW, message="careful \x1b[2J", level="warn"))
    err = capsys.readouterr().err
    assert "warn: careful [2J" in err
    assert "old" not in err
    assert "\x1b" not in err


def test_an_outage_is_said_once_and_its_end_too(capsys: pytest.CaptureFixture[str]) -> None:
    watcher = display()
    watcher.on_job(job())
    for _ in range(3):
        watcher.on_outage(AsyncgenError("could not look up the job j", cause="no route"))
    assert "provider not reached" in watcher.line()
    watcher.on_job(job())
    err = capsys.readouterr().err
    assert err.count("retrying (the job goes on meanwhile)") == 1
    assert err.count("responds again") == 1


def test_a_long_training_keeps_a_bounded_memory() -> None:
    watcher = display(*(metrics(step, 1.0) for step in range(5000)))
    assert len(watcher._losses) <= 2001
    watcher.on_job(job())
    assert "step 4,999 of 40" in watcher.line()


def test_off_a_terminal_the_display_ends_with_its_block() -> None:
    async def scenario() -> None:
        async with training_shown(()):
            await asyncio.sleep(0)

    asyncio.run(scenario())


def test_steps_stay_in_the_live_line_and_epochs_checkpoints_and_warnings_stay_on_the_screen(
    capsys: pytest.CaptureFixture[str],
) -> None:
    watcher = display()
    watcher.on_event(metrics(1, 3.0))
    for number, (message, level) in enumerate(
        [("Epoch 1 of 3 done", "info"), ("Checkpoint created at step 19", "info"), ("frozen layers: 10 %", "info"),
         ("a sample was cut", "warn")]
    ):  # fmt: skip
        watcher.on_event(Event(job="j", id=f"x{number}", created_at=NOW, message=message, level=level))
    err = capsys.readouterr().err
    assert "Epoch 1 of 3" in err
    assert "Checkpoint created" in err
    assert "warn: a sample was cut" in err
    assert "Step 1" not in err
    assert "frozen layers" not in err


def test_the_time_left_is_never_cut_off_by_the_drawing() -> None:
    watcher = display(*(metrics(step, 4.421) for step in range(440)))
    watcher.on_job(job(estimated_finish=NOW + 61))
    for width in range(60, 200):
        line = watcher.line(width)
        assert "about 1 min 01 s left" in line
        assert len(line) <= width
