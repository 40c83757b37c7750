"""Facts about signals at a command's start."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from asyncgen.cli.loop import interruptible, run
from asyncgen.generate.observer import Interrupt


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


def test_the_handlers_that_were_there_come_back() -> None:
    def own(number: int, frame: object) -> None: ...

    async def command() -> list[object]:
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = [signal.getsignal(number) for number in numbers]
        async with interruptible(lambda: None):
            pass
        return [signal.getsignal(number) is handler for number, handler in zip(numbers, before, strict=True)]

    before = signal.signal(signal.SIGTERM, own)
    try:
        assert run(command()) == [True, True, True]
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_closed_terminal_does_not_stop_a_command_that_was_begun_with_nohup() -> None:
    async def command() -> int | None:
        async with interruptible(lambda: None) as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)  # stops it, and shows that what came before it was ignored
            await interrupt.stop.wait()
            return interrupt.exit_code

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run(command()) == 128 + signal.SIGTERM
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def failure(steps: int) -> BaseException:
    """What comes out of the closing of uvloop's loop: each step of it fails after the one that was interrupted."""
    error: BaseException = KeyboardInterrupt()
    for _ in range(steps):
        cause, error = error, RuntimeError("Cannot close a running event loop")
        error.__context__ = cause
    return error


@pytest.mark.parametrize("steps", [1, 2])
def test_ctrl_c_while_the_loop_closes_is_no_bug(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    close = asyncio.Runner.close

    def interrupted(runner: asyncio.Runner) -> None:
        close(runner)
        raise failure(steps)

    monkeypatch.setattr(asyncio.Runner, "close", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(asyncio.sleep(0))


def test_a_ctrl_c_that_cancels_the_command_twice_is_still_one() -> None:
    async def command() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0)

    with pytest.raises(KeyboardInterrupt):
        run(command())


def test_an_error_of_the_command_itself_stays_what_it_is() -> None:
    async def command() -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run(command())
