"""Facts about signals at a command's start. Run: pytest tests/cli/test_signals.py."""

from __future__ import annotations

import os
import signal

import pytest

from asyncgen.cli.loop import run
from asyncgen.cli.signals import Interrupt, interruptible


def test_ctrl_c_before_the_work_begins_ends_the_command_and_nothing_is_begun() -> None:
    begun: list[Interrupt] = []

    async def command() -> None:
        os.kill(os.getpid(), signal.SIGINT)  # while files are read, say: nothing is waited for
        async with interruptible(lambda: None) as interrupt:
            begun.append(interrupt)

    with pytest.raises(KeyboardInterrupt):
        run(command())
    assert not begun


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_asks_to_stop_and_the_second_to_let_go(number: signal.Signals) -> None:
    said: list[str] = []

    async def command() -> int | None:
        async with interruptible(lambda: said.append("stopping")) as interrupt:
            os.kill(os.getpid(), number)
            await interrupt.stop.wait()
            assert not interrupt.abandon.is_set()
            os.kill(os.getpid(), number)
            await interrupt.abandon.wait()
            return interrupt.exit_code

    assert run(command()) == 128 + number
    assert said == ["stopping"]
