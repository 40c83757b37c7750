"""Ctrl-C and its kin: the first one asks a run to finish what is in flight, the second one to let go.

Owns the signal handlers while a run works, and the exit code that tells of a signal. Does not know what is in flight.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from asyncgen.generate.observer import Interrupt

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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
        if interrupt.exit_code is None:
            interrupt.exit_code = 128 + number
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
