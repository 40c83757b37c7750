"""Ctrl-C and its kin: the first one asks a run to finish what is in flight, the second one to let go.

Owns the signal handlers while a run works, and the exit code that tells of a signal. Does not know what is in flight.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

Result = TypeVar("Result")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Interrupt:
    """What the signals said so far.

    Attributes:
        stop: set by the first signal: take no more work, finish what is in flight.
        abandon: set by the second one: drop what is in flight.
        first: the signal that came first, or None.
    """

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    abandon: asyncio.Event = field(default_factory=asyncio.Event)
    first: signal.Signals | None = None

    @property
    def exit_code(self) -> int | None:
        """130, 143 or 129 when a signal came; None when none did."""
        return None if self.first is None else 128 + self.first


@asynccontextmanager
async def interruptible(on_first: Callable[[], None]) -> AsyncIterator[Interrupt]:
    """Handle the signals within the block; the handlers there before come back after it.

    A Ctrl-C that came before has cancelled the task, which takes effect at its next wait: that is here, and not in the
    midst of the work, where requests on their way would be broken off.

    Args:
        on_first: called at the first signal, to say what happens now.
    """
    interrupt = Interrupt()
    loop = asyncio.get_running_loop()

    def receive(number: signal.Signals) -> None:
        if interrupt.first is None:
            interrupt.first = number
            interrupt.stop.set()
            on_first()
        else:
            interrupt.abandon.set()

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number in _SIGNALS:
        loop.add_signal_handler(number, receive, number)
    try:
        await asyncio.sleep(0)
        yield interrupt
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)  # which sets Python's default handler
            if handler is not None:  # it was set by Python
                signal.signal(number, handler)


async def stoppable(work: Coroutine[Any, Any, Result], interrupt: Interrupt) -> Result | None:
    """Await the work; the first signal cancels it and waits for it to let go, the second does not wait.

    Returns None when it was cut short.
    """
    task = asyncio.ensure_future(work)
    for signalled in (interrupt.stop, interrupt.abandon):
        waiter = asyncio.ensure_future(signalled.wait())
        await asyncio.wait([task, waiter], return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()
        if task.done():
            return None if task.cancelled() else task.result()
        task.cancel()
    return None
